package unpack

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syncTree makes everything below dir durable at once.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncing the file system of %s: %w", filepath.Dir(dir), err)
	}
	return nil
}

// rename moves a directory to a name that must be free.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return os.Rename(from, to) // a file system without it
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func setTime(f *os.File, t time.Time) error {
	ts, err := timespecs(t)
	if err != nil {
		return err
	}
	// utimensat without a path, which x/sys has no function for, is futimens.
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&ts[0])), 0, 0, 0); errno != 0 {
		return fmt.Errorf("setting time: %w", errno)
	}
	return nil
}

func setLinkTime(root *os.Root, name string, t time.Time) error {
	ts, err := timespecs(t)
	if err != nil {
		return err
	}
	d, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.UtimesNanoAt(int(d.Fd()), path.Base(name), ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("setting time: %w", err)
	}
	return nil
}

func timespecs(t time.Time) (ts [2]unix.Timespec, err error) {
	s, err := unix.TimeToTimespec(t)
	return [2]unix.Timespec{s, s}, err
}

// setXattrs sets extended attributes. A file system that has none goes without, and who is not root
// cannot give capabilities.
func setXattrs(f *os.File, xattrs map[string]string, owner bool) error {
	for k, v := range xattrs {
		err := unix.Fsetxattr(int(f.Fd()), k, []byte(v), 0)
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && !owner {
			continue
		}
		if err != nil {
			return fmt.Errorf("setting extended attribute %s: %w", k, err)
		}
	}
	return nil
}
