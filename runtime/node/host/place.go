package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/runtime/node"
)

// item is one thing to put on the host.
type item struct {
	to       string
	typ      string // regular, symlink or folder
	mode     uint32
	uid, gid int    // -1 leaves what the process makes
	target   string // of a symlink
	size     int64
	open     func() (io.ReadCloser, error) // content of a regular file; may be called twice
}

// place puts items where they belong, those that are there already left alone, and returns the paths
// that changed. Everything is recorded before the first change.
func (h *Host) place(ctx context.Context, rec *recorder, items []item) (changed []string, err error) {
	var todo []item
	var records []entry
	for _, it := range items {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		same, err := h.same(it)
		if err != nil {
			return nil, err
		}
		if same {
			continue
		}
		todo = append(todo, it)
		if below(it.to, node.Dir) {
			continue
		}
		parents, err := h.missingDirs(filepath.Dir(it.to))
		if err != nil {
			return nil, err
		}
		records = append(records, parents...)
		if it.typ == folder {
			records = append(records, entry{Kind: kindDir, Name: it.to, Before: &snapshot{Type: absent}})
			continue
		}
		if rec.has(entry{Kind: kindFile, Name: it.to}) {
			continue
		}
		before, err := rec.save(it.to)
		if err != nil {
			return nil, err
		}
		records = append(records, entry{Kind: kindFile, Name: it.to, Before: &before})
	}
	if err := rec.record(records...); err != nil {
		return nil, err
	}
	for _, it := range todo {
		if err := context.Cause(ctx); err != nil {
			return changed, err
		}
		if err := h.put(it); err != nil {
			return changed, h.diskFull(err, it.to, it.size)
		}
		changed = append(changed, it.to)
	}
	return changed, nil
}

// same says whether the host has the item already. What stands in its way and is no file or symlink is
// an error.
func (h *Host) same(it item) (bool, error) {
	path := h.path(it.to)
	if it.typ == folder {
		st, err := os.Stat(path) // a symlink to a directory is good enough
		if err != nil && gone(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("looking at %s: %w", it.to, err)
		}
		if !st.IsDir() {
			return false, node.Errorf(node.KindRequest, "putting a directory to %s: there is something else", it.to)
		}
		return true, nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil && gone(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("looking at %s: %w", it.to, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		if it.typ != symlink {
			return false, nil
		}
		target, err := os.Readlink(path)
		return err == nil && target == it.target, err
	case unix.S_IFREG:
	default:
		return false, node.Errorf(node.KindRequest, "putting a file to %s: there is a directory or a device", it.to)
	}
	if it.typ != regular || st.Size != it.size || st.Mode&0o7777 != it.mode ||
		it.uid >= 0 && int(st.Uid) != it.uid || it.gid >= 0 && int(st.Gid) != it.gid {
		return false, nil
	}
	a, err := it.open()
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("looking at %s: %w", it.to, err)
	}
	defer b.Close()
	return sameContent(a, b)
}

func sameContent(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 128<<10), make([]byte, 128<<10)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if string(x[:n]) != string(y[:m]) {
			return false, nil
		}
		endA := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
		endB := errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)
		switch {
		case endA && endB:
			return true, nil
		case endA || endB:
			return false, nil
		case errA != nil:
			return false, errA
		case errB != nil:
			return false, errB
		}
	}
}

// missingDirs are entries for dir and those above it that are not there, outermost first.
func (h *Host) missingDirs(dir string) ([]entry, error) {
	if dir == "/" {
		return nil, nil
	}
	st, err := os.Stat(h.path(dir))
	if err == nil {
		if !st.IsDir() {
			return nil, node.Errorf(node.KindRequest, "%s is not a directory", dir)
		}
		return nil, nil
	}
	if !gone(err) {
		return nil, fmt.Errorf("looking at %s: %w", dir, err)
	}
	above, err := h.missingDirs(filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	return append(above, entry{Kind: kindDir, Name: dir, Before: &snapshot{Type: absent}}), nil
}

// makeDirs makes dir and what is missing above it, whatever the umask.
func (h *Host) makeDirs(dir string, mode fs.FileMode) error {
	missing, err := h.missingDirs(dir)
	if err != nil {
		return err
	}
	for i, m := range missing {
		mode := mode
		if i < len(missing)-1 {
			mode = 0o755
		}
		h.step("mkdir %s", m.Name)
		if err := os.Mkdir(h.path(m.Name), mode); err != nil {
			return fmt.Errorf("making %s: %w", m.Name, err)
		}
		if err := os.Chmod(h.path(m.Name), mode); err != nil {
			return fmt.Errorf("making %s: %w", m.Name, err)
		}
	}
	return nil
}

func (h *Host) put(it item) error {
	if it.typ == folder {
		return h.makeDirs(it.to, fs.FileMode(it.mode&0o777))
	}
	if err := h.makeDirs(filepath.Dir(it.to), 0o755); err != nil {
		return err
	}
	if it.typ == symlink {
		return h.replaceLink(it.to, it.target, it.uid, it.gid)
	}
	in, err := it.open()
	if err != nil {
		return err
	}
	defer in.Close()
	return h.replaceFile(it.to, snapshot{Mode: it.mode, UID: it.uid, GID: it.gid}, in)
}

// partPath is the name under which the new content of path is written. It follows from path, so that
// undo finds what a killed keg-node left.
func partPath(path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(filepath.Dir(path), ".keg-"+hex.EncodeToString(sum[:8])+".part")
}

// replaceFile gives path new content at once. Owner -1 stays what the process makes; MTime 0 is now.
func (h *Host) replaceFile(path string, want snapshot, content io.Reader) error {
	part := h.path(partPath(path))
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	h.step("create %s", path)
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(part) // fails after the rename, which is as it should be
	}()
	if _, err := io.Copy(f, content); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := h.dress(f, want); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	h.step("rename %s", path)
	if err := os.Rename(part, h.path(path)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return atomicfile.SyncDir(filepath.Dir(h.path(path)))
}

// dress gives an open file owner, mode, attributes and time.
func (h *Host) dress(f *os.File, want snapshot) error {
	if os.Geteuid() == 0 && (want.UID >= 0 || want.GID >= 0) {
		if err := f.Chown(want.UID, want.GID); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(int(f.Fd()), want.Mode&0o7777); err != nil {
		return err
	}
	for name, value := range want.Xattrs {
		// What cannot be set again shows in the residue.
		_ = unix.Fsetxattr(int(f.Fd()), name, value, 0)
	}
	if want.MTime == 0 {
		return nil
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(want.MTime)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, f.Name(), ts, unix.AT_SYMLINK_NOFOLLOW)
}

func (h *Host) replaceLink(path, target string, uid, gid int) error {
	part := h.path(partPath(path))
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	h.step("link %s", path)
	if err := os.Symlink(target, part); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if os.Geteuid() == 0 && (uid >= 0 || gid >= 0) {
		if err := os.Lchown(part, uid, gid); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	if err := os.Rename(part, h.path(path)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return atomicfile.SyncDir(filepath.Dir(h.path(path)))
}
