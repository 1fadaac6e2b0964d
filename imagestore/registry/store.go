package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
)

// Store serves every tagged image of a store under its full name. Images tagged or untagged while it
// serves appear and go.
type Store struct {
	s *imagestore.Store

	mu    sync.Mutex
	index []byte // the index.json that table was made of
	table *table
}

var (
	_ Source = (*Store)(nil)
	_ Lister = (*Store)(nil)
)

// StoreSource serves s.
func StoreSource(s *imagestore.Store) *Store { return &Store{s: s} }

// Resolve implements Source.
func (s *Store) Resolve(ctx context.Context, ns, repository, reference string) (ocispec.Descriptor, error) {
	t, err := s.current(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return t.resolve(ns, repository, reference)
}

// Open implements Source.
func (s *Store) Open(_ context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	b, err := s.s.Open(d)
	if err != nil {
		return nil, err // not a *Blob that is nil
	}
	return b, nil
}

// Tags implements Lister.
func (s *Store) Tags(ctx context.Context, ns, repository string) ([]string, error) {
	t, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	return t.tags(ns, repository)
}

// Repositories implements Lister.
func (s *Store) Repositories(ctx context.Context) ([]string, error) {
	t, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	return t.names(), nil
}

// current is the table of the store's present tags.
func (s *Store) current(ctx context.Context) (*table, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	index, err := os.ReadFile(filepath.Join(s.s.Dir(), ocispec.ImageIndexFile))
	if err != nil {
		return nil, fmt.Errorf("reading store: %w", err)
	}
	if s.table != nil && bytes.Equal(index, s.index) {
		return s.table, nil
	}
	images, err := s.s.Images()
	if err != nil {
		return nil, err
	}
	t := newTable()
	for _, img := range images {
		t.add(img.Name, img.Target)
		if err := s.children(ctx, t, img.Target, 0); err != nil {
			return nil, fmt.Errorf("image %s: %w", img.Name, err)
		}
	}
	// Should the index have changed between the two looks, the next request reads it again.
	s.index, s.table = index, t
	return t, nil
}

const maxDepth = 16 // of nested indexes

// children makes the manifests of an index known by digest. Those that are not in the store are too:
// asking for them fails when they are opened.
func (s *Store) children(ctx context.Context, t *table, desc ocispec.Descriptor, depth int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if !imagestore.IsIndex(desc.MediaType) || depth > maxDepth || !s.s.Has(desc.Digest) {
		return nil
	}
	var idx ocispec.Index
	if err := s.s.ReadJSON(desc.Digest, &idx); err != nil {
		return err
	}
	for _, d := range idx.Manifests {
		if _, ok := t.documents[d.Digest]; ok {
			continue
		}
		t.documents[d.Digest] = d
		if err := s.children(ctx, t, d, depth+1); err != nil {
			return err
		}
	}
	return nil
}
