package archive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/relocate"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/internal/registrytest"
)

// storage is a cluster image of every kind of embedded image, and their places in a registry.
func storage(t *testing.T, s *imagestore.Store) []relocate.Placed {
	t.Helper()
	c := storetest.ClusterImage(t, s)
	list, err := relocate.List(t.Context(), s, c.Desc)
	if err != nil {
		t.Fatal(err)
	}
	two := []ocispec.Descriptor{storetest.Image(t, s, storetest.Spec{Files: []string{"two"}}), storetest.Image(t, s, storetest.Spec{Files: []string{"two arm"}, Platform: "linux/arm64"})}
	whole := storetest.Index(t, s, two...)
	list = append(list, relocate.Image{Name: "ghcr.io/two/two@" + whole.Digest.String(), Target: whole, Manifests: two, Whole: true})
	placed, err := relocate.Place(list, relocate.Scoped, "")
	if err != nil {
		t.Fatal(err)
	}
	return placed
}

func saveStorage(t *testing.T, s *imagestore.Store, placed []relocate.Placed) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := archive.SaveStorage(t.Context(), &buf, s, placed); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// What is written, keg reads again: the same images, and of an index that is not whole what there is.
func TestSaveStorage(t *testing.T) {
	s := storetest.New(t)
	placed := storage(t, s)
	data := saveStorage(t, s, placed)
	if !bytes.Equal(data, saveStorage(t, s, append(placed[2:], placed[:2]...))) {
		t.Error("the order of images changes the archive")
	}
	other := storetest.New(t)
	found, err := archive.Read(t.Context(), other, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, f := range found {
		got[f.Name] = append(got[f.Name], f.Target.Digest.String(), f.Index.String())
	}
	want := map[string][]string{}
	for _, p := range placed {
		if p.Whole {
			want[p.Name] = []string{p.Target.Digest.String(), ""}
		} else {
			want[p.Name] = []string{p.Manifests[0].Digest.String(), p.Target.Digest.String()}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	// As files it is the same.
	dir := t.TempDir()
	if err := archive.SaveStorageDir(t.Context(), dir, s, placed, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	err = fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var data []byte
			data, err = os.ReadFile(filepath.Join(dir, p))
			files[p] = string(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	inTar := map[string]string{}
	for _, e := range readTar(t, data) {
		inTar[e.name] = e.content
	}
	if diff := cmp.Diff(inTar, files); diff != "" {
		t.Error(diff)
	}
}

func TestSaveStorageFails(t *testing.T) {
	s := storetest.New(t)
	placed := storage(t, s)
	var buf bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := archive.SaveStorage(ctx, &buf, s, placed); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := archive.SaveStorage(t.Context(), &buf, s, nil); err == nil {
		t.Error("a registry of nothing was written")
	}
	var m ocispec.Manifest
	if err := s.ReadJSON(placed[2].Manifests[0].Digest, &m); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.BlobPath(m.Layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	var missing *imagestore.MissingError
	if err := archive.SaveStorage(t.Context(), &buf, s, placed); !errors.As(err, &missing) || !strings.Contains(err.Error(), placed[2].Name) || buf.Len() > 0 {
		t.Errorf("without a layer: %v, after %d bytes", err, buf.Len())
	}
}

// Debian's docker-registry serves the storage as it is: each name gives the digest that it has elsewhere.
func TestStorageIsServed(t *testing.T) {
	s := storetest.New(t)
	placed := storage(t, s)
	dir := t.TempDir()
	for _, e := range readTar(t, saveStorage(t, s, placed)) {
		file := filepath.Join(dir, e.name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(e.content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	registrytest.Anonymous(t)
	addr := registrytest.StartReal(t, registrytest.WithData(dir))
	for _, p := range placed {
		t.Run(p.Name, func(t *testing.T) {
			ref, err := name.ParseReference(addr + "/" + p.String())
			if err != nil {
				t.Fatal(err)
			}
			// As crane digest and crane pull do.
			desc, err := remote.Get(ref, remote.WithContext(t.Context()), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
			if err != nil {
				t.Fatal(err)
			}
			if desc.Digest.String() != p.Target.Digest.String() {
				t.Errorf("digest %s, want %s", desc.Digest, p.Target.Digest)
			}
			img, err := desc.Image()
			if err != nil {
				t.Fatal(err)
			}
			if d, err := img.Digest(); err != nil || d.String() != p.Manifests[0].Digest.String() {
				t.Errorf("for amd64 %s, %v, want %s", d, err, p.Manifests[0].Digest)
			}
			layers, err := img.Layers()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range layers {
				r, err := l.Compressed()
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			out := t.TempDir()
			run(t, "skopeo", "--override-os=linux", "--override-arch=amd64", "copy", "-q", "--src-tls-verify=false", "docker://"+addr+"/"+p.String(), "dir:"+out)
			manifest, err := os.ReadFile(filepath.Join(out, "manifest.json"))
			if err != nil {
				t.Fatal(err)
			}
			if want, err := s.Read(p.Manifests[0].Digest); err != nil || !bytes.Equal(manifest, want) {
				t.Errorf("skopeo copied another manifest, %v", err)
			}
		})
	}
	var tags struct{ Tags []string }
	if err := json.Unmarshal([]byte(run(t, "skopeo", "list-tags", "--tls-verify=false", "docker://"+addr+"/registry.k8s.io/pause")), &tags); err != nil || cmp.Diff([]string{"3.10"}, tags.Tags) != "" {
		t.Errorf("tags %v, %v", tags, err)
	}
}
