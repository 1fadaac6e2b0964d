package builder

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/registrytest"
	"github.com/clusterimage/keg/kubefile"
)

// The test binary runs itself as another process that builds the context KEG_TEST_BUILD_CONTEXT into the
// store KEG_TEST_BUILD_STORE, for KEG_TEST_BUILD_PLATFORMS, and prints the digest.
func TestMain(m *testing.M) {
	if os.Getenv("KEG_TEST_BUILD_STORE") == "" {
		os.Exit(m.Run())
	}
	if err := otherProcess(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func otherProcess(ctx context.Context) error {
	dir := os.Getenv("KEG_TEST_BUILD_CONTEXT")
	f, err := os.Open(filepath.Join(dir, "Kubefile"))
	if err != nil {
		return err
	}
	defer f.Close()
	file, err := kubefile.Parse("Kubefile", f)
	if err != nil {
		return err
	}
	s, err := imagestore.Open(os.Getenv("KEG_TEST_BUILD_STORE"))
	if err != nil {
		return err
	}
	res, err := (&Builder{Store: s, Images: transfer.New(transfer.Options{}), Fetch: HTTP{}}).Build(ctx, Request{
		File: file, Context: dir, Platforms: strings.Split(os.Getenv("KEG_TEST_BUILD_PLATFORMS"), ","),
		SourceDateEpoch: time.Unix(1_700_000_000, 0), Tags: []name.Reference{name.MustParseReference("example.com/built:v1")},
	})
	if err != nil {
		return err
	}
	fmt.Println(res.Target.Digest)
	return nil
}

// process is a build in a process of its own, not yet started.
func process(t *testing.T, program, store, context, platforms string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), "KEG_TEST_BUILD_STORE="+store, "KEG_TEST_BUILD_CONTEXT="+context, "KEG_TEST_BUILD_PLATFORMS="+platforms)
	cmd.Stderr = os.Stderr
	return cmd
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// everything is a context whose build does all that builds do to a store.
func everything(t *testing.T) string {
	p := publish(t, registrytest.Start(t))
	other := storetest.New(t)
	saved := savedArchive(t, map[string]ocispec.Descriptor{"example.com/saved:1": storetest.Image(t, other, storetest.Spec{Files: []string{"saved"}})}, other)
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	return writeFiles(t, files{
		"Kubefile": "FROM " + p.addr + "/multi/app:1\nCOPY big /\nADD t.tgz /t/\nCOPY small /small/\nCOPY images /images/\nIMAGES " + p.addr + "/single/app:1\n",
		"big":      string(noise), "t.tgz": string(gz(t, tarOf(t, header{Name: "a", Linkname: string(noise[:1<<20])}))),
		"small/a": "a", "small/b": "b", "images/saved.tar": saved,
	})
}

// TestKilled ends builds by SIGKILL at any moment: the store is sound, and the next build gives what an
// undisturbed one does.
func TestKilled(t *testing.T) {
	context := everything(t)
	begin := time.Now()
	out, err := process(t, self(t), t.TempDir(), context, "linux/amd64").Output()
	whole := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	want := string(out)
	rounds, killed := 30, 0
	if testing.Short() {
		rounds = 6
	}
	s := storetest.New(t)
	for i := range rounds {
		cmd := process(t, self(t), s.Dir(), context, "linux/amd64")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(whole))))
		_ = cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		storetest.Sound(t, s)
		if i%3 > 0 { // else the next one finds what this one left
			continue
		}
		out, err := process(t, self(t), s.Dir(), context, "linux/amd64").Output()
		if err != nil || string(out) != want {
			t.Fatalf("after a kill: %v, got %s, want %s", err, out, want)
		}
		if err := s.Untag(t.Context(), "example.com/built:v1"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Prune(t.Context(), imagestore.PruneOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"blobs/sha256", "ingest", "cache/build"} {
			if rest, err := os.ReadDir(filepath.Join(s.Dir(), dir)); err != nil || len(rest) > 0 {
				t.Fatalf("%s after untagging and pruning: %v, %v", dir, rest, err)
			}
		}
	}
	if killed == 0 {
		t.Error("no build was killed")
	}
	t.Logf("%d of %d builds killed within %s", killed, rounds, whole)
}

// TestMemory holds that the size of a file costs no memory: 32 MiB or 256, packed or out of an archive.
func TestMemory(t *testing.T) {
	peak := func(size int64) int64 {
		dir := writeFiles(t, files{"Kubefile": "FROM scratch\nCOPY big /\nADD big.tar /x/\n", "big": "", "big.tar": ""})
		if err := os.Truncate(filepath.Join(dir, "big"), size); err != nil {
			t.Fatal(err)
		}
		head := tarPrefix(t, header{Name: "big", Typeflag: tar.TypeReg, Size: size}, 0)
		if err := os.WriteFile(filepath.Join(dir, "big.tar"), head, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, "big.tar"), int64(len(head))+size+1024); err != nil { // zeros to the end
			t.Fatal(err)
		}
		cmd := process(t, self(t), t.TempDir(), dir, "linux/amd64")
		if _, err := cmd.Output(); err != nil {
			t.Fatal(err)
		}
		usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok || goruntime.GOOS != "linux" {
			t.Skip("needs Linux, which tells the peak in KiB")
		}
		return usage.Maxrss >> 10
	}
	small, large := peak(32<<20), peak(256<<20)
	t.Logf("%d MiB, %d MiB", small, large)
	if large > small+40 { // a buffer or two, and what the garbage collector has not seen yet
		t.Errorf("a large file takes %d MiB, a small one %d", large, small)
	}
}

// TestGoldenOtherUser builds the golden image as a user who owns nothing of the context.
func TestGoldenOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user wants root")
	}
	const uid = 54321
	dir, err := os.MkdirTemp("", "keg-golden") // t.TempDir is in a directory that others cannot enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	context, store, program := filepath.Join(dir, "ctx"), filepath.Join(dir, "store"), filepath.Join(dir, "builder.test")
	copyFixed(t, "testdata/golden", context)
	in, err := os.Open(self(t))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{out.Close(), os.Chmod(dir, 0o755), os.Mkdir(store, 0o700), os.Chown(store, uid, uid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := process(t, program, store, context, "linux/arm64,linux/amd64")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	got, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != goldenDigest+"\n" {
		t.Errorf("as another user: %s", got)
	}
}
