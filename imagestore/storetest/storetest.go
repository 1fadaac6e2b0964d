// Package storetest fills stores with small images for tests.
package storetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// New opens a store in a directory of its own.
func New(t testing.TB) *imagestore.Store {
	t.Helper()
	s, err := imagestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Sound fails unless the store is as it must be at any moment, whoever was killed: index.json can be read,
// every blob is what its name says, every image is whole.
func Sound(t testing.TB, s *imagestore.Store) {
	t.Helper()
	blobs, err := os.ReadDir(filepath.Join(s.Dir(), "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if err := same(s, digest.NewDigestFromEncoded(digest.SHA256, b.Name())); err != nil {
			t.Fatal(err)
		}
	}
	images, err := s.Images()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), ocispec.ImageIndexFile)); err != nil {
		t.Fatal(err) // for Images there are none then
	}
	for _, img := range images {
		if err := s.Whole(t.Context(), img.Target); err != nil {
			t.Fatalf("image %s: %v", img.Name, err)
		}
	}
}

func same(s *imagestore.Store, d digest.Digest) error {
	b, err := s.Open(d)
	if err != nil {
		return err
	}
	defer b.Close()
	if got, err := digest.SHA256.FromReader(b); err != nil || got != d {
		return fmt.Errorf("blob %s has digest %s: %w", d, got, errors.Join(err, imagestore.ErrDigest))
	}
	return nil
}

// Tag tags and returns what it tagged.
func Tag(t testing.TB, s *imagestore.Store, name string, target ocispec.Descriptor) imagestore.Tagged {
	t.Helper()
	ref, err := imagestore.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), ref, target); err != nil {
		t.Fatal(err)
	}
	tagged, err := s.Resolve(name)
	if err != nil {
		t.Fatal(err)
	}
	return tagged
}

// Put writes a blob.
func Put(t testing.TB, s *imagestore.Store, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	d, err := s.Put(t.Context(), mediaType, data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// PutJSON writes a document.
func PutJSON(t testing.TB, s *imagestore.Store, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	d, err := s.PutJSON(t.Context(), mediaType, v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Layer is a tar with one file.
func Layer(t testing.TB, name, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Gzip compresses, without a time.
func Gzip(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Spec is an image to make. The zero value of each field has a meaning.
type Spec struct {
	Platform string            // "linux/amd64" if ""
	Files    []string          // contents; a layer each. One file "content of PLATFORM" if nil
	Docker   bool              // media types of Docker's v2 schema 2
	Labels   map[string]string // of the config
	Env      []string
}

// Image writes an ordinary image and gives the descriptor of its manifest, with its platform.
func Image(t testing.TB, s *imagestore.Store, spec Spec) ocispec.Descriptor {
	t.Helper()
	if spec.Platform == "" {
		spec.Platform = "linux/amd64"
	}
	if spec.Files == nil {
		spec.Files = []string{"content of " + spec.Platform}
	}
	system, arch, _ := strings.Cut(spec.Platform, "/")
	layerType, configType, manifestType := ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageManifest
	if spec.Docker {
		layerType, configType, manifestType = "application/vnd.docker.image.rootfs.diff.tar.gzip", imagestore.MediaTypeDockerConfig, imagestore.MediaTypeDockerManifest
	}
	epoch := time.Unix(0, 0).UTC()
	config := ocispec.Image{Created: &epoch, Platform: ocispec.Platform{OS: system, Architecture: arch}}
	config.RootFS.Type = "layers"
	config.Config.Labels, config.Config.Env = spec.Labels, spec.Env
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType}
	for i, content := range spec.Files {
		layer := Layer(t, fmt.Sprintf("file%d", i), content)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(layer))
		config.History = append(config.History,
			ocispec.History{Created: &epoch, CreatedBy: fmt.Sprintf("COPY file%d /", i)},
			ocispec.History{Created: &epoch, CreatedBy: "ENV", EmptyLayer: true})
		m.Layers = append(m.Layers, Put(t, s, layerType, Gzip(t, layer)))
	}
	m.Config = PutJSON(t, s, configType, config)
	d := PutJSON(t, s, manifestType, m)
	d.Platform = &ocispec.Platform{OS: system, Architecture: arch}
	return d
}

// Index writes an image index.
func Index(t testing.TB, s *imagestore.Store, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return PutJSON(t, s, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
}

// Refs writes the manifest that carries original index documents.
func Refs(t testing.TB, s *imagestore.Store, documents ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	Put(t, s, ocispec.MediaTypeEmptyJSON, []byte("{}"))
	empty := ocispec.DescriptorEmptyJSON
	empty.Data = nil
	d := PutJSON(t, s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: clusterimage.RefsArtifactType, Config: empty, Layers: documents,
	})
	return d
}

// Cluster is a cluster image with all that the format has.
type Cluster struct {
	Desc ocispec.Descriptor
	// Rootfs is the image for linux/amd64.
	Rootfs ocispec.Descriptor
	// Nginx is docker.io/library/nginx:1.27 for linux/amd64, named by NginxIndex, which refs carries;
	// its other child, NginxArm, is in no store.
	Nginx, NginxIndex, NginxArm ocispec.Descriptor
	// Quay is quay.io/library/nginx:1.27, Docker's media types, a single manifest.
	Quay ocispec.Descriptor
	// Pause is registry.k8s.io/pause:3.10 for two platforms, without an index.
	Pause, PauseArm ocispec.Descriptor
}

// ClusterImage writes a cluster image with three embedded images.
func ClusterImage(t testing.TB, s *imagestore.Store) Cluster {
	t.Helper()
	var c Cluster
	c.Rootfs = Image(t, s, Spec{Files: []string{"basefs", "app"}, Labels: map[string]string{
		clusterimage.LabelRuntime:     "kubernetes",
		clusterimage.LabelKubeVersion: "v1.37.2",
		clusterimage.LabelType:        clusterimage.TypeCluster,
		clusterimage.LabelSpec:        `{"apps":[{"name":"shop","type":"kube","files":["shop.yaml"]}],"launch":["shop"],"cmds":["echo done"],"env":{"TIER":"gold"}}`,
	}})
	c.Nginx = Image(t, s, Spec{Files: []string{"shared", "nginx amd64"}})
	arm := New(t)
	c.NginxArm = Image(t, arm, Spec{Platform: "linux/arm64", Files: []string{"nginx arm64"}})
	c.NginxIndex = Index(t, s, c.Nginx, c.NginxArm)
	c.Quay = Image(t, s, Spec{Files: []string{"shared", "nginx of quay"}, Docker: true})
	c.Pause = Image(t, s, Spec{Files: []string{"pause"}})
	c.PauseArm = Image(t, s, Spec{Platform: "linux/arm64", Files: []string{"pause"}})
	img := clusterimage.Image{
		Rootfs: []ocispec.Descriptor{c.Rootfs},
		Embedded: []clusterimage.Embedded{
			{Name: "docker.io/library/nginx:1.27", Platform: "linux/amd64", Index: c.NginxIndex.Digest, Manifest: c.Nginx},
			{Name: "quay.io/library/nginx:1.27", Platform: "linux/amd64", Manifest: c.Quay},
			{Name: "registry.k8s.io/pause:3.10", Platform: "linux/amd64", Manifest: c.Pause},
			{Name: "registry.k8s.io/pause:3.10", Platform: "linux/arm64", Manifest: c.PauseArm},
		},
		Refs: []ocispec.Descriptor{Refs(t, s, c.NginxIndex)},
	}
	c.Desc = PutJSON(t, s, ocispec.MediaTypeImageIndex, img.Index())
	return c
}
