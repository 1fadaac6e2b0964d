// Package imagestore keeps images on disk: one directory, an OCI layout (image-spec v1.1,
// image-layout.md), so that other tools read it. A blob appears whole or not at all, a tag moves at
// once or not at all, and whatever kills a writer, the store stays right.
package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/internal/lockfile"
)

// Errors that callers tell apart.
var (
	// ErrNotFound says that no image, or no blob, of that name is in the store.
	ErrNotFound = errors.New("not found in the store")
	// ErrAmbiguous says that a short ID is the beginning of several digests.
	ErrAmbiguous = errors.New("ambiguous short ID")
	// ErrDigest says that content is not what its digest or size says.
	ErrDigest = errors.New("content does not match its digest")
	// ErrDocument says that a manifest, index or config cannot be read as such.
	ErrDocument = errors.New("not a readable image document")
)

// Store is an image store in one directory:
//
//	oci-layout, index.json, blobs/sha256/HEX   the OCI layout
//	ingest/                                    blobs being written, under an flock each
//	cache/                                     what can be made again, in directories of their own: see Cache
//	lock, content.lock                         flocks: of index.json, and of blobs not yet tagged
//
// A tag is an entry of index.json with the annotation io.containerd.image.name, the full name.
type Store struct{ dir string }

// Open opens the store in dir and makes it, with mode 0700 for new directories, if it is not there.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	for _, d := range []string{s.path("blobs", "sha256"), s.path("ingest"), s.path("cache")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening store %s: %w", dir, err)
		}
	}
	data, err := os.ReadFile(s.path(ocispec.ImageLayoutFile))
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.create(); err != nil {
			return nil, fmt.Errorf("opening store %s: %w", dir, err)
		}
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", dir, err)
	}
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(data, &layout); err != nil || layout.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("opening store %s: %s is not that of an OCI layout of version %s", dir, ocispec.ImageLayoutFile, ocispec.ImageLayoutVersion)
	}
	return s, nil
}

// create makes the two documents that an OCI layout must have. oci-layout comes last: it says that the
// rest is there.
func (s *Store) create() error {
	err := s.change(context.Background(), func(*ocispec.Index) error { return nil })
	if err != nil {
		return err
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return atomicfile.Write(s.path(ocispec.ImageLayoutFile), layout, 0o600)
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// CacheDir is a directory for what can be made again, such as "pack"; it is made if missing.
func (s *Store) CacheDir(name string) (string, error) {
	d := s.path("cache", name)
	if err := os.MkdirAll(d, 0o700); err != nil {
		return "", fmt.Errorf("making cache directory: %w", err)
	}
	return d, nil
}

// Scratch is an empty file on the store's disk that has no name: what is written to it is gone when it is
// closed, however that comes about.
func (s *Store) Scratch() (*os.File, error) {
	f, err := os.CreateTemp(s.path("ingest"), "scratch-*")
	if err != nil {
		return nil, fmt.Errorf("making a scratch file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) { // Prune may have been quicker
		return nil, errors.Join(fmt.Errorf("making a scratch file: %w", err), f.Close())
	}
	return f, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// BlobPath is where the blob lies, whether it is there or not. d must be valid.
func (s *Store) BlobPath(d digest.Digest) string {
	return s.path("blobs", d.Algorithm().String(), d.Encoded())
}

// Hold keeps blobs that no tag reaches yet from being pruned, until release is called. Whoever writes
// blobs and tags them later holds the store from before the first look at what is there. Several may
// hold it at once; Prune waits for all of them, so nobody prunes while holding. A store that cannot be
// written to is held as well: it may be pruned from elsewhere.
func (s *Store) Hold(ctx context.Context) (release func(), err error) {
	path := s.path("content.lock")
	release, err = lockfile.Acquire(ctx, path, lockfile.Shared, nil)
	if !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) {
		return release, err
	}
	f, openErr := os.Open(path)
	if errors.Is(openErr, fs.ErrNotExist) {
		return func() {}, nil // nobody ever held it or pruned
	}
	if openErr != nil {
		return nil, err
	}
	if err := lockfile.Lock(ctx, f, lockfile.Shared, nil); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}
