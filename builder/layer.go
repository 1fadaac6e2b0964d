package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/clusterimage/keg/builder/pack"
)

// Errors of what does not fit into the rootfs.
var (
	// ErrKind says that a directory stands where something else should go, or the other way round.
	ErrKind = errors.New("the image has something else there")
	// ErrWhiteout says that a file's name has a meaning of its own in a layer.
	ErrWhiteout = errors.New("names that begin with .wh. cannot be packed: in a layer they delete files")
)

// layer collects what one instruction adds to the rootfs. The tree moves along, so that later sources
// of the same instruction see what earlier ones brought.
type layer struct {
	tree    *node
	entries map[string]*pack.Entry
	links   map[string]*pack.Entry // by name of a hard link, the file that it shares
}

func newLayer(tree *node) *layer {
	return &layer{tree: tree, entries: map[string]*pack.Entry{}, links: map[string]*pack.Entry{}}
}

// add puts an entry, whose name is final: no link of the tree on it is followed. What is missing of
// the directories above it is made with mode 0755 for o.
func (l *layer) add(e *pack.Entry, o owner) error {
	if slices.ContainsFunc(split(e.Name), func(s string) bool { return strings.HasPrefix(s, pack.WhiteoutPrefix) }) {
		return fmt.Errorf("/%s: %w", e.Name, ErrWhiteout)
	}
	if err := l.parents(e.Name, o); err != nil {
		return err
	}
	if n := l.tree.get(e.Name); n != nil && (n.Type == tar.TypeDir) != (e.Type == tar.TypeDir) {
		if n.Type == tar.TypeDir {
			return fmt.Errorf("/%s is a directory in the image and cannot become a file: %w", e.Name, ErrKind)
		}
		return fmt.Errorf("/%s is no directory in the image and cannot become one: %w", e.Name, ErrKind)
	}
	a := attr{Type: e.Type}
	switch e.Type {
	case tar.TypeDir:
		a.Mode, a.UID, a.GID = e.Mode, e.UID, e.GID
	case tar.TypeSymlink:
		a.Link = e.Linkname
	}
	l.tree.set(e.Name, a)
	l.entries[e.Name] = e
	delete(l.links, e.Name)
	return nil
}

// link puts a hard link to a file that this instruction brings.
func (l *layer) link(e, file *pack.Entry, o owner) error {
	if err := l.add(e, o); err != nil {
		return err
	}
	l.links[e.Name] = file
	return nil
}

// parents makes the directories above a name, and repeats in this layer those that lower layers have, as they
// are: a directory that a layer does not mention gets what mode the unpacking tool likes.
func (l *layer) parents(name string, o owner) error {
	dir := path.Dir(name)
	if dir == "." || l.entries[dir] != nil && l.entries[dir].Type == tar.TypeDir {
		return nil
	}
	if err := l.parents(dir, o); err != nil {
		return err
	}
	n := l.tree.get(dir)
	if n == nil {
		return l.mkdir(dir, o)
	}
	if n.Type != tar.TypeDir {
		return fmt.Errorf("/%s is no directory in the image: %w", dir, ErrKind)
	}
	l.entries[dir] = &pack.Entry{Name: dir, Type: tar.TypeDir, Mode: n.Mode, UID: n.UID, GID: n.GID}
	return nil
}

// mkdir makes a directory if it is not there, with all above it.
func (l *layer) mkdir(name string, o owner) error {
	if n := l.tree.get(name); name == "" || name == "." || n != nil && n.Type == tar.TypeDir {
		return nil
	}
	return l.add(&pack.Entry{Name: name, Type: tar.TypeDir, Mode: 0o755, UID: o.uid, GID: o.gid}, o)
}

// opaque hides what lower layers have in a directory.
func (l *layer) opaque(dir string) {
	l.tree.remove(dir)
	name := path.Join(dir, pack.WhiteoutOpaque)
	l.entries[name] = &pack.Entry{Name: name, Type: tar.TypeReg, Whiteout: true}
}

// take removes an entry from the layer: it goes elsewhere.
func (l *layer) take(name string) {
	delete(l.entries, name)
	delete(l.links, name)
	l.tree.remove(name)
}

// list returns the entries for packing. A hard link whose file a later source replaced, or that was taken
// out, becomes that file again.
func (l *layer) list() []pack.Entry {
	moved := map[*pack.Entry]string{} // files that have no name of their own any more, and the name they got
	out := make([]pack.Entry, 0, len(l.entries))
	for _, name := range l.names() {
		e := *l.entries[name]
		if file := l.links[name]; file != nil && l.entries[e.Linkname] != file {
			if to, ok := moved[file]; ok {
				e.Linkname = to
			} else {
				moved[file] = name
				e = *file
				e.Name = name
			}
		}
		out = append(out, e)
	}
	return out
}

func (l *layer) names() []string {
	names := make([]string, 0, len(l.entries))
	for n := range l.entries {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
