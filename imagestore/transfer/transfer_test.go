package transfer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// quick does not let a test wait.
var quick = Retry{Wait: time.Millisecond, MaxWait: 4 * time.Millisecond}

func newClient(o Options) *Client {
	if o.Retry == (Retry{}) {
		o.Retry = quick
	}
	return New(o)
}

func newStore(t testing.TB) *imagestore.Store {
	t.Helper()
	s, err := imagestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustRef(t testing.TB, s string) name.Reference {
	t.Helper()
	ref, err := imagestore.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func put(t testing.TB, s *imagestore.Store, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	d, err := s.Put(t.Context(), mediaType, data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func putJSON(t testing.TB, s *imagestore.Store, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return put(t, s, mediaType, data)
}

// noise is n bytes that no compression or range can be guessed from; equal for equal seeds.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// image puts an image for linux/arch with one layer of each size into the store.
func image(t testing.TB, s *imagestore.Store, arch string, seed uint64, sizes ...int) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers"}}
	for i, n := range sizes {
		data := tarGz(t, fmt.Sprintf("file%d", i), noise(seed*100+uint64(i), n))
		m.Layers = append(m.Layers, put(t, s, ocispec.MediaTypeImageLayerGzip, data.compressed))
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(data.plain))
	}
	m.Config = putJSON(t, s, ocispec.MediaTypeImageConfig, cfg)
	d := putJSON(t, s, ocispec.MediaTypeImageManifest, m)
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return d
}

func index(t testing.TB, s *imagestore.Store, entries ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return putJSON(t, s, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
	})
}

// clusterImage puts a cluster image of one rootfs, two embedded images and a refs artifact into the store.
func clusterImage(t testing.TB, s *imagestore.Store) ocispec.Descriptor {
	t.Helper()
	nginx, pause := image(t, s, "amd64", 2, 30_000, 70_000), image(t, s, "amd64", 3, 100)
	original := index(t, s, nginx, ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("the arm image, left behind"), Size: 26,
		Platform: &ocispec.Platform{OS: "linux", Architecture: "arm64"},
	})
	refs := putJSON(t, s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: clusterimage.RefsArtifactType,
		Config:       put(t, s, ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:       []ocispec.Descriptor{original},
	})
	return putJSON(t, s, ocispec.MediaTypeImageIndex, clusterimage.Image{
		Rootfs: []ocispec.Descriptor{image(t, s, "amd64", 1, 200_000, 3_000_000)},
		Embedded: []clusterimage.Embedded{
			{Name: "docker.io/library/nginx:1.27", Platform: "linux/amd64", Index: original.Digest, Manifest: nginx},
			{Name: "registry.k8s.io/pause:3.10", Platform: "linux/amd64", Manifest: pause},
		},
		Refs: []ocispec.Descriptor{refs},
	}.Index())
}

// contents is every blob in the store, by digest, with its content.
func contents(t testing.TB, s *imagestore.Store) map[string]digest.Digest {
	t.Helper()
	dir := filepath.Join(s.Dir(), "blobs", "sha256")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]digest.Digest{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = digest.FromBytes(data)
		if all[e.Name()].Encoded() != e.Name() {
			t.Errorf("blob %s has digest %s", e.Name(), all[e.Name()])
		}
	}
	return all
}

// recorder counts requests and bytes and lets a test change the answers.
type recorder struct {
	mu       sync.Mutex
	requests []string       // "METHOD /path?query"
	sent     map[string]int // path -> bytes answered to GET
	headers  []http.Header
}

func (rec *recorder) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec.mu.Lock()
		rec.requests = append(rec.requests, r.Method+" "+r.URL.RequestURI())
		rec.headers = append(rec.headers, r.Header.Clone())
		rec.mu.Unlock()
		if r.Method == http.MethodGet {
			w = &countingWriter{ResponseWriter: w, rec: rec, path: r.URL.Path}
		}
		next.ServeHTTP(w, r)
	})
}

func (rec *recorder) count(method, pathPart string) int {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	n := 0
	for _, r := range rec.requests {
		if len(r) > len(method) && r[:len(method)+1] == method+" " && bytes.Contains([]byte(r), []byte(pathPart)) {
			n++
		}
	}
	return n
}

func (rec *recorder) reset() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.requests, rec.headers, rec.sent = nil, nil, nil
}

type countingWriter struct {
	http.ResponseWriter
	rec  *recorder
	path string
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.rec.mu.Lock()
	defer w.rec.mu.Unlock()
	if w.rec.sent == nil {
		w.rec.sent = map[string]int{}
	}
	w.rec.sent[w.path] += n
	return n, err
}
