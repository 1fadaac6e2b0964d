package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/clusterimage/keg/runtime/remote"
	"github.com/clusterimage/keg/runtime/remote/remotetest"
)

// config is how to get into s with its key.
func config(s *remotetest.Server) remote.SSHConfig {
	return remote.SSHConfig{Host: s.Host, Port: s.Port, Keys: []string{s.KeyFile}, KnownHosts: []string{s.KnownHosts}, Timeout: 5 * time.Second}
}

func dial(t *testing.T, cfg remote.SSHConfig) *remote.SSH {
	t.Helper()
	c, err := remote.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// runners are the ways to run a command that must not differ.
func runners(t *testing.T) map[string]remote.Runner {
	t.Helper()
	plain := remotetest.Start(t, remotetest.Options{})
	grants := remotetest.Start(t, remotetest.Options{Sudo: &remotetest.Sudo{}})
	asks := remotetest.Start(t, remotetest.Options{Sudo: &remotetest.Sudo{Password: "s3cret pass'word"}})
	password := func(context.Context) (string, error) { return "s3cret pass'word", nil }
	return map[string]remote.Runner{
		"local":                  remote.Local(),
		"ssh":                    dial(t, config(plain)),
		"sudo":                   remote.Sudo(dial(t, config(grants))),
		"sudo by password":       remote.SudoPassword(dial(t, config(asks)), password),
		"sudo, password unasked": remote.SudoPassword(dial(t, config(grants)), password),
	}
}

func TestRun(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			err := r.Run(t.Context(), remote.Cmd{Args: []string{"cat"}, Stdin: bytes.NewReader(big), Stdout: &out, Stderr: &stderr})
			if err != nil || !bytes.Equal(out.Bytes(), big) || stderr.Len() > 0 {
				t.Errorf("cat: %v, %d of %d bytes, stderr %q", err, out.Len(), len(big), stderr.String())
			}
			args := []string{"printf", `%s\n`, "a b", "", "$HOME", "`x`", "it's", "new\nline", `back\slash`, "*", "!", "ü", `"`, "-n", "a=b"}
			got, err := remote.Output(t.Context(), r, args...)
			if want := strings.Join(args[2:], "\n") + "\n"; err != nil || string(got) != want {
				t.Errorf("arguments came as %q, %v", got, err)
			}
			got, err = remote.Output(t.Context(), r, "env")
			env := "\n" + string(got)
			for _, want := range []string{"\nHOME=/root\n", "\nLANG=C.UTF-8\n", remote.Path + "\n"} {
				if !strings.Contains(env, want) {
					t.Errorf("environment %q lacks %q (%v)", got, want, err)
				}
			}
			if n := strings.Count(string(got), "\n"); n != 4 { // and the mark
				t.Errorf("environment has more than it should: %q", got)
			}
			out.Reset()
			dir := filepath.Join(t.TempDir(), "it's here")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			err = r.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", `pwd; echo "$A"`}, Dir: dir, Env: []string{"A=b c"}, Stdout: &out})
			if err != nil || out.String() != dir+"\nb c\n" {
				t.Errorf("directory and variable: %q, %v", out.String(), err)
			}
			if err := r.Run(t.Context(), remote.Cmd{Args: []string{"cat"}}); err != nil {
				t.Errorf("no stdin: %v", err)
			}
		})
	}
}

