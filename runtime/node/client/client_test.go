//go:build linux

package client

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/node/host"
	"github.com/clusterimage/keg/runtime/remote"
)

// inProcess is a Runner for which keg-node is a function call on a pretended host.
type inProcess struct{ h *host.Host }

func (r inProcess) Run(ctx context.Context, c remote.Cmd) error {
	in, out := c.Stdin, c.Stdout
	if in == nil {
		in = strings.NewReader("")
	}
	if out == nil {
		out = io.Discard
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := r.h.Do(ctx, node.Verb(c.Args[1]), in, out)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return &remote.ExitError{Host: "h1", Args: c.Args, Code: host.Fail(out, err)}
	}
	return nil
}

func newClient(t *testing.T) (*Client, string) {
	t.Helper()
	root := t.TempDir()
	return &Client{Runner: inProcess{&host.Host{Root: root, Programs: host.System{}}}}, root
}

func blob(text string) node.Blob {
	return node.Blob{
		Digest: digest.FromString(text), Size: int64(len(text)),
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil },
	}
}

func digests(blobs []node.Blob) (out []digest.Digest) {
	for _, b := range blobs {
		out = append(out, b.Digest)
	}
	return out
}

func kindOf(t *testing.T, err error) node.Kind {
	t.Helper()
	var e *node.Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %v, want a *node.Error", err)
	}
	if e.Host != "h1" {
		t.Errorf("error %v is of host %q", err, e.Host)
	}
	return e.Kind
}

func TestReceiveSendsWhatIsMissing(t *testing.T) {
	c, root := newClient(t)
	blobs := []node.Blob{blob("one"), blob(strings.Repeat("two", 1<<20)), blob("")}
	missing, err := c.Missing(t.Context(), digests(blobs))
	if err != nil || !slices.Equal(missing, digests(blobs)) {
		t.Fatalf("missing: %v, %v", missing, err)
	}
	if err := c.Receive(t.Context(), blobs); err != nil {
		t.Fatal(err)
	}
	if missing, err := c.Missing(t.Context(), digests(blobs)); err != nil || len(missing) > 0 {
		t.Errorf("missing after all: %v, %v", missing, err)
	}
	data, err := os.ReadFile(filepath.Join(root, node.StoreDir, "blobs/sha256", blobs[0].Digest.Encoded()))
	if err != nil || string(data) != "one" {
		t.Errorf("blob is %q, %v", data, err)
	}
	if err := c.Receive(t.Context(), blobs); err != nil {
		t.Errorf("receiving what is there: %v", err)
	}
}

func TestReceiveKeepsWhatArrived(t *testing.T) {
	c, _ := newClient(t)
	wrong := blob("wrong")
	wrong.Digest = digest.FromString("something else")
	err := c.Receive(t.Context(), []node.Blob{blob("good"), wrong, blob("never")})
	if kindOf(t, err) != node.KindDigest {
		t.Errorf("error is %v", err)
	}
	missing, err := c.Missing(t.Context(), []digest.Digest{blob("good").Digest, wrong.Digest, digest.FromString("wrong"), blob("never").Digest})
	if err != nil {
		t.Fatal(err)
	}
	if want := []digest.Digest{wrong.Digest, digest.FromString("wrong"), blob("never").Digest}; !slices.Equal(missing, want) {
		t.Errorf("missing %v, want %v", missing, want)
	}
}

