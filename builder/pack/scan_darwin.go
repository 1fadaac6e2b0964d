package pack

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

func statOf(fi fs.FileInfo) (stat, error) {
	s, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return stat{}, fmt.Errorf("reading status of %s: no system information", fi.Name())
	}
	return stat{
		inode: inode{dev: uint64(s.Dev), ino: s.Ino}, nlink: uint64(s.Nlink),
		uid: int(s.Uid), gid: int(s.Gid), ctime: time.Unix(s.Ctimespec.Unix()),
	}, nil
}

// xattrs returns none: those of darwin mean nothing to Linux.
func xattrs(*os.Root, string) (map[string]string, error) { return nil, nil }
