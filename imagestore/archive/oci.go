package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// ociLayout reads index.json. Docker's archives since version 25 are OCI layouts too; where they hold one
// platform of several, their manifest.json says that this is meant.
func (c *contents) ociLayout(ctx context.Context) ([]Found, error) {
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(c.documents[ocispec.ImageLayoutFile], &layout); err != nil || layout.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("it has an index.json, but no %s of version %s: %w", ocispec.ImageLayoutFile, ocispec.ImageLayoutVersion, ErrFormat)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(c.documents[ocispec.ImageIndexFile], &idx); err != nil {
		return nil, fmt.Errorf("index.json: %w: %w", ErrFormat, err)
	}
	if len(idx.Manifests) == 0 {
		return nil, fmt.Errorf("its index.json names no image: %w", ErrFormat)
	}
	var list []Found
	for _, d := range idx.Manifests {
		if !imagestore.IsIndex(d.MediaType) && !imagestore.IsManifest(d.MediaType) {
			return nil, fmt.Errorf("index.json: %s is of media type %.200q, neither manifest nor index: %w", d.Digest, d.MediaType, ErrFormat)
		}
		name, err := ociName(d.Annotations)
		if err != nil {
			return nil, err
		}
		found, err := whole(ctx, c.s, name, bare(d), c.documents[dockerManifestFile] != nil)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

// ociName reads the annotations by which tools name the images of a layout. The one of the
// specification may be a mere tag; that names nothing.
func ociName(annotations map[string]string) (string, error) {
	text := annotations[clusterimage.AnnotationName]
	if text == "" {
		text = annotations[ocispec.AnnotationRefName]
		if !strings.ContainsAny(text, ":/@") {
			return "", nil
		}
	}
	return fullName(text)
}

func fullName(text string) (string, error) {
	ref, err := imagestore.ParseName(text)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return imagestore.FullName(ref), nil
}
