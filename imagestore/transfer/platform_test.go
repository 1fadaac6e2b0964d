package transfer

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/internal/registrytest"
)

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		want string
		have []string
		got  int
	}{
		{"linux/amd64", []string{"linux/arm64", "linux/amd64"}, 1},
		{"linux/amd64", []string{"linux/amd64/v2", "linux/amd64"}, 1},
		{"linux/amd64", []string{"linux/amd64/v2"}, -1},
		{"linux/amd64/v3", []string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v4"}, 1},
		{"linux/arm64", []string{"linux/arm/v7", "linux/arm64"}, 1},
		{"linux/arm64/v8", []string{"linux/arm64"}, 0},
		{"linux/arm64/v9", []string{"linux/arm64"}, 0},
		{"linux/arm", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm/v7"}, 2},
		{"linux/arm/v6", []string{"linux/arm/v7", "linux/arm/v5"}, 1},
		{"linux/arm/v7", []string{"linux/arm"}, 0},
		{"linux/s390x", []string{"linux/amd64", "linux/s390x"}, 1},
		{"windows/amd64", []string{"linux/amd64"}, -1},
	} {
		if got, err := Choose(tt.want, tt.have); err != nil || got != tt.got {
			t.Errorf("Choose(%q, %q) = %d, %v, want %d", tt.want, tt.have, got, err, tt.got)
		}
	}
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "linux/arm/v7/x"} {
		if _, err := Choose(bad, nil); err == nil {
			t.Errorf("Choose(%q) is no error", bad)
		}
	}
}

// multiArch puts an index of amd64, arm64 (with variant v8), a nested index with arm/v7, an image
// whose descriptor has no platform (riscv64), and an attestation into the store.
func multiArch(t testing.TB, s *imagestore.Store) ocispec.Descriptor {
	amd, arm64, arm, riscv := image(t, s, "amd64", 1, 100), image(t, s, "arm64", 2, 200), image(t, s, "arm", 3, 300), image(t, s, "riscv64", 4, 400)
	arm64.Platform.Variant = "v8"
	arm.Platform.Variant = "v7"
	riscv.Platform = nil
	attestation := image(t, s, "unknown", 5, 10)
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	return index(t, s, amd, arm64, index(t, s, arm), riscv, attestation)
}

func TestPullImage(t *testing.T) {
	v := serveImage(t, multiArch)
	c := newClient(Options{})
	for _, tt := range []struct{ want, got string }{
		{"linux/amd64", "linux/amd64"}, {"linux/arm64", "linux/arm64"}, {"linux/arm64/v8", "linux/arm64"},
		{"linux/arm", "linux/arm/v7"}, {"linux/riscv64", "linux/riscv64"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			s := newStore(t)
			p, err := c.PullImage(t.Context(), s, mustRef(t, v.name), tt.want)
			if err != nil {
				t.Fatal(err)
			}
			if p.Platform != tt.got || p.Index == nil || p.Index.Digest != v.desc.Digest || !s.Has(p.Index.Digest) {
				t.Errorf("pulled %+v", p)
			}
			if tt.want != "linux/riscv64" {
				wants(t, s, p.Manifest)
			}
			var cfg ocispec.Image
			var m ocispec.Manifest
			if err := errors.Join(s.ReadJSON(p.Manifest.Digest, &m), s.ReadJSON(m.Config.Digest, &cfg)); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(tt.got, "linux/"+cfg.Architecture) {
				t.Errorf("pulled an image for %s", cfg.Architecture)
			}
			// Once more, by digest, without a registry.
			byDigest := mustRef(t, v.addr+"/shop/cluster@"+v.desc.Digest.String())
			again, err := newClient(Options{Offline: true}).PullImage(t.Context(), s, byDigest, tt.want)
			if diff := cmp.Diff(p, again); err != nil || diff != "" {
				t.Errorf("again, offline: %v\n%s", err, diff)
			}
		})
	}
	t.Run("manifest", func(t *testing.T) {
		s := newStore(t)
		p, err := c.PullImage(t.Context(), s, mustRef(t, v.name), "linux/amd64")
		if err != nil {
			t.Fatal(err)
		}
		one := mustRef(t, v.addr+"/shop/cluster@"+p.Manifest.Digest.String())
		got, err := c.PullImage(t.Context(), newStore(t), one, "linux/amd64")
		if err != nil || got.Index != nil || got.Manifest.Digest != p.Manifest.Digest || got.Platform != "linux/amd64" {
			t.Errorf("pulled %+v, %v", got, err)
		}
		pe := (*PlatformError)(nil)
		if _, err = c.PullImage(t.Context(), newStore(t), one, "linux/arm64"); !errors.As(err, &pe) || !slices.Equal(pe.Have, []string{"linux/amd64"}) {
			t.Errorf("error %v", err)
		}
	})
	pe := (*PlatformError)(nil)
	_, err := c.PullImage(t.Context(), newStore(t), mustRef(t, v.name), "linux/s390x")
	want := &PlatformError{Ref: v.name, Want: "linux/s390x", Have: []string{"linux/amd64", "linux/arm/v7", "linux/arm64", "linux/riscv64"}}
	if !errors.As(err, &pe) || cmp.Diff(want, pe) != "" {
		t.Errorf("error %v", err)
	}
}

