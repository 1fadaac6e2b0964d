package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// PullOptions say what of an image is pulled.
type PullOptions struct {
	// Platforms are those wanted, such as "linux/amd64"; nil is all. For a cluster image they choose
	// rootfs images and embedded images alike.
	Platforms []string
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
		if desc, data, err = p.restrict(ctx, desc, data, opts.Platforms); err != nil {
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
	if d.MediaType == schema1 || d.MediaType == schema1Signed {
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

// leaf is one image manifest found in an index.
type leaf struct {
	desc     ocispec.Descriptor
	data     []byte // its document, if it was read on the way
	platform string // "" where only the image's config knows
}

// leaves finds the image manifests under desc. Nested indexes become blobs in the store.
func (p *puller) leaves(ctx context.Context, desc ocispec.Descriptor, data []byte, depth int) ([]leaf, error) {
	if !imagestore.IsIndex(desc.MediaType) {
		l := leaf{desc: desc, data: data}
		if desc.Platform != nil && desc.Platform.OS != "" {
			l.platform = clusterimage.PlatformString(desc.Platform)
		}
		return []leaf{l}, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: indexes are nested more than %d deep", ErrUnsupported, maxDepth)
	}
	if p.nested[desc.Digest] {
		return nil, nil
	}
	p.nested[desc.Digest] = true
	if depth > 0 {
		var err error
		if data, err = p.document(ctx, desc); err != nil {
			return nil, err
		}
		if _, err := p.s.Put(ctx, desc.MediaType, data); err != nil {
			return nil, err
		}
	}
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return nil, fmt.Errorf("reading index %s: %w: %w", desc.Digest, ErrUnsupported, err)
	}
	var all []leaf
	for _, d := range idx.Manifests {
		if err := refuseSchema1(d); err != nil {
			return nil, err
		}
		// Attestations and other artifacts stand beside the images as unknown/unknown.
		if !imagestore.IsIndex(d.MediaType) && !imagestore.IsManifest(d.MediaType) || d.Platform != nil && d.Platform.OS == "unknown" {
			continue
		}
		list, err := p.leaves(ctx, d, nil, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// askConfigs finds out the platforms that descriptors do not have.
func (p *puller) askConfigs(ctx context.Context, list []leaf) error {
	for i := range list {
		l := &list[i]
		if l.platform != "" {
			continue
		}
		if l.data == nil {
			var err error
			if l.data, err = p.document(ctx, l.desc); err != nil {
				return err
			}
		}
		blobs, err := manifestBlobs(l.desc, l.data)
		if err != nil {
			return err
		}
		if err := p.blob(ctx, blobs[0]); err != nil {
			return err
		}
		var platform ocispec.Platform
		if err := p.s.ReadJSON(blobs[0].Digest, &platform); err != nil {
			return err
		}
		l.desc.Platform, l.platform = &platform, clusterimage.PlatformString(&platform)
	}
	return nil
}

func platforms(list []leaf) []string {
	var names []string
	for _, l := range list {
		names = append(names, l.platform)
	}
	return names
}

func (p *puller) leafFor(ctx context.Context, desc ocispec.Descriptor, data []byte, platform string) (leaf, error) {
	list, err := p.leaves(ctx, desc, data, 0)
	if err != nil {
		return leaf{}, err
	}
	return p.pick(ctx, list, platform)
}

// pick returns the image that suits best.
func (p *puller) pick(ctx context.Context, list []leaf, platform string) (leaf, error) {
	i, err := Choose(platform, platforms(list))
	if err == nil && i < 0 {
		if err = p.askConfigs(ctx, list); err == nil {
			i, err = Choose(platform, platforms(list))
		}
	}
	if err != nil {
		return leaf{}, err
	}
	if i < 0 {
		have := platforms(list)
		slices.Sort(have)
		return leaf{}, &PlatformError{Ref: p.name, Want: platform, Have: slices.Compact(have)}
	}
	return list[i], nil
}

// restrict makes of an image what remains of it for the platforms wanted.
func (p *puller) restrict(ctx context.Context, desc ocispec.Descriptor, data []byte, want []string) (ocispec.Descriptor, []byte, error) {
	var idx ocispec.Index
	if imagestore.IsIndex(desc.MediaType) {
		if err := json.Unmarshal(data, &idx); err != nil {
			return desc, nil, fmt.Errorf("reading index %s: %w: %w", desc.Digest, ErrUnsupported, err)
		}
	}
	var keep []ocispec.Descriptor
	img, err := clusterimage.Parse(idx)
	if err == nil {
		if keep, err = p.restrictCluster(ctx, idx, img, want); err != nil {
			return desc, nil, err
		}
	} else if !errors.Is(err, clusterimage.ErrNotClusterImage) {
		return desc, nil, err
	} else {
		list, err := p.leaves(ctx, desc, data, 0)
		if err != nil {
			return desc, nil, err
		}
		for _, platform := range want {
			l, err := p.pick(ctx, list, platform)
			if err != nil {
				return desc, nil, err
			}
			if !slices.ContainsFunc(keep, func(d ocispec.Descriptor) bool { return d.Digest == l.desc.Digest }) {
				keep = append(keep, l.desc)
			}
		}
		if !imagestore.IsIndex(desc.MediaType) {
			return desc, data, nil
		}
		if len(keep) == 1 {
			return keep[0], nil, nil
		}
	}
	if len(keep) == len(idx.Manifests) {
		return desc, data, nil
	}
	idx.Manifests = keep
	if data, err = json.Marshal(idx); err != nil {
		return desc, nil, fmt.Errorf("encoding index: %w", err)
	}
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data)), ArtifactType: desc.ArtifactType}, data, nil
}

// restrictCluster keeps the entries of a cluster image for the platforms wanted, in their order.
// An embedded image stays if it is for a platform whose rootfs stays; refs stay always.
func (p *puller) restrictCluster(ctx context.Context, idx ocispec.Index, img clusterimage.Image, want []string) ([]ocispec.Descriptor, error) {
	var rootfs []leaf
	for _, d := range img.Rootfs {
		rootfs = append(rootfs, leaf{desc: d, platform: clusterimage.PlatformString(d.Platform)})
	}
	chosen := map[string]bool{}
	for _, platform := range want {
		l, err := p.pick(ctx, rootfs, platform)
		if err != nil {
			return nil, err
		}
		chosen[l.platform] = true
	}
	var keep []ocispec.Descriptor
	for _, d := range idx.Manifests {
		switch d.Annotations[clusterimage.AnnotationRole] {
		case clusterimage.RoleRefs:
			keep = append(keep, d)
		case clusterimage.RoleImage:
			if embeddedFor(d.Annotations[clusterimage.AnnotationPlatform], chosen) {
				keep = append(keep, d)
			}
		default:
			if chosen[clusterimage.PlatformString(d.Platform)] {
				keep = append(keep, d)
			}
		}
	}
	return keep, nil
}

// embeddedFor says whether an embedded image of a platform can run beside one of the rootfs images.
func embeddedFor(platform string, rootfs map[string]bool) bool {
	for want := range rootfs {
		if list, err := acceptable(want); platform == want || err == nil && slices.Contains(list, platform) {
			return true
		}
	}
	return false
}
