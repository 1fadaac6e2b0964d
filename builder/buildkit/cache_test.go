package buildkit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/buildkit"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/registrytest"
)

// never is a solver that fails if it has to execute something.
type never struct{ builder.Solver }

var errExecuted = errors.New("it was executed")

func (never) Available(context.Context) error { return nil }

func (never) Execute(context.Context, builder.Execution) ([]builder.Change, error) {
	return nil, errExecuted
}

// elsewhere is another machine with the same base image, on which nothing may be executed.
func (r *rig) elsewhere() *rig {
	r.t.Helper()
	s, err := imagestore.Open(filepath.Join(r.t.TempDir(), "store"))
	if err != nil {
		r.t.Fatal(err)
	}
	other := &rig{t: r.t, store: s}
	other.build("FROM scratch\nCOPY . /\n", busybox(r.t), "base:v1")
	return other
}

const cachedKubefile = "FROM base:v1 AS side\nRUN mkdir /s && echo side >/s/f\nFROM base:v1\nCOPY data /data\nRUN cp /data/a /one\nCOPY data/b /two\n" +
	"RUN --mount=target=/ctx,source=data cat /ctx/b >/three\nCOPY --from=side /s /s\n"

func TestCacheElsewhere(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	ctx := write(t, t.TempDir(), map[string]string{"data/a": "a", "data/b": "b", "other": "o"})
	registry, err := imagestore.ParseName(registrytest.Start(t) + "/caches/keg:main")
	if err != nil {
		t.Fatal(err)
	}
	client := transfer.New(transfer.Options{})
	dir := filepath.Join(t.TempDir(), "cache")
	places := map[string]builder.CachePlace{"registry": {Ref: registry}, "local": {Dir: dir}, "local with a tag": {Dir: dir, Tag: "other"}}
	var exports []builder.CacheExport
	for _, p := range places {
		exports = append(exports, builder.CacheExport{CachePlace: p, All: true})
	}
	res := r.build(cachedKubefile, ctx, "x:v1", func(b *builder.Builder, req *builder.Request) { b.Caches, req.CacheTo = client, exports })
	from := func(list ...builder.CachePlace) change {
		return func(b *builder.Builder, req *builder.Request) {
			b.Caches, b.Solver, req.CacheFrom = client, never{}, list
		}
	}
	for what, p := range places {
		t.Run(what, func(t *testing.T) {
			sub := *r
			sub.t = t
			other := sub.elsewhere()
			same := write(t, t.TempDir(), map[string]string{"data/a": "a", "data/b": "b", "other": "changed"})
			got := other.build(cachedKubefile, same, "x:v1", from(builder.CachePlace{Dir: filepath.Join(t.TempDir(), "none")}, p))
			if got.Target.Digest != res.Target.Digest {
				t.Errorf("it is %s, was %s", got.Target.Digest, res.Target.Digest)
			}
			if len(got.Warnings) != 1 {
				t.Errorf("warnings: %q", got.Warnings)
			}
			// Another build has it in its own cache now, also where it has to name a cache for that.
			if again := other.build(cachedKubefile, same, "x:v1", from(p)); again.Target.Digest != res.Target.Digest {
				t.Errorf("again it is %s", again.Target.Digest)
			}
		})
	}
	t.Run("what changed is executed", func(t *testing.T) {
		other := r.elsewhere()
		changed := write(t, t.TempDir(), map[string]string{"data/a": "a", "data/b": "c"})
		if _, err := other.try(cachedKubefile, changed, "x:v1", from(places["local"])); !reached(err) {
			t.Errorf("a file that a RUN mounts: %v", err)
		}
		if _, err := other.try(cachedKubefile, ctx, "x:v1", from(places["local"]), noCache); !reached(err) {
			t.Errorf("without the cache: %v", err)
		}
	})
	t.Run("min", func(t *testing.T) {
		small := builder.CachePlace{Dir: filepath.Join(t.TempDir(), "min")}
		r.build(cachedKubefile, ctx, "x:v1", func(_ *builder.Builder, req *builder.Request) {
			req.CacheTo = []builder.CacheExport{{CachePlace: small}}
		})
		if _, err := r.elsewhere().try(cachedKubefile, ctx, "x:v1", from(small)); !reached(err) || !strings.Contains(err.Error(), "Kubefile:2:1") {
			t.Errorf("the stage beside is in it: %v", err)
		}
		part := strings.Replace(cachedKubefile, "COPY --from=side /s /s\n", "", 1)
		r.elsewhere().build(part, ctx, "x:v1", from(small))
	})
}

// noCache executes everything.
func noCache(_ *builder.Builder, req *builder.Request) { req.NoCache = true }

// reached says whether an error is that of never.
func reached(err error) bool { return errors.Is(err, errExecuted) }