// wants has the store hold the manifest and all it needs.
func wants(t *testing.T, s *imagestore.Store, d ocispec.Descriptor) {
	t.Helper()
	if _, err := readTree(s, d); err != nil {
		t.Error(err)
	}
}

func TestPullPlatforms(t *testing.T) {
	v := serveImage(t, multiArch)
	c := newClient(Options{})
	pull := func(name string, platforms ...string) (*imagestore.Store, ocispec.Descriptor, error) {
		s := newStore(t)
		d, err := c.Pull(t.Context(), s, mustRef(t, name), PullOptions{Platforms: platforms})
		if err == nil {
			wants(t, s, d)
		}
		return s, d, err
	}
	if _, d, err := pull(v.name, "linux/arm64"); err != nil || d.MediaType != ocispec.MediaTypeImageManifest || clusterimage.PlatformString(d.Platform) != "linux/arm64" {
		t.Errorf("one platform: %+v, %v", d, err)
	}
	s, d, err := pull(v.name, "linux/arm64", "linux/arm/v7")
	if err != nil {
		t.Fatal(err)
	}
	var idx ocispec.Index
	if err := s.ReadJSON(d.Digest, &idx); err != nil || len(idx.Manifests) != 2 || d.Digest == v.desc.Digest {
		t.Errorf("two platforms: %+v, %v", idx, err)
	}
	pe := (*PlatformError)(nil)
	if _, _, err := pull(v.name, "linux/amd64", "plan9/386"); !errors.As(err, &pe) || pe.Want != "plan9/386" {
		t.Errorf("missing platform: %v", err)
	}

	cluster := serveImage(t, func(t testing.TB, s *imagestore.Store) ocispec.Descriptor {
		img := clusterimage.Image{Rootfs: []ocispec.Descriptor{image(t, s, "amd64", 1, 10), image(t, s, "arm64", 2, 10)}}
		for i, arch := range []string{"amd64", "arm64"} {
			img.Embedded = append(img.Embedded, clusterimage.Embedded{Name: "docker.io/library/nginx:1", Platform: "linux/" + arch, Manifest: image(t, s, arch, uint64(10+i), 10)})
		}
		return putJSON(t, s, ocispec.MediaTypeImageIndex, img.Index())
	})
	s, d, err = pull(cluster.name, "linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	idx = ocispec.Index{}
	if err := s.ReadJSON(d.Digest, &idx); err != nil {
		t.Fatal(err)
	}
	img, err := clusterimage.Parse(idx)
	if err != nil || len(img.Rootfs) != 1 || len(img.Embedded) != 1 || img.Embedded[0].Platform != "linux/arm64" {
		t.Errorf("cluster image for one platform: %+v, %v", img, err)
	}
	if _, d, err := pull(cluster.name, "linux/arm64", "linux/amd64"); err != nil || d.Digest != cluster.desc.Digest {
		t.Errorf("cluster image for all its platforms: %v, %v", d, err)
	}
	if _, _, err := pull(cluster.name, "linux/s390x"); !errors.As(err, &pe) {
		t.Errorf("cluster image without the platform: %v", err)
	}
}

func TestMissingPlatform(t *testing.T) {
	for _, tt := range []struct {
		want string
		have []string
		got  string
	}{
		{"linux/arm64", []string{"windows/arm64", "linux/amd64"}, "linux/amd64"},
		{"linux/arm/v6", []string{"linux/amd64", "linux/arm/v7"}, "linux/arm/v7"},
		{"linux/arm64", []string{"linux/s390x", "linux/ppc64le"}, "linux/ppc64le"},
		{"linux/arm64", []string{"windows/amd64"}, "windows/amd64"},
		{"linux/arm", []string{"linux/arm64"}, "linux/arm64"},
		{"linux/arm64", nil, ""},
	} {
		if got := Nearest(tt.want, tt.have); got != tt.got {
			t.Errorf("Nearest(%s, %s) = %q, want %q", tt.want, tt.have, got, tt.got)
		}
	}
	v := serveImage(t, multiArch)
	pull := func(missing MissingPlatform, platforms ...string) (ocispec.Descriptor, error) {
		s := newStore(t)
		d, err := newClient(Options{}).Pull(t.Context(), s, mustRef(t, v.name), PullOptions{Platforms: platforms, Missing: missing})
		if err == nil {
			wants(t, s, d)
		}
		return d, err
	}
	pe := (*PlatformError)(nil)
	if _, err := pull("", "linux/amd64", "linux/s390x"); !errors.As(err, &pe) || pe.Want != "linux/s390x" || pe.Ref != v.name {
		t.Errorf("error %v", err)
	}
	if d, err := pull(MissingSkip, "linux/s390x", "linux/arm64"); err != nil || clusterimage.PlatformString(d.Platform) != "linux/arm64" {
		t.Errorf("skip: %+v, %v", d, err)
	}
	if _, err := pull(MissingSkip, "linux/s390x", "linux/mips"); !errors.As(err, &pe) || len(pe.Have) == 0 {
		t.Errorf("skip of all: %v", err)
	}
	if d, err := pull(MissingAny, "linux/s390x"); err != nil || clusterimage.PlatformString(d.Platform) != "linux/amd64" {
		t.Errorf("any: %+v, %v", d, err)
	}
}

func TestForeignLayers(t *testing.T) {
	const mediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	missing := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString("from elsewhere"), Size: 14, URLs: []string{"https://example.com/layer"}}
	build := func(t testing.TB, s *imagestore.Store, layer ocispec.Descriptor) ocispec.Descriptor {
		return putJSON(t, s, imagestore.MediaTypeDockerManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagestore.MediaTypeDockerManifest,
			Config: put(t, s, "application/vnd.docker.container.image.v1+json", []byte(`{"os":"windows","architecture":"amd64"}`)),
			Layers: []ocispec.Descriptor{layer},
		})
	}
	addr := registrytest.Start(t)
	c, s := newClient(Options{}), newStore(t)
	ref := mustRef(t, addr+"/win/core:1")
	if _, err := c.Push(t.Context(), s, build(t, s, missing), ref, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Pull(t.Context(), newStore(t), ref, PullOptions{})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), missing.Digest.String()) {
		t.Errorf("error %v", err)
	}
	there := put(t, s, mediaType, []byte("from elsewhere"))
	if _, err := c.Push(t.Context(), s, build(t, s, there), mustRef(t, addr+"/win/core:2"), PushOptions{}); err != nil {
		t.Fatal(err)
	}
	back := newStore(t)
	if _, err := c.Pull(t.Context(), back, mustRef(t, addr+"/win/core:2"), PullOptions{}); err != nil || !back.Has(there.Digest) {
		t.Errorf("pull of a foreign layer that the registry has: %v", err)
	}
}

