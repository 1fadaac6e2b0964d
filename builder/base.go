package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/internal/ctxio"
	"github.com/clusterimage/keg/kubefile"
)

// Errors of FROM that callers tell apart.
var (
	// ErrNoPuller says that the build may not pull.
	ErrNoPuller = errors.New("this build may not pull images")
	// ErrBase says that an image cannot be built on.
	ErrBase = errors.New("cannot build on it")
)

// base is what FROM brings beside layers and config.
type base struct {
	embedded []clusterimage.Embedded
	apps     []string // their names
	layers   int      // how many of the layers are its
	spec     clusterimage.Spec
	cluster  bool // it is a cluster image
}

// from begins the assembly with the base of a stage.
func (a *assembly) from(ctx context.Context, stage *kubefile.Stage) error {
	if stage.Platform != "" && a.files == nil { // files that others copy from may be for any
		p, err := parsePlatform(stage.Platform)
		if err != nil {
			return err
		}
		if have := clusterimage.PlatformString(&p); have != a.res.Platform {
			return fmt.Errorf("FROM --platform=%s: the image is built for %s, and its rootfs cannot be for another", stage.Platform, a.res.Platform)
		}
	}
	from := stage.Base
	if image, ok := a.req.contextImage(from); ok {
		from = image
	} else if a.contexts[strings.ToLower(from)] != nil {
		return fmt.Errorf("FROM %s: %w: the build context of that name is a directory", from, ErrBase)
	}
	if desc, ok := a.req.layouts[strings.ToLower(from)]; ok {
		return a.inherit(ctx, from, desc)
	}
	if from == "scratch" {
		return nil
	}
	ref, err := imagestore.ParseName(from)
	if err != nil {
		return err
	}
	desc, err := a.findBase(ctx, ref)
	if err != nil {
		return err
	}
	return a.inherit(ctx, stage.Base, desc)
}

// findBase finds an image in the store, else where an earlier build put it, else in its registry.
func (a *assembly) findBase(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	full := imagestore.FullName(ref)
	pin := "FROM " + full + " for " + a.res.Platform
	if !a.req.Pull {
		t, err := a.b.Store.Resolve(full)
		if err == nil {
			// What is not whole any more is as good as not there, if it can be had again.
			if err = a.b.Store.Whole(ctx, t.Target); err == nil {
				return t.Target, nil
			}
		}
		if !errors.Is(err, imagestore.ErrNotFound) || a.b.Images == nil && t.Name != "" {
			return ocispec.Descriptor{}, err
		}
		var desc ocispec.Descriptor
		if a.cache.Get(pin, &desc) && a.whole(ctx, desc) {
			return desc, nil
		}
	}
	if a.b.Images == nil {
		return ocispec.Descriptor{}, fmt.Errorf("pulling %s: %w", full, ErrNoPuller)
	}
	desc, err := a.b.Images.Pull(ctx, a.b.Store, ref, transfer.PullOptions{Platforms: []string{a.res.Platform}})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, a.cache.Put(pin, desc, desc.Digest)
}

// whole says whether an image is in the store with all it needs.
func (a *assembly) whole(ctx context.Context, desc ocispec.Descriptor) bool {
	return desc.Digest != "" && a.b.Store.Whole(ctx, desc) == nil
}

// inherit takes over an image: layers and config and, of a cluster image, what is embedded and what it
// runs.
func (a *assembly) inherit(ctx context.Context, text string, desc ocispec.Descriptor) error {
	manifest := desc
	if imagestore.IsIndex(desc.MediaType) {
		img, err := a.b.Store.ClusterImage(ctx, desc)
		switch {
		case err == nil:
			a.base.cluster = true
			var ok bool
			if manifest, ok = img.RootfsFor(a.res.Platform); !ok {
				return &transfer.PlatformError{Ref: text, Want: a.res.Platform, Have: platformsOf(img.Rootfs)}
			}
			for _, e := range img.Embedded {
				if e.Platform == a.res.Platform {
					a.base.embedded = append(a.base.embedded, e)
				}
			}
		case errors.Is(err, clusterimage.ErrNotClusterImage):
			if manifest, err = a.pick(text, desc); err != nil {
				return err
			}
		default:
			return err
		}
	}
	var m ocispec.Manifest
	if err := a.b.Store.ReadJSON(manifest.Digest, &m); err != nil {
		return err
	}
	if err := a.b.Store.ReadJSON(m.Config.Digest, &a.image); err != nil {
		return err
	}
	if p := a.image.Platform; basefs.GOARCH(p.Architecture) != a.platform.Architecture || p.OS != a.platform.OS {
		return &transfer.PlatformError{Ref: text, Want: a.res.Platform, Have: []string{clusterimage.PlatformString(&p)}}
	}
	if len(m.Layers) != len(a.image.RootFS.DiffIDs) {
		return fmt.Errorf("%s: %w: it has %d layers and its config %d", text, ErrBase, len(m.Layers), len(a.image.RootFS.DiffIDs))
	}
	a.alignHistory(text)
	spec, err := clusterimage.ParseSpec(a.image.Config.Labels)
	if err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	spec.Apps = slices.Clone(spec.Apps)
	spec.Env = maps.Clone(spec.Env)
	a.spec = spec
	for _, app := range spec.Apps {
		a.base.apps = append(a.base.apps, app.Name)
	}
	for _, l := range m.Layers {
		if l.MediaType, err = ociLayer(l.MediaType); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		a.layers = append(a.layers, l)
		if _, err := a.readLayer(ctx, l); err != nil {
			return fmt.Errorf("%s: reading layer %s: %w", text, l.Digest, err)
		}
	}
	a.base.layers, a.base.spec = len(a.layers), spec
	return nil
}

