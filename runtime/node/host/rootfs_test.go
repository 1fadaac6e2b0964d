package host

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/runtime/node"
)

// image puts an image of one layer into the host's store.
func image(t *testing.T, h *Host, layer []byte) ocispec.Descriptor {
	t.Helper()
	s, err := h.store()
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Put(t.Context(), ocispec.MediaTypeImageLayer, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := s.PutJSON(t.Context(), ocispec.MediaTypeImageConfig, ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.Digest}}})
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{l}}
	m.SchemaVersion = 2
	d, err := s.PutJSON(t.Context(), ocispec.MediaTypeImageManifest, m)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestUnpackReplacesAsAWhole(t *testing.T) {
	h, _ := newHost(t, nil)
	one := image(t, h, stream(t, tarFile("only-in-one", "1", 0o644), tarFile("etc/x.tmpl", "{{ .A }}", 0o600)))
	two := image(t, h, stream(t, tarFile("only-in-two", "2", 0o644)))
	unpackIt := func(d ocispec.Descriptor, changed bool) {
		t.Helper()
		r, err := h.Unpack(t.Context(), node.UnpackRequest{Manifest: d})
		if err != nil || r.Changed != changed {
			t.Fatalf("unpacking: %+v, %v", r, err)
		}
	}
	unpackIt(one, true)
	for _, value := range []string{"first", "second", "second"} {
		if err := h.Render(t.Context(), node.RenderRequest{Env: map[string]string{"A": value}}); err != nil {
			t.Fatal(err)
		}
		if got := h.text(node.Rootfs + "/etc/x"); got != value {
			t.Errorf("rendered: %q", got)
		}
	}
	if err := h.Render(t.Context(), node.RenderRequest{}); err == nil || !strings.Contains(err.Error(), "etc/x.tmpl") {
		t.Errorf("rendering without a value: %v", err)
	}
	unpackIt(one, false)
	if h.text(node.Rootfs+"/etc/x") != "second" {
		t.Error("what was rendered is gone")
	}
	// Killed in the middle of the exchange: the next time makes it whole.
	func() {
		defer func() { _ = recover() }()
		h.at = func(step string) {
			if step == "exchange" {
				panic("killed")
			}
		}
		_, _ = h.Unpack(t.Context(), node.UnpackRequest{Manifest: two})
	}()
	h.at = nil
	unpackIt(two, true)
	if h.text(node.Rootfs+"/only-in-two") != "2" {
		t.Error("the second rootfs is not there")
	}
	if _, err := os.Lstat(h.path(node.Rootfs + "/only-in-one")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something of the first rootfs is left")
	}
	names, err := os.ReadDir(h.path(node.Dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name(), "rootfs.") && n.Name() != "rootfs.digest" {
			t.Errorf("left behind: %s", n.Name())
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	h, _ := newHost(t, nil)
	kept := image(t, h, stream(t, tarFile("kept", "1", 0o644)))
	if _, err := h.Unpack(t.Context(), node.UnpackRequest{Manifest: kept}); err != nil {
		t.Fatal(err)
	}
	absent := ocispec.Descriptor{Digest: digest.FromString("absent")}
	if _, err := h.Unpack(t.Context(), node.UnpackRequest{Manifest: absent}); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("a manifest that is not there: %v", err)
	}
	bad := image(t, h, stream(t, tarFile("../../../etc/owned", "x", 0o644)))
	if _, err := h.Unpack(t.Context(), node.UnpackRequest{Manifest: bad}); kind(err) != node.KindArchive {
		t.Errorf("a layer that leads out: %v", err)
	}
	truncated := image(t, h, stream(t, tarFile("x", strings.Repeat("x", 5000), 0o644))[:2000])
	if _, err := h.Unpack(t.Context(), node.UnpackRequest{Manifest: truncated}); err == nil {
		t.Error("a truncated layer was taken")
	}
	if h.text(node.Rootfs+"/kept") != "1" {
		t.Error("the rootfs from before is gone")
	}
}
