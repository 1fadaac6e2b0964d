package runtime

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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/runtime/remote"
)

// fakePhase is a Phase without options.
type fakePhase struct {
	title string
	run   func(ctx context.Context, c *Cluster) error
}

func (p fakePhase) Title() string                             { return p.title }
func (p fakePhase) Run(ctx context.Context, c *Cluster) error { return p.run(ctx, c) }

func TestRunOrderAndCleanup(t *testing.T) {
	var got []string
	say := func(s string) Phase {
		return fakePhase{s, func(_ context.Context, c *Cluster) error {
			got = append(got, s)
			c.Defer(func(context.Context) error { got = append(got, "clean "+s); return nil })
			return nil
		}}
	}
	broken := errors.New("broken")
	fail := fakePhase{"three", func(context.Context, *Cluster) error { return broken }}
	err := Run(t.Context(), &Cluster{}, []Phase{say("one"), say("two"), fail, say("four")})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if d := cmp.Diff([]string{"one", "two", "clean two", "clean one"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestRunLostHost: one lost connection is one error, however much there was to clean up over it.
func TestRunLostHost(t *testing.T) {
	lost := fmt.Errorf("10.0.0.1: running true: %w", remote.ErrDisconnected)
	broken := errors.New("broken")
	step := func(err error) Phase {
		return &phase{title: "one", limit: 1, batches: func(*Cluster) []Batch {
			return []Batch{{{Host: "10.0.0.1", Text: "do it", Do: func(context.Context, io.Writer) error { return err }}}}
		}}
	}
	for _, tc := range []struct {
		step, cleanup error
		want          string
	}{
		{lost, lost, "one: 10.0.0.1: do it: running true: connection lost"},
		{lost, broken, "one: 10.0.0.1: do it: running true: connection lost\nbroken"},
		{broken, lost, "one: 10.0.0.1: do it: broken\n10.0.0.1: running true: connection lost"},
		{nil, lost, "10.0.0.1: running true: connection lost"},
	} {
		c := &Cluster{}
		c.Defer(func(context.Context) error { return tc.cleanup })
		if err := Run(t.Context(), c, []Phase{step(tc.step)}); err == nil || err.Error() != tc.want {
			t.Errorf("error %q, want %q", err, tc.want)
		}
	}
}

// TestRunRefused: a run that ends before there is anything to remember leaves nothing with the operator.
func TestRunRefused(t *testing.T) {
	parent := t.TempDir()
	c := &Cluster{Name: "No Name", Dir: filepath.Join(parent, "shop")}
	var refused *PreflightError
	if err := Run(t.Context(), c, RunPhases()); !errors.As(err, &refused) {
		t.Fatalf("error %v", err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestRunCancelledBetweenPhases(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	cleaned := false
	err := Run(ctx, &Cluster{}, []Phase{
		fakePhase{"one", func(_ context.Context, c *Cluster) error {
			c.Defer(func(ctx context.Context) error { cleaned = ctx.Err() == nil; return nil })
			cancel(interrupted)
			return nil
		}},
		fakePhase{"two", func(context.Context, *Cluster) error { t.Error("phase two ran"); return nil }},
	})
	if !errors.Is(err, interrupted) || !strings.Contains(err.Error(), `"two"`) {
		t.Errorf("error %v", err)
	}
	if !cleaned {
		t.Error("the clean-up did not run, or with a dead ctx")
	}
}

func nodes(n int) []*Node {
	var list []*Node
	for i := range n {
		list = append(list, &Node{Address: Address{Host: fmt.Sprintf("10.0.0.%d", i+1)}, Role: Worker})
	}
	return list
}

func TestPhaseLimitAndOrderOnAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Cluster{Nodes: nodes(9)}
		var busy, most atomic.Int32
		var mu sync.Mutex
		order := map[string][]string{}
		work := func(n *Node, text string) Step {
			return n.On(text, func(context.Context, io.Writer) error {
				most.Store(max(most.Load(), busy.Add(1)))
				time.Sleep(time.Second)
				busy.Add(-1)
				mu.Lock()
				order[n.Address.Host] = append(order[n.Address.Host], text)
				mu.Unlock()
				return nil
			})
		}
		p := &phase{title: "work", limit: 4, batches: func(c *Cluster) []Batch {
			return []Batch{each(c.Nodes, func(n *Node) []Step { return []Step{work(n, "a"), work(n, "b")} })}
		}}
		if err := p.Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if most.Load() != 4 {
			t.Errorf("%d hosts at once, want 4", most.Load())
		}
		for h, got := range order {
			if strings.Join(got, "") != "ab" {
				t.Errorf("%s: order %v", h, got)
			}
		}
	})
}

func TestPhaseErrors(t *testing.T) {
	broken := errors.New("broken")
	var second atomic.Int32
	batches := func(c *Cluster) []Batch {
		return []Batch{each(c.Nodes, func(n *Node) []Step {
			return []Step{
				n.On("first", func(context.Context, io.Writer) error {
					if n.Address.Host == "10.0.0.2" {
						return broken
					}
					return nil
				}),
				n.On("second", func(context.Context, io.Writer) error { second.Add(1); return nil }),
			}
		})}
	}
	c := &Cluster{Nodes: nodes(3)}
	err := (&phase{title: "work", limit: 3, batches: batches}).Run(t.Context(), c)
	var step *StepError
	if !errors.As(err, &step) || !errors.Is(err, broken) || err.Error() != "work: 10.0.0.2: first: broken" {
		t.Errorf("error %v", err)
	}
	if second.Load() != 2 {
		t.Errorf("%d hosts went on, want the 2 that did not fail", second.Load())
	}

	second.Store(0)
	tolerant := &phase{title: "work", limit: 3, tolerant: true, batches: batches}
	for range 2 {
		if err := tolerant.Run(t.Context(), c); err != nil {
			t.Errorf("tolerant: %v", err)
		}
	}
	if second.Load() != 4 || c.Nodes[1].failed == nil {
		t.Errorf("%d steps, want 4; failed %v", second.Load(), c.Nodes[1].failed)
	}
}

// TestStepErrorText: nothing is said twice.
func TestStepErrorText(t *testing.T) {
	exit := func(host string) error {
		return &remote.ExitError{Host: host, Args: []string{"kubectl", "drain"}, Code: 1, Stderr: "no"}
	}
	for _, tt := range []struct {
		err  StepError
		want string
	}{
		{StepError{Phase: "upgrade workers", Host: "10.0.0.2", Step: "drain", Err: exit("10.0.0.1")}, "upgrade workers: 10.0.0.2: drain: 10.0.0.1: running kubectl drain: exit code 1: no"},
		{StepError{Phase: "work", Host: "10.0.0.2", Step: "first", Err: exit("10.0.0.2")}, "work: 10.0.0.2: first: running kubectl drain: exit code 1: no"},
		{StepError{Phase: "work", Host: "10.0.0.2", Step: "first", Err: fmt.Errorf("reading the file: %w", exit("10.0.0.2"))}, "work: 10.0.0.2: first: reading the file: running kubectl drain: exit code 1: no"},
		{StepError{Phase: "connect", Host: "10.0.0.2", Step: "connect", Err: errors.New("10.0.0.2: no route to host")}, "connect: 10.0.0.2: no route to host"},
		{StepError{Phase: "work", Step: "first", Err: errors.New("first: broken")}, "work: first: broken"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestProgressAndJournal(t *testing.T) {
	var mu sync.Mutex
	var got []string
	var log bytes.Buffer
	dir := t.TempDir()
	c := &Cluster{Nodes: nodes(1), Dir: dir, Options: Options{Progress: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		log.Write(e.Log)
		got = append(got, fmt.Sprintf("%s|%s|%s|%v|%v", e.ID, e.Parent, e.Name, e.End, e.Skipped))
	}}}
	if err := writeRecord(dir, Record{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	secret := "abcdef.0123456789abcdef"
	p := &phase{title: "work", limit: 1, batches: func(c *Cluster) []Batch {
		n := c.Nodes[0]
		return []Batch{{
			n.On("talk", func(_ context.Context, out io.Writer) error {
				fmt.Fprintf(out, "kubeadm join --token %s\nhalf a ", secret)
				fmt.Fprint(out, "line")
				return nil
			}),
			n.On("rest", func(context.Context, io.Writer) error { return ErrAlready }),
			n.On("fail", func(context.Context, io.Writer) error { return fmt.Errorf("bad token %s", secret) }),
		}}
	}}
	err := Run(t.Context(), c, []Phase{p})
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("error %v", err)
	}
	if log.String() != "kubeadm join --token <withheld>\nhalf a line\n" {
		t.Errorf("log %q", log.String())
	}
	if all := strings.Join(got, "\n"); !strings.Contains(all, "work/10.0.0.1/rest|work|10.0.0.1: rest|true|true") {
		t.Errorf("progress:\n%s", all)
	}
	entries, err := ReadJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range entries {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%s %s %s", e.Event, e.Phase, e.Step), " "))
		if strings.Contains(e.Error, secret) {
			t.Errorf("the journal holds a secret: %s", e.Error)
		}
	}
	want := []string{"began", "began work", "began work talk", "ended work talk", "began work rest", "skipped work rest", "began work fail", "failed work fail", "failed work", "failed"}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("journal (-want +got):\n%s", d)
	}
}

func TestRedact(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for _, tt := range []struct{ in, want string }{
		{"pulling " + digest, "pulling " + digest},
		{"--token abcdef.0123456789abcdef x", "--token <withheld> x"},
		{"certificate-key: " + strings.Repeat("0a", 32), "<withheld>"},
		{"-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nrest", "<withheld>\nrest"},
		{"-----BEGIN PRIVATE KEY-----\nMHc", "<withheld>"},
		{"client-key-data: LS0t", "<withheld>"},
		{`{"auth": "dTpw"}`, `{<withheld>}`},
		{"K10" + strings.Repeat("a", 64) + "::server:abc", "<withheld>"},
		{"registry.k8s.io/kube-apiserver:v1.37.2", "registry.k8s.io/kube-apiserver:v1.37.2"},
	} {
		if got := redact(tt.in); got != tt.want {
			t.Errorf("redact(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := errors.New("not yet")
		begin := time.Now()
		err := Wait(t.Context(), time.Minute, "the moon", func(context.Context) error { return last })
		if !errors.Is(err, last) || !strings.Contains(err.Error(), "waiting for the moon: not done after 1m0s") || time.Since(begin) != time.Minute {
			t.Errorf("error %v after %s", err, time.Since(begin))
		}
		begin = time.Now()
		err = Wait(t.Context(), time.Minute, "x", func(context.Context) error { return fmt.Errorf("%w: it is gone", ErrAbort) })
		if !errors.Is(err, ErrAbort) || time.Since(begin) != 0 {
			t.Errorf("error %v after %s", err, time.Since(begin))
		}
		tries := 0
		if err := Wait(t.Context(), time.Minute, "x", func(context.Context) error {
			if tries++; tries < 3 {
				return last
			}
			return nil
		}); err != nil || tries != 3 {
			t.Errorf("error %v after %d tries", err, tries)
		}
	})
}
