package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// Blobs is where the content of embedded images lies; *imagestore.Store is one.
type Blobs interface {
	// Open opens a blob; imagestore.ErrNotFound if it is not there.
	Open(d digest.Digest) (*imagestore.Blob, error)
	// Read returns a document, checked against its digest.
	Read(d digest.Digest) ([]byte, error)
}

// Embedded serves the images embedded in cluster images, and nothing else of them.
type Embedded struct {
	blobs Blobs
	table *table
	// known are the configs and layers that may be asked for.
	known map[digest.Digest]bool
	// made are indexes that stand in no cluster image, for names that have several platforms.
	made map[digest.Digest][]byte
}

var (
	_ Source = (*Embedded)(nil)
	_ Lister = (*Embedded)(nil)
)

// EmbeddedSource serves the embedded images of cluster images, given by their indexes. Everything is
// looked up once, now; images whose manifest is not in blobs, such as those of other platforms, are
// left out. If several cluster images embed one name, the first one's counts; all are there by
// digest.
//
// A tag answers with the index that the image was named by, byte for byte, if refs carries it, whether all
// of its platforms are there or not; else with the manifest; else, if the name has several platforms,
// with an index made of those.
func EmbeddedSource(blobs Blobs, images ...ocispec.Descriptor) (*Embedded, error) {
	e := &Embedded{blobs: blobs, table: newTable(), known: map[digest.Digest]bool{}, made: map[digest.Digest][]byte{}}
	taken := map[string]bool{}
	for _, desc := range images {
		if err := e.image(desc, taken); err != nil {
			return nil, fmt.Errorf("serving embedded images of %s: %w", desc.Digest, err)
		}
	}
	return e, nil
}

func (e *Embedded) image(desc ocispec.Descriptor, taken map[string]bool) error {
	var idx ocispec.Index
	if err := e.readJSON(desc.Digest, &idx); err != nil {
		return err
	}
	img, err := clusterimage.Parse(idx)
	if err != nil {
		return err
	}
	for _, refs := range img.Refs {
		if err := e.refs(refs); err != nil {
			return err
		}
	}
	var names []string
	byName := map[string][]clusterimage.Embedded{}
	for _, c := range img.Embedded {
		there, err := e.manifest(c.Manifest)
		if err != nil {
			return fmt.Errorf("image %s: %w", c.Name, err)
		}
		if !there {
			continue
		}
		if byName[c.Name] == nil {
			names = append(names, c.Name)
		}
		byName[c.Name] = append(byName[c.Name], c)
	}
	for _, name := range names {
		if taken[name] {
			continue
		}
		taken[name] = true
		target, err := e.target(byName[name])
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		e.table.add(name, target)
	}
	return nil
}

// refs makes the index documents known that a refs manifest carries as its layers.
func (e *Embedded) refs(desc ocispec.Descriptor) error {
	var m ocispec.Manifest
	if err := e.readJSON(desc.Digest, &m); err != nil {
		if errors.Is(err, imagestore.ErrNotFound) {
			return nil
		}
		return err
	}
	for _, l := range m.Layers {
		b, err := e.blobs.Open(l.Digest)
		if errors.Is(err, imagestore.ErrNotFound) || err == nil && !imagestore.IsIndex(l.MediaType) {
			if b != nil {
				_ = b.Close()
			}
			continue
		}
		if err != nil {
			return err
		}
		_ = b.Close()
		e.table.documents[l.Digest] = ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
	}
	return nil
}

// manifest makes an image known by digest, and what it is made of; false if it is not there.
func (e *Embedded) manifest(desc ocispec.Descriptor) (bool, error) {
	data, err := e.blobs.Read(desc.Digest)
	if errors.Is(err, imagestore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	children, err := imagestore.Children(desc.MediaType, data)
	if err != nil {
		return false, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	for _, c := range children {
		e.known[c.Digest] = true
	}
	e.table.documents[desc.Digest] = ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	return true, nil
}

// target is the document that a name stands for, which has one or several platforms.
func (e *Embedded) target(list []clusterimage.Embedded) (ocispec.Descriptor, error) {
	same := true
	for _, c := range list {
		same = same && c.Index == list[0].Index
	}
	if same {
		if desc, ok := e.table.documents[list[0].Index]; ok {
			return desc, nil
		}
	}
	if len(list) == 1 {
		return e.table.documents[list[0].Manifest.Digest], nil
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	for _, c := range list {
		d := e.table.documents[c.Manifest.Digest]
		p, err := clusterimage.ParsePlatform(c.Platform)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		d.Platform = &p
		idx.Manifests = append(idx.Manifests, d)
	}
	data, err := json.Marshal(idx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: idx.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	e.made[desc.Digest] = data
	return desc, nil
}

func (e *Embedded) readJSON(d digest.Digest, v any) error {
	data, err := e.blobs.Read(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("reading blob %s: %w: %w", d, imagestore.ErrDocument, err)
	}
	return nil
}

// Resolve implements Source.
func (e *Embedded) Resolve(_ context.Context, ns, repository, reference string) (ocispec.Descriptor, error) {
	return e.table.resolve(ns, repository, reference)
}

// Open implements Source.
func (e *Embedded) Open(_ context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	if data, ok := e.made[d]; ok {
		return document{bytes.NewReader(data)}, nil
	}
	if _, ok := e.table.documents[d]; !ok && !e.known[d] {
		return nil, fmt.Errorf("blob %s is of no embedded image: %w", d, imagestore.ErrNotFound)
	}
	b, err := e.blobs.Open(d)
	if err != nil {
		return nil, err // not a *Blob that is nil
	}
	return b, nil
}

// document is a blob in memory.
type document struct{ *bytes.Reader }

// Close implements io.Closer.
func (document) Close() error { return nil }

// Tags implements Lister.
func (e *Embedded) Tags(_ context.Context, ns, repository string) ([]string, error) {
	return e.table.tags(ns, repository)
}

// Repositories implements Lister.
func (e *Embedded) Repositories(context.Context) ([]string, error) { return e.table.names(), nil }
