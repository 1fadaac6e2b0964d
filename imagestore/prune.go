package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/internal/lockfile"
)

// PruneOptions say how to prune. The zero value removes all that is not needed.
type PruneOptions struct {
	// DryRun counts what would be removed, and removes nothing.
	DryRun bool
	// Roots are kept with all they need, as if they had names.
	Roots []ocispec.Descriptor
	// Waiting, if not nil, is called once if others hold the store and Prune waits for them.
	Waiting func()
}

// PruneResult says what was removed.
type PruneResult struct {
	// Blobs counts blobs that no tag reached; files that interrupted writers left are not among them.
	Blobs int `json:"blobs"`
	// Bytes is what they, those files, and entries of caches took on the disk.
	Bytes int64 `json:"bytes"`
}

// Prune removes the blobs that no tag reaches, what caches say of them or of no blob at all, and what
// interrupted writers left. What a build brought and nobody tagged goes too: base images, of which the
// layers live on in what was built on them, and files that ADD downloaded. It waits, until ctx ends, for
// everybody who holds the store; blobs being written are never touched. If it cannot read what a tag
// needs it removes nothing; blobs that an image should have and has not don't matter.
func (s *Store) Prune(ctx context.Context, opts PruneOptions) (PruneResult, error) {
	fail := func(err error) (PruneResult, error) {
		return PruneResult{}, fmt.Errorf("pruning store: %w", err)
	}
	release, err := lockfile.Acquire(ctx, s.path("content.lock"), lockfile.Exclusive, opts.Waiting)
	if err != nil {
		return fail(err)
	}
	defer release()
	// And nobody tags in the meantime, such as a second name for an image that just lost its last.
	unlock, err := lockfile.Acquire(ctx, s.path("lock"), lockfile.Exclusive, opts.Waiting)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	needed, err := s.needed(ctx, opts.Roots)
	if err != nil {
		return fail(err)
	}
	var result PruneResult
	remove := func(path string, fi fs.FileInfo) error {
		if !opts.DryRun {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
		result.Bytes += fi.Size()
		return nil
	}
	if err := s.pruneBlobs(ctx, needed, func(path string, fi fs.FileInfo) error {
		result.Blobs++
		return remove(path, fi)
	}); err != nil {
		return result, fmt.Errorf("pruning store: %w", err)
	}
	if err := s.pruneCaches(ctx, needed, remove); err != nil {
		return result, fmt.Errorf("pruning store: %w", err)
	}
	if err := s.pruneRemains(ctx, remove); err != nil {
		return result, fmt.Errorf("pruning store: %w", err)
	}
	return result, nil
}

// needed finds what the tags reach, also those that other tools wrote, and what roots do.
func (s *Store) needed(ctx context.Context, roots []ocispec.Descriptor) (map[digest.Digest]bool, error) {
	idx, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	w := newWalker(s)
	for _, d := range idx.Manifests {
		if err := w.visit(ctx, d, 0); err != nil {
			return nil, fmt.Errorf("image %s: %w", d.Annotations[ocispec.AnnotationRefName], err)
		}
	}
	for _, d := range roots {
		if err := w.visit(ctx, d, 0); err != nil {
			return nil, fmt.Errorf("root %s: %w", d.Digest, err)
		}
	}
	return w.seen, nil
}

func (s *Store) pruneBlobs(ctx context.Context, needed map[digest.Digest]bool, remove func(string, fs.FileInfo) error) error {
	algorithms, err := os.ReadDir(s.path("blobs"))
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		err := eachFile(ctx, s.path("blobs", a.Name()), func(path string, fi fs.FileInfo) error {
			d := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), filepath.Base(path))
			if needed[d] || d.Validate() != nil {
				return nil
			}
			return remove(path, fi)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pruneCaches removes entries of every Cache, and what killed writers of them left. Other files belong to
// whoever has that directory.
func (s *Store) pruneCaches(ctx context.Context, needed map[digest.Digest]bool, remove func(string, fs.FileInfo) error) error {
	caches, err := os.ReadDir(s.path("cache"))
	if err != nil {
		return err
	}
	for _, c := range caches {
		if !c.IsDir() {
			continue
		}
		err := eachFile(ctx, s.path("cache", c.Name()), func(path string, fi fs.FileInfo) error {
			if atomicfile.IsRemains(path) {
				return remove(path, fi)
			}
			var e struct {
				Key   string          `json:"key"`
				Blobs []digest.Digest `json:"blobs"`
			}
			if data, err := os.ReadFile(path); err != nil {
				return err
			} else if json.Unmarshal(data, &e) != nil || e.Key == "" {
				return nil
			}
			if len(e.Blobs) > 0 && !slices.ContainsFunc(e.Blobs, func(d digest.Digest) bool { return !needed[d] }) {
				return nil
			}
			return remove(path, fi)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pruneRemains removes files in ingest that no writer has locked, and what was to become index.json
// when its writer was killed: that one holds the lock that Prune has now.
func (s *Store) pruneRemains(ctx context.Context, remove func(string, fs.FileInfo) error) error {
	err := eachFile(ctx, s.path("ingest"), func(path string, fi fs.FileInfo) error {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		free, err := lockfile.TryLock(f, lockfile.Exclusive)
		if err != nil || !free || !named(f) {
			return err
		}
		return remove(path, fi)
	})
	if err != nil {
		return err
	}
	return eachFile(ctx, s.dir, func(path string, fi fs.FileInfo) error {
		if !atomicfile.IsRemains(path) {
			return nil
		}
		return remove(path, fi)
	})
}

// eachFile calls fn for the regular files directly in dir; those that go meanwhile are left out.
func eachFile(ctx context.Context, dir string, fn func(path string, fi fs.FileInfo) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
			continue
		}
		if err != nil {
			return err
		}
		if err := fn(filepath.Join(dir, e.Name()), fi); err != nil {
			return err
		}
	}
	return nil
}
