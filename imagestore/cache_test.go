package imagestore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
)

func openCache(t testing.TB, s *imagestore.Store) *imagestore.Cache {
	t.Helper()
	c, err := s.Cache("test")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCache(t *testing.T) {
	s := storetest.New(t)
	c := openCache(t, s)
	a, b := storetest.Put(t, s, "", []byte("a")), storetest.Put(t, s, "", []byte("b"))
	want := map[string]string{"x": "y"}
	var got map[string]string
	if c.Get("k", &got) {
		t.Error("an empty cache has something")
	}
	if err := c.Put("k", want, a.Digest, b.Digest); err != nil {
		t.Fatal(err)
	}
	if ok := openCache(t, s).Get("k", &got); !ok || !cmp.Equal(got, want) {
		t.Errorf("got %v, %v", got, ok)
	}
	if c.Get("K", &got) {
		t.Error("another key has it too")
	}
	if err := os.Remove(s.BlobPath(b.Digest)); err != nil {
		t.Fatal(err)
	}
	if c.Get("k", &got) {
		t.Error("a value is found though a blob is gone")
	}
	files, err := filepath.Glob(filepath.Join(s.Dir(), "cache", "test", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files: %v, %v", files, err)
	}
	for _, bad := range []string{"", "{", "{}", "null", `{"key":"other","value":{}}`, `{"key":"k","value":1}`} {
		if err := os.WriteFile(files[0], []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.Get("k", &got) {
			t.Errorf("%q is taken for a value", bad)
		}
	}
}

// What a cache says of blobs goes with them, what it says of none always; files that are no entries are
// somebody else's.
func TestPruneCache(t *testing.T) {
	s := storetest.New(t)
	img := storetest.Tag(t, s, "kept", storetest.Image(t, s, storetest.Spec{}))
	lost := storetest.Put(t, s, "", []byte("lost"))
	c := openCache(t, s)
	for key, blobs := range map[string][]imagestore.Tagged{
		"kept": {img}, "lost": {{Target: lost}}, "both": {img, {Target: lost}}, "none": nil,
	} {
		var about []digest.Digest
		for _, b := range blobs {
			about = append(about, b.Target.Digest)
		}
		if err := c.Put(key, key, about...); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(s.Dir(), "cache", "test")
	for _, name := range []string{"registry.example.com.json", "registry.example.com.json.lock", ".x.json.123.part"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := size(t, dir) + lost.Size
	dry, err := s.Prune(t.Context(), imagestore.PruneOptions{DryRun: true})
	if err != nil || size(t, dir)+lost.Size != before {
		t.Errorf("the dry run removed: %v", err)
	}
	got := prune(t, s)
	if got != dry || got.Blobs != 1 || got.Bytes != before-size(t, dir) {
		t.Errorf("pruned %+v, the dry run said %+v, %d bytes are gone", got, dry, before-size(t, dir))
	}
	var left []string
	for _, key := range []string{"kept", "lost", "both", "none"} {
		var v string
		if c.Get(key, &v) {
			left = append(left, v)
		}
	}
	if diff := cmp.Diff([]string{"kept"}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if list := names(t, s, "cache", "test"); len(list) != 3 {
		t.Errorf("files: %v", list)
	}
	if again := prune(t, s); again != (imagestore.PruneResult{}) {
		t.Errorf("pruned again: %+v", again)
	}
}
