package archive_test

import (
	"bytes"
	"context"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/schema"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/registry"
	"github.com/clusterimage/keg/imagestore/storetest"
)

// valid checks a document against image-spec's own JSON schemas; others have none.
func valid(t *testing.T, what, mediaType string, data []byte) bool {
	t.Helper()
	v := schema.Validator(mediaType)
	switch mediaType {
	case "oci-layout":
		v = schema.ValidatorMediaTypeLayoutHeader
	case ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig:
	default:
		return false
	}
	if err := v.Validate(bytes.NewReader(data)); err != nil {
		t.Errorf("%s (%s): %v\n%s", what, mediaType, err, data)
	}
	return true
}

// Every document that we write is one by the specification: those of the store itself, of what is saved,
// of what docker archives become, and of an index that the registry makes.
func TestSchema(t *testing.T) {
	s, list := sample(t)
	docker, _ := dockerArchive(t)
	more, err := archive.Load(t.Context(), s, bytes.NewReader(writeTar(t, docker...)), archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	files, _ := distributionFiles(t)
	storage, err := archive.Load(t.Context(), s, bytes.NewReader(writeTar(t, distributionEntries(files)...)), archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	list = append(append(list, more...), storage...)
	types := map[digest.Digest]string{}
	for _, img := range list {
		err := s.Walk(t.Context(), img.Target, func(d ocispec.Descriptor) error {
			types[d.Digest] = d.MediaType
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	checked := map[string]int{}
	check := func(what, mediaType string, data []byte) {
		if valid(t, what, mediaType, data) {
			checked[mediaType]++
		}
	}
	for _, e := range readTar(t, save(t, s, list...)) {
		switch {
		case e.name == "index.json":
			check(e.name, ocispec.MediaTypeImageIndex, []byte(e.content))
		case e.name == "oci-layout":
			check(e.name, e.name, []byte(e.content))
		case strings.HasPrefix(e.name, "blobs/sha256/") && e.content != "":
			check(e.name, types[digest.NewDigestFromEncoded(digest.SHA256, path.Base(e.name))], []byte(e.content))
		}
	}
	made := madeIndex(t, s, list[0].Target)
	check("index made of two platforms", ocispec.MediaTypeImageIndex, made)
	for _, mediaType := range []string{"oci-layout", ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig} {
		if checked[mediaType] == 0 {
			t.Errorf("no document of media type %s", mediaType)
		}
	}
	t.Log(checked)
}

func madeIndex(t *testing.T, s *imagestore.Store, cluster ocispec.Descriptor) []byte {
	t.Helper()
	src, err := registry.EmbeddedSource(s, cluster)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := src.Resolve(t.Context(), "registry.k8s.io", "pause", "3.10")
	if err != nil {
		t.Fatal(err)
	}
	r, err := src.Open(context.Background(), desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestSchemaOfStore(t *testing.T) {
	s := storetest.New(t)
	for range 2 {
		for file, mediaType := range map[string]string{"index.json": ocispec.MediaTypeImageIndex, "oci-layout": "oci-layout"} {
			valid(t, file, mediaType, readFile(t, s, file))
		}
		storetest.Tag(t, s, "x", storetest.ClusterImage(t, s).Desc)
	}
}