// alignHistory gives each layer of the base its entry of history, where the base's own do not fit: tools
// count the new ones from the end of these.
func (a *assembly) alignHistory(text string) {
	layers := 0
	for _, h := range a.image.History {
		if !h.EmptyLayer {
			layers++
		}
	}
	if layers == len(a.image.RootFS.DiffIDs) {
		return
	}
	a.image.History = nil
	for range a.image.RootFS.DiffIDs {
		a.history("FROM "+text, false)
	}
}

// pick finds the platform in an ordinary index.
func (a *assembly) pick(text string, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	var idx ocispec.Index
	if err := a.b.Store.ReadJSON(desc.Digest, &idx); err != nil {
		return ocispec.Descriptor{}, err
	}
	images := slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
		return d.Platform == nil || d.Platform.OS == "unknown" || imagestore.IsIndex(d.MediaType)
	})
	best, err := transfer.Choose(a.res.Platform, platformsOf(images))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if best < 0 {
		return ocispec.Descriptor{}, &transfer.PlatformError{Ref: text, Want: a.res.Platform, Have: platformsOf(images)}
	}
	return images[best], nil
}

func platformsOf(list []ocispec.Descriptor) []string {
	var out []string
	for _, d := range list {
		out = append(out, clusterimage.PlatformString(d.Platform))
	}
	return out
}

// ociLayer is the media type that a layer has in an OCI manifest.
func ociLayer(mediaType string) (string, error) {
	switch mediaType {
	case "application/vnd.docker.image.rootfs.diff.tar.gzip":
		return ocispec.MediaTypeImageLayerGzip, nil
	case "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return ocispec.MediaTypeImageLayerZstd, nil
	case "application/vnd.docker.image.rootfs.diff.tar":
		return ocispec.MediaTypeImageLayer, nil
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd:
		return mediaType, nil
	}
	return "", fmt.Errorf("%w: it has a layer of media type %q", ErrBase, mediaType)
}

// listing is what a build must know of a layer: its paths, and the content of the files in heldFiles.
type listing struct {
	Paths []listed          `json:"paths"`
	Files map[string][]byte `json:"files,omitempty"`
}

type listed struct {
	Name string
	attr
}

// listingKey is under which the cache has a layer's listing; it changes with the listing's form.
func listingKey(layer digest.Digest) string { return "listing 1 of " + layer.String() }

// readLayer brings a layer of the base into the tree.
func (a *assembly) readLayer(ctx context.Context, desc ocispec.Descriptor) (listing, error) {
	var list listing
	if key := listingKey(desc.Digest); !a.cache.Get(key, &list) {
		var err error
		if list, err = a.scanLayer(ctx, desc.Digest); err != nil {
			return listing{}, err
		}
		if err := a.cache.Put(key, list, desc.Digest); err != nil {
			return listing{}, err
		}
	}
	for _, whiteouts := range []bool{true, false} { // they are about lower layers, wherever they stand
		for _, p := range list.Paths {
			if strings.HasPrefix(path.Base(p.Name), pack.WhiteoutPrefix) == whiteouts {
				a.tree.apply(p.Name, p.attr)
			}
		}
	}
	for _, name := range heldFiles {
		if data, ok := list.Files[name]; ok {
			a.held[name] = held{data: data}
		} else if a.tree.get(name) == nil {
			delete(a.held, name)
		}
	}
	for _, name := range basefs.ImageLists() {
		delete(a.held, name) // what the base lists, it has embedded
	}
	return list, nil
}

// scanLayer reads the headers of a layer.
func (a *assembly) scanLayer(ctx context.Context, d digest.Digest) (listing, error) {
	blob, err := a.b.Store.Open(d)
	if err != nil {
		return listing{}, err
	}
	defer blob.Close()
	r, err := compression.NewReader(ctxio.Reader(ctx, blob))
	if err != nil {
		return listing{}, err
	}
	defer r.Close()
	list := listing{Files: map[string][]byte{}}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return listing{}, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		p := listed{Name: name, attr: attr{Type: h.Typeflag}}
		switch h.Typeflag {
		case tar.TypeDir:
			p.Mode, p.UID, p.GID = h.Mode&0o7777, h.Uid, h.Gid
		case tar.TypeSymlink:
			p.Link = h.Linkname
		}
		list.Paths = append(list.Paths, p)
		if h.Typeflag == tar.TypeReg && slices.Contains(heldFiles, name) && h.Size <= maxHeld {
			if list.Files[name], err = io.ReadAll(tr); err != nil {
				return listing{}, err
			}
		}
	}
}

// writeListing keeps what a new layer has, so that a build on top of it need not read it.
func (a *assembly) writeListing(d digest.Digest, entries []pack.Entry) error {
	list := listing{Files: map[string][]byte{}}
	for _, e := range entries {
		p := listed{Name: e.Name, attr: attr{Type: e.Type}}
		switch e.Type {
		case tar.TypeDir:
			p.Mode, p.UID, p.GID = e.Mode, e.UID, e.GID
		case tar.TypeSymlink:
			p.Link = e.Linkname
		}
		list.Paths = append(list.Paths, p)
		if slices.Contains(heldFiles, e.Name) && e.Type == tar.TypeReg {
			list.Files[e.Name] = a.held[e.Name].data
		}
	}
	return a.cache.Put(listingKey(d), list, d)
}
