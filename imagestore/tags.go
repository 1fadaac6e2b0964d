package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/internal/lockfile"
)

// Tagged is one name in the store.
type Tagged struct {
	// Name is the full name, such as "docker.io/library/shop:v1".
	Name string
	// Target is the index or manifest that the name stands for.
	Target ocispec.Descriptor
}

func (s *Store) readIndex() (ocispec.Index, error) {
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	data, err := os.ReadFile(s.path(ocispec.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return idx, nil
	}
	if err != nil {
		return idx, fmt.Errorf("reading store: %w", err)
	}
	if err := json.Unmarshal(data, &idx); err != nil {
		return idx, fmt.Errorf("reading store: %s: %w", s.path(ocispec.ImageIndexFile), err)
	}
	return idx, nil
}

// Images lists the names in the store, sorted. It never waits for writers.
func (s *Store) Images() ([]Tagged, error) {
	idx, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var list []Tagged
	for _, d := range idx.Manifests {
		if n := d.Annotations[clusterimage.AnnotationName]; n != "" {
			target := d
			target.Annotations = nil
			list = append(list, Tagged{Name: n, Target: target})
		}
	}
	slices.SortFunc(list, func(a, b Tagged) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Resolve finds an image by name, by name@digest, by digest, or by at least 6 hex digits of one. A name
// with digest finds the content under another name too, if the repository has it not.
func (s *Store) Resolve(query string) (Tagged, error) {
	list, err := s.Images()
	if err != nil {
		return Tagged{}, err
	}
	hex := strings.TrimPrefix(query, "sha256:")
	var found []Tagged
	if ref, err := ParseName(query); err == nil {
		full := FullName(ref)
		if i := slices.IndexFunc(list, func(t Tagged) bool { return t.Name == full }); i >= 0 {
			return list[i], nil
		}
		if t, ok := byDigest(list, ref); ok {
			return t, nil
		}
	}
	if len(hex) >= 6 && strings.Trim(hex, "0123456789abcdef") == "" {
		for _, t := range list {
			if strings.HasPrefix(t.Target.Digest.Encoded(), hex) && !slices.ContainsFunc(found, func(f Tagged) bool { return f.Target.Digest == t.Target.Digest }) {
				found = append(found, t)
			}
		}
	}
	switch len(found) {
	case 0:
		return Tagged{}, fmt.Errorf("image %q: %w", query, ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Tagged{}, fmt.Errorf("image %q: %w", query, ErrAmbiguous)
}

// byDigest finds the image that name@digest means, under a name of that repository if it has one.
func byDigest(list []Tagged, ref name.Reference) (Tagged, bool) {
	if _, ok := ref.(name.Digest); !ok {
		return Tagged{}, false
	}
	repository, _, _ := strings.Cut(FullName(ref), "@")
	var other *Tagged
	for i, t := range list {
		if t.Target.Digest.String() != ref.Identifier() {
			continue
		}
		if strings.HasPrefix(t.Name, repository+":") {
			return t, true
		}
		if other == nil {
			other = &list[i]
		}
	}
	if other == nil {
		return Tagged{}, false
	}
	return *other, true
}

// change rewrites index.json under the store's lock.
func (s *Store) change(ctx context.Context, edit func(*ocispec.Index) error) error {
	release, err := lockfile.Acquire(ctx, s.path("lock"), lockfile.Exclusive, nil)
	if err != nil {
		return err
	}
	defer release()
	idx, err := s.readIndex()
	if err != nil {
		return err
	}
	if err := edit(&idx); err != nil {
		return err
	}
	if idx.Manifests == nil {
		idx.Manifests = []ocispec.Descriptor{}
	}
	data, err := json.Marshal(idx)
	if err != nil {
		return fmt.Errorf("writing store: %w", err)
	}
	// Commit makes contents durable, but not names: once for all blobs of an image, here, is enough.
	if err := atomicfile.SyncDir(s.path("blobs", "sha256")); err != nil {
		return fmt.Errorf("writing store: %w", err)
	}
	return atomicfile.Write(s.path(ocispec.ImageIndexFile), data, 0o600)
}

// Tag makes ref stand for target, whose blob must be in the store. A digest reference is kept under
// its digest form.
func (s *Store) Tag(ctx context.Context, ref name.Reference, target ocispec.Descriptor) error {
	return s.TagAll(ctx, Tagged{Name: FullName(ref), Target: target})
}

// TagAll tags several images at once: all of them or none. Names are full. Of two of the same name
// the last counts.
func (s *Store) TagAll(ctx context.Context, images ...Tagged) error {
	entries := make(map[string]ocispec.Descriptor, len(images))
	for _, t := range images {
		ref, err := ParseName(t.Name)
		if err != nil {
			return fmt.Errorf("tagging %q: %w", t.Name, err)
		}
		d := t.Target
		d.Annotations = map[string]string{
			clusterimage.AnnotationName: FullName(ref),
			ocispec.AnnotationRefName:   ref.Identifier(),
		}
		entries[FullName(ref)] = d
	}
	if len(entries) == 0 {
		return nil
	}
	return s.change(ctx, func(idx *ocispec.Index) error {
		for n, d := range entries {
			// Under the lock, which Prune holds too: what is seen here cannot go before it is tagged.
			if !s.Has(d.Digest) {
				return fmt.Errorf("tagging %s: blob %s: %w", n, d.Digest, ErrNotFound)
			}
		}
		idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
			_, again := entries[d.Annotations[clusterimage.AnnotationName]]
			return again
		})
		for _, d := range entries {
			idx.Manifests = append(idx.Manifests, d)
		}
		slices.SortFunc(idx.Manifests, func(a, b ocispec.Descriptor) int {
			return strings.Compare(a.Annotations[clusterimage.AnnotationName], b.Annotations[clusterimage.AnnotationName])
		})
		return nil
	})
}

// Untag takes a full name out of the store; its blobs stay until Prune. ErrNotFound if it is not there.
func (s *Store) Untag(ctx context.Context, fullName string) error {
	return s.change(ctx, func(idx *ocispec.Index) error {
		n := len(idx.Manifests)
		idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
			return d.Annotations[clusterimage.AnnotationName] == fullName
		})
		if len(idx.Manifests) == n {
			return fmt.Errorf("image %q: %w", fullName, ErrNotFound)
		}
		return nil
	})
}
