// Package archive moves images between a store and one file. It writes OCI layouts in a tar
// (image-spec v1.1, image-layout.md) and reads those, what docker save and its relatives write, and the
// storage of the distribution registry; in one pass, with memory that does not depend on their size.
package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/internal/progress"
)

// Errors that callers tell apart; beside those of imagestore, of which a missing blob is a
// *imagestore.MissingError and wrong content an ErrDigest.
var (
	// ErrFormat says that a file is no image archive, or one that is broken or hostile.
	ErrFormat = errors.New("not a readable image archive")
	// ErrNoName says that an archive does not say what an image is called.
	ErrNoName = errors.New("the archive does not name the image")
)

// Found is an image that was read into a store and is not tagged.
type Found struct {
	// Name is the full name, or "" where the archive has none.
	Name string
	// Target is the index or manifest that the name stands for.
	Target ocispec.Descriptor
	// Platform is that of a manifest, such as "linux/amd64"; "" for an index.
	Platform string
	// Index is the digest of the index by which Target, a manifest, was named, if the archive has not all
	// of that index's manifests. The index document is in the store. Each manifest that is there is
	// Found by itself then.
	Index digest.Digest
}

// Options of Load.
type Options struct {
	// Progress receives how many bytes of the archive were read.
	Progress progress.Func
	// Name is the name for an image that the archive does not name, of which there may be one then.
	Name string
}

// Load reads an archive and tags what it holds: everything, or nothing if anything is wrong with it.
// The result is sorted by name. Blobs of a failed Load stay until Prune, so that the next takes less.
func Load(ctx context.Context, s *imagestore.Store, r io.Reader, opts Options) ([]imagestore.Tagged, error) {
	counted := &progressReader{r: r, emit: opts.Progress}
	if f, ok := r.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
			counted.total = fi.Size()
		}
	}
	list, err := load(ctx, s, counted, opts.Name)
	counted.end(err)
	return list, err
}

func load(ctx context.Context, s *imagestore.Store, r io.Reader, name string) ([]imagestore.Tagged, error) {
	release, err := s.Hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	found, err := Read(ctx, s, r)
	if err != nil {
		return nil, err
	}
	list, err := tags(ctx, s, found, name)
	if err != nil {
		return nil, err
	}
	if err := s.TagAll(ctx, list...); err != nil {
		return nil, err
	}
	return list, nil
}

// tags decides what each name stands for. A name with several platforms, whose index is not whole, gets
// an index of those that are there.
func tags(ctx context.Context, s *imagestore.Store, found []Found, name string) ([]imagestore.Tagged, error) {
	byName := map[string][]Found{}
	for _, f := range found {
		if f.Name == "" {
			if name == "" {
				return nil, fmt.Errorf("image %s: %w", f.Target.Digest, ErrNoName)
			}
			ref, err := imagestore.ParseName(name)
			if err != nil {
				return nil, err
			}
			f.Name = imagestore.FullName(ref)
		}
		byName[f.Name] = append(byName[f.Name], f)
	}
	list := make([]imagestore.Tagged, 0, len(byName))
	for name, same := range byName {
		target := same[0].Target
		if len(same) > 1 {
			idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
			for _, f := range same {
				if f.Index == "" || f.Index != same[0].Index {
					return nil, fmt.Errorf("image %s stands in the archive more than once, as %s and %s: %w", name, target.Digest, f.Target.Digest, ErrFormat)
				}
				idx.Manifests = append(idx.Manifests, f.Target)
			}
			var err error
			if target, err = s.PutJSON(ctx, idx.MediaType, idx); err != nil {
				return nil, err
			}
		}
		list = append(list, imagestore.Tagged{Name: name, Target: target})
	}
	slices.SortFunc(list, func(a, b imagestore.Tagged) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Read reads an archive into a store and tags nothing; the caller holds the store until it has. Each
// image that it returns is whole: all its blobs are in the store. The result is sorted by name and
// platform. A tar of a distribution registry's storage gives names without a registry docker.io's.
func Read(ctx context.Context, s *imagestore.Store, r io.Reader) ([]Found, error) {
	found, err := read(ctx, s, r)
	if err != nil {
		return nil, fmt.Errorf("reading image archive: %w", err)
	}
	return sorted(found), nil
}

func read(ctx context.Context, s *imagestore.Store, r io.Reader) ([]Found, error) {
	plain, err := compression.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	defer plain.Close()
	c := newContents(s)
	if err := c.scan(ctx, unpacker{plain}); err != nil {
		return nil, err
	}
	switch {
	case c.documents[ocispec.ImageIndexFile] != nil:
		return c.ociLayout(ctx)
	case c.documents[dockerManifestFile] != nil:
		return c.dockerArchive(ctx)
	case len(c.links) > 0:
		return distributionTree{s: s, links: c.links}.read(ctx)
	}
	return nil, fmt.Errorf("it has no index.json (OCI layout), no manifest.json (docker archive) and no docker/registry/v2 (registry storage): %w", ErrFormat)
}

func sorted(found []Found) []Found {
	slices.SortFunc(found, func(a, b Found) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Platform, b.Platform),
			strings.Compare(a.Target.Digest.String(), b.Target.Digest.String()))
	})
	return slices.CompactFunc(found, func(a, b Found) bool { return a.Name == b.Name && a.Target.Digest == b.Target.Digest })
}

