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
	below := real + string(filepath.Separator)
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		// Mounts of snapshots lie elsewhere, but their directories do not.
		return !strings.HasPrefix(m.Mountpoint, below) && !(m.FSType == "overlay" && strings.Contains(m.VFSOptions, below)), false
	})
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmounting %s: %w", mounts[i].Mountpoint, err)
		}
	}
	for _, b := range bundles {
		if err := os.RemoveAll(filepath.Dir(b)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return ctx.Err()
}
