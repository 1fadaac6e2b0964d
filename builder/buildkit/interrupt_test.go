package buildkit_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/buildkit"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/kubefile"
)

// The test binary runs itself as a process that builds.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KEG_TEST_GUARD"); dir != "" {
		if err := buildkit.Guard(context.Background(), os.Stdin, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv("KEG_TEST_BUILD"); dir != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		err := otherProcess(ctx, dir)
		stop()
		if err != nil {
			fmt.Println("ended:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// sleeping is a command that no other process on the machine has.
const sleeping = "FROM base:v1\nRUN echo begun; exec sleep 98765.4\n"

func otherProcess(ctx context.Context, dir string) error {
	s, err := imagestore.Open(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	text := sleeping
	if other := os.Getenv("KEG_TEST_KUBEFILE"); other != "" {
		text = other
	}
	file, err := kubefile.Parse("Kubefile", strings.NewReader(text))
	if err != nil {
		return err
	}
	ref, err := imagestore.ParseName("half:v1")
	if err != nil {
		return err
	}
	solver := buildkit.New(buildkit.Options{Dir: filepath.Join(dir, "store", "buildkit"), Waiting: func(string) { fmt.Println("waiting") }, Guard: testGuard()})
	defer solver.Close()
	b := &builder.Builder{Store: s, Solver: solver, Progress: func(e progress.Event) { os.Stdout.Write(e.Log) }}
	req := builder.Request{File: file}
	req.Tags = append(req.Tags, ref)
	_, err = b.Build(ctx, req)
	return err
}

// testGuard is what looks after a build, if the test wants it.
func testGuard() func(dir string) *exec.Cmd {
	if os.Getenv("KEG_TEST_GUARDED") == "" {
		return nil
	}
	return func(dir string) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "KEG_TEST_GUARD="+dir)
		return cmd
	}
}

// TestKilledGuarded holds that what looks after a build ends what a killed one leaves, without another build.
func TestKilledGuarded(t *testing.T) {
	dir := prepared(t)
	t.Setenv("KEG_TEST_GUARDED", "1")
	cmd, _, _ := begin(t, dir, "begun")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for deadline := time.Now().Add(time.Minute); sleepers(t) > 0 || left(dir); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes are left", sleepers(t))
		}
	}
	unchanged(t, dir)
}

// left says whether a mount or a container is left below a directory.
func left(dir string) bool {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	bundles, _ := filepath.Glob(filepath.Join(dir, "store", "buildkit", "runc-*", "executor", "*", "config.json"))
	return bytes.Contains(mounts, []byte(dir)) || len(bundles) > 0
}

// begin starts a build that sleeps in its RUN, and waits until it has printed something; so does await.
func begin(t *testing.T, dir, until string) (cmd *exec.Cmd, out *bytes.Buffer, await func(until string)) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "KEG_TEST_BUILD="+dir)
	out = &bytes.Buffer{}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() { _ = r.Close() })
	buf := make([]byte, 4096)
	await = func(until string) {
		t.Helper()
		for !strings.Contains(out.String(), until) {
			n, err := r.Read(buf)
			out.Write(buf[:n])
			if err != nil {
				t.Fatalf("it ended: %v\n%s", err, out)
			}
		}
	}
	await(until)
	return cmd, out, await
}

// sleepers are the processes that sleeping began.
func sleepers(t *testing.T) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range lines {
		if data, err := os.ReadFile(l); err == nil && bytes.HasPrefix(data, []byte("sleep\x0098765.4")) {
			n++
		}
	}
	return n
}

// prepared is a store with a base image, which no process uses.
func prepared(t *testing.T) string {
	t.Helper()
	needRunc(t)
	dir := t.TempDir()
	s, err := imagestore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: s}
	r.build("FROM scratch\nCOPY . /\n", busybox(t), "base:v1")
	return dir
}

func (r *rig) names() (out []string) {
	images, err := r.store.Images()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, i := range images {
		out = append(out, i.Name)
	}
	return out
}

func TestInterrupted(t *testing.T) {
	dir := prepared(t)
	cmd, out, _ := begin(t, dir, "begun")
	for deadline := time.Now().Add(time.Minute); sleepers(t) != 1; time.Sleep(5 * time.Millisecond) { // it is printed first
		if time.Now().After(deadline) {
			t.Fatalf("%d processes sleep", sleepers(t))
		}
	}
	began := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	t.Logf("it took %s to end", time.Since(began).Round(time.Millisecond))
	if err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended well: %v\n%s", err, out)
	}
	if n := sleepers(t); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	unchanged(t, dir)
	s, err := imagestore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if names := (&rig{t: t, store: s}).names(); len(names) != 1 {
		t.Errorf("images: %v", names)
	}
}

func TestKilled(t *testing.T) {
	dir := prepared(t)
	cmd, _, _ := begin(t, dir, "begun")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	t.Logf("%d processes outlived it", sleepers(t))
	s, err := imagestore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	solver := buildkit.New(buildkit.Options{Dir: filepath.Join(dir, "store", "buildkit")})
	r := &rig{t: t, store: s, solver: solver}
	if names := r.names(); len(names) != 1 {
		t.Errorf("images: %v", names)
	}
	r.build("FROM base:v1\nRUN echo x >/x\n", "", "next:v1")
	if err := solver.Close(); err != nil {
		t.Error(err)
	}
	if n := sleepers(t); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	unchanged(t, dir)
}

// TestTwo holds that a second process says that it waits, and goes on when the first has ended.
func TestTwo(t *testing.T) {
	dir := prepared(t)
	first, _, _ := begin(t, dir, "begun")
	second, out, await := begin(t, dir, "waiting")
	if strings.Contains(out.String(), "begun") {
		t.Errorf("both run: %s", out)
	}
	for i, cmd := range []*exec.Cmd{first, second} {
		if i == 1 {
			await("begun")
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	unchanged(t, dir)
}
