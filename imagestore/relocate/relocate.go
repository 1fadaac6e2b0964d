// Package relocate decides where the images embedded in a cluster image go in another registry: what each name
// stands for, and under which path it is found there. It moves nothing.
package relocate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// Image is one name of a cluster image, and what it stands for.
type Image struct {
	// Name is the full name: "docker.io/library/nginx:1.27", or with "@sha256:..." in place of the tag.
	Name string
	// Target is what the name stands for: the index that it was named by, where there is one, as its
	// registry gave it; else a manifest; or else an index that List made of the manifests of several platforms.
	Target ocispec.Descriptor
	// Manifests are the images that are there, one for each platform, which is set.
	Manifests []ocispec.Descriptor
	// Whole says that all of Target is in the store. An index is not where the cluster image was built for
	// fewer platforms than it has.
	Whole bool
}

// Present is what can be had of an image by a registry that takes no index unless all of it is there: Target if it
// is whole, else the manifest, or an index of the manifests of several platforms.
func (img Image) Present(ctx context.Context, s *imagestore.Store) (ocispec.Descriptor, error) {
	if img.Whole {
		return img.Target, nil
	}
	return gather(ctx, s, img.Manifests)
}

// List gives the embedded images of a cluster image in the store, sorted by name. The caller holds the store for
// as long as it needs them. It fails with clusterimage.ErrNotClusterImage where desc is another image, and
// with *imagestore.MissingError where the manifest of an image is not there.
func List(ctx context.Context, s *imagestore.Store, desc ocispec.Descriptor) ([]Image, error) {
	list, err := listImages(ctx, s, desc)
	if err != nil {
		return nil, fmt.Errorf("listing embedded images: %w", err)
	}
	return list, nil
}

func listImages(ctx context.Context, s *imagestore.Store, desc ocispec.Descriptor) ([]Image, error) {
	img, err := s.ClusterImage(ctx, desc)
	if err != nil {
		return nil, err
	}
	embedded := slices.Clone(img.Embedded)
	clusterimage.SortEmbedded(embedded)
	var list []Image
	for len(embedded) > 0 {
		n := 1
		for n < len(embedded) && embedded[n].Name == embedded[0].Name {
			n++
		}
		one, err := image(ctx, s, embedded[:n])
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", embedded[0].Name, err)
		}
		list, embedded = append(list, one), embedded[n:]
	}
	return list, nil
}

// image puts together the platforms of one name.
func image(ctx context.Context, s *imagestore.Store, list []clusterimage.Embedded) (Image, error) {
	img := Image{Name: list[0].Name}
	index := list[0].Index
	for _, e := range list {
		d := ocispec.Descriptor{MediaType: e.Manifest.MediaType, Digest: e.Manifest.Digest, Size: e.Manifest.Size}
		p, err := clusterimage.ParsePlatform(e.Platform)
		if err != nil {
			return img, err
		}
		d.Platform = &p
		if !s.Has(d.Digest) {
			return img, &imagestore.MissingError{Image: d.Digest, Blobs: []ocispec.Descriptor{d}}
		}
		img.Manifests = append(img.Manifests, d)
		if e.Index != index {
			index = ""
		}
	}
	var err error
	if index == "" {
		img.Whole = true
		img.Target, err = gather(ctx, s, img.Manifests)
		return img, err
	}
	if img.Target, err = document(s, index); err != nil {
		return img, err
	}
	err = s.Whole(ctx, img.Target)
	if img.Whole = err == nil; errors.Is(err, imagestore.ErrNotFound) {
		err = nil
	}
	return img, err
}

// document is the descriptor of an index whose digest alone is known.
func document(s *imagestore.Store, d digest.Digest) (ocispec.Descriptor, error) {
	data, err := s.Read(d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{Digest: d, Size: int64(len(data))}
	if desc.MediaType, err = imagestore.DocumentType(data, ""); err != nil {
		return desc, fmt.Errorf("index %s: %w", d, err)
	}
	return desc, nil
}

// gather is the manifest, if it is one; an index, which the store gets, of several.
func gather(ctx context.Context, s *imagestore.Store, manifests []ocispec.Descriptor) (ocispec.Descriptor, error) {
	if len(manifests) == 1 {
		d := manifests[0]
		d.Platform = nil
		return d, nil
	}
	return s.PutJSON(ctx, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
}
