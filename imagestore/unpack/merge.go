package unpack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// mergeInto moves what the layer has over the lower layers' tree, and takes away what it says is gone.
func (s *stage) mergeInto(ctx context.Context, lower *tree) error {
	lower.last = nil
	m := merger{ctx: ctx, upper: s.tree, lower: lower}
	if err := m.dir("", s.top, "", lower.top); err != nil {
		return err
	}
	for _, name := range s.order {
		target, ok := s.links[name]
		if !ok {
			continue // a later entry took the name, or it stands in order twice
		}
		delete(s.links, name)
		if err := lower.link(name, target); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return nil
}

func (t *tree) link(name, target string) error {
	from, err := t.target(target)
	if err != nil {
		return err
	}
	parent, base := path.Split(name)
	real, d, err := t.find(strings.TrimSuffix(parent, "/"), true)
	if err != nil {
		return err
	}
	to := t.path(real, base)
	if from == to {
		return nil
	}
	if err := t.remove(real, d, base); err != nil {
		return err
	}
	return t.root.Link(from, to)
}

type merger struct {
	ctx          context.Context
	upper, lower *tree
}

// dir merges the directory up of the upper tree into down of the lower; both are there.
func (m *merger) dir(upPath string, up *dir, downPath string, down *dir) error {
	if err := context.Cause(m.ctx); err != nil {
		return err
	}
	if err := m.takeAway(up, downPath, down); err != nil {
		return err
	}
	if up.meta != nil {
		down.meta = up.meta
	}
	f, err := m.upper.root.Open(m.upper.path(upPath))
	if err != nil {
		return err
	}
	list, err := f.ReadDir(-1)
	_ = f.Close()
	if err != nil {
		return err
	}
	for _, e := range list {
		name := e.Name()
		child := up.children[name]
		if child == nil {
			if err := m.move(upPath, downPath, down, name); err != nil {
				return err
			}
			continue
		}
		if err := m.subdir(upPath, child, downPath, down, name); err != nil {
			return err
		}
	}
	return nil
}

// takeAway removes from down what up says is gone.
func (m *merger) takeAway(up *dir, downPath string, down *dir) error {
	gone := up.whiteouts
	if up.opaque {
		f, err := m.lower.root.Open(m.lower.path(downPath))
		if err != nil {
			return err
		}
		gone, err = f.Readdirnames(-1)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	for _, name := range gone {
		if err := m.lower.remove(downPath, down, name); err != nil {
			return err
		}
	}
	return nil
}

// move puts name in place of what the lower tree has there.
func (m *merger) move(upPath, downPath string, down *dir, name string) error {
	if down.children[name] != nil {
		if err := m.lower.remove(downPath, down, name); err != nil {
			return err
		}
	}
	return m.lower.root.Rename(m.upper.path(upPath, name), m.lower.path(downPath, name))
}

func (m *merger) subdir(upPath string, child *dir, downPath string, down *dir, name string) error {
	if below := down.children[name]; below != nil {
		return m.dir(path.Join(upPath, name), child, path.Join(downPath, name), below)
	}
	fi, err := m.lower.root.Lstat(m.lower.path(downPath, name))
	if err == nil && fi.Mode()&fs.ModeSymlink != 0 && child.meta == nil {
		// The layer only says that something is below name: that goes where the link leads.
		real, d, err := m.lower.find(path.Join(downPath, name), true)
		if err != nil {
			return fmt.Errorf("%q: %w", path.Join(upPath, name), err)
		}
		return m.dir(path.Join(upPath, name), child, real, d)
	}
	if err == nil {
		err = m.lower.remove(downPath, down, name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := m.move(upPath, downPath, down, name); err != nil {
		return err
	}
	child.settle()
	down.attach(name, child)
	return nil
}

// settle forgets what a directory said of lower layers once it is one of them.
func (d *dir) settle() {
	d.opaque, d.whiteouts = false, nil
	for _, c := range d.children {
		c.settle()
	}
}
