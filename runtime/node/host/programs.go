package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/clusterimage/keg/runtime/node"
)

// searchPath is where programs of a host are looked for, whatever PATH its administrator has.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Program is one program to run. Its environment is fixed: HOME, LANG, PATH, and Env.
type Program struct {
	Args           []string
	Env            []string
	Dir            string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// ErrNoProgram says that a program is not installed on the host.
var ErrNoProgram = errors.New("no such program on this host")

// Programs runs programs and waits for their end.
type Programs interface {
	Run(ctx context.Context, p Program) error
}

// System runs programs of this machine.
type System struct{}

var _ Programs = System{}

// Run runs p; ErrNoProgram if there is none of that name. When ctx ends, p and its children are killed.
func (System) Run(ctx context.Context, p Program) error {
	path, err := findProgram(p.Args[0])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, p.Args[1:]...)
	cmd.Env = append([]string{"HOME=/root", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "PATH=" + searchPath}, p.Env...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Dir, p.Stdin, p.Stdout, p.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A daemon that the program leaves behind may keep its output open.
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func findProgram(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(searchPath) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("running %s: %w", name, ErrNoProgram)
}

// run runs a program and returns its stdout. A failure is a node.Error with what it wrote to stderr;
// ErrNoProgram stays visible to errors.Is.
func (h *Host) run(ctx context.Context, args ...string) (string, error) {
	return h.runWith(ctx, nil, args...)
}

func (h *Host) runWith(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	if h.Programs == nil {
		return "", fmt.Errorf("running %s: %w", args[0], ErrNoProgram)
	}
	var stdout, stderr bytes.Buffer
	err := h.Programs.Run(ctx, Program{Args: args, Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	switch {
	case err == nil:
		return stdout.String(), nil
	case errors.Is(err, ErrNoProgram), ctx.Err() != nil:
		return "", err
	}
	text := strings.TrimSpace(stderr.String())
	if text == "" {
		text = strings.TrimSpace(stdout.String())
	}
	return stdout.String(), node.Errorf(node.KindProgram, "running %s: %v: %s", strings.Join(args, " "), err, lastLines(text, 4096))
}

// lastLines is the end of text, at most limit bytes, beginning with a whole line.
func lastLines(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	text = text[len(text)-limit:]
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	return text
}
