package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// graceTime is what a command gets between a polite signal and the last one.
const graceTime = 2 * time.Second

// Local runs commands on this machine, in the same environment as on any other host, as the user that
// keg runs as. The process group of a command is killed when its context ends.
func Local() Runner { return local{} }

type local struct{}

var _ Runner = local{}

// Host names the machine in errors.
func (local) Host() string { return "localhost" }

// Run implements Runner.
func (local) Run(ctx context.Context, c Cmd) error {
	if err := c.check(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("localhost: running %s: %w", c.Args[0], context.Cause(ctx))
	}
	argv := words(c, rand.Text())
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // the whole group is killed, not one process
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p, err := startLocal(cmd)
	if err != nil {
		return fmt.Errorf("localhost: starting %s: %w", c.Args[0], err)
	}
	return p.run(ctx, "localhost", c)
}

// startLocal gives cmd pipes of our own: those of os/exec would be waited for as long as anything that
// the command left in the background holds them.
func startLocal(cmd *exec.Cmd) (*process, error) {
	var ours, theirs []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			_ = f.Close()
		}
	}
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(append(ours, theirs...))
			return nil, err
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	ours[0], theirs[0] = theirs[0], ours[0] // its stdin goes the other way
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	err := cmd.Start()
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		return nil, err
	}
	gone := make(chan struct{})
	return &process{
		stdin: ours[0], stdout: ours[1], stderr: ours[2],
		wait:  func() (int, string, error) { defer close(gone); return outcome(cmd.Wait()) },
		kill:  func(ctx context.Context) error { return killGroup(ctx, cmd.Process.Pid, gone) },
		close: func() { closeAll(ours) },
	}, nil
}

// killGroup asks twice, as kill.sh does and for its reasons, then kills.
func killGroup(ctx context.Context, pgid int, gone <-chan struct{}) error {
	for range 2 {
		_ = syscall.Kill(-pgid, syscall.SIGTERM)
		grace := time.NewTimer(graceTime / 2)
		select {
		case <-gone:
		case <-grace.C:
		case <-ctx.Done():
		}
		grace.Stop()
	}
	if err := syscall.Kill(-pgid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// outcome reads how a process of this machine ended.
func outcome(err error) (code int, signal string, _ error) {
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) {
		return 0, "", err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG"), nil
	}
	return exit.ExitCode(), "", nil
}
