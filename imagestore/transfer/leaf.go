package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

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

// pickAll is pick for each platform wanted, as opts answer to those that are missing.
func (p *puller) pickAll(ctx context.Context, list []leaf, opts PullOptions) ([]leaf, error) {
	var all []leaf
	var lacks *PlatformError
	for _, platform := range opts.Platforms {
		l, err := p.pick(ctx, list, platform)
		if errors.As(err, &lacks) {
			switch opts.Missing.orError() {
			case MissingSkip:
				continue
			case MissingAny:
				if near := Nearest(platform, lacks.Have); near != "" {
					l, err = p.pick(ctx, list, near)
				}
			}
		}
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	if len(all) == 0 {
		return nil, lacks
	}
	return all, nil
}

// restrict makes of an image what remains of it for the platforms wanted.
func (p *puller) restrict(ctx context.Context, desc ocispec.Descriptor, data []byte, opts PullOptions) (ocispec.Descriptor, []byte, error) {
	var idx ocispec.Index
	if imagestore.IsIndex(desc.MediaType) {
		if err := json.Unmarshal(data, &idx); err != nil {
			return desc, nil, fmt.Errorf("reading index %s: %w: %w", desc.Digest, ErrUnsupported, err)
		}
	}
	var keep []ocispec.Descriptor
	img, err := clusterimage.Parse(idx)
	if err == nil {
		if keep, err = p.restrictCluster(ctx, idx, img, opts); err != nil {
			return desc, nil, err
		}
	} else if !errors.Is(err, clusterimage.ErrNotClusterImage) {
		return desc, nil, err
	} else {
		list, err := p.leaves(ctx, desc, data, 0)
		if err != nil {
			return desc, nil, err
		}
		chosen, err := p.pickAll(ctx, list, opts)
		if err != nil {
			return desc, nil, err
		}
		for _, l := range chosen {
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
func (p *puller) restrictCluster(ctx context.Context, idx ocispec.Index, img clusterimage.Image, opts PullOptions) ([]ocispec.Descriptor, error) {
	var rootfs []leaf
	for _, d := range img.Rootfs {
		rootfs = append(rootfs, leaf{desc: d, platform: clusterimage.PlatformString(d.Platform)})
	}
	leaves, err := p.pickAll(ctx, rootfs, opts)
	if err != nil {
		return nil, err
	}
	chosen := map[string]bool{}
	for _, l := range leaves {
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
