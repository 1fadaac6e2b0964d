// Package imagestore keeps images on disk: one directory, an OCI layout (image-spec v1.1,
// image-layout.md), so that other tools read it. A blob appears whole or not at all, a tag moves at
// once or not at all, and whatever kills a writer, the store stays right.
package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
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
)

// Store is an image store in one directory:
//
//	oci-layout, index.json, blobs/sha256/HEX   the OCI layout
//	ingest/                                    blobs being written, under an flock each
//	cache/                                     what can be made again; callers own subdirectories
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
		layout, _ := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
		if err := atomicfile.Write(s.path(ocispec.ImageLayoutFile), layout, 0o600); err != nil {
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

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// BlobPath is where the blob lies, whether it is there or not. d must be valid.
func (s *Store) BlobPath(d digest.Digest) string {
	return s.path("blobs", d.Algorithm().String(), d.Encoded())
}

// Hold keeps blobs that no tag reaches yet from being pruned, until release is called. Whoever writes
// blobs and tags them later holds the store from before the first look at what is there.
func (s *Store) Hold(ctx context.Context) (release func(), err error) {
	return lockfile.Acquire(ctx, s.path("content.lock"), lockfile.Shared, nil)
}

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
		return nil, fmt.Errorf("reading blob %s: %d bytes are too many for a document", d, b.Size)
	}
	data, err := io.ReadAll(b)
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", d, err)
	}
	if digest.FromBytes(data) != d && d.Algorithm() == digest.SHA256 {
		return nil, fmt.Errorf("reading blob %s: %w", d, ErrDigest)
	}
	return data, nil
}

// ReadJSON reads a document into v.
func (s *Store) ReadJSON(d digest.Digest, v any) error {
	data, err := s.Read(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("reading blob %s: %w", d, err)
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

// Writer receives one blob of a digest that may be known beforehand or not.
type Writer struct {
	s    *Store
	f    *os.File
	hash digest.Digester
	size int64
	done bool
}

// Writer begins a blob. The caller closes it always; closing without Commit discards.
func (s *Store) Writer(ctx context.Context) (*Writer, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.path("ingest"), "blob-*")
	if err != nil {
		return nil, fmt.Errorf("writing blob: %w", err)
	}
	return &Writer{s: s, f: f, hash: digest.SHA256.Digester()}, nil
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.hash.Hash().Write(p[:n])
	w.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("writing blob: %w", err)
	}
	return n, nil
}

// Commit makes the blob appear under its digest, which it returns. want and size are checked if want
// is not empty; a mismatch is ErrDigest and leaves the store as it was.
func (w *Writer) Commit(want digest.Digest, size int64) (digest.Digest, error) {
	got := w.hash.Digest()
	if want != "" && (want != got || size != w.size) {
		return "", fmt.Errorf("writing blob: got %d bytes with digest %s, want %d with %s: %w", w.size, got, size, want, ErrDigest)
	}
	if err := w.f.Sync(); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", got, err)
	}
	if err := w.f.Close(); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", got, err)
	}
	path := w.s.BlobPath(got)
	if err := os.Rename(w.f.Name(), path); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", got, err)
	}
	w.done = true
	if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
		return "", err
	}
	return got, nil
}

// Size is the number of bytes written so far.
func (w *Writer) Size() int64 { return w.size }

// Close discards what was not committed.
func (w *Writer) Close() error {
	if w.done {
		return nil
	}
	w.done = true
	return errors.Join(w.f.Close(), os.Remove(w.f.Name()))
}

// ParseName reads an image name as a person types it, and makes it full: "shop" becomes
// "docker.io/library/shop:latest". The result is the form that String gives tags and digests in.
func ParseName(s string) (name.Reference, error) {
	ref, err := name.ParseReference(s, name.WithDefaultRegistry("docker.io"))
	if err != nil {
		return nil, fmt.Errorf("reading image name: %w", err)
	}
	return ref, nil
}

// FullName is the form in which names stand in annotations and in lists.
func FullName(ref name.Reference) string {
	repo := ref.Context()
	registry := repo.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	switch r := ref.(type) {
	case name.Digest:
		return registry + "/" + repo.RepositoryStr() + "@" + r.DigestStr()
	default:
		return registry + "/" + repo.RepositoryStr() + ":" + ref.Identifier()
	}
}

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

// Resolve finds an image by name, by name@digest, by digest, or by at least 6 hex digits of one.
func (s *Store) Resolve(query string) (Tagged, error) {
	list, err := s.Images()
	if err != nil {
		return Tagged{}, err
	}
	hex := strings.TrimPrefix(query, "sha256:")
	var found []Tagged
	if ref, err := ParseName(query); err == nil {
		_, byDigest := ref.(name.Digest)
		for _, t := range list {
			if !byDigest && t.Name == FullName(ref) {
				return t, nil
			}
			if byDigest && t.Target.Digest.String() == ref.Identifier() {
				return t, nil
			}
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
	return atomicfile.Write(s.path(ocispec.ImageIndexFile), data, 0o600)
}

// Tag makes ref stand for target, whose blob must be in the store. A digest reference is kept under
// its digest form.
func (s *Store) Tag(ctx context.Context, ref name.Reference, target ocispec.Descriptor) error {
	if !s.Has(target.Digest) {
		return fmt.Errorf("tagging %s: blob %s: %w", FullName(ref), target.Digest, ErrNotFound)
	}
	full := FullName(ref)
	return s.change(ctx, func(idx *ocispec.Index) error {
		idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
			return d.Annotations[clusterimage.AnnotationName] == full
		})
		target.Annotations = map[string]string{
			clusterimage.AnnotationName: full,
			ocispec.AnnotationRefName:   ref.Identifier(),
		}
		idx.Manifests = append(idx.Manifests, target)
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
