package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/labtest"
)

// TestLostHosts: a host whose cable is cut, or whose power fails, ends the run with one error that names
// it; once it is back, the same command goes on.
func TestLostHosts(t *testing.T) {
	b := open(t)
	file := b.file()
	before := b.snapshots()
	b.run("load", "-i", file)
	args := append([]string{"run", appName}, b.clusterFlags()...)
	master, worker := b.lab.Hosts[0], b.lab.Hosts[1]

	b.lose(worker, "distribute", 0, "cut", args...)
	if has := b.lab.Exec(t, master.Name, "find", "/var/lib/keg-node/store/blobs", "-size", "+20M"); has == "" {
		t.Error("the other host did not get its blobs")
	}
	b.lab.Verb(t, "heal", worker.Name)

	b.lose(master, "make the control plane", 5*time.Second, "kill", args...)
	b.lab.Verb(t, "start", master.Name)

	b.lose(worker, "join workers", time.Second, "kill", args...)
	out, _ := b.code(1, "status", "--name", "e2e")
	if !strings.Contains(out, worker.Addr) || !strings.Contains(out, "unreachable") || !strings.Contains(out, "did not end well") {
		t.Errorf("keg status with a host down:\n%s", out)
	}
	out, _ = b.code(1, "status", "--name", "e2e", "-o", "json")
	var s status
	decode(t, out, &s)
	if len(s.Hosts) != 2 || s.Hosts[0].Error != "" || !strings.Contains(s.Hosts[1].Error, "unreachable") || s.API != "" || s.Registry != "active" {
		t.Errorf("keg status with a host down: %s", out)
	}
	b.lab.Verb(t, "start", worker.Name)

	b.run(args...)
	b.checkCluster()

	// Ctrl-C while a host is silent: keg does what it can on the others and leaves.
	b.interrupt(stop{"gather facts", time.Second, syscall.SIGINT}, func() { b.lab.Verb(t, "cut", worker.Name) }, args...)
	b.lab.Verb(t, "heal", worker.Name)

	// A host that is off keeps no other from being reset, and stays in the record.
	b.lab.Verb(t, "stop", worker.Name)
	_, stderr := b.code(1, "reset", "--name", "e2e", "--yes")
	if !strings.Contains(stderr, worker.Addr) {
		t.Errorf("keg reset with a host down does not name it: %s", stderr)
	}
	b.lab.Verb(t, "start", worker.Name)
	b.run("reset", "--name", "e2e", "--yes")
	b.compare(before, b.snapshots())
}

// lose does harm to a host, by a verb of the lab, so long after a phase of keg began; keg must then fail
// with one error about that host alone.
func (b *bench) lose(host labtest.Host, phase string, after time.Duration, harm string, args ...string) {
	b.Helper()
	cmd := b.command(b.Context(), append([]string{"--progress", "json"}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	var since time.Time
	text, seen := b.watch(stderr, phase, func() {
		go func() {
			defer close(done)
			time.Sleep(after)
			b.lab.Verb(b.T, harm, host.Name)
			since = time.Now()
		}()
	})
	_ = cmd.Wait() // judged by its exit code
	if !seen {
		b.Fatalf("keg ended before phase %q: %s", phase, text)
	}
	<-done
	b.Logf("keg ended %.0fs after the host was lost in phase %q: %s", time.Since(since).Seconds(), phase, text)
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		b.Errorf("exit code %d, want 1", code)
	}
	at := strings.LastIndex(text, "\nkeg: ")
	if at < 0 {
		b.Fatalf("no error: %s", text)
	}
	last := text[at+1:]
	for _, h := range b.lab.Hosts {
		if strings.Contains(last, h.Addr) != (h == host) {
			b.Errorf("the error names the wrong host: %q", last)
		}
	}
	if !strings.Contains(last, "connection lost") || !strings.Contains(last, "hint: ") {
		b.Errorf("the error is %q", last)
	}
	if n := strings.Count(last, "connection lost"); n != 1 {
		b.Errorf("the loss is told %d times: %q", n, last)
	}
}
