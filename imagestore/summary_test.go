package imagestore_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/storetest"
)

func inspect(t testing.TB, s *imagestore.Store, img imagestore.Tagged) imagestore.Summary {
	t.Helper()
	sum, err := s.Inspect(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestInspectCluster(t *testing.T) {
	s := storetest.New(t)
	c := storetest.ClusterImage(t, s)
	img := storetest.Tag(t, s, "shop:v1", c.Desc)
	got := inspect(t, s, img)
	var total int64
	sizes := map[string]int64{}
	err := s.Walk(t.Context(), c.Desc, func(d ocispec.Descriptor) error { total += d.Size; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []ocispec.Descriptor{c.Nginx, c.Quay, c.Pause, c.PauseArm} {
		var n int64
		if err := s.Walk(t.Context(), d, func(d ocispec.Descriptor) error { n += d.Size; return nil }); err != nil {
			t.Fatal(err)
		}
		sizes[d.Digest.String()] = n
	}
	if got.Size != total {
		t.Errorf("size %d, want %d", got.Size, total)
	}
	if len(got.Layers) != 2 || got.Layers[1].CreatedBy != "COPY file1 /" || got.Layers[1].Platform != "linux/amd64" || got.Layers[1].DiffID == "" {
		t.Errorf("layers: %+v", got.Layers)
	}
	want := imagestore.Summary{
		Name: "docker.io/library/shop:v1", Digest: c.Desc.Digest, Type: "cluster", Runtime: "kubernetes", KubeVersion: "v1.37.2",
		Platforms: []string{"linux/amd64"},
		Layers:    got.Layers,
		Images: []imagestore.EmbeddedSummary{
			{Name: "docker.io/library/nginx:1.27", Platform: "linux/amd64", Digest: c.Nginx.Digest, Size: sizes[c.Nginx.Digest.String()]},
			{Name: "quay.io/library/nginx:1.27", Platform: "linux/amd64", Digest: c.Quay.Digest, Size: sizes[c.Quay.Digest.String()]},
			{Name: "registry.k8s.io/pause:3.10", Platform: "linux/amd64", Digest: c.Pause.Digest, Size: sizes[c.Pause.Digest.String()]},
			{Name: "registry.k8s.io/pause:3.10", Platform: "linux/arm64", Digest: c.PauseArm.Digest, Size: sizes[c.PauseArm.Digest.String()]},
		},
		Apps:     []clusterimage.App{{Name: "shop", Type: "kube", Files: []string{"shop.yaml"}}},
		Launch:   []string{"shop"},
		Commands: []string{"echo done"},
		Env:      map[string]string{"TIER": "gold"},
		Labels:   got.Labels,
		Size:     total,
		Created:  got.Created,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Labels[clusterimage.LabelRuntime] != "kubernetes" || got.Created.Unix() != 0 {
		t.Errorf("labels %v, created %v", got.Labels, got.Created)
	}
}

// Every field is always there, and no list is null.
func TestInspectJSON(t *testing.T) {
	s := storetest.New(t)
	single := storetest.Tag(t, s, "single", storetest.Image(t, s, storetest.Spec{}))
	for _, img := range []imagestore.Tagged{storetest.Tag(t, s, "shop", storetest.ClusterImage(t, s).Desc), single} {
		data, err := json.Marshal(inspect(t, s, img))
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		want := []string{"apps", "commands", "created", "digest", "env", "images", "kubeVersion", "kubeVersionRange", "labels", "launch", "layers", "name", "platforms", "runtime", "size", "type"}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(fields))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", img.Name, diff)
		}
		for k, v := range fields {
			if string(v) == "null" {
				t.Errorf("%s: %s is null", img.Name, k)
			}
		}
	}
}

func TestInspectOrdinary(t *testing.T) {
	s := storetest.New(t)
	amd := storetest.Image(t, s, storetest.Spec{Docker: true, Env: []string{"A=b=c", "D="}, Labels: map[string]string{"l": "v"}})
	arm := storetest.Image(t, s, storetest.Spec{Platform: "linux/arm64"})
	attestation := storetest.Image(t, s, storetest.Spec{Files: []string{"provenance"}})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	single := inspect(t, s, storetest.Tag(t, s, "single", amd))
	if diff := cmp.Diff(map[string]string{"A": "b=c", "D": ""}, single.Env); diff != "" || single.Type != "image" || single.Labels["l"] != "v" || len(single.Layers) != 1 {
		t.Errorf("%+v", single)
	}
	multi := inspect(t, s, storetest.Tag(t, s, "multi", storetest.Index(t, s, amd, arm, attestation)))
	if !slices.Equal(multi.Platforms, []string{"linux/amd64", "linux/arm64"}) || len(multi.Layers) != 2 {
		t.Errorf("%+v", multi)
	}
	if multi.Size <= single.Size {
		t.Errorf("sizes %d, %d", multi.Size, single.Size)
	}
	// One platform is enough; none is not.
	elsewhere := storetest.Image(t, storetest.New(t), storetest.Spec{Platform: "linux/s390x"})
	sparse := inspect(t, s, storetest.Tag(t, s, "sparse", storetest.Index(t, s, elsewhere, arm)))
	if !slices.Equal(sparse.Platforms, []string{"linux/arm64"}) {
		t.Errorf("%+v", sparse)
	}
	_, err := s.Inspect(t.Context(), storetest.Tag(t, s, "none", storetest.Index(t, s, elsewhere)))
	var missing *imagestore.MissingError
	if !errors.As(err, &missing) || missing.Blobs[0].Digest != elsewhere.Digest {
		t.Errorf("got %v", err)
	}
	// An artifact that is no image at all.
	artifact := inspect(t, s, storetest.Tag(t, s, "artifact", storetest.Refs(t, s)))
	if artifact.Type != "image" || len(artifact.Platforms) != 0 || len(artifact.Layers) != 0 {
		t.Errorf("%+v", artifact)
	}
	for name, desc := range map[string]ocispec.Descriptor{
		"no JSON": storetest.Put(t, s, ocispec.MediaTypeImageManifest, []byte("{")),
		"empty":   storetest.Index(t, s),
		"text":    storetest.Put(t, s, "text/plain", []byte("x")),
	} {
		if _, err := s.Inspect(t.Context(), imagestore.Tagged{Target: desc}); !errors.Is(err, imagestore.ErrDocument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHistory(t *testing.T) {
	s := storetest.New(t)
	amd := storetest.Image(t, s, storetest.Spec{Files: []string{"a", "b"}})
	img := storetest.Tag(t, s, "x", storetest.Index(t, s, storetest.Image(t, s, storetest.Spec{Platform: "linux/arm64"}), amd))
	got, err := s.History(t.Context(), img, "linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := s.ReadJSON(amd.Digest, &m); err != nil {
		t.Fatal(err)
	}
	type step struct {
		by, digest string
		size       int64
	}
	var steps []step
	for _, e := range got {
		steps = append(steps, step{e.CreatedBy, e.Digest.String(), e.Size})
	}
	want := []step{
		{"ENV", "", 0}, {"COPY file1 /", m.Layers[1].Digest.String(), m.Layers[1].Size},
		{"ENV", "", 0}, {"COPY file0 /", m.Layers[0].Digest.String(), m.Layers[0].Size},
	}
	if diff := cmp.Diff(want, steps, cmp.AllowUnexported(step{})); diff != "" {
		t.Error(diff)
	}
	if got, err := s.History(t.Context(), img, ""); err != nil || len(got) != 2 {
		t.Errorf("first platform: %v, %v", got, err)
	}
	if _, err := s.History(t.Context(), img, "plan9/amd64"); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(s.BlobPath(m.Config.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.History(t.Context(), img, "linux/amd64"); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("without config: %v", err)
	}
}

func TestClusterImage(t *testing.T) {
	s := storetest.New(t)
	c := storetest.ClusterImage(t, s)
	img, err := s.ClusterImage(t.Context(), c.Desc)
	if err != nil || len(img.Rootfs) != 1 || len(img.Embedded) != 4 || len(img.Refs) != 1 {
		t.Errorf("%+v, %v", img, err)
	}
	for _, desc := range []ocispec.Descriptor{c.NginxIndex, c.Nginx} {
		if _, err := s.ClusterImage(t.Context(), desc); !errors.Is(err, clusterimage.ErrNotClusterImage) {
			t.Errorf("%s: %v", desc.MediaType, err)
		}
	}
}