func TestReceiveNamesTheSourcesError(t *testing.T) {
	c, _ := newClient(t)
	broken := errors.New("the disk is broken")
	short, long := blob("short"), blob("long")
	short.Size++
	long.Size--
	for name, tc := range map[string]struct {
		b    node.Blob
		want string
	}{
		"cannot open": {node.Blob{Digest: digest.FromString("x"), Size: 1, Open: func(context.Context) (io.ReadCloser, error) { return nil, broken }}, broken.Error()},
		"cannot read": {node.Blob{Digest: digest.FromString("x"), Size: 1 << 20, Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("x"), failing{broken})), nil
		}}, broken.Error()},
		"too short": {short, "it has 5 bytes and should have 6"},
		"too long":  {long, "longer than 3 bytes"},
	} {
		err := c.Receive(t.Context(), []node.Blob{blob("good"), tc.b})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error is %v, want %q", name, err, tc.want)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestReceiveCancelled(t *testing.T) {
	c, _ := newClient(t)
	ctx, cancel := context.WithCancel(t.Context())
	stuck := node.Blob{Digest: digest.FromString("x"), Size: 1 << 20, Open: func(ctx context.Context) (io.ReadCloser, error) {
		return io.NopCloser(readerFunc(func([]byte) (int, error) {
			cancel()
			<-ctx.Done()
			return 0, errors.New("stopped reading")
		})), nil
	}}
	if err := c.Receive(ctx, []node.Blob{stuck}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want cancelled", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestReceiveRefusesMoreThanFits(t *testing.T) {
	c, root := newClient(t)
	opened := false
	huge := node.Blob{Digest: digest.FromString("x"), Size: 1 << 60, Open: func(context.Context) (io.ReadCloser, error) {
		opened = true
		return io.NopCloser(readerFunc(func(p []byte) (int, error) { return len(p), nil })), nil
	}}
	err := c.Receive(t.Context(), []node.Blob{huge})
	var e *node.Error
	if !errors.As(err, &e) || e.Kind != node.KindDiskFull || e.Path != node.StoreDir || e.Need != 1<<60 || e.Free <= 0 {
		t.Errorf("error is %#v (%v)", e, err)
	}
	_ = opened // the sender may have begun; what counts is that nothing was written
	if left, _ := os.ReadDir(filepath.Join(root, node.StoreDir, "ingest")); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
}

func TestPutAndUndo(t *testing.T) {
	c, root := newClient(t)
	files := []node.File{{Path: "/etc/x/secret", Mode: 0o600, Data: []byte("s")}, {Path: "/etc/y", Mode: 0o644, Data: nil}}
	r, err := c.Put(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/etc/x/secret", "/etc/y"}, r.Changed); d != "" {
		t.Error(d)
	}
	if r, err := c.Put(t.Context(), files); err != nil || len(r.Changed) > 0 {
		t.Errorf("putting again changed %v, %v", r.Changed, err)
	}
	st, err := os.Stat(filepath.Join(root, "etc/x/secret"))
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("the secret: %v, %v", st.Mode(), err)
	}
	if err := c.Forget(t.Context()); kindOf(t, err) != node.KindNotUndone {
		t.Errorf("forgetting too early: %v", err)
	}
	u, err := c.Undo(t.Context())
	if err != nil || len(u.Residue) > 0 || u.Restored != 4 { // two files, /etc/x and /etc
		t.Errorf("undo: %+v, %v", u, err)
	}
	if _, err := os.Stat(filepath.Join(root, "etc")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("etc is still there: %v", err)
	}
	if err := c.Forget(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, node.Dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", node.Dir, err)
	}
}

