package unpack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

const (
	// maxDepth bounds directories within directories; every operation on a file walks through them.
	maxDepth = 256
	// maxHops bounds symlinks on the way to a file, as the kernel does.
	maxHops = 40
)

// metadata is what an entry says of a file beside its content.
type metadata struct {
	mode     fs.FileMode
	uid, gid int
	mtime    time.Time
	xattrs   map[string]string
}

// dir is a directory of a tree. Its metadata is applied at the end: until then it must be writable.
type dir struct {
	// meta is nil where no entry says anything.
	meta     *metadata
	children map[string]*dir
	// opaque and whiteouts say what of lower layers is gone from this directory.
	opaque    bool
	whiteouts []string
}

func (d *dir) child(name string) *dir {
	c := &dir{}
	d.attach(name, c)
	return c
}

func (d *dir) attach(name string, c *dir) {
	if d.children == nil {
		d.children = make(map[string]*dir)
	}
	d.children[name] = c
}

// tree is a directory tree at base in root, of which all directories are known.
type tree struct {
	root *os.Root
	base string
	top  *dir
	// lastName, lastReal and last are what find found last: entries of one directory come together.
	lastName, lastReal string
	last               *dir
}

func newTree(root *os.Root, base string) *tree {
	return &tree{root: root, base: base, top: &dir{}}
}

// path is the path in root of a path in the tree.
func (t *tree) path(elem ...string) string {
	return path.Join(append([]string{t.base}, elem...)...)
}

// find leads to the directory name. Symlinks are followed as a process in the tree would see them, with
// absolute ones beginning at its top; one that climbs above the top is refused. Directories that are
// missing are made if create says so. real is the way without symlinks.
func (t *tree) find(name string, create bool) (real string, d *dir, err error) {
	if t.last != nil && name == t.lastName {
		return t.lastReal, t.last, nil
	}
	todo := strings.Split(name, "/")
	var at []string
	nodes := []*dir{t.top}
	for hops := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return "", nil, fmt.Errorf("a symlink on the way to %q: %w", name, ErrUnsafe)
			}
			at, nodes = at[:len(at)-1], nodes[:len(nodes)-1]
			continue
		}
		here := nodes[len(nodes)-1]
		next := here.children[part]
		if next == nil {
			p := t.path(append(at[:len(at):len(at)], part)...)
			fi, err := t.root.Lstat(p)
			switch {
			case errors.Is(err, fs.ErrNotExist) && create:
				if err := t.root.Mkdir(p, 0o700); err != nil {
					return "", nil, err
				}
				next = here.child(part)
			case err != nil:
				return "", nil, err
			case fi.Mode()&fs.ModeSymlink == 0:
				return "", nil, fmt.Errorf("%q is not a directory: %w", path.Join(path.Join(at...), part), ErrUnsafe)
			default:
				if hops++; hops > maxHops {
					return "", nil, fmt.Errorf("too many symlinks on the way to %q: %w", name, ErrUnsafe)
				}
				target, err := t.root.Readlink(p)
				if err != nil {
					return "", nil, err
				}
				if path.IsAbs(target) {
					at, nodes = nil, nodes[:1]
				}
				todo = append(strings.Split(target, "/"), todo...)
				continue
			}
		}
		at, nodes = append(at, part), append(nodes, next)
		if len(at) > maxDepth {
			return "", nil, fmt.Errorf("more than %d directories: %w", maxDepth, ErrLimit)
		}
	}
	t.lastName, t.lastReal, t.last = name, path.Join(at...), nodes[len(nodes)-1]
	return t.lastReal, t.last, nil
}

// remove removes what stands at name in the directory d, which is real, if anything does.
func (t *tree) remove(real string, d *dir, name string) error {
	delete(d.children, name)
	t.last = nil // it may have led there
	return t.root.RemoveAll(t.path(real, name))
}

// finish gives all directories their metadata, children before parents.
func (t *tree) finish(owner bool) error {
	if m := t.top.meta; m != nil {
		// A directory that its owner cannot write cannot be moved.
		m.mode |= 0o700
	}
	return t.finishDir(t.base, t.top, owner)
}

func (t *tree) finishDir(p string, d *dir, owner bool) error {
	for name, c := range d.children {
		if err := t.finishDir(path.Join(p, name), c, owner); err != nil {
			return err
		}
	}
	m := d.meta
	if m == nil {
		m = &metadata{mode: 0o755, mtime: time.Unix(0, 0)}
	}
	f, err := t.root.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	return m.apply(f, owner)
}

// apply gives an open file its metadata. Owners come first: changing them takes setuid and capabilities away.
func (m *metadata) apply(f *os.File, owner bool) error {
	if owner {
		if err := f.Chown(m.uid, m.gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(m.mode); err != nil {
		return err
	}
	if err := setXattrs(f, m.xattrs, owner); err != nil {
		return err
	}
	return setTime(f, m.mtime)
}