// whole gives the images of a name whose document is desc: desc itself, if all it needs is there. Of an
// index that is not whole it gives the manifests that are, if sparse allows that.
func whole(ctx context.Context, s *imagestore.Store, name string, desc ocispec.Descriptor, sparse bool) ([]Found, error) {
	err := s.Whole(ctx, desc)
	if err == nil {
		f := Found{Name: name, Target: desc}
		f.Platform, err = platform(s, desc)
		return []Found{f}, err
	}
	var missing *imagestore.MissingError
	if !sparse || !imagestore.IsIndex(desc.MediaType) || !errors.As(err, &missing) || !s.Has(desc.Digest) {
		return nil, err
	}
	var idx ocispec.Index
	if err := s.ReadJSON(desc.Digest, &idx); err != nil {
		return nil, err
	}
	var list []Found
	for _, d := range idx.Manifests {
		if !imagestore.IsManifest(d.MediaType) || d.Platform != nil && d.Platform.OS == "unknown" {
			continue
		}
		if err := s.Whole(ctx, d); errors.Is(err, imagestore.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		f := Found{Name: name, Target: bare(d), Platform: clusterimage.PlatformString(d.Platform), Index: desc.Digest}
		if f.Platform == "" {
			if f.Platform, err = platform(s, d); err != nil {
				return nil, err
			}
		}
		list = append(list, f)
	}
	if len(list) == 0 {
		return nil, missing
	}
	return list, nil
}

// bare is a descriptor without what its place in a document adds.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform, ArtifactType: d.ArtifactType}
}

// platform is what the config of a manifest says; "" for an index, or an artifact that is no image.
func platform(s *imagestore.Store, desc ocispec.Descriptor) (string, error) {
	if !imagestore.IsManifest(desc.MediaType) {
		return "", nil
	}
	var m ocispec.Manifest
	if err := s.ReadJSON(desc.Digest, &m); err != nil {
		return "", err
	}
	if t := m.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != imagestore.MediaTypeDockerConfig {
		return "", nil
	}
	var config ocispec.Image
	if err := s.ReadJSON(m.Config.Digest, &config); err != nil {
		return "", err
	}
	if config.OS == "" {
		return "", nil
	}
	return clusterimage.PlatformString(&config.Platform), nil
}

// unpacker says of errors of compressed content that they are the archive's.
type unpacker struct{ *compression.Reader }

// Read implements io.Reader.
func (u unpacker) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && u.Format != compression.None {
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return n, err
}

// progressReader tells how much was read, about every megabyte.
type progressReader struct {
	r           io.Reader
	emit        progress.Func
	total       int64
	done, shown int64
}

const progressStep = 1 << 20

// Read implements io.Reader.
func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.done += int64(n)
	if p.done-p.shown >= progressStep {
		p.shown = p.done
		p.emit.Emit(p.event())
	}
	return n, err
}

func (p *progressReader) event() progress.Event {
	return progress.Event{ID: "load", Name: "reading archive", Done: p.done, Total: p.total}
}

func (p *progressReader) end(err error) {
	e := p.event()
	e.Err, e.End = err, true
	p.emit.Emit(e)
}
