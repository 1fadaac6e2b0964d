// Package writeback has the kernel write files to the disk while they still grow, so that the fsync at the
// end finds little to do.
package writeback

import (
	"os"

	"golang.org/x/sys/unix"
)

// Start tells the kernel to begin writing that part of f to the disk, and does not wait. It promises
// nothing: fsync does. So errors do not matter, and some file systems do not know the call.
func Start(f *os.File, offset, length int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, length, unix.SYNC_FILE_RANGE_WRITE)
}
