package clusterimage_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

func desc(content, os, arch string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content))}
	if os != "" {
		d.Platform = &ocispec.Platform{OS: os, Architecture: arch}
	}
	return d
}

func sample() clusterimage.Image {
	return clusterimage.Image{
		Rootfs: []ocispec.Descriptor{desc("rootfs arm", "linux", "arm64"), desc("rootfs amd", "linux", "amd64")},
		Embedded: []clusterimage.Embedded{
			{Name: "quay.io/b:1", Platform: "linux/amd64", Manifest: desc("b", "", "")},
			{Name: "docker.io/library/a:1", Platform: "linux/arm64", Index: digest.FromString("index"), Manifest: desc("a arm", "", "")},
			{Name: "docker.io/library/a:1", Platform: "linux/amd64", Index: digest.FromString("index"), Manifest: desc("a amd", "", "")},
		},
		Refs: []ocispec.Descriptor{desc("refs", "", "")},
	}
}

func TestIndex(t *testing.T) {
	idx := sample().Index()
	var order []string
	for _, d := range idx.Manifests {
		order = append(order, clusterimage.PlatformString(d.Platform)+" "+d.Annotations[clusterimage.AnnotationRole]+" "+d.Annotations[clusterimage.AnnotationName]+" "+d.Annotations[clusterimage.AnnotationPlatform])
	}
	want := []string{
		"linux/amd64   ",
		"linux/arm64   ",
		"unknown/unknown image docker.io/library/a:1 linux/amd64",
		"unknown/unknown image docker.io/library/a:1 linux/arm64",
		"unknown/unknown image quay.io/b:1 linux/amd64",
		"unknown/unknown refs  ",
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Error(diff)
	}
	img, err := clusterimage.Parse(idx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(idx, img.Index()); diff != "" {
		t.Errorf("parsed and written (-want +got):\n%s", diff)
	}
	shuffled := sample()
	shuffled.Rootfs[0], shuffled.Rootfs[1] = shuffled.Rootfs[1], shuffled.Rootfs[0]
	shuffled.Embedded[0], shuffled.Embedded[2] = shuffled.Embedded[2], shuffled.Embedded[0]
	if diff := cmp.Diff(idx, shuffled.Index()); diff != "" {
		t.Errorf("the order matters (-want +got):\n%s", diff)
	}
	if d, ok := img.RootfsFor("linux/arm64"); !ok || d.Digest != digest.FromString("rootfs arm") {
		t.Errorf("%v, %v", d, ok)
	}
	if _, ok := img.RootfsFor("linux/s390x"); ok {
		t.Error("a rootfs for a platform that is not there")
	}
}

func TestParse(t *testing.T) {
	change := func(fn func(*ocispec.Index)) ocispec.Index {
		idx := sample().Index()
		fn(&idx)
		return idx
	}
	for _, tt := range []struct {
		name string
		idx  ocispec.Index
		want string // in the error; "" is none
	}{
		{"as it is", change(func(*ocispec.Index) {}), ""},
		{"artifact type lost", change(func(i *ocispec.Index) { i.ArtifactType = "" }), ""},
		{"only the mark is left", change(func(i *ocispec.Index) { i.ArtifactType, i.Manifests = "", i.Manifests[:1] }), ""},
		{"only roles are left", change(func(i *ocispec.Index) { i.ArtifactType, i.Annotations = "", nil }), ""},
		{"nothing is left", change(func(i *ocispec.Index) { i.ArtifactType, i.Annotations, i.Manifests = "", nil, i.Manifests[:1] }), "not a cluster image"},
		{"other artifact", change(func(i *ocispec.Index) { i.ArtifactType = "application/x" }), "not a cluster image"},
		{"no rootfs", change(func(i *ocispec.Index) { i.Manifests = i.Manifests[2:] }), "no rootfs"},
		{"no platform", change(func(i *ocispec.Index) { i.Manifests[0].Platform = nil }), "no platform"},
		{"unknown role", change(func(i *ocispec.Index) { i.Manifests[2].Annotations[clusterimage.AnnotationRole] = "x" }), "newer keg"},
		{"no name", change(func(i *ocispec.Index) { delete(i.Manifests[2].Annotations, clusterimage.AnnotationName) }), "no annotation"},
	} {
		_, err := clusterimage.Parse(tt.idx)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if (tt.want == "not a cluster image") != errors.Is(err, clusterimage.ErrNotClusterImage) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestParseSpec(t *testing.T) {
	if spec, err := clusterimage.ParseSpec(nil); err != nil || len(spec.Apps) != 0 {
		t.Errorf("no label: %+v, %v", spec, err)
	}
	spec, err := clusterimage.ParseSpec(map[string]string{clusterimage.LabelSpec: `{"apps":[{"name":"a","role":"cni"}],"launch":["a"]}`})
	if a, ok := spec.App("a"); err != nil || !ok || a.Role != "cni" {
		t.Errorf("%+v, %v", spec, err)
	}
	if _, ok := spec.App("b"); ok {
		t.Error("an app that is not there")
	}
	for _, text := range []string{"{", "[]", `{"unknown":1}`} {
		if _, err := clusterimage.ParseSpec(map[string]string{clusterimage.LabelSpec: text}); err == nil {
			t.Errorf("read %s", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	data, err := json.Marshal(sample().Index())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"annotations":{"io.clusterimage.format":"1"},"manifests":[{"platform":{}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var idx ocispec.Index
		if json.Unmarshal(data, &idx) != nil {
			return
		}
		img, err := clusterimage.Parse(idx)
		if err != nil {
			return
		}
		once := img.Index()
		again, err := clusterimage.Parse(once)
		if err != nil {
			t.Fatalf("written, but not to be read: %v", err)
		}
		if diff := cmp.Diff(once, again.Index()); diff != "" {
			t.Errorf("written twice:\n%s", diff)
		}
	})
}

func TestParsePlatform(t *testing.T) {
	for text, want := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/arm/v7": "linux/arm/v7", "linux/arm64/v8": "linux/arm64", "windows/amd64": "windows/amd64",
		"": "", "linux": "", "linux/": "", "/amd64": "", "linux/arm/": "", "linux/arm/v7/x": "",
	} {
		p, err := clusterimage.ParsePlatform(text)
		if (err != nil) != (want == "") || err == nil && clusterimage.PlatformString(&p) != want {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
}
