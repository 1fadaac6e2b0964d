package relocate_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/relocate"
	"github.com/clusterimage/keg/imagestore/storetest"
)

func TestList(t *testing.T) {
	s := storetest.New(t)
	c := storetest.ClusterImage(t, s)
	list, err := relocate.List(t.Context(), s, c.Desc)
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Name      string
		Manifests int
		Whole     bool
	}
	var got []line
	for _, img := range list {
		got = append(got, line{img.Name, len(img.Manifests), img.Whole})
	}
	want := []line{{"docker.io/library/nginx:1.27", 1, false}, {"quay.io/library/nginx:1.27", 1, true}, {"registry.k8s.io/pause:3.10", 2, true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if list[0].Target.Digest != c.NginxIndex.Digest || list[1].Target.Digest != c.Quay.Digest || !imagestore.IsIndex(list[2].Target.MediaType) {
		t.Errorf("targets: %v, %v, %v", list[0].Target, list[1].Target, list[2].Target)
	}
	if d, err := list[0].Present(t.Context(), s); err != nil || d.Digest != c.Nginx.Digest {
		t.Errorf("what is there of nginx is %v, %v", d, err)
	}
	if d, err := list[2].Present(t.Context(), s); err != nil || d.Digest != list[2].Target.Digest {
		t.Errorf("what is there of pause is %v, %v", d, err)
	}
	if _, err := relocate.List(t.Context(), s, c.Quay); !errors.Is(err, clusterimage.ErrNotClusterImage) {
		t.Errorf("an ordinary image: %v", err)
	}
}

func TestPlace(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, tt := range []struct{ name, scoped, path, flat string }{
		{"docker.io/library/nginx:1.27", "m/docker.io/library/nginx:1.27", "m/library/nginx:1.27", "m/nginx:1.27"},
		{"quay.io/cilium/cilium@" + digest, "m/quay.io/cilium/cilium@" + digest, "m/cilium/cilium@" + digest, "m/cilium@" + digest},
		{"localhost:5000/a/b:v1", "m/localhost-5000/a/b:v1", "m/a/b:v1", "m/b:v1"},
		{"[fd00::1]:5000/a:v1", "m/fd00-1-5000/a:v1", "m/a:v1", "m/a:v1"},
		{"Reg.Example.COM/a:v1", "m/reg.example.com/a:v1", "m/a:v1", "m/a:v1"},
	} {
		for rule, want := range map[relocate.Rule]string{relocate.Scoped: tt.scoped, relocate.Path: tt.path, relocate.Flat: tt.flat} {
			got, err := relocate.Place([]relocate.Image{{Name: tt.name}}, rule, "m")
			if err != nil || got[0].String() != want {
				t.Errorf("%s, %s: %v, %v, want %s", tt.name, rule, got, err, want)
			}
			// What comes out is a name that every registry takes.
			if _, err := imagestore.ParseName("reg.example.com/" + want); err != nil {
				t.Errorf("%s, %s: %v", tt.name, rule, err)
			}
		}
	}
	if _, err := relocate.Place([]relocate.Image{{Name: "a:1"}}, "other", ""); err == nil {
		t.Error("a rule that there is not was taken")
	}
	if _, err := relocate.Place([]relocate.Image{{Name: "a:1"}}, relocate.Scoped, strings.Repeat("p/", 130)); err == nil || !strings.Contains(err.Error(), "characters") {
		t.Errorf("a long path: %v", err)
	}
}

// Two registries with the same path are never mixed up in silence.
func TestCollision(t *testing.T) {
	image := func(name, content string) relocate.Image {
		s := storetest.New(t)
		return relocate.Image{Name: name, Target: storetest.Put(t, s, ocispec.MediaTypeImageManifest, []byte(content))}
	}
	a, b := image("docker.io/team/web:v1", "a"), image("quay.io/team/web:v1", "b")
	same, other := image("ghcr.io/team/web:v1", "a"), image("quay.io/team/web:v2", "b")
	flat := image("quay.io/other/web:v1", "c")
	for _, tt := range []struct {
		name  string
		list  []relocate.Image
		rule  relocate.Rule
		names [2]string // of the collision
	}{
		{"different", []relocate.Image{a, b}, relocate.Path, [2]string{a.Name, b.Name}},
		{"different, apart", []relocate.Image{a, b}, relocate.Scoped, [2]string{}},
		{"the same content", []relocate.Image{a, same}, relocate.Path, [2]string{}},
		{"other tags", []relocate.Image{a, other}, relocate.Path, [2]string{}},
		{"other paths", []relocate.Image{a, flat}, relocate.Path, [2]string{}},
		{"other paths, flat", []relocate.Image{a, flat}, relocate.Flat, [2]string{a.Name, flat.Name}},
	} {
		_, err := relocate.Place(tt.list, tt.rule, "m")
		var ce *relocate.CollisionError
		if errors.As(err, &ce) != (tt.names[0] != "") || ce != nil && ce.Names != tt.names || ce == nil && err != nil {
			t.Errorf("%s: %v, want a collision of %q", tt.name, err, tt.names)
		}
	}
	// A port is no way around it: a-5000 and a:5000 come to the same path.
	if _, err := relocate.Place([]relocate.Image{image("a.io:5000/x:1", "a"), image("a.io-5000/x:1", "b")}, relocate.Scoped, ""); err == nil {
		t.Error("a host and another with a port have one path")
	}
}