func TestHostileDocuments(t *testing.T) {
	deep := func(t testing.TB, s *imagestore.Store) ocispec.Descriptor {
		d := image(t, s, "amd64", 1, 10)
		for range maxDepth + 2 {
			d = index(t, s, d)
		}
		return d
	}
	bad := func(layer ocispec.Descriptor) func(testing.TB, *imagestore.Store) ocispec.Descriptor {
		return func(t testing.TB, s *imagestore.Store) ocispec.Descriptor {
			return putJSON(t, s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
				Config: put(t, s, ocispec.MediaTypeImageConfig, []byte("{}")), Layers: []ocispec.Descriptor{layer},
			})
		}
	}
	for _, tt := range []struct {
		name  string
		build func(testing.TB, *imagestore.Store) ocispec.Descriptor
		is    error
	}{
		{"nested", deep, ErrUnsupported},
		{"digest is a path", bad(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: "sha256:../../../../etc/passwd", Size: 1}), ErrUnsupported},
		{"other algorithm", bad(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.SHA512.FromString("x"), Size: 1}), ErrUnsupported},
		{"negative size", bad(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("{}"), Size: -1}), ErrUnsupported},
		{"wrong size", bad(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("{}"), Size: 5}), imagestore.ErrDigest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			desc := tt.build(t, s)
			data, err := s.Read(desc.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := newClient(Options{}).Push(t.Context(), s, desc, mustRef(t, registrytest.Start(t)+"/a/b:c"), PushOptions{}); !errors.Is(err, tt.is) {
				t.Errorf("push: error %v", err)
			}
			p := newPuller(newClient(Options{Offline: true}), s, mustRef(t, "127.0.0.1:1/a/b:c"))
			if err := p.tree(t.Context(), desc, data, 0); !errors.Is(err, tt.is) {
				t.Errorf("pull: error %v", err)
			}
		})
	}
}

// TestRepeatedIndexes has an index name the same index again and again, on each level: one that is
// followed as often as it is named would not end.
func TestRepeatedIndexes(t *testing.T) {
	v := serveImage(t, func(t testing.TB, s *imagestore.Store) ocispec.Descriptor {
		d := image(t, s, "amd64", 1, 10)
		for range maxDepth {
			d = index(t, s, slices.Repeat([]ocispec.Descriptor{d}, 1000)...)
		}
		return d
	})
	s, err := v.pull(t, Options{})
	if err != nil {
		t.Fatal(err)
	}
	v.same(t, s)
	if _, err := newClient(Options{}).PullImage(t.Context(), newStore(t), mustRef(t, v.name), "linux/amd64"); err != nil {
		t.Error(err)
	}
}

func FuzzDocumentType(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`), ocispec.MediaTypeImageIndex)
	f.Add([]byte(`{"schemaVersion":1}`), "")
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[]}`), "text/plain; charset=utf-8")
	f.Add([]byte(`<html>`), "text/html")
	f.Fuzz(func(t *testing.T, data []byte, contentType string) {
		got, err := documentType(data, contentType)
		if err == nil && !imagestore.IsIndex(got) && !imagestore.IsManifest(got) {
			t.Errorf("document type %q", got)
		}
	})
}
