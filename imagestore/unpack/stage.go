package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/internal/writeback"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	// aufs begins names of files that aufs kept for itself and that mean nothing elsewhere.
	aufs = ".wh..wh."

	xattrPrefix = "SCHILY.xattr."
	maxName     = 4096
	maxOwner    = 1<<32 - 2
)

// stage is one layer in a directory of its own, with what it wants of lower layers.
type stage struct {
	*tree
	u *unpacker
	// links are hard links to files that this layer has not, by name; order keeps them in order.
	links map[string]string
	order []string
	buf   []byte
}

// stage unpacks a layer into base. Its digest was right if there is no error.
func (u *unpacker) stage(ctx context.Context, l Layer, base string) (_ *stage, err error) {
	event := progress.Event{ID: l.DiffID.String(), Name: "unpacking " + l.DiffID.String(), Total: l.Size}
	defer func() {
		event.Err, event.End = err, true
		u.o.Progress.Emit(event)
	}()
	s := &stage{tree: newTree(u.root, base), u: u, links: make(map[string]string), buf: make([]byte, 1<<20)}
	if err := u.root.Mkdir(base, 0o700); err != nil {
		return nil, err
	}
	if !l.DiffID.Algorithm().Available() {
		return nil, fmt.Errorf("digest algorithm %s: %w", l.DiffID.Algorithm(), errors.ErrUnsupported)
	}
	rc, err := l.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	counted := readFunc(func(p []byte) (int, error) {
		n, err := rc.Read(p)
		event.Done += int64(n)
		u.o.Progress.Emit(event)
		return n, err
	})
	digester := l.DiffID.Algorithm().Digester()
	st := newStream(ctx, u, counted, digester.Hash())
	defer st.close()
	if err := s.tar(st); err != nil {
		return nil, err
	}
	st.close()
	if got := digester.Digest(); got != l.DiffID {
		return nil, fmt.Errorf("got %s: %w", got, ErrDigest)
	}
	return s, nil
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// tar reads the stream to its end, not only to that of the tar: all of it counts for the digest.
func (s *stage) tar(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, s.buf)
			return err
		}
		if err != nil {
			return fmt.Errorf("reading tar: %w", err)
		}
		if s.u.entries.Add(1) > s.u.o.MaxEntries {
			return fmt.Errorf("%d entries: %w", s.u.o.MaxEntries, ErrLimit)
		}
		if err := s.entry(h, tr); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// clean checks a name as it stands in a tar, and makes it "." or a clean relative path.
func clean(name string) (string, error) {
	if name == "" || len(name) > maxName || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("name of %d bytes: %w", len(name), ErrUnsafe)
	}
	if path.IsAbs(name) {
		return "", fmt.Errorf("absolute name: %w", ErrUnsafe)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("name with ..: %w", ErrUnsafe)
		}
	}
	return path.Clean(name), nil
}

func (s *stage) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	m, err := metadataOf(h)
	if err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("the top is not a directory: %w", ErrUnsafe)
		}
		s.top.meta = m
		return nil
	}
	if strings.HasPrefix(name, aufs) && name != opaque {
		return nil
	}
	parent, base := path.Split(name)
	if strings.HasPrefix(parent, whiteout) || strings.Contains(parent, "/"+whiteout) {
		return fmt.Errorf("directory of a name that is reserved: %w", ErrUnsafe)
	}
	real, d, err := s.find(strings.TrimSuffix(parent, "/"), true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteout) {
		return s.whiteout(d, base)
	}
	delete(s.links, path.Join(real, base))
	switch h.Typeflag {
	case tar.TypeDir:
		return s.dir(real, d, base, m)
	case tar.TypeReg, tar.TypeGNUSparse:
		return s.file(real, d, base, m, h.Size, r)
	case tar.TypeSymlink:
		return s.symlink(real, d, base, h.Linkname, m)
	case tar.TypeLink:
		return s.link(real, d, base, h.Linkname)
	}
	return fmt.Errorf("%s: %w", kind(h.Typeflag), ErrType)
}

func kind(t byte) string {
	switch t {
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "named pipe"
	}
	return fmt.Sprintf("entry of type %q", t)
}

func metadataOf(h *tar.Header) (*metadata, error) {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > maxOwner || int64(h.Gid) > maxOwner {
		return nil, fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, ErrUnsafe)
	}
	m := &metadata{mode: fs.FileMode(h.Mode) & fs.ModePerm, uid: h.Uid, gid: h.Gid, mtime: h.ModTime}
	for bit, mode := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if h.Mode&bit != 0 {
			m.mode |= mode
		}
	}
	for k, v := range h.PAXRecords {
		k, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok || !strings.HasPrefix(k, "user.") && k != "security.capability" {
			continue
		}
		if m.xattrs == nil {
			m.xattrs = make(map[string]string)
		}
		m.xattrs[k] = v
	}
	return m, nil
}

