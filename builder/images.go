package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// ErrImageName says that a list, or IMAGES, holds something that is no image name.
var ErrImageName = errors.New("not the name of an image")

// embedded makes the list of the images that the cluster image carries for this platform: those of
// the base, over them those of archives in the tree, over them those that are pulled because a list
// or IMAGES names them and no archive has them.
func (a *assembly) embedded(ctx context.Context) ([]clusterimage.Embedded, error) {
	wishes := slices.Clone(a.images.list)
	for _, f := range basefs.ImageLists() {
		if h, ok := a.held[f]; ok {
			more, err := parseList(f, h.data, h.pos)
			if err != nil {
				return nil, a.at(h.pos, err)
			}
			wishes = append(wishes, more...)
		}
	}
	packed, err := a.readArchives(ctx)
	if err != nil {
		return nil, err
	}
	found, err := a.discovered(ctx, wishes, packed)
	if err != nil {
		return nil, err
	}
	wishes = append(wishes, found...)
	all := map[string]clusterimage.Embedded{}
	for _, e := range a.base.embedded {
		all[e.Name] = e
	}
	fromArchive := map[string]bool{}
	bare := map[string]clusterimage.Embedded{} // of registry trees, which know no registry's name, by path
	for _, p := range packed {
		all[p.Name], fromArchive[p.Name] = p.Embedded, true
		if p.bare && strings.HasPrefix(p.Name, "docker.io/") {
			bare[barePath(p.Name)] = p.Embedded
		}
	}
	asked := map[string]wish{}
	var pulls []wish
	for _, w := range wishes {
		if _, again := asked[w.name]; again || a.images.ignore[w.name] {
			continue
		}
		asked[w.name] = w
		if fromArchive[w.name] {
			continue
		}
		if e, ok := bare[barePath(w.name)]; ok {
			e.Name = w.name
			all[w.name] = e
			continue
		}
		pulls = append(pulls, w)
	}
	for _, w := range asked {
		if e, ok := bare[barePath(w.name)]; ok && e.Name != w.name {
			if _, wanted := asked[e.Name]; !wanted {
				delete(all, e.Name) // a list knows what it is called
			}
		}
	}
	pulled, err := a.pullAll(ctx, pulls)
	if err != nil {
		return nil, err
	}
	for _, e := range pulled {
		all[e.Name] = e
	}
	var out []clusterimage.Embedded
	for _, e := range all {
		if !a.images.ignore[e.Name] {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(x, y clusterimage.Embedded) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// barePath is a full name without the registry, and without Docker Hub's "library/".
func barePath(full string) string {
	_, rest, _ := strings.Cut(full, "/")
	return strings.TrimPrefix(rest, "library/")
}

// defaultPulls is how many images are pulled at a time.
const defaultPulls = 4

func (a *assembly) pullAll(ctx context.Context, list []wish) ([]clusterimage.Embedded, error) {
	out := make([]clusterimage.Embedded, len(list))
	missing := make([]*MissingImage, len(list))
	if len(list) > 0 && a.b.Images == nil {
		return nil, a.blame(list[0], fmt.Errorf("pulling %s: %w", list[0].name, ErrNoPuller))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cmp.Or(a.b.Parallelism, defaultPulls))
	for i, w := range list {
		g.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			p, without, err := a.pullImage(ctx, w)
			if err != nil {
				return a.blame(w, err)
			}
			if missing[i] = without; p.Manifest.Digest == "" {
				return nil
			}
			out[i] = clusterimage.Embedded{Name: w.name, Platform: a.res.Platform, Manifest: plainDescriptor(p.Manifest)}
			if p.Index != nil {
				out[i].Index = p.Index.Digest
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, m := range missing {
		if m != nil {
			a.res.Missing = append(a.res.Missing, *m)
		}
	}
	return slices.DeleteFunc(out, func(e clusterimage.Embedded) bool { return e.Name == "" }), nil
}

func plainDescriptor(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// refs writes the manifest that carries the index documents by which images were named.
func (b *Builder) refs(ctx context.Context, list []clusterimage.Embedded) ([]ocispec.Descriptor, error) {
	indexes := indexesOf(list)
	if len(indexes) == 0 {
		return nil, nil
	}
	config, err := b.Store.Put(ctx, ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		return nil, fmt.Errorf("writing refs: %w", err)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: clusterimage.RefsArtifactType, Config: config}
	m.SchemaVersion = 2
	for _, d := range indexes {
		data, err := b.Store.Read(d)
		if err != nil {
			return nil, fmt.Errorf("writing refs: %w", err)
		}
		mediaType, err := imagestore.DocumentType(data, "")
		if err != nil {
			return nil, fmt.Errorf("writing refs: index %s: %w", d, err)
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))})
	}
	desc, err := b.Store.PutJSON(ctx, ocispec.MediaTypeImageManifest, m)
	if err != nil {
		return nil, fmt.Errorf("writing refs: %w", err)
	}
	return []ocispec.Descriptor{desc}, nil
}
