package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/unpack"
)

// ErrLayers says that the manifest and the config of an image do not belong together.
var ErrLayers = errors.New("manifest and config of the image name different layers")

// Layers are those of an image, by the digest of its manifest, ready to be unpacked; size is what they
// take compressed. A layer that is missing is ErrNotFound.
func (s *Store) Layers(ctx context.Context, d digest.Digest) (layers []unpack.Layer, size int64, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, 0, err
	}
	var manifest ocispec.Manifest
	if err := s.ReadJSON(d, &manifest); err != nil {
		return nil, 0, err
	}
	var config ocispec.Image
	if err := s.ReadJSON(manifest.Config.Digest, &config); err != nil {
		return nil, 0, err
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, 0, fmt.Errorf("image %s: %w: %d and %d", d, ErrLayers, len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	for i, l := range manifest.Layers {
		if !s.Has(l.Digest) {
			return nil, 0, fmt.Errorf("layer %s: %w", l.Digest, ErrNotFound)
		}
		size += l.Size
		layers = append(layers, unpack.Layer{
			MediaType: l.MediaType, DiffID: config.RootFS.DiffIDs[i], Size: l.Size,
			Open: func() (io.ReadCloser, error) { return s.Open(l.Digest) },
		})
	}
	return layers, size, nil
}
