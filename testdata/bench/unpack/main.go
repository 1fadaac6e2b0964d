// Command unpack is keg-node's unpacking alone, for `make bench`: unpack STORE IMAGE DIR unpacks the
// first rootfs of an image in a store.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/unpack"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: unpack STORE IMAGE DIR")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, dir, image, to string) error {
	s, err := imagestore.Open(dir)
	if err != nil {
		return err
	}
	t, err := s.Resolve(image)
	if err != nil {
		return err
	}
	img, err := s.ClusterImage(ctx, t.Target)
	if err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if err := s.ReadJSON(img.Rootfs[0].Digest, &manifest); err != nil {
		return err
	}
	var config ocispec.Image
	if err := s.ReadJSON(manifest.Config.Digest, &config); err != nil {
		return err
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return fmt.Errorf("%s has %d layers and %d diff IDs", image, len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	var layers []unpack.Layer
	for i, l := range manifest.Layers {
		layers = append(layers, unpack.Layer{
			MediaType: l.MediaType, DiffID: config.RootFS.DiffIDs[i], Size: l.Size,
			Open: func() (io.ReadCloser, error) { return s.Open(l.Digest) },
		})
	}
	return unpack.Rootfs(ctx, layers, to, unpack.Options{})
}
