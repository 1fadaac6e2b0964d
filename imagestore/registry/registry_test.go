package registry_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/registry"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/internal/registrytest"
)

func serve(t *testing.T, src registry.Source, opts registry.Options) string {
	t.Helper()
	if opts.OnError == nil {
		opts.OnError = func(err error) { t.Errorf("registry: %v", err) }
	}
	server := httptest.NewServer(registry.Handler(src, opts))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func embedded(t *testing.T, opts registry.Options) (addr string, c storetest.Cluster, s *imagestore.Store) {
	t.Helper()
	s = storetest.New(t)
	c = storetest.ClusterImage(t, s)
	src, err := registry.EmbeddedSource(s, c.Desc)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, src, opts), c, s
}

type response struct {
	status int
	header http.Header
	body   string
}

func do(t *testing.T, method, url string, header map[string]string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{resp.StatusCode, resp.Header, string(body)}
}

// What each way of asking for a manifest answers: the digest, or "" for 404.
func TestEmbeddedNames(t *testing.T) {
	addr, c, s := embedded(t, registry.Options{})
	made := "made" // an index that is in no store
	for _, tt := range []struct {
		path string
		want digest.Digest
	}{
		// As containerd asks.
		{"library/nginx/manifests/1.27?ns=docker.io", c.NginxIndex.Digest},
		{"library/nginx/manifests/1.27?ns=index.docker.io", c.NginxIndex.Digest},
		{"library/nginx/manifests/1.27?ns=quay.io", c.Quay.Digest},
		{"pause/manifests/3.10?ns=registry.k8s.io", digest.Digest(made)},
		{"pause/manifests/3.10?ns=docker.io", ""},
		{"docker.io/library/nginx/manifests/1.27?ns=quay.io", ""},
		{"library/nginx/manifests/1.28?ns=docker.io", ""},
		// The registry as the beginning of the path.
		{"docker.io/library/nginx/manifests/1.27", c.NginxIndex.Digest},
		{"quay.io/library/nginx/manifests/1.27", c.Quay.Digest},
		{"gcr.io/library/nginx/manifests/1.27", ""},
		// The path alone, where one registry has it.
		{"library/nginx/manifests/1.27", ""},
		{"pause/manifests/3.10", digest.Digest(made)},
		// By digest.
		{"library/nginx/manifests/" + c.NginxIndex.Digest.String() + "?ns=docker.io", c.NginxIndex.Digest},
		{"library/nginx/manifests/" + c.Nginx.Digest.String() + "?ns=docker.io", c.Nginx.Digest},
		{"library/nginx/manifests/" + c.NginxArm.Digest.String() + "?ns=docker.io", ""},
		{"library/nginx/manifests/" + c.Quay.Digest.String() + "?ns=quay.io", c.Quay.Digest},
		{"pause/manifests/" + c.PauseArm.Digest.String(), c.PauseArm.Digest},
		// The cluster image itself is not an embedded image.
		{"pause/manifests/" + c.Rootfs.Digest.String(), ""},
		{"pause/manifests/" + c.Desc.Digest.String(), ""},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			got := do(t, method, "http://"+addr+"/v2/"+tt.path, nil)
			if tt.want == "" {
				if got.status != http.StatusNotFound || method == http.MethodGet && !strings.Contains(got.body, `"code":"MANIFEST_UNKNOWN"`) {
					t.Errorf("%s %s: got %d %s, want 404 MANIFEST_UNKNOWN", method, tt.path, got.status, got.body)
				}
				continue
			}
			d := got.header.Get("Docker-Content-Digest")
			if got.status != http.StatusOK || d == "" || tt.want != digest.Digest(made) && d != tt.want.String() {
				t.Errorf("%s %s: got %d with digest %q, want %s", method, tt.path, got.status, d, tt.want)
				continue
			}
			if got.header.Get("Etag") != `"`+d+`"` {
				t.Errorf("%s %s: Etag %s", method, tt.path, got.header.Get("Etag"))
			}
			if method == http.MethodGet && digest.FromString(got.body).String() != d {
				t.Errorf("%s: body has another digest than %s", tt.path, d)
			}
		}
	}
	for d, want := range map[digest.Digest]string{
		c.NginxIndex.Digest: ocispec.MediaTypeImageIndex,
		c.Nginx.Digest:      ocispec.MediaTypeImageManifest,
		c.Quay.Digest:       imagestore.MediaTypeDockerManifest,
	} {
		got := do(t, http.MethodGet, "http://"+addr+"/v2/library/nginx/manifests/"+d.String(), nil)
		data, err := s.Read(d)
		if err != nil || got.body != string(data) || got.header.Get("Content-Type") != want {
			t.Errorf("%s: not the original bytes as %s but %q (%v)", d, want, got.header.Get("Content-Type"), err)
		}
	}
}

