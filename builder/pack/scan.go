package pack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// racy is how old a file must be before its times identify its content: a second write within the same
// tick of the clock, or of a coarse file system's, changes neither mtime nor ctime.
const racy = 2 * time.Second

// SpecialFileError says that a file is of a kind that a layer of ours does not hold.
type SpecialFileError struct {
	// Path is the file's, as the scanner was told it.
	Path string
	// Kind is "socket", "device", "named pipe" or "special file".
	Kind string
}

// Error implements error.
func (e *SpecialFileError) Error() string {
	return fmt.Sprintf("%s is a %s: only files, directories and links can be packed", e.Path, e.Kind)
}

// Scanner turns files of one directory tree into entries. Symlinks are kept as symlinks and never
// followed, neither at the end of a path nor in the middle. Of extended attributes it takes user.* and
// security.capability; ACLs, trusted.* and labels belong to the machine and are left out. Files of
// several names become hard links of the first name that this scanner saw. Use one for one scan, from
// one goroutine; the entries' Open needs root open and may be called from any.
type Scanner struct {
	// Root is the tree; names of entries are relative to it.
	Root *os.Root
	// Filter, if not nil, is asked about everything below the directory that Dir is given: whether it
	// becomes an entry, and whether Dir looks into it if it is a directory.
	Filter func(rel string, d fs.DirEntry) (include, descend bool)
	// KeepOwner takes the owners of the files; otherwise everything belongs to 0:0.
	KeepOwner bool

	seen map[inode]string
}

// inode names a file within a machine.
type inode struct{ dev, ino uint64 }

// stat is what Scanner needs beside fs.FileInfo; statOf of each system fills it.
type stat struct {
	inode
	nlink    uint64
	uid, gid int
	ctime    time.Time
}

// Dir returns the entries below rel, which must be a directory, sorted by name; rel itself has none.
func (s *Scanner) Dir(ctx context.Context, rel string) ([]Entry, error) {
	r, err := s.Root.OpenRoot(rel)
	if err != nil {
		return nil, fmt.Errorf("scanning %s: %w", rel, err)
	}
	defer r.Close()
	var list []Entry
	err = s.walk(ctx, r, rel, func(e Entry) { list = append(list, e) })
	if err != nil {
		return nil, fmt.Errorf("scanning %s: %w", rel, err)
	}
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// File returns the entry of rel alone; a directory's content is not looked at.
func (s *Scanner) File(rel string) (Entry, error) {
	e, err := s.file(s.Root, rel, rel)
	if err != nil {
		return Entry{}, fmt.Errorf("scanning %s: %w", rel, err)
	}
	return e, nil
}

// walk visits the directory r, which is rel below Root.
func (s *Scanner) walk(ctx context.Context, r *os.Root, rel string, add func(Entry)) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	d, err := r.Open(".")
	if err != nil {
		return err
	}
	names, err := d.ReadDir(-1)
	_ = d.Close()
	if err != nil {
		return err
	}
	slices.SortFunc(names, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, n := range names {
		name := path.Join(rel, n.Name())
		include, descend := true, true
		if s.Filter != nil {
			include, descend = s.Filter(name, n)
		}
		if include {
			e, err := s.file(r, n.Name(), name)
			if err != nil {
				return err
			}
			add(e)
		}
		if descend && n.IsDir() {
			if err := s.down(ctx, r, n.Name(), name, add); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Scanner) down(ctx context.Context, r *os.Root, base, rel string, add func(Entry)) error {
	sub, err := r.OpenRoot(base)
	if err != nil {
		return err
	}
	defer sub.Close()
	return s.walk(ctx, sub, rel, add)
}

// file makes the entry of base in r, which is rel below Root.
func (s *Scanner) file(r *os.Root, base, rel string) (Entry, error) {
	fi, err := r.Lstat(base)
	if err != nil {
		return Entry{}, err
	}
	st, err := statOf(fi)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Name: path.Clean(rel), Mode: tarMode(fi.Mode())}
	if s.KeepOwner {
		e.UID, e.GID = st.uid, st.gid
	}
	switch t := fi.Mode().Type(); t {
	case fs.ModeDir:
		e.Type = tar.TypeDir
	case fs.ModeSymlink:
		e.Type = tar.TypeSymlink
		e.Linkname, err = r.Readlink(base)
		return e, err
	case 0:
		if first, ok := s.first(st, e.Name); ok {
			e.Type, e.Linkname = tar.TypeLink, first
			return e, nil
		}
		e.Type, e.Size = tar.TypeReg, fi.Size()
		e.Identity = identity(fi, st, time.Now())
		root, name := s.Root, e.Name
		e.Open = func() (io.ReadCloser, error) { return open(root, name, st.inode) }
	default:
		kind := "special file"
		switch {
		case t&fs.ModeSocket != 0:
			kind = "socket"
		case t&fs.ModeNamedPipe != 0:
			kind = "named pipe"
		case t&fs.ModeDevice != 0:
			kind = "device"
		}
		return Entry{}, &SpecialFileError{Path: rel, Kind: kind}
	}
	e.Xattrs, err = xattrs(r, base)
	return e, err
}

// first says under which other name the file was seen already.
func (s *Scanner) first(st stat, name string) (string, bool) {
	if st.nlink < 2 {
		return "", false
	}
	if s.seen == nil {
		s.seen = make(map[inode]string)
	}
	first, ok := s.seen[st.inode]
	if !ok {
		s.seen[st.inode] = name
	}
	return first, ok && first != name
}

// open opens a file that was scanned, and nothing that took its name since.
func open(root *os.Root, name string, want inode) (io.ReadCloser, error) {
	// Not blocking: a named pipe may lie there by now.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		var st stat
		if st, err = statOf(fi); err == nil && (st.inode != want || !fi.Mode().IsRegular()) {
			err = fmt.Errorf("another file has its name now: %w", ErrChanged)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// identity is a string that changes whenever the content may have, "" if now is too near to say.
func identity(fi fs.FileInfo, st stat, now time.Time) string {
	limit := now.Add(-racy)
	if fi.ModTime().After(limit) || st.ctime.After(limit) {
		return ""
	}
	return fmt.Sprintf("%x.%x.%x.%x.%x", st.dev, st.ino, fi.Size(), fi.ModTime().UnixNano(), st.ctime.UnixNano())
}

func tarMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, tarBit := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= tarBit
		}
	}
	return mode
}
