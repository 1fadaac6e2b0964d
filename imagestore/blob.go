package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob is an open blob. Its content was verified when it was written.
type Blob struct {
	*os.File
	Size int64
}

// Open opens a blob for reading, seeking and reading at an offset; ErrNotFound if it is not there.
func (s *Store) Open(d digest.Digest) (*Blob, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("opening blob %q: %w", d, err)
	}
	f, err := os.Open(s.BlobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening blob: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("opening blob %s: %w", d, err)
	}
	return &Blob{File: f, Size: fi.Size()}, nil
}

// Has says whether the blob is there.
func (s *Store) Has(d digest.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	_, err := os.Stat(s.BlobPath(d))
	return err == nil
}

// maxDocument bounds manifests, indexes and configs; registries commonly allow 4 MiB.
const maxDocument = 32 << 20

// Read returns a small blob (a manifest, an index, a config), checked against its digest.
func (s *Store) Read(d digest.Digest) ([]byte, error) {
	b, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Size > maxDocument {
		return nil, fmt.Errorf("reading blob %s: %d bytes are too many: %w", d, b.Size, ErrDocument)
	}
	data, err := io.ReadAll(b)
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", d, err)
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, fmt.Errorf("reading blob %s: %w", d, ErrDigest)
	}
	return data, nil
}

// ReadJSON reads a document into v. ErrDocument says that it is not JSON, or not of that shape.
func (s *Store) ReadJSON(d digest.Digest, v any) error {
	data, err := s.Read(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("reading blob %s: %w: %w", d, ErrDocument, err)
	}
	return nil
}

// Put writes a small blob and returns its descriptor.
func (s *Store) Put(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if s.Has(desc.Digest) {
		return desc, nil
	}
	w, err := s.Writer(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := w.Commit(desc.Digest, desc.Size); err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

// PutJSON writes v as a blob.
func (s *Store) PutJSON(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encoding %s: %w", mediaType, err)
	}
	return s.Put(ctx, mediaType, data)
}
