package pack

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Errors that callers tell apart; each is wrapped in one that names the entry.
var (
	// ErrName says that a name is absolute, has "..", is not clean or not UTF-8, or has a meaning of
	// its own in a layer (".wh.").
	ErrName = errors.New("not a name that a layer can have")
	// ErrDuplicate says that two entries have one name.
	ErrDuplicate = errors.New("more than one entry of this name")
	// ErrType says that an entry is neither a file, a directory, a symlink nor a hard link.
	ErrType = errors.New("not a file, directory or link")
	// ErrNotDir says that something lies below what is not a directory.
	ErrNotDir = errors.New("not a directory")
	// ErrLink says that a hard link leads to no regular file of the same layer.
	ErrLink = errors.New("hard link to no file of this layer")
	// ErrChanged says that a file had not the size that its entry says.
	ErrChanged = errors.New("file changed while it was read")
)

// The names by which a layer takes away what lower layers have (image-spec, layer.md, whiteouts).
const (
	// WhiteoutPrefix stands before a name that is gone.
	WhiteoutPrefix = ".wh."
	// WhiteoutOpaque in a directory says that all that lower layers have in it is gone.
	WhiteoutOpaque = ".wh..wh..opq"
)

// prepare checks the entries and puts a copy into the order of the tar: by name, so that parents come
// before children, missing parents added, and a hard link after its target.
func prepare(entries []Entry) ([]Entry, error) {
	list := slices.Clone(entries)
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	n := len(list)
	find := func(name string) (*Entry, bool) {
		i, ok := slices.BinarySearchFunc(list[:n], name, func(e Entry, s string) int { return strings.Compare(e.Name, s) })
		if !ok {
			return nil, false
		}
		return &list[i], true
	}
	dirs := make(map[string]bool)
	for i := range n {
		e := &list[i]
		if i > 0 && e.Name == list[i-1].Name {
			return nil, fmt.Errorf("packing %q: %w", e.Name, ErrDuplicate)
		}
		if err := check(e); err != nil {
			return nil, fmt.Errorf("packing %q: %w", e.Name, err)
		}
		for dir := path.Dir(e.Name); dir != "." && !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
			if p, ok := find(dir); !ok {
				list = append(list, Entry{Name: dir, Type: tar.TypeDir, Mode: 0o755})
			} else if p.Type != tar.TypeDir {
				return nil, fmt.Errorf("packing %q: %q: %w", e.Name, dir, ErrNotDir)
			}
		}
	}
	for i := range list[:n] {
		e := &list[i]
		if e.Type != tar.TypeLink {
			continue
		}
		target, ok := find(e.Linkname)
		for hops := 0; ok && target.Type == tar.TypeLink && hops < 64; hops++ {
			target, ok = find(target.Linkname)
		}
		if !ok || target.Type != tar.TypeReg {
			return nil, fmt.Errorf("packing %q: %q: %w", e.Name, e.Linkname, ErrLink)
		}
	}
	// A second pass, since the first follows links through what it would change.
	for i := range list[:n] {
		if e := &list[i]; e.Type == tar.TypeLink {
			target, _ := find(e.Linkname)
			for target.Type == tar.TypeLink {
				target, _ = find(target.Linkname)
			}
			e.Linkname = target.Name
		}
	}
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(strings.Compare(place(a), place(b)), cmp.Compare(linkRank(a), linkRank(b)), strings.Compare(a.Name, b.Name))
	})
	return list, nil
}

// place is where in the order of names an entry stands: a hard link not before its target.
func place(e Entry) string {
	if e.Type == tar.TypeLink {
		return max(e.Name, e.Linkname)
	}
	return e.Name
}

func linkRank(e Entry) int {
	if e.Type == tar.TypeLink {
		return 1
	}
	return 0
}

// check checks one entry and takes from it what its type does not have.
func check(e *Entry) error {
	// ValidPath refuses absolute and unclean names, "..", and what is not UTF-8, which neither PAX nor the
	// table of contents could say.
	if !fs.ValidPath(e.Name) || e.Name == "." || strings.ContainsRune(e.Name, 0) {
		return ErrName
	}
	for part := range strings.SplitSeq(e.Name, "/") {
		if strings.HasPrefix(part, WhiteoutPrefix) && !(e.Whiteout && e.Size == 0 && part == path.Base(e.Name)) {
			return fmt.Errorf("%q would delete files of lower layers: %w", part, ErrName)
		}
	}
	if e.UID < 0 || e.GID < 0 {
		return fmt.Errorf("owner %d:%d is negative", e.UID, e.GID)
	}
	e.Mode &= 0o7777
	switch e.Type {
	case tar.TypeReg:
		if e.Size < 0 {
			return fmt.Errorf("size %d is negative", e.Size)
		}
		if e.Size > 0 && e.Open == nil {
			return errors.New("file has no content to open")
		}
		e.Linkname = ""
	case tar.TypeDir:
		e.Size, e.Linkname = 0, ""
	case tar.TypeSymlink:
		if e.Linkname == "" || strings.ContainsRune(e.Linkname, 0) {
			return fmt.Errorf("symlink to %q: %w", e.Linkname, ErrName)
		}
		e.Size, e.Mode = 0, 0o777
	case tar.TypeLink:
		e.Size, e.Xattrs = 0, nil
	default:
		return fmt.Errorf("type %q: %w", e.Type, ErrType)
	}
	return nil
}
