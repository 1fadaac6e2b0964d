package builder

import (
	"archive/tar"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/internal/registrytest"
)

// cancelAt calls stop at the n-th event.
func cancelAt(n int64, stop func()) progress.Func {
	var count atomic.Int64
	return func(progress.Event) {
		if count.Add(1) == n {
			stop()
		}
	}
}

// age makes the files' times so old that they identify the content.
func age(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("waits until files are old enough for the cache")
	}
	time.Sleep(2100 * time.Millisecond)
}

func TestCache(t *testing.T) {
	tb := &testBuild{kubefile: "FROM scratch\nCOPY a /\nCOPY b /\nWORKDIR /x\nADD x.tgz /y\n", files: files{
		"a": "a", "b": "b", "x.tgz": string(gz(t, tarOf(t, header{Name: "f", Linkname: "f"}, header{Name: "g", Typeflag: tar.TypeLink, Linkname: "f"}))),
	}}
	first := tb.must(t)
	age(t)
	if p := tb.must(t).Platforms[0]; p.Layers != 4 || p.Cached != 1 {
		t.Errorf("files too young for the cache: %d of %d layers cached", p.Cached, p.Layers)
	}
	second := tb.must(t)
	if p := second.Platforms[0]; p.Cached != 4 || second.Target.Digest != first.Target.Digest {
		t.Errorf("%d of %d layers cached, digest %s and %s", p.Cached, p.Layers, first.Target.Digest, second.Target.Digest)
	}
	if err := os.WriteFile(filepath.Join(tb.context, "b"), []byte("c"), 0o644); err != nil {
		t.Fatal(err)
	}
	changed := tb.must(t)
	if p := changed.Platforms[0]; p.Cached != 3 || changed.Target.Digest == first.Target.Digest {
		t.Errorf("%d of %d layers cached after a change", p.Cached, p.Layers)
	}
	tb.request = func(r *Request) { r.NoCache = true }
	if p := tb.must(t).Platforms[0]; p.Cached != 0 {
		t.Errorf("%d layers cached with NoCache", p.Cached)
	}
	// A layer that is gone from the store is packed again.
	tb.request = nil
	m, _ := tb.config(t, changed)
	for _, l := range m.Layers {
		if err := os.Remove(tb.store.BlobPath(l.Digest)); err != nil {
			t.Fatal(err)
		}
	}
	if p := tb.must(t).Platforms[0]; p.Cached != 0 {
		t.Errorf("%d layers cached that are gone", p.Cached)
	}
}

// What a build brought and no tag reaches goes with the next prune, and what the caches say of it; the
// next build brings it again, with the same result.
func TestPruned(t *testing.T) {
	content := tarOf(t, header{Name: "x", Linkname: "x"})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }))
	defer srv.Close()
	sum := digest.FromBytes(content)
	origin, addr := storetest.New(t), registrytest.Start(t)
	push(t, origin, storetest.Image(t, origin, storetest.Spec{Files: []string{"base"}}), addr+"/base:1")
	kubefile := "FROM " + addr + "/base:1\nCOPY a /\nADD --checksum=" + sum.String() + " " + srv.URL + "/x.tar /\nADD t.tar /t/\n"
	tb := &testBuild{kubefile: kubefile, files: files{"a": "a", "t.tar": string(content)}}
	want := tb.must(t).Target.Digest
	entries := func() int {
		list, err := os.ReadDir(filepath.Join(tb.store.Dir(), "cache", "build"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	prune := func() {
		if _, err := tb.store.Prune(t.Context(), imagestore.PruneOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	full := entries()
	prune()
	if n := entries(); n == 0 || n >= full || tb.store.Has(sum) {
		t.Errorf("%d entries of %d left, the download is there: %v", n, full, tb.store.Has(sum))
	}
	if got := tb.must(t).Target.Digest; got != want {
		t.Errorf("after a prune the digest is %s, before %s", got, want)
	}
	if err := tb.store.Untag(t.Context(), tb.tag); err != nil {
		t.Fatal(err)
	}
	prune()
	if n := entries(); n != 0 {
		t.Errorf("%d entries left of an empty store", n)
	}
}

const goldenDigest = "sha256:7ab1490518064c02ed87007eee0af957ab21c7b409e45cf0b2c1716eae16cec7"

// TestGolden pins the digest of a small image. If it changes on purpose, every image that users have
// built changes: say so in the release notes.
func TestGolden(t *testing.T) {
	src, err := os.ReadFile("testdata/golden/Kubefile")
	if err != nil {
		t.Fatal(err)
	}
	for i, variant := range []struct {
		parallelism, umask int
		zone               string
	}{{1, 0o022, "UTC"}, {7, 0o077, "Asia/Shanghai"}, {0, 0, "America/Lima"}} {
		t.Setenv("TZ", variant.zone)
		if zone, err := time.LoadLocation(variant.zone); err == nil {
			local := time.Local
			time.Local = zone
			defer func() { time.Local = local }()
		}
		dir := filepath.Join(t.TempDir(), strings.Repeat("long/", i)+"ctx")
		copyFixed(t, "testdata/golden", dir)
		restore := syscall.Umask(variant.umask)
		tb := &testBuild{store: storetest.New(t), context: dir, kubefile: string(src)}
		tb.builder = func(b *Builder) { b.Parallelism = variant.parallelism }
		tb.request = func(r *Request) {
			r.Platforms = []string{"linux/arm64", "linux/amd64"}
			r.SourceDateEpoch = time.Unix(1_700_000_000, 0)
			r.Tags = append(r.Tags, name.MustParseReference("example.com/other:v2"))
		}
		res, err := tb.run(t)
		syscall.Umask(restore)
		if err != nil {
			t.Fatal(err)
		}
		if got := res.Target.Digest.String(); got != goldenDigest {
			t.Errorf("variant %d: digest %s, want %s", i, got, goldenDigest)
		}
	}
}

// copyFixed copies a context with the modes that a repository cannot keep.
func copyFixed(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(to, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if d.IsDir() || strings.HasSuffix(p, ".sh") {
			mode = 0o755
		}
		return os.Chmod(p, mode)
	})
	if err != nil {
		t.Fatal(err)
	}
}
