package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/relocate"
	"github.com/clusterimage/keg/internal/atomicfile"
)

// mirrored is an element of --images-result: where one embedded image went.
type mirrored struct {
	// Source is the full name in the cluster image, and SourceDigest what it stands for there.
	Source       string `json:"source"`
	SourceDigest string `json:"sourceDigest"`
	// Target is the name it has now, and Digest what that stands for.
	Target string `json:"target"`
	Digest string `json:"digest,omitempty"`
	// Outcome is written (into a file), copied, present (it was there), failed, or skipped (not tried).
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
}

// placeImages finds a cluster image (a file, an image of the store or of a registry) and decides where its embedded
// images go. The caller holds the store.
func (a *app) placeImages(ctx context.Context, s *imagestore.Store, what string, rule relocate.Rule, prefix string, show *display) (imagestore.Tagged, []relocate.Placed, error) {
	t, err := a.findImage(ctx, s, what, show)
	if err != nil {
		return t, nil, err
	}
	list, err := relocate.List(ctx, s, t.Target)
	if errors.Is(err, clusterimage.ErrNotClusterImage) {
		return t, nil, &hintedError{fmt.Errorf("%s: %w: it embeds no images", t.Name, err), "name an image that keg build made"}
	}
	if err != nil {
		return t, nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	if len(list) == 0 {
		return t, nil, fmt.Errorf("%s embeds no images", t.Name)
	}
	placed, err := relocate.Place(list, rule, prefix)
	return t, placed, err
}

// mirroredSize is what the images take, blobs that they share counted once.
func mirroredSize(ctx context.Context, s *imagestore.Store, placed []relocate.Placed) (int64, error) {
	seen := map[digest.Digest]bool{}
	var total int64
	for _, p := range placed {
		for _, m := range p.Manifests {
			err := s.Walk(ctx, m, func(d ocispec.Descriptor) error {
				if !seen[d.Digest] {
					total += d.Size
				}
				seen[d.Digest] = true
				return nil
			})
			if err != nil {
				return 0, fmt.Errorf("image %s: %w", p.Name, err)
			}
		}
	}
	return total, nil
}

// writeResult writes the file of --images-result, if one is wanted.
func writeResult(file string, lines []mirrored) error {
	if file == "" {
		return nil
	}
	var b bytes.Buffer
	if err := writeJSON(&b, lines); err != nil {
		return err
	}
	return atomicfile.Write(file, b.Bytes(), 0o644)
}

func imageCount(n int) string {
	if n == 1 {
		return "1 image"
	}
	return fmt.Sprintf("%d images", n)
}
