package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// sweep removes what a process that was killed left of its build: containers, mounts and their bundles. The
// caller holds the lock of dir.
func sweep(ctx context.Context, dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	bundles, err := filepath.Glob(filepath.Join(real, "runc-*", "executor", "*", "config.json"))
	if err != nil {
		return err
	}
	for _, b := range bundles {
		// The container has the name of its bundle; without one there is nothing to delete, which is an error to runc.
		_ = exec.CommandContext(ctx, "runc", "delete", "--force", filepath.Base(filepath.Dir(b))).Run()
	}
	left, err := leftMounts(real)
	if err != nil {
		return err
	}
	for i := len(left) - 1; i >= 0; i-- {
		if err := unix.Unmount(left[i], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", left[i], err)
		}
		if !strings.HasPrefix(left[i], real) {
			_ = os.Remove(left[i]) // a directory made to mount there
		}
	}
	for _, b := range bundles {
		if err := os.RemoveAll(filepath.Dir(b)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return ctx.Err()
}

// leftMounts are the mount points below dir, and those elsewhere of what lies below dir: BuildKit mounts snapshots
// in the directory for temporary files.
func leftMounts(dir string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	home := &mountinfo.Info{} // the file system that dir is on
	for _, m := range mounts {
		if within(dir, m.Mountpoint) && len(m.Mountpoint) >= len(home.Mountpoint) {
			home = m
		}
	}
	rel, err := filepath.Rel(home.Mountpoint, dir)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(home.Root, rel)
	var left []string
	for _, m := range mounts {
		bind := m.Major == home.Major && m.Minor == home.Minor && strings.HasPrefix(m.Root, filepath.Join(root, "runc-"))
		if m.Mountpoint != dir && within(m.Mountpoint, dir) || bind || m.FSType == "overlay" && strings.Contains(m.VFSOptions, "="+dir+"/") {
			left = append(left, m.Mountpoint)
		}
	}
	return left, nil
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
