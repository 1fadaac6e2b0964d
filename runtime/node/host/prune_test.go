package host

import (
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/runtime/node"
)

// TestPrune: what the roots need stays, though their sizes are not known and one is not here; the rest goes.
func TestPrune(t *testing.T) {
	h, _ := newHost(t, nil)
	store, err := imagestore.Open(h.path(node.StoreDir))
	if err != nil {
		t.Fatal(err)
	}
	image := func(text string) (manifest, layer ocispec.Descriptor) {
		t.Helper()
		layer, err := store.Put(t.Context(), ocispec.MediaTypeImageLayer, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		config, err := store.PutJSON(t.Context(), ocispec.MediaTypeImageConfig, ocispec.Image{Author: text})
		if err != nil {
			t.Fatal(err)
		}
		manifest, err = store.PutJSON(t.Context(), ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
		})
		if err != nil {
			t.Fatal(err)
		}
		return manifest, layer
	}
	rootfs, rootfsLayer := image("rootfs")
	app, appLayer := image("app")
	old, oldLayer := image("old")
	index, err := store.PutJSON(t.Context(), ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{app},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.Prune(t.Context(), node.PruneRequest{Roots: []ocispec.Descriptor{
		rootfs,
		{MediaType: ocispec.MediaTypeImageIndex, Digest: index.Digest},
		{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("not here")},
	}})
	if err != nil || got.Blobs != 3 {
		t.Errorf("removed %+v, %v; want 3 blobs", got, err)
	}
	for name, d := range map[string]ocispec.Descriptor{"rootfs": rootfsLayer, "app": appLayer, "index": index} {
		if !store.Has(d.Digest) {
			t.Errorf("%s is gone", name)
		}
	}
	if store.Has(old.Digest) || store.Has(oldLayer.Digest) {
		t.Error("what nothing needs is still there")
	}
	for _, bad := range [][]ocispec.Descriptor{nil, {{Digest: "sha256:zz"}}} {
		if _, err := h.Prune(t.Context(), node.PruneRequest{Roots: bad}); kind(err) != node.KindRequest {
			t.Errorf("prune %v: %v", bad, err)
		}
	}
}
