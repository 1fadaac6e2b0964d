package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/internal/ctxio"
	"github.com/clusterimage/keg/internal/progress"
)

// Media types of a cache that is kept outside of the store: a manifest whose layers are those that
// instructions made, and whose config says which instruction made which.
const (
	CacheArtifactType    = "application/vnd.clusterimage.buildcache.v1"
	CacheConfigMediaType = "application/vnd.clusterimage.buildcache.config.v1+json"
)

// ErrCache says that something is no cache of keg, or a damaged one.
var ErrCache = errors.New("not a cache that keg build wrote")

// CachePlace is where a cache is kept outside of the store: in a registry, or in a directory.
type CachePlace struct {
	// Ref is its name in a registry; nil is Dir.
	Ref name.Reference
	// Dir is an OCI layout, Tag a cache in it; "" is "latest".
	Dir, Tag string
}

// String is what the place is called in errors.
func (p CachePlace) String() string {
	if p.Ref != nil {
		return imagestore.FullName(p.Ref)
	}
	return p.Dir
}

// tag is the name that the cache has in the layout.
func (p CachePlace) tag() (name.Reference, error) {
	tag := p.Tag
	if tag == "" {
		tag = "latest"
	}
	return imagestore.ParseName("buildcache:" + tag)
}

// CacheExport says where what a build executed is kept for builds elsewhere.
type CacheExport struct {
	CachePlace
	// All keeps also what stages executed that are not in the image.
	All bool
	// IgnoreError makes a cache that could not be written a warning.
	IgnoreError bool
}

// CacheClient moves caches to and from registries. *transfer.Client is one.
type CacheClient interface {
	// Resolve reads the manifest that a name stands for.
	Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, []byte, error)
	// PullBlob brings one blob into a store.
	PullBlob(ctx context.Context, s *imagestore.Store, ref name.Reference, d ocispec.Descriptor) error
	// Push sends what a manifest in a store needs, and then the name.
	Push(ctx context.Context, s *imagestore.Store, desc ocispec.Descriptor, ref name.Reference, opts transfer.PushOptions) (transfer.PushResult, error)
}

var _ CacheClient = (*transfer.Client)(nil)

// execution is an entry of a cache: what a group of instructions made.
type execution struct {
	Key    string       `json:"key"`
	Layers []pack.Layer `json:"layers"`
}

// cacheConfig is the config of a cache's manifest.
type cacheConfig struct {
	Executions []execution `json:"executions"`
}

// imported is a cache that a build reads from; its layers come when they are wanted.
type imported struct {
	place   CachePlace
	known   map[string][]pack.Layer
	client  CacheClient
	dir     *imagestore.Store // of a place that is a directory
	refused bool              // something was wrong with it, and was said
}

// caches is what a build reads from and notes for caches outside of the store.
type caches struct {
	b       *Builder
	from    []*imported
	to      []CacheExport
	used    map[string]usedExecution
	warning []string
}

type usedExecution struct {
	layers []pack.Layer
	inside bool // it is in the image
}

// openCaches reads what caches there are. One that cannot be read is a warning: the build does without.
func (b *Builder) openCaches(ctx context.Context, req Request) (*caches, error) {
	c := &caches{b: b, to: req.CacheTo, used: map[string]usedExecution{}}
	if req.NoCache {
		return c, nil
	}
	for _, p := range req.CacheFrom {
		id := "cache from " + p.String()
		b.Progress.Emit(progress.Event{ID: id, Name: "reading cache " + p.String()})
		i := &imported{place: p, client: b.Caches}
		err := i.read(ctx, b.Store)
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		b.Progress.Emit(progress.Event{ID: id, Name: "reading cache " + p.String(), End: true, Skipped: err != nil})
		if err != nil {
			c.warning = append(c.warning, fmt.Sprintf("building without the cache %s: %v", p, err))
			continue
		}
		c.from = append(c.from, i)
	}
	return c, nil
}

// wanted says whether the build has to do with caches outside of the store.
func (c *caches) wanted() bool { return len(c.from)+len(c.to) > 0 }

