package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/registrytest"
)

// published are images in a registry.
type published struct {
	addr              string
	multi, amd, arm   ocispec.Descriptor
	single, armSingle ocispec.Descriptor
}

// publish fills a registry: multi/app:1 for two platforms, single/app:1 for amd64 alone and arm/app:1 for arm64.
func publish(t *testing.T, addr string) published {
	t.Helper()
	s := storetest.New(t)
	p := published{addr: addr}
	p.amd = storetest.Image(t, s, storetest.Spec{Files: []string{"shared", "app amd64"}})
	p.arm = storetest.Image(t, s, storetest.Spec{Platform: "linux/arm64", Files: []string{"shared", "app arm64"}})
	p.multi = storetest.Index(t, s, p.amd, p.arm)
	p.single = storetest.Image(t, s, storetest.Spec{Files: []string{"single"}, Docker: true})
	p.armSingle = storetest.Image(t, s, storetest.Spec{Platform: "linux/arm64", Files: []string{"arm single"}})
	for repo, desc := range map[string]ocispec.Descriptor{"multi/app:1": p.multi, "single/app:1": p.single, "arm/app:1": p.armSingle} {
		push(t, s, desc, addr+"/"+repo)
	}
	return p
}

func push(t *testing.T, s *imagestore.Store, desc ocispec.Descriptor, to string) {
	t.Helper()
	ref, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.New(transfer.Options{}).Push(t.Context(), s, desc, ref, transfer.PushOptions{}); err != nil {
		t.Fatal(err)
	}
}

// embedded lists the embedded images: "NAME PLATFORM DIGEST [INDEX]".
func embedded(res Result) []string {
	var out []string
	for _, e := range res.Image.Embedded {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", e.Name, e.Platform, e.Manifest.Digest, e.Index)))
	}
	return out
}

func TestImages(t *testing.T) {
	p := publish(t, registrytest.Start(t))
	tb := &testBuild{
		files: files{
			"list.txt":       "# ours\n" + p.addr + "/single/app:1 # with a comment\r\n\n",
			"tree/imageList": "\uFEFF" + p.addr + "/multi/app@" + p.multi.Digest.String() + "\n", "tree/manifests/imageList": p.addr + "/arm/app:1\n",
		},
		kubefile: strings.ReplaceAll(`FROM scratch
ARG TAG=1
IMAGES REG/multi/app:${TAG} REG/multi/app:other@DIGEST
IMAGES REG/multi/app:1
IMAGES --list=list.txt
COPY tree /
IMAGES --ignore REG/arm/app:1
`, "REG", p.addr),
		request: func(r *Request) { r.Platforms = []string{"linux/amd64", "linux/arm64"} },
	}
	tb.kubefile = strings.ReplaceAll(tb.kubefile, "DIGEST", p.multi.Digest.String())
	_, err := tb.run(t)
	var pe *transfer.PlatformError
	if !errors.As(err, &pe) || pe.Want != "linux/arm64" || !strings.Contains(err.Error(), "list.txt:2") || !strings.Contains(err.Error(), "Kubefile:5:1") {
		t.Fatalf("single/app has no image for arm64, and the error is %v", err)
	}
	tb.kubefile += "IMAGES --ignore " + p.addr + "/single/app:1\n"
	res := tb.must(t)
	var want []string
	for _, n := range []string{"/multi/app:1", "/multi/app:other", "/multi/app@" + p.multi.Digest.String()} {
		want = append(want, fmt.Sprintf("%s%s linux/amd64 %s %s", p.addr, n, p.amd.Digest, p.multi.Digest),
			fmt.Sprintf("%s%s linux/arm64 %s %s", p.addr, n, p.arm.Digest, p.multi.Digest))
	}
	if diff := cmp.Diff(want, embedded(res)); diff != "" {
		t.Error(diff)
	}
	if len(res.Image.Rootfs) != 2 || res.Image.Rootfs[1].Platform.Architecture != "arm64" || len(res.Image.Refs) != 1 {
		t.Errorf("image %+v", res.Image)
	}
	var refs ocispec.Manifest
	if err := tb.store.ReadJSON(res.Image.Refs[0].Digest, &refs); err != nil {
		t.Fatal(err)
	}
	if len(refs.Layers) != 1 || refs.Layers[0].Digest != p.multi.Digest || refs.ArtifactType != clusterimage.RefsArtifactType {
		t.Errorf("refs %+v", refs)
	}

	// A child inherits, by platform, adds and leaves out.
	child := &testBuild{store: tb.store, tag: "example.com/child:1", kubefile: strings.ReplaceAll(`FROM example.com/built:v1
IMAGES REG/single/app:1
IMAGES --ignore REG/multi/app:other
`, "REG", p.addr)}
	res = child.must(t)
	want = []string{want[0], want[4], fmt.Sprintf("%s/single/app:1 linux/amd64 %s", p.addr, p.single.Digest)}
	if diff := cmp.Diff(want, embedded(res)); diff != "" {
		t.Error(diff)
	}
	if len(res.Image.Refs) != 1 {
		t.Errorf("refs %v", res.Image.Refs)
	}
	// No image, no layer: still an image.
	if res := (&testBuild{kubefile: "FROM scratch\nIMAGES " + p.addr + "/single/app:1\n"}).must(t); len(res.Image.Embedded) != 1 {
		t.Errorf("image %+v", res.Image)
	}
}

