package e2e

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stop is a point at which a command is stopped: so long after a phase began, by that signal.
type stop struct {
	phase  string
	after  time.Duration
	signal syscall.Signal
}

// runStops stop keg run in every phase that changes hosts: the wire cut by kill -9, and Ctrl-C, which
// leaves hosts at once.
var runStops = []stop{
	{"send keg-node", 20 * time.Millisecond, syscall.SIGKILL},
	{"distribute", time.Second, syscall.SIGINT},
	{"distribute", time.Second, syscall.SIGKILL},
	{"unpack", 500 * time.Millisecond, syscall.SIGINT},
	{"unpack", 500 * time.Millisecond, syscall.SIGKILL},
	{"configure hosts", 200 * time.Millisecond, syscall.SIGKILL},
	{"registry", 100 * time.Millisecond, syscall.SIGKILL},
	{"make the control plane", 2 * time.Second, syscall.SIGINT},
	{"make the control plane", 4 * time.Second, syscall.SIGKILL},
	{"join workers", 1500 * time.Millisecond, syscall.SIGKILL},
	{"network and storage", 100 * time.Millisecond, syscall.SIGKILL},
	{"apps", 50 * time.Millisecond, syscall.SIGINT},
	{"apps", 300 * time.Millisecond, syscall.SIGKILL},
}

// resetStops do the same to keg reset. Ctrl-C comes first: what kill -9 cuts off, a host still ends.
var resetStops = []stop{
	{"take the runtime off", 200 * time.Millisecond, syscall.SIGINT},
	{"undo", 200 * time.Millisecond, syscall.SIGINT},
	{"take the runtime off", 0, syscall.SIGKILL},
	{"undo", 0, syscall.SIGKILL},
	{"forget", 0, syscall.SIGKILL},
}

// TestResume stops keg at many points; the same command then ends in a cluster all the same, and a
// reset that was stopped likewise ends with clean hosts.
func TestResume(t *testing.T) {
	b := open(t)
	file := b.file()
	before := b.snapshots()
	b.run("load", "-i", file)
	args := append([]string{"run", appName}, b.clusterFlags()...)
	for _, s := range runStops {
		b.stop(s, args...)
	}
	b.run(args...)
	b.checkCluster()
	if leaks := b.lab.Leaks(t); len(leaks) > 0 {
		t.Errorf("packets left for %v", leaks)
	}
	args = []string{"reset", "--name", "e2e", "--yes"}
	for _, s := range resetStops {
		b.stop(s, args...)
	}
	b.run(args...)
	b.compare(before, b.snapshots())
	if _, err := os.Stat(filepath.Join(b.store, "clusters", "e2e")); err == nil {
		t.Error("the record of the cluster is still there")
	}
}

// stop starts keg and stops it in a phase. After Ctrl-C it must have left the hosts.
func (b *bench) stop(s stop, args ...string) {
	b.Helper()
	b.interrupt(s, func() {}, args...)
	if s.signal == syscall.SIGINT {
		b.left()
	}
}

// interrupt starts keg and, when the phase begins, does harm before it stops it.
func (b *bench) interrupt(s stop, harm func(), args ...string) {
	b.Helper()
	cmd := b.command(b.Context(), append([]string{"--progress", "json"}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	var signalled time.Time
	text, seen := b.watch(stderr, s.phase, func() {
		harm()
		time.AfterFunc(s.after, func() { signalled = time.Now(); _ = cmd.Process.Signal(s.signal) })
	})
	if err := cmd.Wait(); !seen || err == nil {
		b.Fatalf("keg %s ended before it could be stopped in phase %q: %v %s", args[0], s.phase, err, text)
	}
	b.Logf("%s in phase %q of keg %s: gone after %.1fs", s.signal, s.phase, args[0], time.Since(signalled).Seconds())
	if code := cmd.ProcessState.ExitCode(); s.signal == syscall.SIGINT && code != 130 {
		b.Errorf("keg %s ended with code %d after Ctrl-C in phase %q: %s", args[0], code, s.phase, text)
	}
}

// watch reads progress to its end, and calls reached when the phase begins. What is not progress is
// returned.
func (b *bench) watch(stderr io.Reader, phase string, reached func()) (text string, seen bool) {
	b.Helper()
	d := json.NewDecoder(stderr)
	for {
		var e struct{ ID, Name, Error string }
		if err := d.Decode(&e); err != nil {
			rest, _ := io.ReadAll(io.MultiReader(d.Buffered(), stderr))
			return text + string(rest), seen
		}
		if e.Error != "" {
			text += e.Name + ": " + e.Error + "\n"
		}
		if !seen && strings.HasPrefix(e.ID, phase) {
			seen = true
			reached()
		}
	}
}

// left asserts that no keg is at work on a host: its lock is free and nothing runs for it.
func (b *bench) left() {
	b.Helper()
	const script = `
lock=/run/lock/keg-node.lock
[ ! -e $lock ] || flock -n $lock true || echo "the lock is held"
for p in /proc/[0-9]*; do
  cmd=$(tr '\0' ' ' 2>/dev/null <$p/cmdline)
  case $cmd in
  /var/lib/keg-node/keg-node\ registry*|/var/lib/keg-node/keg-node\ balance*) ;;
  */keg-node\ *|*kubeadm\ *) echo "$cmd" ;;
  esac
done`
	for _, h := range b.lab.Hosts {
		if out := b.lab.Exec(b.T, h.Name, "sh", "-c", script); out != "" {
			b.Errorf("on %s: %s", h.Name, out)
		}
	}
}

// code runs keg, which must exit with code, and returns both outputs.
func (b *bench) code(code int, args ...string) (stdout, stderr string) {
	b.Helper()
	began := time.Now()
	cmd := b.command(b.Context(), args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	b.Logf("keg %s (%.1fs): %v\n%s", strings.Join(args, " "), time.Since(began).Seconds(), err, errs.String())
	if _, exited := err.(*exec.ExitError); cmd.ProcessState.ExitCode() != code || err != nil && !exited { //nolint:errorlint // it is returned bare
		b.Errorf("keg %s: %v, want exit code %d\n%s", strings.Join(args, " "), err, code, errs.String())
	}
	return out.String(), errs.String()
}
