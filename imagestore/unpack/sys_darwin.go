package unpack

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// syncTree asks for everything to be written; darwin has nothing for one tree.
func syncTree(string) error { return unix.Sync() }

func rename(from, to string) error { return os.Rename(from, to) }

func setTime(f *os.File, t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Futimes(int(f.Fd()), []unix.Timeval{tv, tv})
}

// setLinkTime does nothing: a symlink's own time matters to nobody here.
func setLinkTime(*os.Root, string, time.Time) error { return nil }

// setXattrs does nothing: those of Linux mean nothing to darwin.
func setXattrs(*os.File, map[string]string, bool) error { return nil }