func TestStateOfAnotherCluster(t *testing.T) {
	c, _ := newClient(t)
	if s, err := c.State(t.Context()); s != nil || err != nil {
		t.Fatalf("state of a fresh host: %v, %v", s, err)
	}
	want := node.HostState{Cluster: "shop", UID: "u1", Done: []string{"unpack"}}
	if err := c.SetState(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	got, err := c.State(t.Context())
	if err != nil || !cmp.Equal(*got, want) {
		t.Errorf("state: %v, %v", got, err)
	}
	err = c.SetState(t.Context(), node.HostState{Cluster: "bank", UID: "u2"})
	if kindOf(t, err) != node.KindForeign || !strings.Contains(err.Error(), `"shop"`) {
		t.Errorf("error is %v", err)
	}
	if !errors.Is(err, &node.Error{Kind: node.KindForeign}) {
		t.Error("errors.Is does not know the kind")
	}
}

func TestLock(t *testing.T) {
	c, _ := newClient(t)
	ctx, cancel := context.WithCancel(t.Context())
	release, err := c.Lock(ctx, node.LockRequest{Owner: "keg run by ann"})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the step is over, the lock is not
	_, err = c.Lock(t.Context(), node.LockRequest{Owner: "bob"})
	if kindOf(t, err) != node.KindBusy || !strings.Contains(err.Error(), "keg run by ann is at work on this host") {
		t.Errorf("error is %v", err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		if err := release(); err != nil {
			t.Error(err)
		}
	}()
	again, err := c.Lock(t.Context(), node.LockRequest{Owner: "bob", WaitSeconds: 30})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(again(), again()); err != nil {
		t.Error(err)
	}
}

// dying is a Runner whose connection breaks when told.
type dying struct {
	inProcess
	die chan struct{}
}

func (r dying) Run(ctx context.Context, c remote.Cmd) error {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() { <-r.die; cancel(errors.New("connection lost")) }()
	return r.inProcess.Run(ctx, c)
}

func TestLockSaysThatItWasLost(t *testing.T) {
	c, _ := newClient(t)
	die := make(chan struct{})
	c.Runner = dying{c.Runner.(inProcess), die}
	release, err := c.Lock(t.Context(), node.LockRequest{Owner: "x"})
	if err != nil {
		t.Fatal(err)
	}
	close(die)
	// The host's side is gone when another can take the lock.
	c2 := &Client{Runner: c.Runner.(dying).inProcess}
	second, err := c2.Lock(t.Context(), node.LockRequest{WaitSeconds: 30})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second() }()
	for err = release(); err == nil; {
		t.Fatal("release says nothing of the loss")
	}
	if !strings.Contains(err.Error(), "connection lost") {
		t.Errorf("error is %v", err)
	}
}

func TestFacts(t *testing.T) {
	c, root := newClient(t)
	if err := os.MkdirAll(filepath.Join(root, "etc/full"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"etc/full/x", "etc/file"} {
		if err := os.WriteFile(filepath.Join(root, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "etc/empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := c.Facts(t.Context(), node.FactsRequest{Paths: []string{"/etc/full", "/etc/empty", "/etc/absent", "/etc/file"}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/etc/full", "/etc/file"}, f.Existing); d != "" {
		t.Error(d)
	}
	if f.DiskFree <= 0 || f.CPUs <= 0 || f.Arch == "" || f.State != nil {
		t.Errorf("facts: %+v", f)
	}
	if _, err := os.Stat(filepath.Join(root, "var")); !errors.Is(err, os.ErrNotExist) {
		t.Error("looking at facts made something")
	}
}

// broken is a host without a keg-node that works.
type broken struct{ out string }

func (b broken) Run(_ context.Context, c remote.Cmd) error {
	if c.Stdout != nil {
		_, _ = io.WriteString(c.Stdout, b.out)
	}
	return &remote.ExitError{Host: "h1", Args: c.Args, Code: 126, Stderr: "not found"}
}

func TestErrorsOfTheWayThere(t *testing.T) {
	for _, out := range []string{"", "banner\n", "{}", strings.Repeat("x", 1000)} {
		c := &Client{Runner: broken{out}}
		_, err := c.Facts(t.Context(), node.FactsRequest{})
		var exit *remote.ExitError
		if !errors.As(err, &exit) || exit.Code != 126 {
			t.Errorf("after %q the error is %v", out, err)
		}
	}
}

// shell is a Runner for Ensure: programs of this machine, and paths moved below root.
type shell struct {
	root, machine string
}

func (s shell) Run(ctx context.Context, c remote.Cmd) error {
	if c.Args[0] == "uname" {
		_, err := io.WriteString(c.Stdout, s.machine+"\n")
		return err
	}
	c.Args = slices.Clone(c.Args)
	for i, a := range c.Args {
		if strings.HasPrefix(a, node.Dir) {
			c.Args[i] = s.root + a
		}
	}
	return remote.Local().Run(ctx, c)
}

func TestEnsure(t *testing.T) {
	s := shell{root: t.TempDir(), machine: "aarch64"}
	c := &Client{Runner: s}
	program := "#!/bin/sh\n[ \"$1\" = --version ] && echo keg-node\n"
	opened := 0
	give := func(arch string) (Binary, error) {
		if arch != "arm64" {
			t.Errorf("asked for %s", arch)
		}
		return Binary{Digest: digest.FromString(program), Open: func() (io.ReadCloser, error) {
			opened++
			return io.NopCloser(strings.NewReader(program)), nil
		}}, nil
	}
	for range 2 {
		if err := c.Ensure(t.Context(), give); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Stat(s.root + node.Dir)
	if err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", dir, err)
	}
	s.machine = "riscv64"
	if err := (&Client{Runner: s}).Ensure(t.Context(), give); err == nil || !strings.Contains(err.Error(), `"riscv64"`) {
		t.Errorf("error is %v", err)
	}
}

// gone is a host that keg-node was taken off.
type gone struct{}

func (gone) Run(_ context.Context, c remote.Cmd) error {
	return &remote.ExitError{Host: "h1", Args: c.Args, Code: 127, Stderr: "env: '/var/lib/keg-node/keg-node': No such file or directory"}
}

func TestForgotten(t *testing.T) {
	c := &Client{Runner: gone{}}
	if _, err := c.Facts(t.Context(), node.FactsRequest{}); kindOf(t, err) != node.KindForgotten {
		t.Errorf("facts: %v", err)
	}
	if _, err := c.Lock(t.Context(), node.LockRequest{}); kindOf(t, err) != node.KindForgotten {
		t.Errorf("lock: %v", err)
	}
}
