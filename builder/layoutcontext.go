package builder

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

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/ctxio"
)

// ErrLayout says that an OCI layout does not have what a build context names.
var ErrLayout = errors.New("no such image in the OCI layout")

// imageNameAnnotation has the full name of an image in the index of a layout that containerd or keg wrote.
const imageNameAnnotation = "io.containerd.image.name"

// takeLayouts brings the images of build contexts that are OCI layouts into the store.
func (b *Builder) takeLayouts(ctx context.Context, named map[string]string) (map[string]ocispec.Descriptor, error) {
	out := map[string]ocispec.Descriptor{}
	for name, value := range named {
		text, ok := strings.CutPrefix(value, layoutContext)
		if !ok {
			continue
		}
		l, err := openLayout(text)
		if err == nil {
			out[name], err = l.take(ctx, b.Store)
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if err != nil {
			return nil, fmt.Errorf("build context %s: %w", name, err)
		}
	}
	return out, nil
}

// layout is an OCI layout that somebody else wrote, and the image of it that is meant.
type layout struct {
	dir    string
	target ocispec.Descriptor
}

// openLayout reads DIR, DIR:TAG or DIR@DIGEST. Without either, the only image is meant, else "latest".
func openLayout(text string) (layout, error) {
	dir, want, byDigest := strings.Cut(text, "@")
	tag := ""
	if !byDigest {
		if at := strings.LastIndexByte(dir, ':'); at > strings.LastIndexByte(dir, '/') {
			dir, tag = dir[:at], dir[at+1:]
		}
	}
	l := layout{dir: dir}
	data, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile))
	}
	if err != nil {
		return l, fmt.Errorf("opening OCI layout: %w", err)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return l, fmt.Errorf("reading %s: %w", filepath.Join(dir, ocispec.ImageIndexFile), err)
	}
	if byDigest {
		d := digest.Digest(want)
		if err := d.Validate(); err != nil {
			return l, fmt.Errorf("%s: %w", text, err)
		}
		return l.byDigest(d, idx)
	}
	var found []ocispec.Descriptor
	for _, d := range idx.Manifests {
		if tag == "" && len(idx.Manifests) == 1 || hasTag(d, tag) {
			found = append(found, d)
		}
	}
	found = slices.CompactFunc(found, func(x, y ocispec.Descriptor) bool { return x.Digest == y.Digest })
	switch len(found) {
	case 1:
		l.target = found[0]
		return l, nil
	case 0:
		return l, fmt.Errorf("%s: %w, which has %s", text, ErrLayout, tagsOf(idx))
	}
	return l, fmt.Errorf("%s: the OCI layout has several images of that tag: name one by DIR@DIGEST", text)
}

func hasTag(d ocispec.Descriptor, tag string) bool {
	if tag == "" {
		tag = "latest"
	}
	for _, n := range []string{d.Annotations[ocispec.AnnotationRefName], d.Annotations[imageNameAnnotation]} {
		if n == tag || strings.HasSuffix(n, ":"+tag) {
			return true
		}
	}
	return false
}

func tagsOf(idx ocispec.Index) string {
	var tags []string
	for _, d := range idx.Manifests {
		n := d.Annotations[ocispec.AnnotationRefName]
		if n == "" {
			n = d.Annotations[imageNameAnnotation]
		}
		if n == "" {
			n = d.Digest.String()
		}
		tags = append(tags, n)
	}
	if len(tags) == 0 {
		return "none"
	}
	return strings.Join(tags, ", ")
}

// byDigest finds a manifest or index that need not be named in the layout's index.
func (l layout) byDigest(d digest.Digest, idx ocispec.Index) (layout, error) {
	for _, m := range idx.Manifests {
		if m.Digest == d {
			l.target = m
			return l, nil
		}
	}
	data, err := os.ReadFile(l.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return l, fmt.Errorf("%s@%s: %w, which has %s", l.dir, d, ErrLayout, tagsOf(idx))
	}
	if err != nil {
		return l, err
	}
	mediaType, err := imagestore.DocumentType(data, "")
	if err != nil {
		return l, fmt.Errorf("%s@%s: %w", l.dir, d, err)
	}
	l.target = ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	return l, nil
}

func (l layout) path(d digest.Digest) string {
	return filepath.Join(l.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// take brings the image into the store. Of an index, what the layout does not have is left out: another platform's.
func (l layout) take(ctx context.Context, s *imagestore.Store) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: l.target.MediaType, Digest: l.target.Digest, Size: l.target.Size, ArtifactType: l.target.ArtifactType}
	return d, l.takeOne(ctx, s, d, 0)
}

// maxLayoutDepth bounds indexes within indexes.
const maxLayoutDepth = 4

func (l layout) takeOne(ctx context.Context, s *imagestore.Store, d ocispec.Descriptor, depth int) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%s: %w", l.dir, err)
	}
	if err := l.blob(ctx, s, d); err != nil {
		return err
	}
	index := imagestore.IsIndex(d.MediaType)
	if !index && !imagestore.IsManifest(d.MediaType) {
		return nil
	}
	if depth > maxLayoutDepth {
		return fmt.Errorf("%s: indexes within indexes, more than %d deep", l.dir, maxLayoutDepth)
	}
	data, err := s.Read(d.Digest)
	if err != nil {
		return err
	}
	children, err := imagestore.Children(d.MediaType, data)
	if err != nil {
		return err
	}
	for _, c := range children {
		err := l.takeOne(ctx, s, c, depth+1)
		if index && errors.Is(err, fs.ErrNotExist) && !s.Has(c.Digest) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l layout) blob(ctx context.Context, s *imagestore.Store, d ocispec.Descriptor) error {
	if s.Has(d.Digest) {
		return nil
	}
	f, err := os.Open(l.path(d.Digest))
	if err != nil {
		return fmt.Errorf("reading OCI layout: %w", err)
	}
	defer f.Close()
	w, err := s.Writer(ctx)
	if err != nil {
		return err
	}
	defer w.Close() // after Commit it does nothing
	if _, err := io.Copy(w, ctxio.Reader(ctx, f)); err != nil {
		return fmt.Errorf("reading %s: %w", l.path(d.Digest), err)
	}
	if _, err := w.Commit(d.Digest, d.Size); err != nil {
		return fmt.Errorf("reading %s: %w", l.path(d.Digest), err)
	}
	return nil
}
