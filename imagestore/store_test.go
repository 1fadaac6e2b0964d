package imagestore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
)

// names are the files in a directory of the store.
func names(t testing.TB, s *imagestore.Store, elem ...string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(append([]string{s.Dir()}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, err := imagestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"index.json": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		if data, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(data) != want {
			t.Errorf("%s: %s, %v", file, data, err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	storetest.Tag(t, s, "x", storetest.Image(t, s, storetest.Spec{}))
	again, err := imagestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := again.Images(); err != nil || len(list) != 1 {
		t.Errorf("opened again: %v, %v", list, err)
	}
	for _, layout := range []string{"", "{}", `{"imageLayoutVersion":"9"}`} {
		if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(layout), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := imagestore.Open(dir); err == nil || !strings.Contains(err.Error(), "OCI layout") {
			t.Errorf("oci-layout %q: %v", layout, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := imagestore.Open(file); err == nil {
		t.Error("opened a file")
	}
}

func TestBlobs(t *testing.T) {
	s := storetest.New(t)
	d := storetest.Put(t, s, "text/plain", []byte("hello"))
	b, err := s.Open(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if fi, err := b.Stat(); err != nil || fi.Mode().Perm() != 0o444 || b.Size != 5 {
		t.Errorf("%v, %v, size %d", fi.Mode(), err, b.Size)
	}
	none := digest.FromString("none")
	if _, err := s.Open(none); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("no such blob: %v", err)
	}
	for _, bad := range []digest.Digest{"", "x", "sha256:../../x", "sha256:12", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := s.Open(bad); err == nil || s.Has(bad) {
			t.Errorf("opened %q", bad)
		}
	}
	var v map[string]any
	if err := s.ReadJSON(d.Digest, &v); !errors.Is(err, imagestore.ErrDocument) {
		t.Errorf("no JSON: %v", err)
	}
	// What the disk changed is noticed where it matters most.
	if err := os.Chmod(s.BlobPath(d.Digest), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.BlobPath(d.Digest), []byte("jello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(d.Digest); !errors.Is(err, imagestore.ErrDigest) {
		t.Errorf("changed: %v", err)
	}
}

func TestResolve(t *testing.T) {
	s := storetest.New(t)
	a := storetest.Image(t, s, storetest.Spec{Files: []string{"a"}})
	b := storetest.Image(t, s, storetest.Spec{Files: []string{"b"}})
	storetest.Tag(t, s, "shop", a)
	storetest.Tag(t, s, "quay.io/shop:v1", a)
	storetest.Tag(t, s, "quay.io/shop:v2", b)
	storetest.Tag(t, s, "pinned@"+b.Digest.String(), b)
	for query, want := range map[string]string{
		"shop":                                 "docker.io/library/shop:latest",
		"docker.io/shop:latest":                "docker.io/library/shop:latest",
		"quay.io/shop:v1":                      "quay.io/shop:v1",
		"quay.io/shop@" + a.Digest.String():    "quay.io/shop:v1",
		"shop@" + a.Digest.String():            "docker.io/library/shop:latest",
		"other@" + a.Digest.String():           "docker.io/library/shop:latest",
		"pinned@" + b.Digest.String():          "docker.io/library/pinned@" + b.Digest.String(),
		b.Digest.String():                      "docker.io/library/pinned@" + b.Digest.String(),
		b.Digest.Encoded()[:12]:                "docker.io/library/pinned@" + b.Digest.String(),
		"sha256:" + a.Digest.Encoded()[:6]:     "docker.io/library/shop:latest",
		"quay.io/shop:v3":                      "",
		"pinned":                               "",
		a.Digest.Encoded()[:5]:                 "",
		"Not a name":                           "",
		"":                                     "",
		"x@" + digest.FromString("x").String(): "",
	} {
		got, err := s.Resolve(query)
		if got.Name != want || (want == "") != errors.Is(err, imagestore.ErrNotFound) {
			t.Errorf("%q: got %q, %v, want %q", query, got.Name, err, want)
		}
	}
}

func TestTag(t *testing.T) {
	s := storetest.New(t)
	a := storetest.Image(t, s, storetest.Spec{Files: []string{"a"}})
	b := storetest.Image(t, s, storetest.Spec{Files: []string{"b"}})
	storetest.Tag(t, s, "x:v1", a)
	storetest.Tag(t, s, "x:v1", b)
	before, err := s.Images()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]imagestore.Tagged{{Name: "docker.io/library/x:v1", Target: b}}, before); diff != "" {
		t.Error(diff)
	}
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("none"), Size: 4}
	err = s.TagAll(t.Context(), imagestore.Tagged{Name: "y", Target: a}, imagestore.Tagged{Name: "z", Target: missing})
	if !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("tagged what is not there: %v", err)
	}
	if err := s.TagAll(t.Context(), imagestore.Tagged{Name: "Bad Name", Target: a}); err == nil {
		t.Error("tagged a bad name")
	}
	if err := s.TagAll(t.Context()); err != nil {
		t.Error(err)
	}
	if after, err := s.Images(); err != nil || cmp.Diff(before, after) != "" {
		t.Errorf("failing changed the tags: %v, %v", after, err)
	}
	if err := s.Untag(t.Context(), "docker.io/library/none:latest"); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("untagged what is not there: %v", err)
	}
	if err := s.Untag(t.Context(), "docker.io/library/x:v1"); err != nil {
		t.Error(err)
	}
	if list, err := s.Images(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestWalk(t *testing.T) {
	s := storetest.New(t)
	c := storetest.ClusterImage(t, s)
	position := map[digest.Digest]int{}
	var order []ocispec.Descriptor
	collect := func(d ocispec.Descriptor) error {
		if _, again := position[d.Digest]; again {
			t.Errorf("%s comes twice", d.Digest)
		}
		position[d.Digest] = len(order)
		order = append(order, d)
		return nil
	}
	if err := s.Walk(t.Context(), c.Desc, collect); err != nil {
		t.Fatal(err)
	}
	for _, d := range order {
		if !imagestore.IsIndex(d.MediaType) && !imagestore.IsManifest(d.MediaType) || d.Digest == c.NginxIndex.Digest {
			continue
		}
		data, err := s.Read(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		children, err := imagestore.Children(d.MediaType, data)
		if err != nil {
			t.Fatal(err)
		}
		for _, child := range children {
			if at, ok := position[child.Digest]; !ok || at > position[d.Digest] {
				t.Errorf("%s does not come before its parent %s", child.Digest, d.Digest)
			}
		}
	}
	if order[len(order)-1].Digest != c.Desc.Digest {
		t.Error("the image itself is not the last")
	}
	if _, ok := position[c.NginxIndex.Digest]; !ok {
		t.Error("the index document in refs is left out")
	}
	stop := errors.New("stop")
	if err := s.Walk(t.Context(), c.Desc, func(ocispec.Descriptor) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}

	// A wrong size, then missing blobs.
	var m ocispec.Manifest
	if err := s.ReadJSON(c.Nginx.Digest, &m); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.BlobPath(m.Layers[1].Digest), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.BlobPath(m.Layers[1].Digest), 3); err != nil {
		t.Fatal(err)
	}
	if err := s.Walk(t.Context(), c.Desc, collect); !errors.Is(err, imagestore.ErrDigest) {
		t.Errorf("truncated layer: %v", err)
	}
	for _, d := range []digest.Digest{m.Layers[1].Digest, c.PauseArm.Digest} {
		if err := os.Remove(s.BlobPath(d)); err != nil {
			t.Fatal(err)
		}
	}
	err := s.Walk(t.Context(), c.Desc, func(ocispec.Descriptor) error { t.Error("called"); return nil })
	var missing *imagestore.MissingError
	if !errors.As(err, &missing) || !errors.Is(err, imagestore.ErrNotFound) || len(missing.Blobs) != 2 {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), m.Layers[1].Digest.String()) || !strings.Contains(err.Error(), c.PauseArm.Digest.String()) {
		t.Errorf("does not name the blobs: %v", err)
	}
}

func TestWalkNested(t *testing.T) {
	s := storetest.New(t)
	d := storetest.Image(t, s, storetest.Spec{})
	nested := func(n int) ocispec.Descriptor {
		desc := d
		for range n {
			desc = storetest.Index(t, s, desc)
		}
		return desc
	}
	nothing := func(ocispec.Descriptor) error { return nil }
	if err := s.Walk(t.Context(), nested(10), nothing); err != nil {
		t.Error(err)
	}
	if err := s.Walk(t.Context(), nested(100), nothing); !errors.Is(err, imagestore.ErrDocument) {
		t.Errorf("100 deep: %v", err)
	}
}

func TestPermissions(t *testing.T) {
	s := storetest.New(t)
	storetest.Tag(t, s, "x", storetest.Image(t, s, storetest.Spec{}))
	err := filepath.WalkDir(s.Dir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		switch {
		case e.IsDir():
			return nil
		case strings.Contains(path, "/blobs/"):
			want = 0o444
		case strings.HasSuffix(path, "lock"):
			want = 0o644
		}
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", e.Name(), fi.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
