package buildkit

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder"
)

// link hands the blobs of images over to BuildKit in this process by hard link: it finds in its own content store
// what it would copy there otherwise. Where links cannot be, it does.
func link(dir string, e builder.Execution) {
	stores, err := filepath.Glob(filepath.Join(dir, "runc-*"))
	if err != nil {
		return
	}
	for _, s := range stores {
		to := filepath.Join(s, "content", "blobs", "sha256")
		if err := os.MkdirAll(to, 0o700); err != nil {
			continue
		}
		images := []ocispec.Descriptor{e.Base}
		for _, d := range e.Images {
			images = append(images, d)
		}
		for _, d := range images {
			data, err := os.ReadFile(blobPath(e.Layout, d.Digest))
			if err != nil {
				continue
			}
			var m ocispec.Manifest
			if err := json.Unmarshal(data, &m); err != nil {
				continue
			}
			for _, l := range m.Layers {
				if l.Digest.Validate() != nil {
					continue
				}
				err := os.Link(blobPath(e.Layout, l.Digest), filepath.Join(to, l.Digest.Encoded()))
				if err != nil && !errors.Is(err, fs.ErrExist) {
					return // another file system
				}
			}
		}
	}
}

func blobPath(layout string, d digest.Digest) string {
	return filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded())
}