func TestEmbeddedPull(t *testing.T) {
	addr, c, _ := embedded(t, registry.Options{})
	for ref, want := range map[string]ocispec.Descriptor{
		"docker.io/library/nginx:1.27":                            c.Nginx,
		"docker.io/library/nginx@" + c.NginxIndex.Digest.String(): c.Nginx,
		"docker.io/library/nginx@" + c.Nginx.Digest.String():      c.Nginx,
		"quay.io/library/nginx:1.27":                              c.Quay,
		"registry.k8s.io/pause:3.10":                              c.Pause,
		"pause:3.10":                                              c.Pause,
	} {
		r, err := name.ParseReference(addr + "/" + ref)
		if err != nil {
			t.Fatal(err)
		}
		img, err := remote.Image(r, remote.WithContext(t.Context()), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		if d, err := img.Digest(); err != nil || d.String() != want.Digest.String() {
			t.Errorf("%s: got %s (%v), want %s", ref, d, err, want.Digest)
		}
	}
	r, err := name.ParseReference(addr + "/registry.k8s.io/pause:3.10")
	if err != nil {
		t.Fatal(err)
	}
	idx, err := remote.Index(r, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Errorf("index made of two platforms: %v", err)
	}
}

func TestEmbeddedSeveral(t *testing.T) {
	s := storetest.New(t)
	c := storetest.ClusterImage(t, s)
	other := storetest.New(t)
	// Another cluster image, on a host that has the rootfs of neither and no arm64 image.
	for _, d := range []ocispec.Descriptor{c.Desc, c.Pause} {
		data, err := s.Read(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		storetest.Put(t, other, d.MediaType, data)
	}
	src, err := registry.EmbeddedSource(other, c.Desc, c.Desc)
	if err != nil {
		t.Fatal(err)
	}
	got, err := src.Resolve(t.Context(), "registry.k8s.io", "pause", "3.10")
	if err != nil || got.Digest != c.Pause.Digest {
		t.Errorf("of two platforms one is there: got %s, %v", got.Digest, err)
	}
	if list, _ := src.Repositories(t.Context()); !slices.Equal(list, []string{"registry.k8s.io/pause"}) {
		t.Errorf("repositories: %v", list)
	}
	if _, err := registry.EmbeddedSource(s, c.NginxIndex); err == nil {
		t.Error("an index that is no cluster image was taken")
	}
	if _, err := registry.EmbeddedSource(other, c.Rootfs); err == nil {
		t.Error("an index that is not there was taken")
	}
}

func TestStoreSource(t *testing.T) {
	s := storetest.New(t)
	addr := serve(t, registry.StoreSource(s), registry.Options{})
	base := "http://" + addr + "/v2/"
	if got := do(t, http.MethodGet, base+"_catalog", nil); got.body != `{"repositories":[]}` {
		t.Errorf("empty store: catalog %d %s", got.status, got.body)
	}
	a := storetest.Image(t, s, storetest.Spec{Files: []string{"a"}})
	b := storetest.Index(t, s, storetest.Image(t, s, storetest.Spec{Files: []string{"b"}}))
	cluster := storetest.ClusterImage(t, s)
	storetest.Tag(t, s, "x", a)
	storetest.Tag(t, s, "quay.io/library/x", b)
	storetest.Tag(t, s, "reg.example.com:5000/team/shop:v1", cluster.Desc)
	for path, want := range map[string]digest.Digest{
		"docker.io/library/x/manifests/latest":                  a.Digest,
		"library/x/manifests/latest?ns=docker.io":               a.Digest,
		"library/x/manifests/latest?ns=quay.io":                 b.Digest,
		"quay.io/library/x/manifests/latest":                    b.Digest,
		"library/x/manifests/latest":                            "",
		"team/shop/manifests/v1":                                cluster.Desc.Digest,
		"reg.example.com:5000/team/shop/manifests/v1":           cluster.Desc.Digest,
		"team/shop/manifests/v1?ns=reg.example.com":             "",
		"team/shop/manifests/" + cluster.Quay.Digest.String():   cluster.Quay.Digest,
		"team/shop/manifests/" + cluster.Rootfs.Digest.String(): cluster.Rootfs.Digest,
	} {
		got := do(t, http.MethodGet, base+path, nil)
		if d := got.header.Get("Docker-Content-Digest"); d != want.String() || (want == "") != (got.status == http.StatusNotFound) {
			t.Errorf("%s: got %d, digest %q, want %q", path, got.status, d, want)
		}
	}
	if got := do(t, http.MethodGet, base+"library/x/manifests/latest", nil); !strings.Contains(got.body, "docker.io/library/x or quay.io/library/x") {
		t.Errorf("ambiguous path: %s", got.body)
	}
	// What is untagged goes, at once.
	if err := s.Untag(t.Context(), "quay.io/library/x:latest"); err != nil {
		t.Fatal(err)
	}
	if got := do(t, http.MethodGet, base+"library/x/manifests/latest", nil); got.header.Get("Docker-Content-Digest") != a.Digest.String() {
		t.Errorf("after untagging the other: %d %s", got.status, got.body)
	}
	r, err := name.ParseReference(addr + "/team/shop:v1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r, remote.WithContext(t.Context()), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
}

func TestProtocol(t *testing.T) {
	type miss struct{ ns, repository, ref string }
	var misses []miss
	var mu sync.Mutex
	addr, c, _ := embedded(t, registry.Options{OnMiss: func(ns, repository, ref string) {
		mu.Lock()
		defer mu.Unlock()
		misses = append(misses, miss{ns, repository, ref})
	}})
	base := "http://" + addr + "/v2/"
	var m ocispec.Manifest
	if err := json.Unmarshal([]byte(do(t, http.MethodGet, base+"x/manifests/"+c.Nginx.Digest.String(), nil).body), &m); err != nil {
		t.Fatal(err)
	}
	blob := base + "library/nginx/blobs/" + m.Layers[0].Digest.String()
	whole := do(t, http.MethodGet, blob, nil)
	if digest.FromString(whole.body) != m.Layers[0].Digest || whole.header.Get("Docker-Content-Digest") != m.Layers[0].Digest.String() {
		t.Fatalf("blob: %d, digest %q", whole.status, whole.header.Get("Docker-Content-Digest"))
	}
	none := digest.FromString("none").String()
	for _, tt := range []struct {
		method, url string
		header      map[string]string
		status      int
		want        string // in the body
	}{
		{"GET", base, nil, 200, "{}"},
		{"GET", strings.TrimSuffix(base, "/"), nil, 200, "{}"},
		{"HEAD", base, nil, 200, ""},
		{"GET", "http://" + addr + "/", nil, 404, ""},
		{"GET", base + "library/nginx", nil, 404, ""},
		{"HEAD", blob, nil, 200, ""},
		{"GET", blob, map[string]string{"Range": "bytes=3-9"}, 206, whole.body[3:10]},
		{"GET", blob, map[string]string{"Range": "bytes=-5"}, 206, whole.body[len(whole.body)-5:]},
		{"GET", blob, map[string]string{"Range": "bytes=1000000-"}, 416, ""},
		{"GET", blob, map[string]string{"If-None-Match": `"` + m.Layers[0].Digest.String() + `"`}, 304, ""},
		{"GET", base + "library/nginx/blobs/" + none, nil, 404, "BLOB_UNKNOWN"},
		{"GET", base + "library/nginx/blobs/" + c.Desc.Digest.String(), nil, 404, "BLOB_UNKNOWN"},
		{"GET", base + "library/nginx/blobs/sha256:12", nil, 400, "DIGEST_INVALID"},
		{"GET", base + "library/nginx/blobs/latest", nil, 400, "DIGEST_INVALID"},
		{"GET", base + "library/nginx/manifests/sha256:12", nil, 400, "DIGEST_INVALID"},
		{"GET", base + "library/nginx/manifests/..", nil, 404, ""},
		{"GET", base + "library/nginx/manifests/" + m.Layers[0].Digest.String(), nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", base + "a//b/manifests/x", nil, 400, "NAME_INVALID"},
		{"GET", base + strings.Repeat("a", 600) + "/manifests/x", nil, 400, "NAME_INVALID"},
		{"GET", base + "library/nginx/tags/list?ns=docker.io", nil, 200, `{"name":"library/nginx","tags":["1.27"]}`},
		{"GET", base + "none/tags/list", nil, 404, "NAME_UNKNOWN"},
		{"GET", base + "pause/tags/list?n=x", nil, 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", base + "pause/tags/list?n=0", nil, 200, `"tags":[]`},
		{"GET", base + "pause/referrers/" + none, nil, 200, `"manifests":[]`},
		{"GET", base + "pause/referrers/x", nil, 400, "DIGEST_INVALID"},
		{"POST", base + "pause/blobs/uploads/", nil, 405, "UNSUPPORTED"},
		{"PUT", base + "pause/manifests/v1", nil, 405, "UNSUPPORTED"},
		{"DELETE", base + "pause/manifests/" + none, nil, 405, "UNSUPPORTED"},
		{"PATCH", base, nil, 405, "UNSUPPORTED"},
	} {
		got := do(t, tt.method, tt.url, tt.header)
		if got.status != tt.status || !strings.Contains(got.body, tt.want) {
			t.Errorf("%s %s %v: got %d %s, want %d %s", tt.method, strings.TrimPrefix(tt.url, base), tt.header, got.status, got.body, tt.status, tt.want)
		}
		if tt.status >= 400 && tt.want != "" && got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: content type %s", tt.method, tt.url, got.header.Get("Content-Type"))
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := []miss{
		{"", "library/nginx", none},
		{"", "library/nginx", c.Desc.Digest.String()},
		{"", "library/nginx", m.Layers[0].Digest.String()},
	}
	if diff := cmp.Diff(want, misses, cmp.AllowUnexported(miss{})); diff != "" {
		t.Errorf("misses (-want +got):\n%s", diff)
	}
}

func TestPages(t *testing.T) {
	s := storetest.New(t)
	desc := storetest.Image(t, s, storetest.Spec{})
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprintf("v%d", i))
		storetest.Tag(t, s, "reg.example.com/shop:"+want[i], desc)
	}
	addr := serve(t, registry.StoreSource(s), registry.Options{})
	for _, first := range []string{"/v2/shop/tags/list?n=3&ns=reg.example.com", "/v2/shop/tags/list?n=1", "/v2/shop/tags/list?n=7", "/v2/shop/tags/list"} {
		var got []string
		for next := first; next != ""; {
			resp := do(t, http.MethodGet, "http://"+addr+next, nil)
			var list struct{ Tags []string }
			if err := json.Unmarshal([]byte(resp.body), &list); err != nil {
				t.Fatal(err)
			}
			got = append(got, list.Tags...)
			next, _, _ = strings.Cut(strings.TrimPrefix(resp.header.Get("Link"), "<"), ">")
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v", first, got)
		}
	}
	repo, err := name.NewRepository(addr + "/reg.example.com/shop")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := remote.List(repo, remote.WithContext(t.Context()), remote.WithPageSize(2)); err != nil || !slices.Equal(got, want) {
		t.Errorf("listed by ggcr: %v, %v", got, err)
	}
}

func TestConcurrent(t *testing.T) {
	s := storetest.New(t)
	desc := storetest.Image(t, s, storetest.Spec{})
	storetest.Tag(t, s, "a.io/x:v0", desc)
	addr := serve(t, registry.StoreSource(s), registry.Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if i == 0 {
				for j := range 20 {
					storetest.Tag(t, s, fmt.Sprintf("a.io/x:v%d", j), desc)
				}
				return
			}
			for range 20 {
				if got := do(t, http.MethodGet, "http://"+addr+"/v2/x/manifests/v0", nil); got.status != http.StatusOK {
					t.Errorf("got %d %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
}

func TestSkopeo(t *testing.T) {
	registrytest.Anonymous(t)
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed (Debian package skopeo)")
	}
	addr, c, _ := embedded(t, registry.Options{})
	for _, ref := range []string{"docker.io/library/nginx:1.27", "quay.io/library/nginx:1.27", "pause:3.10", "docker.io/library/nginx@" + c.NginxIndex.Digest.String()} {
		dst := "oci:" + t.TempDir() + ":copy"
		out, err := exec.CommandContext(t.Context(), "skopeo", "copy", "--src-tls-verify=false", "--override-os=linux", "--override-arch=amd64",
			"docker://"+addr+"/"+ref, dst).CombinedOutput()
		if err != nil {
			t.Errorf("skopeo copy %s: %v\n%s", ref, err, out)
		}
	}
}