// read reads manifest and config.
func (i *imported) read(ctx context.Context, s *imagestore.Store) error {
	var data []byte
	var err error
	if i.place.Ref != nil {
		if i.client == nil {
			return ErrNoPuller
		}
		if _, data, err = i.client.Resolve(ctx, i.place.Ref); err != nil {
			return err
		}
	} else if data, err = i.readDir(); err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil || m.ArtifactType != CacheArtifactType || m.Config.MediaType != CacheConfigMediaType {
		return ErrCache
	}
	if err := i.fetch(ctx, s, m.Config); err != nil {
		return err
	}
	var config cacheConfig
	if err := s.ReadJSON(m.Config.Digest, &config); err != nil {
		return err
	}
	i.known = map[string][]pack.Layer{}
	for _, e := range config.Executions {
		i.known[e.Key] = e.Layers
	}
	return nil
}

func (i *imported) readDir() ([]byte, error) {
	if _, err := os.Stat(filepath.Join(i.place.Dir, ocispec.ImageLayoutFile)); err != nil {
		return nil, err
	}
	ref, err := i.place.tag()
	if err != nil {
		return nil, err
	}
	if i.dir, err = imagestore.Open(i.place.Dir); err != nil {
		return nil, err
	}
	t, err := i.dir.Resolve(imagestore.FullName(ref))
	if err != nil {
		return nil, err
	}
	return i.dir.Read(t.Target.Digest)
}

// fetch brings a blob of the cache into the store.
func (i *imported) fetch(ctx context.Context, s *imagestore.Store, d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrCache, err)
	}
	if i.place.Ref != nil {
		return i.client.PullBlob(ctx, s, i.place.Ref, d)
	}
	return copyBlob(ctx, i.dir, s, d)
}