func TestMissingPlatform(t *testing.T) {
	p := publish(t, registrytest.Start(t))
	tb := &testBuild{kubefile: "FROM scratch\nIMAGES " + p.addr + "/multi/app:1 " + p.addr + "/arm/app:1\n"}
	tb.request = func(r *Request) { r.Platforms, r.MissingPlatform = []string{"linux/amd64"}, transfer.MissingSkip }
	multi := fmt.Sprintf("%s/multi/app:1 linux/amd64 %s %s", p.addr, p.amd.Digest, p.multi.Digest)
	res := tb.must(t)
	if diff := cmp.Diff([]string{multi}, embedded(res)); diff != "" {
		t.Error(diff)
	}
	lacks := MissingImage{Name: p.addr + "/arm/app:1", Have: []string{"linux/arm64"}}
	if diff := cmp.Diff([]MissingImage{lacks}, res.Platforms[0].Missing); diff != "" {
		t.Error(diff)
	}
	tb.request = func(r *Request) { r.Platforms, r.MissingPlatform = []string{"linux/amd64"}, transfer.MissingAny }
	res = tb.must(t)
	if diff := cmp.Diff([]string{fmt.Sprintf("%s/arm/app:1 linux/amd64 %s", p.addr, p.armSingle.Digest), multi}, embedded(res)); diff != "" {
		t.Error(diff)
	}
	lacks.Taken = "linux/arm64"
	if diff := cmp.Diff([]MissingImage{lacks}, res.Platforms[0].Missing); diff != "" {
		t.Error(diff)
	}
	tb.request = func(r *Request) { r.MissingPlatform = "perhaps" }
	if _, err := tb.run(t); err == nil || !strings.Contains(err.Error(), "perhaps") {
		t.Errorf("error %v", err)
	}
}

func TestRegistryTakesImage(t *testing.T) {
	p := publish(t, registrytest.StartReal(t))
	tb := &testBuild{kubefile: "FROM scratch\nCOPY a /\nIMAGES " + p.addr + "/multi/app:1\n", files: files{"a": "a"}}
	res := tb.must(t)
	push(t, tb.store, res.Target, p.addr+"/cluster:1")
	ref, err := name.ParseReference(p.addr + "/cluster:1")
	if err != nil {
		t.Fatal(err)
	}
	other := storetest.New(t)
	desc, err := transfer.New(transfer.Options{}).Pull(t.Context(), other, ref, transfer.PullOptions{})
	if err != nil || desc.Digest != res.Target.Digest {
		t.Fatalf("pulled %v, %v", desc, err)
	}

	// And it is a base: first from the registry, then from here.
	child := &testBuild{store: other, kubefile: "FROM " + p.addr + "/cluster:1\nCOPY b /\n", files: files{"b": "b"}}
	if diff := cmp.Diff(embedded(res), embedded(child.must(t))); diff != "" {
		t.Error(diff)
	}
	child.builder = func(b *Builder) { b.Images = nil }
	child.must(t)
	child.request = func(r *Request) { r.Pull = true }
	if _, err := child.run(t); !errors.Is(err, ErrNoPuller) {
		t.Errorf("got %v", err)
	}
	// So is an ordinary image.
	ordinary := &testBuild{kubefile: "FROM " + p.addr + "/multi/app:1\nCOPY b /\n", files: files{"b": "b"}, request: func(r *Request) {
		r.Platforms = []string{"linux/arm64", "linux/amd64"}
	}}
	res = ordinary.must(t)
	want := [][]string{{"0644 0:0 file0 shared"}, {"0644 0:0 file1 app arm64"}, {"0644 0:0 b b"}}
	if diff := cmp.Diff(want, ordinary.layers(t, res)); diff != "" {
		t.Error(diff)
	}
	_, config := ordinary.config(t, res)
	if config["architecture"] != "arm64" || len(res.Image.Embedded) != 0 {
		t.Errorf("config %v", config)
	}
	docker := &testBuild{kubefile: "FROM " + p.addr + "/single/app:1\nCOPY b /\n", files: files{"b": "b"}}
	m, _ := docker.config(t, docker.must(t))
	if m.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip || m.Config.MediaType != ocispec.MediaTypeImageConfig {
		t.Errorf("manifest %+v", m)
	}
	docker.request = func(r *Request) { r.Platforms = []string{"linux/arm64"} }
	var pe *transfer.PlatformError
	if _, err := docker.run(t); !errors.As(err, &pe) || !slices.Equal(pe.Have, []string{"linux/amd64"}) || !strings.Contains(err.Error(), "Kubefile:1:1") {
		t.Errorf("got %v", err)
	}
}