func TestRunFails(t *testing.T) {
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stderr bytes.Buffer
			err := r.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "echo out; echo oh no >&2; exit 7"}, Stderr: &stderr})
			var exit *remote.ExitError
			if !errors.As(err, &exit) || exit.Code != 7 || exit.Signal != "" || exit.Args[0] != "sh" {
				t.Errorf("exit code: %#v", err)
			}
			if exit != nil && (exit.Stderr != "oh no\n" || stderr.String() != "oh no\n") {
				t.Errorf("stderr: %q and %q", exit.Stderr, stderr.String())
			}
			err = r.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "kill -KILL $$"}})
			if !errors.As(err, &exit) || exit.Code != 137 {
				t.Errorf("signal: %v", err)
			}
			err = r.Run(t.Context(), remote.Cmd{Args: []string{"no-such-program"}})
			if !errors.As(err, &exit) || exit.Code != 127 {
				t.Errorf("no such program: %v", err)
			}
			err = r.Run(t.Context(), remote.Cmd{Args: []string{"pwd"}, Dir: "/no/such/dir"})
			if !errors.As(err, &exit) || !strings.Contains(err.Error(), "/no/such/dir") {
				t.Errorf("no such directory: %v", err)
			}
			long := "i=0; while [ $i -lt 1000 ]; do echo line $i >&2; i=$((i+1)); done; exit 1"
			err = r.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", long}})
			if !errors.As(err, &exit) || len(exit.Stderr) > 4096 || !strings.HasPrefix(exit.Stderr, "line ") || !strings.HasSuffix(exit.Stderr, "line 999\n") {
				t.Errorf("long stderr: %q", exit.Stderr)
			}
			for _, bad := range []remote.Cmd{{}, {Args: []string{""}}, {Args: []string{"-x"}}, {Args: []string{"a", "b\x00c"}}, {Args: []string{"a"}, Env: []string{"novalue"}}} {
				if err := r.Run(t.Context(), bad); err == nil || errors.As(err, &exit) && exit == nil {
					t.Errorf("%q ran: %v", bad.Args, err)
				}
			}
		})
	}
}

// TestInputFails: a command must not take half an input for the whole.
func TestInputFails(t *testing.T) {
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "file")
			broken := errors.New("disk on fire")
			in := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))
			err := r.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", `cat >"$1" && mv "$1" "$1.done"`, "sh", file}, Stdin: in})
			if !errors.Is(err, broken) {
				t.Errorf("error is %v", err)
			}
			time.Sleep(200 * time.Millisecond) // were it alive, it would go on now
			if _, err := os.Stat(file + ".done"); err == nil {
				t.Error("the command thought it had everything")
			}
		})
	}
}

func TestOutputFails(t *testing.T) {
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			full := errors.New("disk full")
			err := r.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "while :; do echo more; done"}, Stdout: refusing{full}})
			if !errors.Is(err, full) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

type refusing struct{ err error }

func (r refusing) Write([]byte) (int, error) { return 0, r.err }

// TestCancel: what a command started dies with it, children included, even if it does not care for
// polite signals, and under sudo.
func TestCancel(t *testing.T) {
	scripts := map[string]string{
		"polite":   `sleep 1000 & echo $$ $! >"$1.part"; mv "$1.part" "$1"; wait`,
		"stubborn": `trap '' TERM INT HUP; sh -c 'trap "" TERM; while :; do sleep 1; done' & echo $$ $! >"$1.part"; mv "$1.part" "$1"; while :; do sleep 1; done`,
		"moved":    `setsid sleep 1000 & echo $$ $! >"$1.part"; mv "$1.part" "$1"; wait`,
	}
	for name, r := range runners(t) {
		for kind, script := range scripts {
			if name == "local" && kind == "moved" {
				continue // a process group of its own is out of reach there
			}
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(t.TempDir(), "pids")
				why := errors.New("changed my mind")
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() {
					waitFor(t, func() bool { _, err := os.Stat(file); return err == nil })
					cancel(why)
				}()
				err := r.Run(ctx, remote.Cmd{Args: []string{"sh", "-c", script, "sh", file}})
				if !errors.Is(err, why) {
					t.Errorf("error is %v", err)
				}
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				for _, pid := range strings.Fields(string(text)) {
					waitFor(t, func() bool { return !alive(pid) })
				}
			})
		}
	}
}

// waitFor polls, since the end of a process is not an event that others get.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 1500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("waited in vain")
}

func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestCancelBeforeStart(t *testing.T) {
	for name, r := range runners(t) {
		why := errors.New("too late")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if err := r.Run(ctx, remote.Cmd{Args: []string{"true"}}); !errors.Is(err, why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBackground: what a command leaves running may hold its streams; that must hold nobody up.
func TestBackground(t *testing.T) {
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := remote.Output(t.Context(), r, "sh", "-c", "sleep 100 & echo $!")
			if err != nil {
				t.Fatal(err)
			}
			pid := strings.TrimSpace(string(got))
			if !alive(pid) {
				t.Error("it was killed though the command ended well")
			}
			var n int
			if _, err := fmt.Sscan(pid, &n); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		})
	}
}

