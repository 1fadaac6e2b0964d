package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/clusterimage/keg/builder/pack"
)

// node is one path of the rootfs under construction: what an instruction must know of what is there
// already (does the directory exist, is it a symbolic link), not the content.
type node struct {
	attr
	children map[string]*node // of a directory
}

// attr is what a node knows of its path.
type attr struct {
	Type byte // a type flag of archive/tar
	// Mode and the owners are kept of directories: a layer that puts something into one must repeat them.
	Mode     int64  `json:",omitempty"`
	UID, GID int    `json:",omitempty"`
	Link     string `json:",omitempty"` // the target of a symbolic link
}

func newTree() *node { return &node{attr: attr{Type: tar.TypeDir, Mode: 0o755}} }

// split cuts a clean relative path into its elements; "." and "" have none.
func split(name string) []string {
	if name == "" || name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

// get finds a path without following links, or returns nil.
func (t *node) get(name string) *node {
	for _, elem := range split(name) {
		if t = t.children[elem]; t == nil {
			return nil
		}
	}
	return t
}

// set puts a path, making the directories on the way; what is there gives way, except that a directory
// over a directory keeps its children.
func (t *node) set(name string, a attr) {
	elems := split(name)
	for i, elem := range elems {
		if t.children == nil {
			t.children = map[string]*node{}
		}
		child := t.children[elem]
		last := i == len(elems)-1
		switch {
		case !last && (child == nil || child.Type != tar.TypeDir):
			child = newTree()
		case last && child != nil && child.Type == tar.TypeDir && a.Type == tar.TypeDir:
			child.attr = a
		case last:
			child = &node{attr: a}
		}
		t.children[elem] = child
		t = child
	}
}

// remove takes a path and all below it out.
func (t *node) remove(name string) {
	dir, base := path.Split(name)
	if parent := t.get(strings.TrimSuffix(dir, "/")); parent != nil {
		delete(parent.children, base)
	}
}

// apply does to the tree what unpacking one entry of a lower layer does.
func (t *node) apply(name string, a attr) {
	dir, base := path.Split(name)
	switch {
	case base == pack.WhiteoutOpaque:
		if n := t.get(strings.TrimSuffix(dir, "/")); n != nil {
			n.children = nil
		}
	case strings.HasPrefix(base, pack.WhiteoutPrefix):
		t.remove(dir + strings.TrimPrefix(base, pack.WhiteoutPrefix))
	default:
		t.set(name, a)
	}
}

// maxLinks bounds the symbolic links on one path, as Linux does.
const maxLinks = 40

var errLinkLoop = errors.New("too many levels of symbolic links")

// resolve follows the symbolic links of a path inside the tree, whose root "/" and ".." never leave.
// What does not exist is taken as it is written.
func (t *node) resolve(name string) (string, error) {
	var done []string
	todo := split(name)
	for links := 0; len(todo) > 0; {
		elem := todo[0]
		todo = todo[1:]
		switch elem {
		case "", ".":
			continue
		case "..":
			if len(done) > 0 {
				done = done[:len(done)-1]
			}
			continue
		}
		next := append(done[:len(done):len(done)], elem)
		n := t.get(strings.Join(next, "/"))
		if n == nil || n.Type != tar.TypeSymlink {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: %w", name, errLinkLoop)
		}
		if strings.HasPrefix(n.Link, "/") {
			done = nil
		}
		todo = append(strings.Split(n.Link, "/"), todo...)
	}
	return strings.Join(done, "/"), nil
}
