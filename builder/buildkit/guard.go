package buildkit

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Guard waits until its caller's other end, r, is closed, and then removes what runs and is mounted for the state
// directory dir. It is for a process beside the one that builds: when that is killed, nobody else does. If a byte comes
// before the end, all went well and nothing is to be done.
func Guard(ctx context.Context, r io.Reader, dir string) error {
	if n, err := io.ReadFull(r, make([]byte, 1)); n > 0 || err != io.EOF {
		return nil //nolint:nilerr // who cannot be heard is not dead
	}
	if _, err := os.Stat(dir); err != nil {
		return nil //nolint:nilerr // it was removed
	}
	// Whoever builds next may have been quicker, and does the same.
	release, err := acquire(ctx, dir, nil)
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", dir, err)
	}
	defer release()
	if err := sweep(ctx, dir); err != nil {
		return fmt.Errorf("removing what a killed build left in %s: %w", dir, err)
	}
	return nil
}

// guard starts the process that calls Guard. Without one, what a killed build leaves stays until the next.
func guard(command func(dir string) *exec.Cmd, dir string) (stop func(), err error) {
	if command == nil {
		return func() {}, nil
	}
	cmd := command(dir)
	detach(cmd)
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting what looks after BuildKit: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting what looks after BuildKit: %w", err)
	}
	return func() {
		_, _ = pipe.Write([]byte{1})
		_ = pipe.Close()
		_ = cmd.Wait()
	}, nil
}
