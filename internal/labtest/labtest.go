// Package labtest gives Go tests real hosts: systemd, sshd, a disk and a network card each, on one
// machine, in a network namespace without a way out. It drives testdata/lab/lab; references to its
// verbs are explained there.
//
// A test package that wants hosts has
//
//	func TestMain(m *testing.M) { labtest.Main(m, 2) }
//
// and its tests begin with labtest.Open(t), which skips, with the reason, where there can be no lab.
package labtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
)

const (
	insideEnv = "KEG_LAB_INSIDE"
	skipEnv   = "KEG_LAB_SKIP"
)

// Lab is the running lab, seen from inside its network namespace.
type Lab struct {
	// Key is the private key file that logs in on every host as root, ops (has sudo) and plain (has not).
	Key string
	// Hosts are h1, h2, ... in order.
	Hosts []Host
	dir   string
}

// Host is one host of the lab.
type Host struct {
	Name string // h1
	Addr string // an IPv4 address
}

// Main brings up n hosts, runs the tests of m inside the lab's network, and takes the lab down. It
// does not return. Where there can be no lab, the tests run without: Open skips them.
func Main(m *testing.M, n int) {
	os.Exit(run(m, n)) // the one place of a test binary that may exit
}

func run(m *testing.M, n int) int {
	if os.Getenv(insideEnv) != "" || os.Getenv(skipEnv) != "" {
		return m.Run()
	}
	if reason := unavailable(); reason != "" {
		_ = os.Setenv(skipEnv, reason)
		return m.Run()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("/var/tmp", "keg-lab-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "labtest:", err)
		return 1
	}
	env := environment(dir)
	defer func() {
		if os.Getenv("KEG_LAB_KEEP") != "" {
			fmt.Fprintf(os.Stderr, "labtest: the lab is kept: %s\n", strings.Join(env, " "))
			return
		}
		down := command(context.WithoutCancel(ctx), env, script(), "down")
		down.Stdout, down.Stderr = os.Stderr, os.Stderr
		_ = down.Run()
		_ = os.RemoveAll(dir)
	}()
	up := command(ctx, env, script(), "up", fmt.Sprint(n))
	up.Stdout, up.Stderr = os.Stderr, os.Stderr
	if err := up.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "labtest: bringing the lab up:", err)
		return 1
	}
	tests := command(ctx, append(env, insideEnv+"="+dir, insideEnv+"_HOSTS="+fmt.Sprint(n)), script(), append([]string{"run"}, os.Args...)...)
	tests.Stdin, tests.Stdout, tests.Stderr = os.Stdin, os.Stdout, os.Stderr
	tests.Cancel = func() error { return tests.Process.Signal(os.Interrupt) }
	if err := tests.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "labtest: running tests inside the lab:", err)
		return 1
	}
	return 0
}

// Open returns the lab, or skips the test where there is none.
func Open(t *testing.T) *Lab {
	t.Helper()
	dir := os.Getenv(insideEnv)
	if dir == "" {
		reason := os.Getenv(skipEnv)
		if reason == "" {
			reason = "this package's TestMain does not call labtest.Main"
		}
		t.Skip("SKIP lab: ", reason)
	}
	l := &Lab{Key: filepath.Join(dir, "key"), dir: dir}
	out := l.output(t, "list")
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		l.Hosts = append(l.Hosts, Host{Name: f[0], Addr: f[1]})
	}
	return l
}

// Scratch is a directory that goes with the lab: for what several tests share.
func (l *Lab) Scratch() string { return l.dir }

// Exec runs a command in a host, without the network, and returns its output; a failure fails the test.
func (l *Lab) Exec(t testing.TB, host string, args ...string) string {
	t.Helper()
	return l.output(t, append([]string{"exec", host}, args...)...)
}

// TryExec is Exec for commands that may fail.
func (l *Lab) TryExec(ctx context.Context, host string, args ...string) (string, error) {
	cmd := command(ctx, environment(l.dir), script(), append([]string{"exec", host}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Verb runs a verb of the lab that changes it: kill, start, stop, wipe, cut, heal, shape.
func (l *Lab) Verb(t testing.TB, args ...string) {
	t.Helper()
	l.output(t, args...)
}

// Leaks are the addresses outside the lab that hosts sent packets to; none is what an air gap wants.
func (l *Lab) Leaks(t testing.TB) []string {
	t.Helper()
	return strings.Fields(l.output(t, "leaks"))
}

func (l *Lab) output(t testing.TB, args ...string) string {
	t.Helper()
	cmd := command(context.Background(), environment(l.dir), script(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("lab %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// unavailable says why there can be no lab here, or nothing.
func unavailable() string {
	if goruntime.GOOS != "linux" {
		return "a lab of hosts needs Linux"
	}
	if os.Getuid() != 0 {
		return "a lab of hosts needs root"
	}
	for _, program := range []string{"systemd-nspawn", "debootstrap", "ip", "iptables", "nsenter", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			return "a lab of hosts needs " + program
		}
	}
	return ""
}

// script is the path of testdata/lab/lab, beside this source file's module.
func script() string {
	_, file, _, _ := goruntime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "testdata", "lab", "lab")
}

// environment names the lab after its directory: several may run at once. They share a base.
func environment(dir string) []string {
	base := os.Getenv("LAB_BASE")
	if base == "" {
		base = "/var/tmp/lab/base"
	}
	sum := 0
	for _, c := range dir {
		sum = (sum*31 + int(c)) % 200
	}
	return []string{
		"LAB_DIR=" + dir,
		"LAB_BASE=" + base,
		"LAB_NAME=keg" + filepath.Base(dir)[len("keg-lab-"):],
		fmt.Sprintf("LAB_NET=198.18.%d", 20+sum),
	}
}

func command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}