func TestOneConnection(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{MaxSessions: 3})
	c := dial(t, config(s)) // believes in ten sessions
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if _, err := remote.Output(t.Context(), c, "sh", "-c", fmt.Sprint("sleep 0.05; exit 0 # ", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := s.Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if n := len(s.Commands()); n != 20 {
		t.Errorf("%d commands", n)
	}
}

func TestCancelAllSessions(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{MaxSessions: 10, Sudo: &remotetest.Sudo{}})
	r := remote.Sudo(dial(t, config(s)))
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	for i := range 12 { // more than there is room for
		all.Go(func() {
			err := r.Run(ctx, remote.Cmd{Args: []string{"sh", "-c", `touch "$1"; exec sleep 1000`, "sh", filepath.Join(dir, fmt.Sprint(i))}})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
		})
	}
	waitFor(t, func() bool { files, _ := os.ReadDir(dir); return len(files) == 8 })
	cancel()
	all.Wait()
	waitFor(t, func() bool { return s.Running() == 0 })
}

func TestNoSessions(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{RefuseSessions: true})
	err := dial(t, config(s)).Run(t.Context(), remote.Cmd{Args: []string{"true"}})
	if err == nil || !strings.Contains(err.Error(), "MaxSessions") {
		t.Errorf("error is %v", err)
	}
}

func TestCut(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{})
	c := dial(t, config(s))
	s.CutAfter(1 << 20)
	err := c.Run(t.Context(), remote.Cmd{Args: []string{"cat"}, Stdin: bytes.NewReader(make([]byte, 8<<20))})
	if !errors.Is(err, remote.ErrDisconnected) || !strings.Contains(err.Error(), s.Addr) {
		t.Errorf("error is %v", err)
	}
	if err := c.Run(t.Context(), remote.Cmd{Args: []string{"true"}}); !errors.Is(err, remote.ErrDisconnected) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestStalled(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{})
	cfg := config(s)
	cfg.KeepAlive = 50 * time.Millisecond
	c := dial(t, cfg)
	if err := c.Run(t.Context(), remote.Cmd{Args: []string{"sleep", "0.5"}}); err != nil {
		t.Fatalf("a quiet command is not a dead host: %v", err)
	}
	started := make(chan struct{})
	go func() { <-started; s.Stall() }()
	err := c.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "echo; sleep 1000"}, Stdout: signaller{started}})
	if !errors.Is(err, remote.ErrDisconnected) || !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("error is %v", err)
	}
}

// TestStalledBefore: a command that could not even start says the same, and nothing of the SSH library's.
func TestStalledBefore(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{})
	cfg := config(s)
	cfg.KeepAlive = 50 * time.Millisecond
	c := dial(t, cfg)
	s.Stall()
	err := c.Run(t.Context(), remote.Cmd{Args: []string{"true"}})
	want := s.Addr + ": running true: connection lost: no sign of life for 150ms"
	if !errors.Is(err, remote.ErrDisconnected) || err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}

type signaller struct{ started chan struct{} }

func (s signaller) Write(p []byte) (int, error) { close(s.started); return len(p), nil }

// TestCancelStalled: a host that is gone cannot kill anything; Run comes back all the same.
func TestCancelStalled(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{})
	c := dial(t, config(s))
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	go func() { <-started; s.Stall(); cancel() }()
	err := c.Run(ctx, remote.Cmd{Args: []string{"sh", "-c", "echo; sleep 1000"}, Stdout: signaller{started}})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "still be running") {
		t.Errorf("error is %v", err)
	}
}

func TestClose(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{})
	c := dial(t, config(s))
	started := make(chan struct{})
	go func() { <-started; _ = c.Close() }()
	err := c.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "echo; sleep 1000"}, Stdout: signaller{started}})
	if !errors.Is(err, remote.ErrDisconnected) {
		t.Errorf("error is %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}
