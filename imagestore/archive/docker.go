package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/compression"
)

// dockerImage is an element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerArchive reads manifest.json, and makes an OCI manifest for each image. Config and layers stay as
// they are, so that the image's ID does too.
func (c *contents) dockerArchive(ctx context.Context) ([]Found, error) {
	var images []dockerImage
	if err := json.Unmarshal(c.documents[dockerManifestFile], &images); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dockerManifestFile, ErrFormat, err)
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("its %s names no image: %w", dockerManifestFile, ErrFormat)
	}
	var list []Found
	for i, img := range images {
		f, err := c.dockerImage(ctx, img)
		if err != nil {
			return nil, fmt.Errorf("%s: image %d %.200q: %w", dockerManifestFile, i, img.RepoTags, err)
		}
		for _, tag := range img.RepoTags {
			if f.Name, err = fullName(tag); err != nil {
				return nil, err
			}
			list = append(list, f)
		}
		if len(img.RepoTags) == 0 {
			list = append(list, f)
		}
	}
	return list, nil
}

func (c *contents) dockerImage(ctx context.Context, img dockerImage) (Found, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	if img.Config == "" {
		return Found{}, fmt.Errorf("it names no config: %w", ErrFormat)
	}
	var err error
	if m.Config, err = c.stored(ctx, img.Config); err != nil {
		return Found{}, err
	}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	if m.Config.Size > maxDocument {
		return Found{}, fmt.Errorf("config %s: %d bytes are too many: %w", img.Config, m.Config.Size, ErrFormat)
	}
	// The config is named by its digest, which is the image's ID.
	named := strings.TrimPrefix(strings.TrimSuffix(path.Base(img.Config), ".json"), "sha256:")
	if digest.NewDigestFromEncoded(digest.SHA256, named).Validate() == nil && named != m.Config.Digest.Encoded() {
		return Found{}, fmt.Errorf("config %s has digest %s: %w", img.Config, m.Config.Digest, imagestore.ErrDigest)
	}
	var config ocispec.Image
	if err := c.s.ReadJSON(m.Config.Digest, &config); err != nil {
		return Found{}, err
	}
	if len(config.RootFS.DiffIDs) != len(img.Layers) {
		return Found{}, fmt.Errorf("config %s tells of %d layers, the archive of %d: %w", img.Config, len(config.RootFS.DiffIDs), len(img.Layers), ErrFormat)
	}
	for i, name := range img.Layers {
		d, err := c.stored(ctx, name)
		if err != nil {
			return Found{}, err
		}
		if d.MediaType, err = c.layerType(d.Digest); err != nil {
			return Found{}, fmt.Errorf("layer %s: %w", name, err)
		}
		if d.MediaType == ocispec.MediaTypeImageLayer && d.Digest != config.RootFS.DiffIDs[i] {
			return Found{}, fmt.Errorf("layer %s has digest %s, its image wants %s: %w", name, d.Digest, config.RootFS.DiffIDs[i], imagestore.ErrDigest)
		}
		m.Layers = append(m.Layers, d)
	}
	var f Found
	if f.Target, err = c.s.PutJSON(ctx, m.MediaType, m); err != nil {
		return Found{}, err
	}
	f.Platform, err = platform(c.s, f.Target)
	return f, err
}

// layerType looks at the first bytes of a layer.
func (c *contents) layerType(d digest.Digest) (string, error) {
	b, err := c.s.Open(d)
	if err != nil {
		return "", err
	}
	defer b.Close()
	head := make([]byte, compression.MagicLen)
	n, err := io.ReadFull(b, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	switch kind := compression.Detect(head[:n]); kind {
	case compression.None:
		return ocispec.MediaTypeImageLayer, nil
	case compression.Gzip:
		return ocispec.MediaTypeImageLayerGzip, nil
	case compression.Zstd:
		return ocispec.MediaTypeImageLayerZstd, nil
	default:
		return "", fmt.Errorf("layers cannot be compressed by %s: %w", kind, ErrFormat)
	}
}