// TestCacheShrinks holds that a cache in a directory does not keep what only the one before had.
func TestCacheShrinks(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	dir := filepath.Join(t.TempDir(), "cache")
	count := func(text string) int {
		r.build("FROM base:v1\nRUN echo "+text+" >/f\n", "", "x:v1", func(_ *builder.Builder, req *builder.Request) {
			req.CacheTo = []builder.CacheExport{{CachePlace: builder.CachePlace{Dir: dir}}}
		})
		list, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if a, b := count("one"), count("two"); a != 3 || b != 3 {
		t.Errorf("%d blobs, then %d", a, b)
	}
	taken := write(t, t.TempDir(), map[string]string{"mine": "x"})
	_, err := r.try("FROM base:v1\nRUN true\n", "", "x:v1", func(_ *builder.Builder, req *builder.Request) {
		req.CacheTo = []builder.CacheExport{{CachePlace: builder.CachePlace{Dir: taken}}}
	})
	if err == nil || !strings.Contains(err.Error(), "holds something else") {
		t.Errorf("a directory with other files: %v", err)
	}
	res := r.build("FROM base:v1\nRUN true\n", "", "x:v1", func(_ *builder.Builder, req *builder.Request) {
		req.CacheTo = []builder.CacheExport{{CachePlace: builder.CachePlace{Dir: taken}, IgnoreError: true}}
	})
	if len(res.Warnings) != 1 {
		t.Errorf("warnings: %q", res.Warnings)
	}
}

// TestCacheDamaged holds that a build does without what is wrong in a cache.
func TestCacheDamaged(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	text := "FROM base:v1\nRUN echo x >/x\n"
	for _, what := range []string{"layer", "config", "manifest", "diff ID", "another image"} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			want := r.build(text, "", "x:v1", func(_ *builder.Builder, req *builder.Request) {
				req.CacheTo = []builder.CacheExport{{CachePlace: builder.CachePlace{Dir: dir}}}
			})
			damageCache(t, dir, what)
			other := r.elsewhere()
			other.solver = r.solver
			got := other.build(text, "", "x:v1", func(_ *builder.Builder, req *builder.Request) { req.CacheFrom = []builder.CachePlace{{Dir: dir}} })
			if got.Target.Digest != want.Target.Digest || len(got.Warnings) != 1 {
				t.Errorf("it is %s, was %s; warnings %q", got.Target.Digest, want.Target.Digest, got.Warnings)
			}
		})
	}
}

func damageCache(t *testing.T, dir, what string) {
	t.Helper()
	s, err := imagestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	images, err := s.Images()
	if err != nil || len(images) != 1 {
		t.Fatal(images, err)
	}
	target := images[0].Target
	var m ocispec.Manifest
	if err := s.ReadJSON(target.Digest, &m); err != nil {
		t.Fatal(err)
	}
	spoil := func(d ocispec.Descriptor) {
		if err := os.WriteFile(s.BlobPath(d.Digest), []byte("spoilt"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	switch what {
	case "layer":
		spoil(m.Layers[0])
		return
	case "config":
		spoil(m.Config)
		return
	case "manifest":
		spoil(target)
		return
	case "another image":
		m.ArtifactType = ""
	case "diff ID":
		data, err := s.Read(m.Config.Digest)
		if err != nil {
			t.Fatal(err)
		}
		at := slices.Index(strings.Split(string(data), `"`), "DiffID")
		parts := strings.Split(string(data), `"`)
		parts[at+2] = "sha256:" + strings.Repeat("0", 64)
		if m.Config, err = s.Put(t.Context(), m.Config.MediaType, []byte(strings.Join(parts, `"`))); err != nil {
			t.Fatal(err)
		}
	}
	desc, err := s.PutJSON(t.Context(), ocispec.MediaTypeImageManifest, m)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(images[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), ref, desc); err != nil {
		t.Fatal(err)
	}
}

// TestNetworkChanges holds that a RUN with another network is another RUN.
func TestNetworkChanges(t *testing.T) {
	r := newRig(t, buildkit.Options{Allow: []string{"network.host"}})
	text := "FROM base:v1\nRUN ls /sys/class/net >/net\n"
	net := func(mode string) string {
		res := r.build(text, "", "x:v1", func(_ *builder.Builder, req *builder.Request) { req.Network = mode })
		return r.tree(res.Platforms[0].Rootfs)["net"]
	}
	here, none := net("host"), net("none")
	if here == none || !strings.Contains(none, `"lo\n"`) {
		t.Errorf("with the host's network %s, without one %s", here, none)
	}
	if again := net("host"); again != here {
		t.Errorf("with the host's again %s, was %s", again, here)
	}
}
