// Package lockfile takes advisory locks (flock(2)) on files. The kernel drops such a lock when its
// holder dies, so there are no stale ones.
package lockfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mode says whether others may hold the lock at the same time.
type Mode int

const (
	// Shared admits other Shared holders.
	Shared Mode = unix.LOCK_SH
	// Exclusive admits nobody else.
	Exclusive Mode = unix.LOCK_EX
)

// Acquire takes the lock on path, creating the file, and waits for other holders until ctx ends.
// The returned function releases it. waiting, if not nil, is called once before the first wait.
func Acquire(ctx context.Context, path string, mode Mode, waiting func()) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if err := Lock(ctx, f, mode, waiting); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// Lock takes the lock on an open file, for as long as f is open, and waits as Acquire does. Who locks
// a file that others rename or remove must look afterwards whether it still has its name.
func Lock(ctx context.Context, f *os.File, mode Mode, waiting func()) error {
	pause := 2 * time.Millisecond
	for {
		ok, err := TryLock(f, mode)
		if ok || err != nil {
			return err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for lock %s: %w", f.Name(), context.Cause(ctx))
		case <-time.After(pause):
		}
		pause = min(2*pause, 100*time.Millisecond)
	}
}

// TryLock takes the lock on an open file, for as long as f is open, unless another open file holds it.
func TryLock(f *os.File, mode Mode) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), int(mode)|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
}
