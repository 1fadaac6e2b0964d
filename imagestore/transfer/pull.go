package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/clusterimage/keg/imagestore"
)

// PullOptions say what of an image is pulled.
type PullOptions struct {
	// Platforms are those wanted, such as "linux/amd64"; nil is all. For a cluster image they choose
	// rootfs images and embedded images alike.
	Platforms []string
	// Missing is the answer to an image that lacks one of Platforms. An image that has none of them is a
	// *PlatformError with MissingSkip, too. "" is MissingError.
	Missing MissingPlatform
}

// Pull brings the image that ref names into the store, whole, and does not tag it: who does holds
// the store (Store.Hold) from before Pull. Every blob is there before a manifest that needs it, every
// manifest before an index that needs it.
//
// Where Platforms leave out a part of an index, the result is never that index, which would be
// incomplete in the store: it is the one manifest that remains of an ordinary index, or else a new
// index with the remaining entries.
func (c *Client) Pull(ctx context.Context, s *imagestore.Store, ref name.Reference, opts PullOptions) (ocispec.Descriptor, error) {
	release, err := s.Hold(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer release()
	p := newPuller(c, s, ref)
	defer p.origins.save(ctx)
	desc, data, err := c.resolve(ctx, s, ref)
	if err != nil {
		return ocispec.Descriptor{}, p.wrap(err)
	}
	if len(opts.Platforms) > 0 {
		if desc, data, err = p.restrict(ctx, desc, data, opts); err != nil {
			return ocispec.Descriptor{}, p.wrap(err)
		}
	}
	if err := p.tree(ctx, desc, data, 0); err != nil {
		return ocispec.Descriptor{}, p.wrap(err)
	}
	return desc, nil
}

// Pulled is one container image as it is embedded in a cluster image.
type Pulled struct {
	// Manifest is the image's own manifest: media type, digest, size and platform.
	Manifest ocispec.Descriptor
	// Index is the index that the image was named by, whose document is a blob in the store; nil if
	// it was named by its manifest.
	Index *ocispec.Descriptor
	// Platform is the image's, such as "linux/arm64" or "linux/arm/v7": the one asked for or, where
	// there is none of it, one that can run there.
	Platform string
}

// PullImage brings the image for one platform out of what ref names into the store, and does not tag
// it. Indexes on the way, nested ones too, are kept as blobs. The error is a *PlatformError where
// there is no image for the platform.
func (c *Client) PullImage(ctx context.Context, s *imagestore.Store, ref name.Reference, platform string) (Pulled, error) {
	release, err := s.Hold(ctx)
	if err != nil {
		return Pulled{}, err
	}
	defer release()
	p := newPuller(c, s, ref)
	defer p.origins.save(ctx)
	desc, data, err := c.resolve(ctx, s, ref)
	if err != nil {
		return Pulled{}, p.wrap(err)
	}
	leaf, err := p.leafFor(ctx, desc, data, platform)
	if err != nil {
		return Pulled{}, p.wrap(err)
	}
	if err := p.tree(ctx, leaf.desc, leaf.data, 0); err != nil {
		return Pulled{}, p.wrap(err)
	}
	pulled := Pulled{
		Manifest: ocispec.Descriptor{MediaType: leaf.desc.MediaType, Digest: leaf.desc.Digest, Size: leaf.desc.Size, Platform: leaf.desc.Platform},
		Platform: leaf.platform,
	}
	if imagestore.IsIndex(desc.MediaType) {
		if _, err := s.Put(ctx, desc.MediaType, data); err != nil {
			return Pulled{}, p.wrap(err)
		}
		pulled.Index = &desc
	}
	return pulled, nil
}

// PullBlob brings one blob of ref's repository into the store, which the caller holds.
func (c *Client) PullBlob(ctx context.Context, s *imagestore.Store, ref name.Reference, d ocispec.Descriptor) error {
	p := newPuller(c, s, ref)
	defer p.origins.save(ctx)
	if err := p.blob(ctx, d); err != nil {
		return p.wrap(err)
	}
	return nil
}

// puller pulls from one repository.
type puller struct {
	c       *Client
	s       *imagestore.Store
	repo    name.Repository
	name    string // of the image, full
	origins *origins

	mu     sync.Mutex
	trees  map[digest.Digest]*once
	nested map[digest.Digest]bool // indexes that leaves has been in
}

// once is one part of the image, which may be named often and is brought once.
type once struct {
	sync.Once
	err error
}

func newPuller(c *Client, s *imagestore.Store, ref name.Reference) *puller {
	return &puller{c: c, s: s, repo: ref.Context(), name: imagestore.FullName(ref), origins: newOrigins(s, ref.Context()),
		trees: map[digest.Digest]*once{}, nested: map[digest.Digest]bool{}}
}

func (p *puller) wrap(err error) error { return fmt.Errorf("pulling %s: %w", p.name, err) }

const (
	// maxDepth bounds indexes within indexes.
	maxDepth = 4
	// maxBranches is how many parts of one manifest or index are looked at at a time.
	maxBranches = 16
)

// document reads a manifest or index that desc names, from the store or else the registry.
func (p *puller) document(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	var data []byte
	if p.s.Has(d.Digest) {
		var err error
		if data, err = p.s.Read(d.Digest); err != nil {
			return nil, err
		}
	} else {
		var err error
		if _, data, err = p.c.manifest(ctx, p.repo, d.Digest.String()); err != nil {
			return nil, err
		}
	}
	if int64(len(data)) != d.Size {
		return nil, fmt.Errorf("manifest %s has %d bytes, its descriptor says %d: %w", d.Digest, len(data), d.Size, imagestore.ErrDigest)
	}
	return data, nil
}

// tree brings everything that desc reaches, and desc last. data is its document, nil if not read yet.
func (p *puller) tree(ctx context.Context, desc ocispec.Descriptor, data []byte, depth int) error {
	p.mu.Lock()
	o, there := p.trees[desc.Digest]
	if !there {
		o = &once{}
		p.trees[desc.Digest] = o
	}
	p.mu.Unlock()
	o.Do(func() { o.err = p.branch(ctx, desc, data, depth) })
	return o.err
}

func (p *puller) branch(ctx context.Context, desc ocispec.Descriptor, data []byte, depth int) error {
	if !imagestore.IsIndex(desc.MediaType) && !imagestore.IsManifest(desc.MediaType) {
		if err := refuseSchema1(desc); err != nil {
			return err
		}
		return p.blob(ctx, desc)
	}
	if depth > maxDepth {
		return fmt.Errorf("%w: indexes are nested more than %d deep", ErrUnsupported, maxDepth)
	}
	if data == nil {
		var err error
		if data, err = p.document(ctx, desc); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxBranches)
	if imagestore.IsIndex(desc.MediaType) {
		var idx ocispec.Index
		if err := json.Unmarshal(data, &idx); err != nil {
			return fmt.Errorf("reading index %s: %w: %w", desc.Digest, ErrUnsupported, err)
		}
		for _, d := range idx.Manifests {
			g.Go(func() error { return p.tree(gctx, d, nil, depth+1) })
		}
	} else {
		blobs, err := manifestBlobs(desc, data)
		if err != nil {
			return err
		}
		for _, d := range blobs {
			g.Go(func() error { return p.blob(gctx, d) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if p.s.Has(desc.Digest) {
		return nil
	}
	_, err := p.s.Put(ctx, desc.MediaType, data)
	return err
}

func (p *puller) blob(ctx context.Context, d ocispec.Descriptor) error {
	moved, err := p.c.blob(ctx, p.s, p.repo, d)
	if err != nil && foreign(d.MediaType) && absent(err) {
		return fmt.Errorf("layer %s is of a kind that need not be distributed (%s), and %s does not have it: %w", d.Digest, d.MediaType, repoName(p.repo), err)
	}
	if moved {
		p.origins.add(d.Digest)
	}
	return err
}

func refuseSchema1(d ocispec.Descriptor) error {
	if d.MediaType == imagestore.MediaTypeDockerSchema1 || d.MediaType == imagestore.MediaTypeDockerSchema1Signed {
		return fmt.Errorf("%w: manifest %s is of schema 1, the format of before 2016, whose content cannot be verified", ErrUnsupported, d.Digest)
	}
	return nil
}

// manifestBlobs lists what a manifest needs, each once: its config and its layers.
func manifestBlobs(desc ocispec.Descriptor, data []byte) ([]ocispec.Descriptor, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w: %w", desc.Digest, ErrUnsupported, err)
	}
	var blobs []ocispec.Descriptor
	sizes := map[digest.Digest]int64{}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return nil, fmt.Errorf("reading manifest %s: %w", desc.Digest, err)
		}
		size, there := sizes[d.Digest]
		if !there {
			blobs = append(blobs, d)
			sizes[d.Digest] = d.Size
		} else if size != d.Size {
			return nil, fmt.Errorf("reading manifest %s: blob %s has %d bytes and %d bytes: %w", desc.Digest, d.Digest, size, d.Size, imagestore.ErrDigest)
		}
	}
	return blobs, nil
}
