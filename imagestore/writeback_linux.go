package imagestore

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback tells the kernel to begin writing that part of f to the disk, and does not wait. It
// promises nothing: fsync does, and has little left to do then. So errors do not matter, and some
// file systems do not know the call.
func startWriteback(f *os.File, offset, length int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, length, unix.SYNC_FILE_RANGE_WRITE)
}