func (s *stage) whiteout(d *dir, base string) error {
	if base == opaque {
		d.opaque = true
		return nil
	}
	if strings.HasPrefix(base, aufs) {
		return nil
	}
	gone := strings.TrimPrefix(base, whiteout)
	if gone == "" || gone == "." || gone == ".." {
		return fmt.Errorf("whiteout of %q: %w", gone, ErrUnsafe)
	}
	d.whiteouts = append(d.whiteouts, gone)
	return nil
}

func (s *stage) dir(real string, d *dir, base string, m *metadata) error {
	if c := d.children[base]; c != nil {
		c.meta = m
		return nil
	}
	p := s.path(real, base)
	if err := s.make(real, d, base, func() error { return s.root.Mkdir(p, 0o700) }); err != nil {
		return err
	}
	d.child(base).meta = m
	return nil
}

// make makes something at base; what an earlier entry put there gives way.
func (s *stage) make(real string, d *dir, base string, f func() error) error {
	err := f()
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.remove(real, d, base); err != nil {
		return err
	}
	return f()
}

func (s *stage) file(real string, d *dir, base string, m *metadata, size int64, r io.Reader) (err error) {
	// The stream counts too, but a sparse file is larger than what the stream has of it.
	if s.u.files.Add(size) > s.u.o.MaxBytes || size > s.u.o.MaxBytes {
		return fmt.Errorf("%d bytes in files: %w", s.u.o.MaxBytes, ErrLimit)
	}
	var f *os.File
	if err := s.make(real, d, base, func() (err error) {
		f, err = s.root.OpenFile(s.path(real, base), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := &fileWriter{f: f, u: s.u}
	if _, err := io.CopyBuffer(w, struct{ io.Reader }{r}, s.buf); err != nil {
		return err
	}
	return m.apply(f, s.u.o.Owner)
}

// fileWriter hides os.File's ReadFrom, which would bring a small buffer of its own, and starts writing to
// the disk early, so that little is left for the sync at the end.
type fileWriter struct {
	f       *os.File
	u       *unpacker
	written int64
	started int64
}

const writebackSize = 8 << 20

func (w *fileWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.written += int64(n)
	if !w.u.o.NoSync && w.written-w.started >= writebackSize {
		writeback.Start(w.f, w.started, w.written-w.started)
		w.started = w.written
	}
	return n, err
}

func (s *stage) symlink(real string, d *dir, base, target string, m *metadata) error {
	if target == "" || len(target) > maxName || strings.ContainsRune(target, 0) {
		return fmt.Errorf("symlink to a name of %d bytes: %w", len(target), ErrUnsafe)
	}
	p := s.path(real, base)
	if err := s.make(real, d, base, func() error { return s.root.Symlink(target, p) }); err != nil {
		return err
	}
	if s.u.o.Owner {
		if err := s.root.Lchown(p, m.uid, m.gid); err != nil {
			return err
		}
	}
	return setLinkTime(s.root, p, m.mtime)
}

func (s *stage) link(real string, d *dir, base, linkname string) error {
	target, err := clean(linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", linkname, err)
	}
	name := path.Join(real, base)
	if target == name {
		return fmt.Errorf("hard link to itself: %w", ErrUnsafe)
	}
	from, err := s.target(target)
	if errors.Is(err, fs.ErrNotExist) {
		// A file of a lower layer, seen when that is there.
		if err := s.remove(real, d, base); err != nil {
			return err
		}
		s.links[name] = target
		s.order = append(s.order, name)
		return nil
	}
	if err != nil {
		return err
	}
	if from == s.path(name) {
		return fmt.Errorf("hard link to itself: %w", ErrUnsafe)
	}
	return s.make(real, d, base, func() error { return s.root.Link(from, s.path(name)) })
}

// target is the path in root of a hard link's target, which must be a file or a symlink.
func (t *tree) target(name string) (string, error) {
	parent, base := path.Split(name)
	real, _, err := t.find(strings.TrimSuffix(parent, "/"), false)
	if err != nil {
		return "", fmt.Errorf("hard link to %q: %w", name, err)
	}
	p := t.path(real, base)
	fi, err := t.root.Lstat(p)
	if err != nil {
		return "", fmt.Errorf("hard link to %q: %w", name, err)
	}
	if fi.IsDir() {
		return "", fmt.Errorf("hard link to the directory %q: %w", name, ErrUnsafe)
	}
	return p, nil
}
