package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// Save writes images, with all that they need, as an OCI layout in a tar. index.json stands first and
// documents before other blobs, so that a reader knows early what comes. The same images give the same
// bytes. The store is held meanwhile; a blob that is missing is a *imagestore.MissingError, and
// nothing has been written then.
func Save(ctx context.Context, w io.Writer, s *imagestore.Store, images []imagestore.Tagged) error {
	if len(images) == 0 {
		return errors.New("saving images: there are none to save")
	}
	release, err := s.Hold(ctx)
	if err != nil {
		return fmt.Errorf("saving images: %w", err)
	}
	defer release()
	index, blobs, err := plan(ctx, s, images)
	if err != nil {
		return fmt.Errorf("saving images: %w", err)
	}
	t := tarWriter{ctx: ctx, w: w}
	if err := t.layout(s, index, blobs); err != nil {
		return fmt.Errorf("saving images: %w", err)
	}
	return nil
}

// plan gives the archive's index.json, and the blobs in their order.
func plan(ctx context.Context, s *imagestore.Store, images []imagestore.Tagged) ([]byte, []ocispec.Descriptor, error) {
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	var blobs []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, img := range images {
		err := s.Walk(ctx, img.Target, func(d ocispec.Descriptor) error {
			if !seen[d.Digest] {
				blobs = append(blobs, d)
			}
			seen[d.Digest] = true
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", cmp.Or(img.Name, img.Target.Digest.String()), err)
		}
		d := bare(img.Target)
		if img.Name != "" {
			d.Annotations = map[string]string{clusterimage.AnnotationName: img.Name, ocispec.AnnotationRefName: img.Name}
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	order := func(a, b ocispec.Descriptor) int {
		return cmp.Or(strings.Compare(a.Annotations[clusterimage.AnnotationName], b.Annotations[clusterimage.AnnotationName]),
			strings.Compare(a.Digest.String(), b.Digest.String()))
	}
	slices.SortFunc(idx.Manifests, order)
	idx.Manifests = slices.CompactFunc(idx.Manifests, func(a, b ocispec.Descriptor) bool { return order(a, b) == 0 })
	slices.SortFunc(blobs, func(a, b ocispec.Descriptor) int {
		return cmp.Or(rank(a)-rank(b), strings.Compare(a.Digest.String(), b.Digest.String()))
	})
	data, err := json.Marshal(idx)
	return data, blobs, err
}

// rank puts indexes before manifests, and those before all other blobs.
func rank(d ocispec.Descriptor) int {
	switch {
	case imagestore.IsIndex(d.MediaType):
		return 0
	case imagestore.IsManifest(d.MediaType):
		return 1
	}
	return 2
}

// tarWriter writes a tar whose contents are copied straight from file to file, by the kernel where it can;
// tar.Writer would not let it.
type tarWriter struct {
	ctx context.Context
	w   io.Writer
}

func (t tarWriter) layout(s *imagestore.Store, index []byte, blobs []ocispec.Descriptor) error {
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := t.file(ocispec.ImageIndexFile, int64(len(index)), bytes.NewReader(index)); err != nil {
		return err
	}
	if err := t.file(ocispec.ImageLayoutFile, int64(len(layout)), bytes.NewReader(layout)); err != nil {
		return err
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := t.header(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, d := range blobs {
		if err := t.blob(s, d); err != nil {
			return err
		}
	}
	return t.end()
}

// end writes what a tar ends with.
func (t tarWriter) end() error {
	_, err := t.w.Write(make([]byte, 1024))
	return err
}

func (t tarWriter) blob(s *imagestore.Store, d ocispec.Descriptor) error {
	return t.stored(s, path.Join("blobs", d.Digest.Algorithm().String(), d.Digest.Encoded()), d.Digest)
}

// stored writes a blob of the store as a file.
func (t tarWriter) stored(s *imagestore.Store, name string, d digest.Digest) error {
	b, err := s.Open(d)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := t.file(name, b.Size, b.File); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	return nil
}

// header writes what stands before a file's content: nothing of it depends on this machine.
func (t tarWriter) header(h *tar.Header) error {
	h.ModTime = time.Unix(0, 0)
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(h); err != nil {
		return err
	}
	_, err := t.w.Write(buf.Bytes())
	return err
}

// copyStep is how much is copied between two looks at the context.
const copyStep = 32 << 20

func (t tarWriter) file(name string, size int64, r io.Reader) error {
	if err := t.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	for left := size; left > 0; {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		n, err := io.CopyN(t.w, r, min(left, copyStep))
		left -= n
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	_, err := t.w.Write(make([]byte, -size&511))
	return err
}
