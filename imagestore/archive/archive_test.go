package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/internal/progress"
)

// entry is one of a tar that a test writes.
type entry struct {
	name, content string
	kind          byte   // tar.TypeReg if 0
	link          string // of links
	size          int64  // what the header says if the content is shorter
	pax           map[string]string
}

func writeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o644, Size: int64(len(e.content)), PAXRecords: e.pax}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.size != 0 {
			h.Size = e.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
		if e.size != 0 {
			return buf.Bytes() // cut off
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func readTar(t testing.TB, data []byte) []entry {
	t.Helper()
	var list []entry
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, entry{name: h.Name, content: string(content), kind: h.Typeflag, link: h.Linkname})
	}
}

func save(t testing.TB, s *imagestore.Store, images ...imagestore.Tagged) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := archive.Save(t.Context(), &buf, s, images); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// sample is a store with every kind of image.
func sample(t testing.TB) (*imagestore.Store, []imagestore.Tagged) {
	t.Helper()
	s := storetest.New(t)
	c := storetest.ClusterImage(t, s)
	single := storetest.Image(t, s, storetest.Spec{})
	return s, []imagestore.Tagged{
		storetest.Tag(t, s, "reg.example.com:5000/shop:v1", c.Desc),
		storetest.Tag(t, s, "docker-media-types", c.Quay),
		storetest.Tag(t, s, "quay.io/multi:v2", storetest.Index(t, s, single, storetest.Image(t, s, storetest.Spec{Platform: "linux/arm64"}))),
		storetest.Tag(t, s, "single:v1", single),
		storetest.Tag(t, s, "quay.io/single@"+single.Digest.String(), single),
	}
}