// copyBlob brings a blob of one store into another.
func copyBlob(ctx context.Context, from, to *imagestore.Store, d ocispec.Descriptor) error {
	if to.Has(d.Digest) {
		return nil
	}
	blob, err := from.Open(d.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	w, err := to.Writer(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.Copy(w, ctxio.Reader(ctx, blob)); err != nil {
		return fmt.Errorf("copying blob %s: %w", d.Digest, err)
	}
	_, err = w.Commit(d.Digest, d.Size)
	return err
}

// find looks for what a group made in the caches, and brings the layers into the store. What does not come, or
// is not what the cache says, is as good as not there.
func (c *caches) find(ctx context.Context, key string, n int) ([]pack.Layer, bool, error) {
	for _, i := range c.from {
		layers, ok := i.known[key]
		if !ok || len(layers) != n {
			continue
		}
		var err error
		for _, l := range layers {
			if l.Descriptor.Digest == "" {
				continue
			}
			if err = i.fetch(ctx, c.b.Store, l.Descriptor); err == nil {
				err = checkDiffID(ctx, c.b.Store, l)
			}
			if err != nil {
				break
			}
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, false, cause
		}
		if err == nil {
			return layers, true, nil
		}
		if !i.refused {
			i.refused = true
			c.warning = append(c.warning, fmt.Sprintf("not everything could be taken from the cache %s: %v", i.place, err))
		}
	}
	return nil, false, nil
}

// checkDiffID holds that a layer is what its cache says: an image with another content than its config
// says is refused by those who unpack it.
func checkDiffID(ctx context.Context, s *imagestore.Store, l pack.Layer) error {
	blob, err := s.Open(l.Descriptor.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	if blob.Size != l.Descriptor.Size {
		return fmt.Errorf("layer %s has %d bytes: %w", l.Descriptor.Digest, blob.Size, ErrCache)
	}
	if _, err := ociLayer(l.Descriptor.MediaType); err != nil {
		return fmt.Errorf("%w: %w", ErrCache, err)
	}
	r, err := compression.NewReader(ctxio.Reader(ctx, blob))
	if err != nil {
		return err
	}
	defer r.Close()
	hash := digest.SHA256.Digester()
	if _, err := io.Copy(hash.Hash(), r); err != nil {
		return fmt.Errorf("reading layer %s: %w", l.Descriptor.Digest, err)
	}
	if hash.Digest() != l.DiffID {
		return fmt.Errorf("layer %s is not what its diff ID says: %w", l.Descriptor.Digest, ErrCache)
	}
	return nil
}

// use notes what a group made.
func (c *caches) use(key string, layers []pack.Layer, inside bool) {
	if before, ok := c.used[key]; ok {
		inside = inside || before.inside
	}
	c.used[key] = usedExecution{layers: layers, inside: inside}
}

// export writes the caches that are asked for.
func (c *caches) export(ctx context.Context) error {
	for _, e := range c.to {
		id, what := "cache to "+e.String(), "writing cache "+e.String()
		c.b.Progress.Emit(progress.Event{ID: id, Name: what})
		err := c.write(ctx, e)
		c.b.Progress.Emit(progress.Event{ID: id, Name: what, Err: err, End: true})
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		switch {
		case err == nil:
		case e.IgnoreError:
			c.warning = append(c.warning, fmt.Sprintf("writing cache %s: %v", e, err))
		default:
			return fmt.Errorf("writing cache %s: %w", e, err)
		}
	}
	return nil
}

func (c *caches) write(ctx context.Context, e CacheExport) error {
	desc, blobs, err := c.manifest(ctx, e.All)
	if err != nil {
		return err
	}
	if e.Ref != nil {
		if c.b.Caches == nil {
			return ErrNoPuller
		}
		_, err := c.b.Caches.Push(ctx, c.b.Store, desc, e.Ref, transfer.PushOptions{})
		return err
	}
	ref, err := e.tag()
	if err != nil {
		return err
	}
	list, err := os.ReadDir(e.Dir)
	if err == nil && len(list) > 0 && !slices.ContainsFunc(list, func(f os.DirEntry) bool { return f.Name() == ocispec.ImageLayoutFile }) {
		return fmt.Errorf("%s holds something else", e.Dir)
	}
	to, err := imagestore.Open(e.Dir)
	if err != nil {
		return err
	}
	if err := c.fill(ctx, to, append(blobs, desc), ref); err != nil {
		return err
	}
	// What only the cache before had would be there for ever.
	_, err = to.Prune(ctx, imagestore.PruneOptions{})
	return err
}

func (c *caches) fill(ctx context.Context, to *imagestore.Store, blobs []ocispec.Descriptor, ref name.Reference) error {
	release, err := to.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	for _, d := range blobs {
		if err := copyBlob(ctx, c.b.Store, to, d); err != nil {
			return err
		}
	}
	return to.Tag(ctx, ref, blobs[len(blobs)-1])
}

// manifest writes the cache's documents into the store, and returns the manifest and what it names.
func (c *caches) manifest(ctx context.Context, all bool) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	var config cacheConfig
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: CacheArtifactType}
	m.SchemaVersion = 2
	seen := map[digest.Digest]bool{}
	for key, u := range c.used {
		if !all && !u.inside {
			continue
		}
		config.Executions = append(config.Executions, execution{Key: key, Layers: u.layers})
	}
	slices.SortFunc(config.Executions, func(x, y execution) int { return strings.Compare(x.Key, y.Key) })
	for _, e := range config.Executions {
		for _, l := range e.Layers {
			if d := l.Descriptor; d.Digest != "" && !seen[d.Digest] {
				seen[d.Digest] = true
				m.Layers = append(m.Layers, d)
			}
		}
	}
	var err error
	if m.Config, err = c.b.Store.PutJSON(ctx, CacheConfigMediaType, config); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	if len(m.Layers) == 0 { // a manifest has one layer at least
		empty, err := c.b.Store.Put(ctx, ocispec.MediaTypeEmptyJSON, []byte("{}"))
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		m.Layers = append(m.Layers, empty)
	}
	desc, err := c.b.Store.PutJSON(ctx, ocispec.MediaTypeImageManifest, m)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc.ArtifactType = CacheArtifactType
	return desc, append(slices.Clone(m.Layers), m.Config), nil
}