// savedArchive is an OCI archive with images of these names.
func savedArchive(t *testing.T, images map[string]ocispec.Descriptor, s *imagestore.Store) string {
	t.Helper()
	var list []imagestore.Tagged
	for n, d := range images {
		list = append(list, storetest.Tag(t, s, n, d))
	}
	var buf bytes.Buffer
	if err := archive.Save(t.Context(), &buf, s, list); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// registryTree is the storage of a distribution registry with images of these names.
func registryTree(t *testing.T, s *imagestore.Store, images map[string]ocispec.Descriptor) files {
	t.Helper()
	out := files{}
	const root = "registry/docker/registry/v2/"
	for n, d := range images {
		repo, tag, _ := strings.Cut(n, ":")
		for _, rel := range []string{"_manifests/tags/" + tag + "/current/link", "_manifests/revisions/sha256/" + d.Digest.Encoded() + "/link"} {
			out[root+"repositories/"+repo+"/"+rel] = d.Digest.String()
		}
		err := s.Walk(t.Context(), d, func(b ocispec.Descriptor) error {
			data, err := s.Read(b.Digest)
			hex := b.Digest.Encoded()
			out[root+"blobs/sha256/"+hex[:2]+"/"+hex+"/data"] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestImageArchives(t *testing.T) {
	s := storetest.New(t)
	one := storetest.Image(t, s, storetest.Spec{Files: []string{"one"}})
	two := storetest.Image(t, s, storetest.Spec{Files: []string{"two"}})
	arm := storetest.Image(t, s, storetest.Spec{Platform: "linux/arm64", Files: []string{"two arm"}})
	multi := storetest.Index(t, s, two, arm)
	tree := registryTree(t, s, map[string]ocispec.Descriptor{"library/one:1": one, "kube-proxy:v1": two, "calico/node:v3": two})
	tree["Metadata"] = `{"version":"v1.30.0","arch":"amd64","ClusterRuntime":"kubernetes"}`
	tree["images/a.tar.gz"] = string(gz(t, []byte(savedArchive(t, map[string]ocispec.Descriptor{"example.com/one:2": one, "example.com/two:2": multi}, s))))
	tree["images/readme"] = "not an archive"
	tree["imageList"] = "registry.k8s.io/kube-proxy:v1\nexample.com/one:2\ncalico/node:v3\n"
	tb := &testBuild{kubefile: "FROM scratch\nCOPY . /\n", files: tree, builder: func(b *Builder) { b.Images = nil }}
	res := tb.must(t)
	want := []string{
		fmt.Sprintf("docker.io/calico/node:v3 linux/amd64 %s", two.Digest),
		fmt.Sprintf("docker.io/library/one:1 linux/amd64 %s", one.Digest),
		fmt.Sprintf("example.com/one:2 linux/amd64 %s", one.Digest),
		fmt.Sprintf("example.com/two:2 linux/amd64 %s %s", two.Digest, multi.Digest),
		fmt.Sprintf("registry.k8s.io/kube-proxy:v1 linux/amd64 %s", two.Digest),
	}
	if diff := cmp.Diff(want, embedded(res)); diff != "" {
		t.Error(diff)
	}
	names := func(res Result) []string {
		var out []string
		for _, l := range tb.layers(t, res)[0] {
			out = append(out, strings.Fields(l)[2])
		}
		return out
	}
	if diff := cmp.Diff([]string{"Metadata", "imageList", "images/", "images/readme", "registry/"}, names(res)); diff != "" {
		t.Error(diff)
	}
	again := tb.must(t)
	if again.Target.Digest != res.Target.Digest {
		t.Error("the second build differs")
	}
	tb.request = func(r *Request) { r.KeepArchives = true }
	if kept := names(tb.must(t)); !slices.Contains(kept, "images/a.tar.gz") || !slices.ContainsFunc(kept, func(n string) bool { return strings.HasPrefix(n, "registry/docker/registry/v2/blobs/") }) {
		t.Errorf("kept %q", kept)
	}

	// registry.tar.gz is the same tree, packed; ADD extracts others the same way.
	packed := files{"registry.tar.gz": string(gz(t, tarFiles(t, tree, "registry/"))), "Metadata": tree["Metadata"]}
	res = (&testBuild{kubefile: "FROM scratch\nCOPY . /\n", files: packed}).must(t)
	if got := embedded(res); len(got) != 3 || !strings.HasPrefix(got[1], "docker.io/library/kube-proxy:v1 ") {
		t.Errorf("embedded %q", got)
	}
	res = (&testBuild{kubefile: "FROM scratch\nADD all.tar /\n", files: files{"all.tar": string(tarFiles(t, tree, ""))}, builder: tb.builder}).must(t)
	if diff := cmp.Diff(want, embedded(res)); diff != "" {
		t.Error(diff)
	}

	// Wrong architecture, and a name that is missing.
	for _, tt := range []struct {
		files files
		want  []string
	}{
		{files{"images/arm.tar": savedArchive(t, map[string]ocispec.Descriptor{"example.com/arm:1": arm}, s)}, []string{"images/arm.tar", "linux/arm64", "linux/amd64"}},
		{files{"images/cut.tar": tree["images/a.tar.gz"][:200]}, []string{"images/cut.tar"}},
	} {
		_, err := (&testBuild{kubefile: "FROM scratch\nCOPY . /\n", files: tt.files}).run(t)
		for _, w := range append(tt.want, "Kubefile:2:1") {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("error does not say %q: %v", w, err)
			}
		}
	}
}

// tarFiles packs those of the files that have a prefix.
func tarFiles(t *testing.T, fs files, prefix string) []byte {
	t.Helper()
	dir := writeFiles(t, fs)
	var members []header
	for n, c := range fs {
		if rel, ok := strings.CutPrefix(n, prefix); ok {
			members = append(members, header{Name: rel, Linkname: c})
		}
	}
	_ = os.RemoveAll(dir)
	slices.SortFunc(members, func(a, b header) int { return strings.Compare(a.Name, b.Name) })
	return tarOf(t, members...)
}

// TestBaseHistory builds on an image that does not say how its layers came to be.
func TestBaseHistory(t *testing.T) {
	s := storetest.New(t)
	desc := storetest.Image(t, s, storetest.Spec{Files: []string{"one", "two"}})
	var m ocispec.Manifest
	var config ocispec.Image
	if err := errors.Join(s.ReadJSON(desc.Digest, &m), s.ReadJSON(m.Config.Digest, &config)); err != nil {
		t.Fatal(err)
	}
	config.History = nil
	m.Config = storetest.PutJSON(t, s, ocispec.MediaTypeImageConfig, config)
	storetest.Tag(t, s, "example.com/bare:1", storetest.PutJSON(t, s, ocispec.MediaTypeImageManifest, m))
	tb := &testBuild{store: s, kubefile: "FROM example.com/bare:1\nENV A=1\nCOPY a /\n", files: files{"a": "a"}}
	_, got := tb.config(t, tb.must(t))
	var lines []string
	for _, h := range got["history"].([]any) {
		h := h.(map[string]any)
		lines = append(lines, fmt.Sprint(h["created_by"], " ", h["empty_layer"]))
	}
	want := []string{"FROM example.com/bare:1 <nil>", "FROM example.com/bare:1 <nil>", "ENV A=1 true", "COPY a / <nil>"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

// TestBaseWithoutCache builds on layers that must be read, since no earlier build wrote down what they have.
func TestBaseWithoutCache(t *testing.T) {
	base := &testBuild{tag: "example.com/base:v1", kubefile: "FROM scratch\nCOPY . /\n", files: files{
		"lib": "-> usr/lib", "usr/lib/": "0711 ", "usr/lib/x": "x", "etc/passwd": "web:x:5:6::/:/\n",
	}}
	for _, c := range []string{"zstd", "gzip"} {
		base.request = func(r *Request) { r.Compression = pack.Compression(c) }
		base.must(t)
		child := &testBuild{store: base.store, kubefile: "FROM example.com/base:v1\nCOPY --chown=web f /lib/\n", files: files{"f": "f"}}
		want := child.must(t).Target.Digest
		err := filepath.WalkDir(filepath.Join(base.store.Dir(), "cache"), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				err = os.Remove(p)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		res := child.must(t)
		if res.Target.Digest != want {
			t.Errorf("%s: a build without cache differs", c)
		}
		layers := child.layers(t, res)
		if diff := cmp.Diff([]string{"0755 0:0 usr/", "0711 0:0 usr/lib/", "0644 5:6 usr/lib/f f"}, layers[1]); diff != "" {
			t.Error(diff)
		}
	}
}
