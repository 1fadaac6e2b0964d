package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/relocate"
	"github.com/clusterimage/keg/internal/ctxio"
)

// storageRoot is where a distribution registry keeps everything, below its root directory.
const storageRoot = "docker/registry/v2"

// storageFile is a file of a registry's storage: a blob of the store, or a link, which holds a digest.
type storageFile struct {
	path string
	blob digest.Digest
	link digest.Digest
}

// SaveStorage writes images as the storage of a distribution registry (docker-registry, registry:2 and 3) in a
// tar whose names begin with docker/registry/v2: unpacked into the registry's root directory it is served as it
// is. Names stand for what they stood for where the images come from, digest for digest; of an index that is
// not whole, what is there is served. The same images give the same bytes. The store is held meanwhile; a
// blob that is missing is a *imagestore.MissingError, and nothing has been written then.
func SaveStorage(ctx context.Context, w io.Writer, s *imagestore.Store, images []relocate.Placed) error {
	t := tarWriter{ctx: ctx, w: w}
	err := eachStorageFile(ctx, s, images, func(f storageFile) error {
		if f.blob != "" {
			return t.stored(s, f.path, f.blob)
		}
		return t.file(f.path, int64(len(f.link)), strings.NewReader(f.link.String()))
	})
	if err == nil {
		err = t.end()
	}
	if err != nil {
		return fmt.Errorf("writing registry storage: %w", err)
	}
	return nil
}

// SaveStorageDir is SaveStorage to files below dir, which is there and has nothing of a registry yet. Each file is
// durable when it returns.
func SaveStorageDir(ctx context.Context, dir string, s *imagestore.Store, images []relocate.Placed, written func(bytes int64)) error {
	err := eachStorageFile(ctx, s, images, func(f storageFile) error {
		var r io.Reader = bytes.NewReader([]byte(f.link))
		if f.blob != "" {
			b, err := s.Open(f.blob)
			if err != nil {
				return err
			}
			defer b.Close()
			r = b
		}
		n, err := writeNew(ctx, filepath.Join(dir, filepath.FromSlash(f.path)), r)
		written(n)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing registry storage: %w", err)
	}
	return nil
}

func writeNew(ctx context.Context, name string, r io.Reader) (int64, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, ctxio.Reader(ctx, r))
	if err == nil {
		err = f.Sync()
	}
	return n, errors.Join(err, f.Close())
}

// eachStorageFile calls fn for all files of the storage, sorted by path.
func eachStorageFile(ctx context.Context, s *imagestore.Store, images []relocate.Placed, fn func(storageFile) error) error {
	if len(images) == 0 {
		return errors.New("there are no images to write")
	}
	release, err := s.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	storage := storagePlan{s: s, files: map[string]storageFile{}}
	for _, img := range images {
		if err := storage.image(ctx, img); err != nil {
			return fmt.Errorf("%s: %w", img.Name, err)
		}
	}
	files := make([]storageFile, 0, len(storage.files))
	for _, f := range storage.files {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b storageFile) int { return strings.Compare(a.path, b.path) })
	for _, f := range files {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

// storagePlan collects the files, by path.
type storagePlan struct {
	s     *imagestore.Store
	files map[string]storageFile
}

// image adds one image to its repository.
func (p storagePlan) image(ctx context.Context, img relocate.Placed) error {
	roots := []ocispec.Descriptor{img.Target}
	if !img.Whole {
		p.add(img.Repository, img.Target)
		roots = img.Manifests
	}
	for _, d := range roots {
		if err := p.tree(ctx, img.Repository, d); err != nil {
			return err
		}
	}
	if strings.Contains(img.Reference, ":") {
		return nil // a digest is found without a tag
	}
	tag := path.Join(storageRoot, "repositories", img.Repository, "_manifests/tags", img.Reference)
	p.link(path.Join(tag, "current/link"), img.Target.Digest)
	p.link(path.Join(tag, "index", storageDigest(img.Target.Digest), "link"), img.Target.Digest)
	return nil
}

// tree adds all that an image needs.
func (p storagePlan) tree(ctx context.Context, repository string, desc ocispec.Descriptor) error {
	return p.s.Walk(ctx, desc, func(d ocispec.Descriptor) error {
		p.add(repository, d)
		return nil
	})
}

// add puts a blob into the storage and makes it known in a repository: documents are looked for in one place,
// configs and layers in another.
func (p storagePlan) add(repository string, d ocispec.Descriptor) {
	data := path.Join(storageRoot, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded()[:2], d.Digest.Encoded(), "data")
	p.files[data] = storageFile{path: data, blob: d.Digest}
	place := "_layers"
	if imagestore.IsIndex(d.MediaType) || imagestore.IsManifest(d.MediaType) {
		place = "_manifests/revisions"
	}
	p.link(path.Join(storageRoot, "repositories", repository, place, storageDigest(d.Digest), "link"), d.Digest)
}

func (p storagePlan) link(name string, d digest.Digest) {
	p.files[name] = storageFile{path: name, link: d}
}

// storageDigest is how a digest stands in a path.
func storageDigest(d digest.Digest) string { return path.Join(d.Algorithm().String(), d.Encoded()) }
