package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// unclaim removes what came to a claimed path after the claim.
func (u *undo) unclaim(e entry) (bool, error) {
	h := u.h
	real := h.real(e.Name)
	if err := h.unmountBelow(real, e.Mounts); err != nil {
		return false, err
	}
	if _, err := os.Lstat(h.path(e.Name)); err != nil {
		return false, nil
	}
	h.step("unclaim %s", e.Name)
	if e.Before.Type == absent {
		return true, h.removeTree(e.Name, nil)
	}
	if e.Listing == "" {
		return false, nil
	}
	known, err := u.rec.listed(e.Listing)
	if err != nil {
		return false, err
	}
	return true, h.removeTree(real, known)
}

// unmountBelow unmounts dir and everything below it except keep, the deepest first. It fails if
// something stays mounted, so that nobody deletes across a mount point.
func (h *Host) unmountBelow(dir string, keep []string) error {
	for range 20 { // mounts can be stacked, and new ones show when others go
		var points []string
		for _, m := range h.mounts() {
			if below(m, dir) && !slices.Contains(keep, m) {
				points = append(points, m)
			}
		}
		if len(points) == 0 {
			return nil
		}
		slices.SortStableFunc(points, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
		for _, m := range points {
			h.step("umount %s", m)
			_ = unix.Unmount(h.path(m), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	return fmt.Errorf("something stays mounted at or below %s", dir)
}

// removeTree removes path and all below it. With known, names relative to path, those and path itself
// stay, and what is in them and not known goes. It follows no symlink and enters no other file system.
func (h *Host) removeTree(path string, known map[string]bool) error {
	parent, err := os.Open(h.path(filepath.Dir(path)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	defer parent.Close()
	t := &tree{known: known}
	if err := t.remove(parent, filepath.Base(path), "", 0); err != nil {
		return fmt.Errorf("removing %s: %w", path, err)
	}
	return nil
}

type tree struct {
	known map[string]bool
}

var errOtherFileSystem = errors.New("another file system is mounted there")

// remove removes name of the directory parent. rel is its name relative to the top, "" for the top
// itself, and dev the device of the top, 0 for the top itself.
func (t *tree) remove(parent *os.File, name, rel string, dev uint64) error {
	fd := int(parent.Fd())
	stays := t.known != nil && (rel == "" || t.known[rel])
	var st unix.Stat_t
	err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "stat", Path: rel, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if stays {
			return nil
		}
		return ignoreGone("unlink", rel, unix.Unlinkat(fd, name, 0))
	}
	if dev != 0 && st.Dev != dev {
		if stays { // it was mounted before
			return nil
		}
		return &fs.PathError{Op: "remove", Path: rel, Err: errOtherFileSystem}
	}
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: rel, Err: err}
	}
	d := os.NewFile(uintptr(sub), name)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		if err := t.remove(d, n, filepath.Join(rel, n), st.Dev); err != nil && len(errs) < 10 {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 || stays {
		return errors.Join(errs...)
	}
	return ignoreGone("rmdir", rel, unix.Unlinkat(fd, name, unix.AT_REMOVEDIR))
}

func ignoreGone(op, path string, err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// claimResidue lists what is at a claimed path and was not when it was claimed, at most a few names.
func (u *undo) claimResidue(e entry) []string {
	const most = 10
	h := u.h
	if _, err := os.Lstat(h.path(e.Name)); err != nil {
		if e.Before.Type != absent {
			return []string{e.Name + ": is gone"}
		}
		return nil
	}
	if e.Before.Type == absent {
		return []string{e.Name + ": was not there before"}
	}
	if e.Listing == "" {
		return nil
	}
	known, err := u.rec.listed(e.Listing)
	if err != nil {
		return []string{e.Name + ": " + err.Error()}
	}
	var found []string
	enough := errors.New("enough")
	real := h.real(e.Name)
	err = h.list(real, func(rel string) error {
		if !known[rel] {
			found = append(found, filepath.Join(e.Name, rel)+": was not there before")
		}
		if len(found) == most {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		found = append(found, e.Name+": "+err.Error())
	}
	for _, m := range h.mounts() {
		if below(m, real) && !slices.Contains(e.Mounts, m) {
			found = append(found, m+": was not mounted before")
		}
	}
	return found
}

// cameLinks are the network devices that came after the claim.
func (h *Host) cameLinks(e entry) []string {
	return slices.DeleteFunc(h.links(e.Name), func(l string) bool { return slices.Contains(e.Names, l) })
}

func (h *Host) undoLink(ctx context.Context, e entry) (restored bool, err error) {
	var errs []error
	for _, l := range h.cameLinks(e) {
		h.step("ip link del %s", l)
		_, err := h.run(ctx, "ip", "link", "del", "dev", l)
		errs, restored = append(errs, err), true
	}
	return restored, errors.Join(errs...)
}
