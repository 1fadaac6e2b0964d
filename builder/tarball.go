package builder

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/internal/ctxio"
)

// ErrArchive says that an archive is broken, or would write where it must not.
var ErrArchive = errors.New("refused archive")

// Bounds of an archive that ADD extracts. Real ones stay far below: a Linux distribution has 10^5 files,
// and sources compress 10 to 20 times.
const (
	maxMembers   = 500_000
	maxRatio     = 100
	freeUnpacked = 64 << 20 // bytes that any archive may unpack to, whatever the ratio
)

// member is one entry of an archive, and where the spool has its content.
type member struct {
	Name     string
	Type     byte
	Mode     int64
	UID, GID int
	Size     int64             `json:",omitempty"`
	Offset   int64             `json:",omitempty"`
	Link     string            `json:",omitempty"`
	Xattrs   map[string]string `json:",omitempty"`
}

// tarball is a tar file, compressed or not. Tar has no index, so its content goes once through a spool
// file without a name, from which any number of members are then read at a time.
type tarball struct {
	name     string // for errors
	size     int64  // as it is stored
	identity string // as pack.Entry.Identity
	open     func() (io.ReadCloser, error)
	scratch  func() (*os.File, error)
	cache    *imagestore.Cache

	mu    sync.Mutex
	spool *os.File
}

// isArchive says whether content is a tar, compressed or not, by its beginning.
func isArchive(open func() (io.ReadCloser, error)) (bool, error) {
	f, err := open()
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, err := compression.NewReader(f)
	if err != nil {
		return false, nil
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil, nil
}

func (a *tarball) close() {
	if a.spool != nil {
		_ = a.spool.Close()
	}
}

// members lists the archive, from the cache where its file has not changed since.
func (a *tarball) members(ctx context.Context) ([]member, error) {
	key := "members of " + a.identity
	var list []member
	if a.identity != "" && a.cache.Get(key, &list) {
		return list, nil
	}
	list, err := a.read(ctx)
	if err != nil || a.identity == "" {
		return list, err
	}
	return list, a.cache.Put(key, list)
}

// read goes through the archive once: it checks every member and fills the spool.
func (a *tarball) read(ctx context.Context) ([]member, error) {
	src, err := a.open()
	if err != nil {
		return nil, err
	}
	defer src.Close()
	r, err := compression.NewReader(src)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrArchive, a.name, err)
	}
	defer r.Close()
	if a.spool, err = a.scratch(); err != nil {
		return nil, fmt.Errorf("extracting %s: %w", a.name, err)
	}
	w := bufio.NewWriterSize(a.spool, 1<<20)
	buf := make([]byte, 64<<10)
	tr := tar.NewReader(r)
	check := archiveCheck{limit: freeUnpacked + maxRatio*a.size, types: map[string]byte{}}
	var list []member
	var offset int64
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrArchive, a.name, err)
		}
		m, keep, err := check.member(h)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrArchive, a.name, err)
		}
		if !keep {
			continue
		}
		if m.Type == tar.TypeReg {
			m.Offset = offset
			n, err := io.CopyBuffer(struct{ io.Writer }{w}, ctxio.Reader(ctx, tr), buf) // w's own ReadFrom takes a new buffer each time
			if err == nil && n != m.Size {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %s: %s: %w", ErrArchive, a.name, m.Name, err)
			}
			offset += n
		}
		list = append(list, m)
	}
	// What follows the end of a tar still has to be sound: a cut stream may end right behind it.
	if _, err := io.Copy(io.Discard, io.LimitReader(ctxio.Reader(ctx, r), freeUnpacked)); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrArchive, a.name, err)
	}
	if err := w.Flush(); err != nil {
		return nil, fmt.Errorf("extracting %s: %w", a.name, err)
	}
	return list, nil
}

// content opens one member, filling the spool first if the list came from the cache.
func (a *tarball) content(ctx context.Context, m member) (io.ReadCloser, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.spool == nil {
		if _, err := a.read(ctx); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(io.NewSectionReader(a.spool, m.Offset, m.Size)), nil
}

// entry is the member as an entry of a layer, at the archive's own path.
func (a *tarball) entry(ctx context.Context, m member) pack.Entry {
	e := pack.Entry{Name: m.Name, Type: m.Type, Mode: m.Mode, UID: m.UID, GID: m.GID, Size: m.Size, Linkname: m.Link, Xattrs: m.Xattrs}
	if m.Type == tar.TypeReg {
		e.Open = func() (io.ReadCloser, error) { return a.content(ctx, m) }
		if a.identity != "" {
			e.Identity = fmt.Sprintf("%s!%d", a.identity, m.Offset)
		}
	}
	return e
}

// archiveCheck holds what members of an archive must keep to.
type archiveCheck struct {
	limit int64 // of bytes unpacked
	used  int64
	count int
	types map[string]byte // of the members so far
}

// member turns a header into a member, or says what is wrong with it. keep is false for headers that
// are no files.
func (c *archiveCheck) member(h *tar.Header) (m member, keep bool, err error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return member{}, false, nil
	}
	if c.count++; c.count > maxMembers {
		return member{}, false, fmt.Errorf("it has more than %d members", maxMembers)
	}
	if path.IsAbs(h.Name) {
		return member{}, false, fmt.Errorf("%q is an absolute path", h.Name)
	}
	name := path.Clean(h.Name)
	if name == ".." || strings.HasPrefix(name, "../") || strings.ContainsRune(name, 0) {
		return member{}, false, fmt.Errorf("%q leads out of the tree", h.Name)
	}
	if name == "." {
		return member{}, false, nil
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if t, ok := c.types[dir]; ok && t != tar.TypeDir {
			return member{}, false, fmt.Errorf("%q leads through %q, which is a link or a file", h.Name, dir)
		}
	}
	m = member{Name: name, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		m.Type, m.Size = tar.TypeReg, h.Size
		if h.Size < 0 || c.used+h.Size > c.limit {
			return member{}, false, fmt.Errorf("%q: unpacked it would be more than %d bytes, %d times what it is packed", h.Name, c.limit, maxRatio)
		}
		c.used += h.Size
	case tar.TypeDir:
		m.Type = tar.TypeDir
	case tar.TypeSymlink:
		m.Type, m.Link, m.Mode = tar.TypeSymlink, h.Linkname, 0o777
		if t := path.Join(path.Dir(name), h.Linkname); !path.IsAbs(h.Linkname) && (t == ".." || strings.HasPrefix(t, "../")) {
			return member{}, false, fmt.Errorf("%q is a link to %q, which leads out of the tree", h.Name, h.Linkname)
		}
	case tar.TypeLink:
		m.Type, m.Link = tar.TypeLink, path.Clean(h.Linkname)
		if t, ok := c.types[m.Link]; !ok || t == tar.TypeDir {
			return member{}, false, fmt.Errorf("%q is a hard link to %q, which is no file before it in the archive", h.Name, h.Linkname)
		}
	default:
		return member{}, false, fmt.Errorf("%q is a device, a pipe or another special file (type %q)", h.Name, h.Typeflag)
	}
	for k, v := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if m.Xattrs == nil {
				m.Xattrs = map[string]string{}
			}
			m.Xattrs[attr] = v
		}
	}
	c.types[name] = m.Type
	return m, true, nil
}
