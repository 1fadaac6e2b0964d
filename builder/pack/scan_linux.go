package pack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func statOf(fi fs.FileInfo) (stat, error) {
	s, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return stat{}, fmt.Errorf("reading status of %s: no system information", fi.Name())
	}
	return stat{
		inode: inode{dev: s.Dev, ino: s.Ino}, nlink: uint64(s.Nlink), //nolint:unconvert // 32 bits wide on arm64
		uid: int(s.Uid), gid: int(s.Gid), ctime: time.Unix(s.Ctim.Unix()),
	}, nil
}

// xattrs reads the extended attributes of a file or directory that a layer keeps.
func xattrs(r *os.Root, name string) (map[string]string, error) {
	f, err := r.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd := int(f.Fd())
	list, err := grow(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing extended attributes of %s: %w", name, err)
	}
	var m map[string]string
	for k := range strings.SplitSeq(string(list), "\x00") {
		if !strings.HasPrefix(k, "user.") && k != "security.capability" {
			continue
		}
		v, err := grow(func(b []byte) (int, error) { return unix.Fgetxattr(fd, k, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading extended attribute %s of %s: %w", k, name, err)
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[k] = string(v)
	}
	return m, nil
}

// grow calls read with a buffer that is large enough; read says how large with a nil one.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := read(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		n, err = read(b)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}
