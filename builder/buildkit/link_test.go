package buildkit_test

import (
	"os"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder/buildkit"
)

// TestLinked holds that BuildKit in this process has no copy of the layers that the store has.
func TestLinked(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	res := r.build("FROM base:v1\nRUN echo x >/x\n", "", "x:v1")
	var m ocispec.Manifest
	if err := r.store.ReadJSON(res.Platforms[0].Rootfs.Digest, &m); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(r.store.BlobPath(m.Layers[0].Digest))
	if err != nil {
		t.Fatal(err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink != 2 {
		t.Errorf("the layer of the base has %d names", st.Nlink)
	}
}