func images(t testing.TB, s *imagestore.Store) []imagestore.Tagged {
	t.Helper()
	list, err := s.Images()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// unchanged fails if a store has a tag, or remains of writers.
func unchanged(t testing.TB, s *imagestore.Store) {
	t.Helper()
	if list := images(t, s); len(list) != 0 {
		t.Errorf("tagged: %v", list)
	}
	if rest, err := os.ReadDir(filepath.Join(s.Dir(), "ingest")); err != nil || len(rest) != 0 {
		t.Errorf("ingest: %v, %v", rest, err)
	}
}

func compress(t testing.TB, kind string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case "gzip":
		w = gzip.NewWriter(&buf)
	case "zstd":
		w, err = zstd.NewWriter(&buf)
	case "xz":
		w, err = xz.NewWriter(&buf)
	case "bzip2":
		program, err := exec.LookPath("bzip2")
		if err != nil {
			t.Skip("bzip2 is not installed (Debian package bzip2)")
		}
		cmd := exec.CommandContext(t.Context(), program, "-c")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	default:
		return data
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestRoundTrip(t *testing.T) {
	s, list := sample(t)
	data := save(t, s, list...)
	reversed := append([]imagestore.Tagged{list[1], list[0], list[0]}, list[2:]...)
	if !bytes.Equal(save(t, s, reversed...), data) {
		t.Error("the order in which images are named changes the archive")
	}
	entries := readTar(t, data)
	if entries[0].name != "index.json" {
		t.Errorf("%s comes first", entries[0].name)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if seen[e.name] {
			t.Errorf("%s stands twice", e.name)
		}
		seen[e.name] = true
	}
	// Any order of entries does.
	var backwards []entry
	for i := range entries {
		e := entries[len(entries)-1-i]
		e.name = "./" + e.name
		backwards = append(backwards, e)
	}
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"plain", data}, {"gzip", data}, {"zstd", data}, {"bzip2", data}, {"xz", data},
		{"backwards", writeTar(t, backwards...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other := storetest.New(t)
			compressed := compress(t, tt.name, tt.data)
			var last progress.Event
			got, err := archive.Load(t.Context(), other, bytes.NewReader(compressed), archive.Options{Progress: func(e progress.Event) { last = e }})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(images(t, s), got); diff != "" {
				t.Errorf("loaded (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(images(t, s), images(t, other)); diff != "" {
				t.Errorf("in the store (-want +got):\n%s", diff)
			}
			if !last.End || last.Err != nil || last.Done != int64(len(compressed)) {
				t.Errorf("last event: %+v", last)
			}
			if !bytes.Equal(save(t, other, got...), data) {
				t.Error("saved again, the archive is another")
			}
		})
	}
}

func TestSaveMissing(t *testing.T) {
	s, list := sample(t)
	var m ocispec.Manifest
	if err := s.ReadJSON(list[3].Target.Digest, &m); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.BlobPath(m.Layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	err := archive.Save(t.Context(), &buf, s, list)
	var missing *imagestore.MissingError
	if !errors.As(err, &missing) || missing.Blobs[0].Digest != m.Layers[0].Digest || buf.Len() != 0 {
		t.Errorf("got %v and %d bytes", err, buf.Len())
	}
	if err := archive.Save(t.Context(), &buf, s, nil); err == nil {
		t.Error("saved nothing at all")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := archive.Save(ctx, &buf, s, list[:1]); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// A blob that the archive lacks and the store has is no error.
func TestLoadDelta(t *testing.T) {
	s, list := sample(t)
	var less []entry
	for _, e := range readTar(t, save(t, s, list[3])) {
		if e.name != "blobs/sha256/"+list[3].Target.Digest.Encoded() {
			less = append(less, e)
		}
	}
	data := writeTar(t, less...)
	other := storetest.New(t)
	_, err := archive.Load(t.Context(), other, bytes.NewReader(data), archive.Options{})
	if !errors.Is(err, imagestore.ErrNotFound) || !strings.Contains(err.Error(), list[3].Target.Digest.String()) {
		t.Errorf("missing manifest: %v", err)
	}
	unchanged(t, other)
	manifest, err := s.Read(list[3].Target.Digest)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Put(t, other, list[3].Target.MediaType, manifest)
	if _, err := archive.Load(t.Context(), other, bytes.NewReader(data), archive.Options{}); err != nil {
		t.Error(err)
	}
}

func TestRead(t *testing.T) {
	s, list := sample(t)
	other := storetest.New(t)
	got, err := archive.Read(t.Context(), other, bytes.NewReader(save(t, s, list...)))
	if err != nil {
		t.Fatal(err)
	}
	var want []archive.Found
	for _, img := range images(t, s) {
		f := archive.Found{Name: img.Name, Target: img.Target}
		if imagestore.IsManifest(img.Target.MediaType) {
			f.Platform = "linux/amd64"
		}
		want = append(want, f)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	unchanged(t, other)
}

func TestNames(t *testing.T) {
	s, list := sample(t)
	entries := readTar(t, save(t, s, list[3]))
	for _, tt := range []struct {
		annotations map[string]string
		name        string // option
		want        string // "" is ErrNoName
	}{
		{map[string]string{"io.containerd.image.name": "quay.io/a:b", "org.opencontainers.image.ref.name": "b"}, "", "quay.io/a:b"},
		{map[string]string{"org.opencontainers.image.ref.name": "a:b"}, "", "docker.io/library/a:b"},
		{map[string]string{"org.opencontainers.image.ref.name": "b"}, "", ""},
		{map[string]string{"org.opencontainers.image.ref.name": "b"}, "x", "docker.io/library/x:latest"},
		{nil, "", ""},
		{nil, "x:y", "docker.io/library/x:y"},
	} {
		var idx ocispec.Index
		if err := json.Unmarshal([]byte(entries[0].content), &idx); err != nil {
			t.Fatal(err)
		}
		idx.Manifests[0].Annotations = tt.annotations
		data, err := json.Marshal(idx)
		if err != nil {
			t.Fatal(err)
		}
		other := storetest.New(t)
		got, err := archive.Load(t.Context(), other, bytes.NewReader(writeTar(t, append([]entry{{name: "index.json", content: string(data)}}, entries[1:]...)...)), archive.Options{Name: tt.name})
		switch {
		case tt.want == "" && !errors.Is(err, archive.ErrNoName):
			t.Errorf("%v: got %v", tt.annotations, err)
		case tt.want != "" && (err != nil || len(got) != 1 || got[0].Name != tt.want):
			t.Errorf("%v: got %v, %v, want %s", tt.annotations, got, err, tt.want)
		}
	}
}

// dockerArchive has two images of three layers, one shared: as old docker save writes them, with the
// second image's shared layer as a link.
func dockerArchive(t testing.TB) (entries []entry, configs []digest.Digest) {
	t.Helper()
	layer := func(i string) string {
		return string(storetest.Layer(t, "file"+i, strings.Repeat("content "+i, 40_000)))
	}
	config := func(layers ...string) string {
		c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
		c.RootFS.Type = "layers"
		for _, l := range layers {
			c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString(l))
		}
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		configs = append(configs, digest.FromBytes(data))
		return string(data)
	}
	a, b := config(layer("0"), layer("1")), config(layer("0"), layer("2"))
	manifest, err := json.Marshal([]map[string]any{
		{"Config": configs[0].Encoded() + ".json", "RepoTags": []string{"shop:v1", "quay.io/shop:v1"}, "Layers": []string{"id0/layer.tar", "id1/layer.tar"}},
		{"Config": configs[1].Encoded() + ".json", "RepoTags": []string{"shop:v2"}, "Layers": []string{"id3/layer.tar", "id2/layer.tar"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return []entry{
		{name: "id0/", kind: tar.TypeDir}, {name: "id0/VERSION", content: "1.0"}, {name: "id0/json", content: "{}"}, {name: "id0/layer.tar", content: layer("0")},
		{name: configs[0].Encoded() + ".json", content: a},
		{name: "id1/layer.tar", content: layer("1")},
		{name: "id3/layer.tar", kind: tar.TypeSymlink, link: "../id0/layer.tar"},
		{name: "id2/layer.tar", content: layer("2")},
		{name: configs[1].Encoded() + ".json", content: b},
		{name: "manifest.json", content: string(manifest)},
		{name: "repositories", content: "{}"},
	}, configs
}

func TestDockerArchive(t *testing.T) {
	entries, configs := dockerArchive(t)
	s := storetest.New(t)
	got, err := archive.Load(t.Context(), s, bytes.NewReader(compress(t, "gzip", writeTar(t, entries...))), archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i, img := range got {
		names = append(names, img.Name)
		var m ocispec.Manifest
		if err := s.ReadJSON(img.Target.Digest, &m); err != nil {
			t.Fatal(err)
		}
		want := configs[0]
		if i == 1 {
			want = configs[1]
		}
		if m.Config.Digest != want || len(m.Layers) != 2 || m.Layers[0].MediaType != ocispec.MediaTypeImageLayer {
			t.Errorf("%s: %+v", img.Name, m)
		}
		sum, err := s.Inspect(t.Context(), img)
		if err != nil || sum.Layers[1].Digest != sum.Layers[1].DiffID {
			t.Errorf("%s: %+v, %v", img.Name, sum, err)
		}
	}
	if diff := cmp.Diff([]string{"docker.io/library/shop:v1", "docker.io/library/shop:v2", "quay.io/shop:v1"}, names); diff != "" {
		t.Error(diff)
	}
}

// As docker save writes since version 25 with containerd's store: an OCI layout whose index names two
// platforms, of which one is there, and a manifest.json.
func TestDockerSparse(t *testing.T) {
	s := storetest.New(t)
	amd := storetest.Image(t, s, storetest.Spec{})
	idx := storetest.Index(t, s, amd, storetest.Image(t, s, storetest.Spec{Platform: "linux/arm64"}))
	var without, with []entry
	for _, e := range readTar(t, save(t, s, storetest.Tag(t, s, "shop:v1", idx))) {
		var m ocispec.Manifest
		if json.Unmarshal([]byte(e.content), &m) == nil && strings.Contains(e.content, "arm64") && !strings.Contains(e.content, "amd64") {
			continue // the config for arm64
		}
		without = append(without, e)
	}
	with = append(with, entry{name: "manifest.json", content: "[]"})
	with = append(with, without...)
	other := storetest.New(t)
	_, err := archive.Load(t.Context(), other, bytes.NewReader(writeTar(t, without...)), archive.Options{})
	var missing *imagestore.MissingError
	if !errors.As(err, &missing) {
		t.Errorf("without manifest.json: %v", err)
	}
	unchanged(t, other)
	found, err := archive.Read(t.Context(), other, bytes.NewReader(writeTar(t, with...)))
	if err != nil || len(found) != 1 || found[0].Target.Digest != amd.Digest || found[0].Index != idx.Digest || found[0].Platform != "linux/amd64" {
		t.Errorf("with manifest.json: %+v, %v", found, err)
	}
}

// distributionFiles is a registry's storage with two repositories of one path, an index of which one
// platform is there, one of which all are, and an image without a tag.
func distributionFiles(t testing.TB) (files fstest.MapFS, want map[string]digest.Digest) {
	t.Helper()
	s := storetest.New(t)
	files = fstest.MapFS{}
	put := func(name, content string) { files["docker/registry/v2/"+name] = &fstest.MapFile{Data: []byte(content)} }
	add := func(repository, tag string, desc ocispec.Descriptor) {
		err := s.Walk(t.Context(), desc, func(d ocispec.Descriptor) error {
			data, err := os.ReadFile(s.BlobPath(d.Digest))
			put("blobs/sha256/"+d.Digest.Encoded()[:2]+"/"+d.Digest.Encoded()+"/data", string(data))
			if imagestore.IsIndex(d.MediaType) || imagestore.IsManifest(d.MediaType) {
				put("repositories/"+repository+"/_manifests/revisions/sha256/"+d.Digest.Encoded()+"/link", d.Digest.String())
			} else {
				put("repositories/"+repository+"/_layers/sha256/"+d.Digest.Encoded()+"/link", d.Digest.String())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if tag != "" {
			put("repositories/"+repository+"/_manifests/tags/"+tag+"/current/link", desc.Digest.String())
			put("repositories/"+repository+"/_manifests/tags/"+tag+"/index/sha256/"+desc.Digest.Encoded()+"/link", desc.Digest.String())
		}
	}
	nginx := storetest.Image(t, s, storetest.Spec{Files: []string{"nginx"}, Docker: true})
	add("library/nginx", "1.27", nginx)
	quay := storetest.Image(t, s, storetest.Spec{Files: []string{"quay"}})
	add("quay.io/library/nginx", "1.27", quay)
	pinned := storetest.Image(t, s, storetest.Spec{Files: []string{"pinned"}})
	add("library/nginx", "", pinned)
	pause := storetest.Index(t, s, storetest.Image(t, s, storetest.Spec{Files: []string{"pause"}}), storetest.Image(t, s, storetest.Spec{Platform: "linux/arm64", Files: []string{"pause"}}))
	add("pause", "3.10", pause)
	here := storetest.Image(t, s, storetest.Spec{Files: []string{"here"}})
	sparse := storetest.Index(t, s, here, storetest.Image(t, storetest.New(t), storetest.Spec{Platform: "linux/arm64"}))
	add("sparse", "", here)
	data, err := s.Read(sparse.Digest)
	if err != nil {
		t.Fatal(err)
	}
	put("blobs/sha256/"+sparse.Digest.Encoded()[:2]+"/"+sparse.Digest.Encoded()+"/data", string(data))
	put("repositories/sparse/_manifests/revisions/sha256/"+sparse.Digest.Encoded()+"/link", sparse.Digest.String())
	put("repositories/sparse/_manifests/tags/v1/current/link", sparse.Digest.String())
	put("repositories/sparse/_uploads/x/data", "rubbish")
	return files, map[string]digest.Digest{
		"docker.io/library/nginx:1.27":                      nginx.Digest,
		"docker.io/library/nginx@" + pinned.Digest.String(): pinned.Digest,
		"quay.io/library/nginx:1.27":                        quay.Digest,
		"docker.io/library/pause:3.10":                      pause.Digest,
		"docker.io/library/sparse:v1":                       here.Digest,
	}
}

func distributionEntries(files fstest.MapFS) []entry {
	var entries []entry
	for name, f := range files {
		entries = append(entries, entry{name: "./registry/" + name, content: string(f.Data)})
	}
	return entries
}

func TestDistribution(t *testing.T) {
	files, want := distributionFiles(t)
	t.Run("whole", func(t *testing.T) {
		s := storetest.New(t)
		got, err := archive.Load(t.Context(), s, bytes.NewReader(compress(t, "gzip", writeTar(t, distributionEntries(files)...))), archive.Options{})
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]digest.Digest{}
		for _, img := range got {
			names[img.Name] = img.Target.Digest
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("loaded (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(got, images(t, s)); diff != "" {
			t.Errorf("in the store (-want +got):\n%s", diff)
		}
		save(t, s, got...)
	})
	t.Run("broken", func(t *testing.T) {
		for name, f := range files {
			if !strings.HasSuffix(name, "/data") || strings.Contains(name, "_uploads") {
				continue
			}
			for _, content := range [][]byte{nil, append([]byte("x"), f.Data...)} {
				broken := fstest.MapFS{}
				for n, f := range files {
					broken[n] = f
				}
				broken[name] = &fstest.MapFile{Data: content}
				s := storetest.New(t)
				if _, err := archive.Load(t.Context(), s, bytes.NewReader(writeTar(t, distributionEntries(broken)...)), archive.Options{}); !errors.Is(err, imagestore.ErrDigest) {
					t.Errorf("%s: %v", name, err)
				}
				unchanged(t, s)
			}
		}
	})
}
