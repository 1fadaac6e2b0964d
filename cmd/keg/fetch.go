package main

import (
	"context"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/transfer"
)

// pullAndTag fetches an image and names it, holding the store so that no prune comes between.
func pullAndTag(ctx context.Context, s *imagestore.Store, client *transfer.Client, ref name.Reference, opts transfer.PullOptions) (ocispec.Descriptor, error) {
	release, err := s.Hold(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer release()
	target, err := client.Pull(ctx, s, ref, opts)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return target, s.Tag(ctx, ref, target)
}
