package imagestore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
)

func prune(t testing.TB, s *imagestore.Store) imagestore.PruneResult {
	t.Helper()
	result, err := s.Prune(t.Context(), imagestore.PruneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func size(t testing.TB, dir string) (sum int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		sum += fi.Size()
	}
	return sum
}

func TestPrune(t *testing.T) {
	s := storetest.New(t)
	blobs := filepath.Join(s.Dir(), "blobs", "sha256")
	storetest.Tag(t, s, "cluster", storetest.ClusterImage(t, s).Desc)
	storetest.Tag(t, s, "again", storetest.ClusterImage(t, s).Desc)
	var needed []string
	c := storetest.ClusterImage(t, s)
	if err := s.Walk(t.Context(), c.Desc, func(d ocispec.Descriptor) error {
		needed = append(needed, d.Digest.Encoded())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	less := cmp.Transformer("set", func(list []string) map[string]bool {
		set := map[string]bool{}
		for _, s := range list {
			set[s] = true
		}
		return set
	})
	before := size(t, blobs)
	other := storetest.Tag(t, s, "other", storetest.Image(t, s, storetest.Spec{Files: []string{"shared", "alone"}}))
	both := size(t, blobs)
	if got := prune(t, s); got != (imagestore.PruneResult{}) {
		t.Errorf("nothing to prune, but %+v", got)
	}
	if err := s.Untag(t.Context(), other.Name); err != nil {
		t.Fatal(err)
	}
	// The layer "shared" is needed by others: what goes is a layer, the config, the manifest.
	want := imagestore.PruneResult{Blobs: 3, Bytes: both - before}
	if got, err := s.Prune(t.Context(), imagestore.PruneOptions{DryRun: true}); err != nil || got != want {
		t.Errorf("dry run: %+v, %v, want %+v", got, err, want)
	}
	if !s.Has(other.Target.Digest) {
		t.Error("the dry run removed")
	}
	if got := prune(t, s); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if diff := cmp.Diff(needed, names(t, s, "blobs", "sha256"), less); diff != "" {
		t.Errorf("blobs (-want +got):\n%s", diff)
	}
	for _, name := range []string{"docker.io/library/cluster:latest", "docker.io/library/again:latest"} {
		if err := s.Untag(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if got := prune(t, s); got.Blobs != len(needed) || len(names(t, s, "blobs", "sha256")) != 0 {
		t.Errorf("the rest: %+v", got)
	}
}

// The index document is a layer of one image's refs, and an image of its own under another name.
func TestPruneIndexInRefs(t *testing.T) {
	for _, first := range []string{"a", "z"} {
		s := storetest.New(t)
		child := storetest.Image(t, s, storetest.Spec{})
		idx := storetest.Index(t, s, child)
		storetest.Tag(t, s, "m", storetest.Refs(t, s, idx))
		img := storetest.Tag(t, s, first, idx)
		prune(t, s)
		if err := s.Whole(t.Context(), img.Target); err != nil {
			t.Errorf("tagged %s: %v", first, err)
		}
	}
}

func TestPruneIngest(t *testing.T) {
	s := storetest.New(t)
	img := storetest.Tag(t, s, "x", storetest.Image(t, s, storetest.Spec{}))
	live, err := s.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	content := digest.FromString("content")
	resumed, _, err := s.Resume(t.Context(), content)
	if err != nil {
		t.Fatal(err)
	}
	defer resumed.Close()
	for _, w := range []*imagestore.Writer{live, resumed} {
		if _, err := w.Write([]byte("cont")); err != nil {
			t.Fatal(err)
		}
	}
	left, _, err := s.Resume(t.Context(), digest.FromString("other"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := left.Write([]byte("oth")); err != nil {
		t.Fatal(err)
	}
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ingest/blob-123", ".index.json.9.part"} {
		if err := os.WriteFile(filepath.Join(s.Dir(), name), []byte("1234"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := prune(t, s), (imagestore.PruneResult{Bytes: 11}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if list := names(t, s, "ingest"); len(list) != 2 {
		t.Errorf("ingest: %v", list)
	}
	for _, w := range []*imagestore.Writer{live, resumed} {
		if _, err := w.Write([]byte("ent")); err != nil {
			t.Fatal(err)
		}
		if got, err := w.Commit(content, 7); err != nil || got != content {
			t.Errorf("%s, %v", got, err)
		}
	}
	if again, err := s.Resolve("x"); err != nil || again.Target.Digest != img.Target.Digest {
		t.Error(err)
	}
}

func TestPruneWaits(t *testing.T) {
	s := storetest.New(t)
	release, err := s.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := storetest.Put(t, s, "text/plain", []byte("x"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	waited := false
	if _, err := s.Prune(ctx, imagestore.PruneOptions{Waiting: func() { waited = true }}); !errors.Is(err, context.DeadlineExceeded) || !waited {
		t.Errorf("waited %v, got %v", waited, err)
	}
	if !s.Has(d.Digest) {
		t.Error("pruned while held")
	}
	release()
	if got := prune(t, s); got.Blobs != 1 {
		t.Errorf("got %+v", got)
	}
}

// What cannot be read stops it before anything goes; what is missing does not.
func TestPruneBroken(t *testing.T) {
	s := storetest.New(t)
	c := storetest.ClusterImage(t, s)
	storetest.Tag(t, s, "x", c.Desc)
	lost := storetest.Put(t, s, "text/plain", []byte("lost"))
	if err := os.Remove(s.BlobPath(c.Quay.Digest)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.BlobPath(c.Pause.Digest), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := s.Read(c.Pause.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.BlobPath(c.Pause.Digest), append([]byte("x"), data[1:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(t.Context(), imagestore.PruneOptions{}); !errors.Is(err, imagestore.ErrDigest) || !s.Has(lost.Digest) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(s.BlobPath(c.Pause.Digest), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := prune(t, s); got.Blobs != 3 { // lost; config and layer of the missing manifest, whose other layer is shared
		t.Errorf("got %+v", got)
	}
}
