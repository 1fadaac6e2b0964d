package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// Media types of Docker's image manifest v2 schema 2, which registries still give.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig       = "application/vnd.docker.container.image.v1+json"
)

// IsIndex says whether a media type is that of an image index or of Docker's manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerManifestList
}

// IsManifest says whether a media type is that of an image manifest, OCI's or Docker's.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// MissingError says which blobs an image needs and the store has not. It is an ErrNotFound.
type MissingError struct {
	// Image is the digest of the image that was looked at.
	Image digest.Digest
	// Blobs are missing, each once. What a missing manifest would need is not known, and not listed.
	Blobs []ocispec.Descriptor
}

// Error names up to five of the blobs.
func (e *MissingError) Error() string {
	var names []string
	for i, d := range e.Blobs {
		if i == 5 {
			names = append(names, fmt.Sprintf("and %d more", len(e.Blobs)-i))
			break
		}
		names = append(names, fmt.Sprintf("%s (%s, %d bytes)", d.Digest, d.MediaType, d.Size))
	}
	return fmt.Sprintf("image %s: %s: %v", e.Image, strings.Join(names, ", "), ErrNotFound)
}

// Is says that this is an ErrNotFound.
func (e *MissingError) Is(target error) bool { return target == ErrNotFound }

// Children returns what a manifest (config and layers) or an index (manifests) needs directly, in its
// order; nothing for another media type. A subject is not among them: it is what the manifest is about.
func Children(mediaType string, data []byte) ([]ocispec.Descriptor, error) {
	switch {
	case IsIndex(mediaType):
		var idx ocispec.Index
		if err := json.Unmarshal(data, &idx); err != nil {
			return nil, fmt.Errorf("reading index: %w: %w", ErrDocument, err)
		}
		return idx.Manifests, nil
	case IsManifest(mediaType):
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return nil, fmt.Errorf("reading manifest: %w: %w", ErrDocument, err)
		}
		return append([]ocispec.Descriptor{m.Config}, m.Layers...), nil
	}
	return nil, nil
}

// Walk calls fn for every blob that the image desc needs, children before parents, each blob once and
// desc itself last. If any blob is missing it calls fn not at all and fails with *MissingError, which
// names all that are. A blob of another size than its descriptor says is ErrDigest.
func (s *Store) Walk(ctx context.Context, desc ocispec.Descriptor, fn func(ocispec.Descriptor) error) error {
	present, missing, err := s.reach(ctx, desc)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &MissingError{Image: desc.Digest, Blobs: missing}
	}
	for _, d := range present {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := fn(d); err != nil {
			return err
		}
	}
	return nil
}

// Whole fails, as Walk does, unless all that the image desc needs is there.
func (s *Store) Whole(ctx context.Context, desc ocispec.Descriptor) error {
	return s.Walk(ctx, desc, func(ocispec.Descriptor) error { return nil })
}

// maxDepth is how deep indexes may be nested; two are common, content addressing excludes cycles.
const maxDepth = 16

// reach finds what desc needs: what is there, children before parents, and what is not.
func (s *Store) reach(ctx context.Context, desc ocispec.Descriptor) (present, missing []ocispec.Descriptor, err error) {
	w := newWalker(s)
	if err := w.visit(ctx, desc, 0); err != nil {
		return nil, nil, err
	}
	return w.present, w.missing, nil
}

type walker struct {
	s *Store
	// seen are all blobs, there or not. read are the documents: what was first seen as the layer of a
	// refs manifest may be met again as an index whose manifests are needed.
	seen, read       map[digest.Digest]bool
	present, missing []ocispec.Descriptor
}

func newWalker(s *Store) *walker {
	return &walker{s: s, seen: map[digest.Digest]bool{}, read: map[digest.Digest]bool{}}
}

// visit goes through a document; leaf takes a blob as it is. Layers and configs are leaves whatever
// their media type says: refs manifests have index documents for layers.
func (w *walker) visit(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if !IsIndex(d.MediaType) && !IsManifest(d.MediaType) {
		return w.leaf(d)
	}
	if depth > maxDepth {
		return fmt.Errorf("reading blob %s: indexes are nested more than %d deep: %w", d.Digest, maxDepth, ErrDocument)
	}
	if w.read[d.Digest] {
		return nil
	}
	w.read[d.Digest] = true
	first := !w.seen[d.Digest]
	there, err := w.look(d)
	if err != nil || !there {
		return err
	}
	data, err := w.s.Read(d.Digest)
	if err != nil {
		return err
	}
	children, err := Children(d.MediaType, data)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	for _, c := range children {
		if IsIndex(d.MediaType) {
			err = w.visit(ctx, c, depth+1)
		} else {
			err = w.leaf(c)
		}
		if err != nil {
			return err
		}
	}
	if first {
		w.present = append(w.present, d)
	}
	return nil
}

func (w *walker) leaf(d ocispec.Descriptor) error {
	if w.seen[d.Digest] {
		return nil
	}
	there, err := w.look(d)
	if there {
		w.present = append(w.present, d)
	}
	return err
}

// look says whether the blob is there, and notes that it was seen.
func (w *walker) look(d ocispec.Descriptor) (bool, error) {
	if err := d.Digest.Validate(); err != nil {
		return false, fmt.Errorf("descriptor of %q: %w: %w", d.Digest, ErrDocument, err)
	}
	first := !w.seen[d.Digest]
	w.seen[d.Digest] = true
	fi, err := os.Stat(w.s.BlobPath(d.Digest))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if first {
			w.missing = append(w.missing, d)
		}
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for blob %s: %w", d.Digest, err)
	case fi.Size() != d.Size:
		return false, fmt.Errorf("blob %s has %d bytes and should have %d: %w", d.Digest, fi.Size(), d.Size, ErrDigest)
	}
	return true, nil
}

// ClusterImage reads an index as a cluster image. It fails with clusterimage.ErrNotClusterImage where
// desc is some other image.
func (s *Store) ClusterImage(ctx context.Context, desc ocispec.Descriptor) (clusterimage.Image, error) {
	if err := context.Cause(ctx); err != nil {
		return clusterimage.Image{}, err
	}
	if desc.MediaType != ocispec.MediaTypeImageIndex {
		return clusterimage.Image{}, fmt.Errorf("image %s of media type %q: %w", desc.Digest, desc.MediaType, clusterimage.ErrNotClusterImage)
	}
	var idx ocispec.Index
	if err := s.ReadJSON(desc.Digest, &idx); err != nil {
		return clusterimage.Image{}, err
	}
	img, err := clusterimage.Parse(idx)
	if err != nil {
		return clusterimage.Image{}, fmt.Errorf("image %s: %w", desc.Digest, err)
	}
	return img, nil
}
