package builder

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
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
	"golang.org/x/sync/errgroup"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/kubefile"
)

// ErrImageName says that a list holds something that is no image name.
var ErrImageName = errors.New("not the name of an image")

// wish is one container image that the Kubefile or a list wants embedded.
type wish struct {
	name  string // full, as it will be known in the cluster
	ref   name.Reference
	where string // the list and line that names it, or ""
	pos   kubefile.Pos
}

// wanted are the images that instructions ask for.
type wanted struct {
	list   []wish
	ignore map[string]bool // by full name
}

// want carries out IMAGES.
func (a *assembly) want(ctx context.Context, in *kubefile.Images) error {
	if in.List != "" {
		list, err := a.context.find(ctx, in.List)
		if err != nil {
			return err
		}
		for _, f := range list {
			data, err := a.readList(f)
			if err != nil {
				return err
			}
			wishes, err := parseList(f.name, data, in.Pos())
			if err != nil {
				return err
			}
			a.images.list = append(a.images.list, wishes...)
		}
	}
	for _, s := range in.Refs {
		w, err := parseWish(s)
		if err != nil {
			return err
		}
		w.pos = in.Pos()
		if in.Ignore {
			set(&a.images.ignore, w.name, true)
		} else {
			a.images.list = append(a.images.list, w)
		}
	}
	return nil
}

func (a *assembly) readList(f found) ([]byte, error) {
	if !f.info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: it is not a file", f.name)
	}
	return readEntry(pack.Entry{Size: f.info.Size(), Open: func() (io.ReadCloser, error) { return a.context.open(f.real) }}, maxHeld)
}

// parseWish reads a name as it is written. NAME:TAG@DIGEST is known as NAME:TAG and pulled by digest.
func parseWish(s string) (wish, error) {
	ref, err := imagestore.ParseName(s)
	if err != nil {
		return wish{}, fmt.Errorf("%q is %w: %w", s, ErrImageName, err)
	}
	w := wish{name: imagestore.FullName(ref), ref: ref}
	if before, _, ok := strings.Cut(s, "@"); ok && strings.Contains(before[strings.LastIndex(before, "/")+1:], ":") {
		tag, err := imagestore.ParseName(before)
		if err != nil {
			return wish{}, fmt.Errorf("%q is %w: %w", s, ErrImageName, err)
		}
		w.name = imagestore.FullName(tag)
	}
	return w, nil
}

// parseList reads a list of images: one a line, with comments from # on.
func parseList(file string, data []byte, pos kubefile.Pos) ([]wish, error) {
	var out []wish
	sc := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(data, []byte("\uFEFF"))))
	sc.Buffer(nil, 1<<20)
	n := 0
	for sc.Scan() {
		n++
		line, _, _ := strings.Cut(sc.Text(), "#")
		words := strings.Fields(line)
		where := fmt.Sprintf("%s:%d", file, n)
		switch {
		case len(words) == 0:
			continue
		case len(words) > 1:
			return nil, fmt.Errorf("%s: %q is %w: one stands on a line", where, strings.TrimSpace(line), ErrImageName)
		}
		w, err := parseWish(words[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		w.where, w.pos = where, pos
		out = append(out, w)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", file, n+1, err)
	}
	return out, nil
}

// blame says which list and which instruction named an image.
func (a *assembly) blame(w wish, err error) error {
	if err != nil && w.where != "" {
		err = fmt.Errorf("%s: %w", w.where, err)
	}
	return a.at(w.pos, err)
}

// embedded makes the list of the images that the cluster image carries for this platform: those of
// the base, over them those of archives in the tree, over them those that are pulled because a list
// or IMAGES names them and no archive has them.
func (a *assembly) embedded(ctx context.Context) ([]clusterimage.Embedded, error) {
	wishes := slices.Clone(a.images.list)
	for _, f := range []string{"imageList", "manifests/imageList"} {
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
			p, err := a.b.Images.PullImage(ctx, a.b.Store, w.ref, a.res.Platform)
			if err != nil {
				return a.blame(w, err)
			}
			if p.Platform != "" && !runsOn(p.Platform, a.res.Platform) {
				return a.blame(w, &transfer.PlatformError{Ref: w.name, Want: a.res.Platform, Have: []string{p.Platform}})
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
	return out, nil
}

func plainDescriptor(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// runsOn says whether an image of one platform can stand for another: same system and architecture,
// and no two variants that contradict each other.
func runsOn(have, want string) bool {
	h, w := strings.SplitN(have, "/", 3), strings.SplitN(want, "/", 3)
	if len(h) < 2 || len(w) < 2 || h[0] != w[0] || goArch(h[1]) != w[1] {
		return false
	}
	return len(h) < 3 || len(w) < 3 || h[2] <= w[2]
}

// fromArchive is an image out of an archive of the tree.
type fromArchive struct {
	clusterimage.Embedded
	bare bool // its registry is a guess
}

// source is an archive to read images from.
type source struct {
	name     string // path in the rootfs
	identity string // of its content, "" if nothing cheap tells
	pos      kubefile.Pos
	bare     bool
	open     func(ctx context.Context) (io.ReadCloser, error)
}

// readArchives reads the image archives that the layers of this build brought.
func (a *assembly) readArchives(ctx context.Context) ([]fromArchive, error) {
	type named struct {
		archive.Found
		src source
	}
	byName := map[string][]named{}
	for _, src := range a.sources() {
		list, err := a.readSource(ctx, src)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return nil, cause
			}
			return nil, a.at(src.pos, fmt.Errorf("%s: %w", src.name, err))
		}
		for _, f := range list {
			if f.Name == "" {
				return nil, a.at(src.pos, fmt.Errorf("%s: image %s: %w", src.name, f.Target.Digest, archive.ErrNoName))
			}
			byName[f.Name] = append(byName[f.Name], named{f, src})
		}
	}
	var out []fromArchive
	for n, list := range byName {
		var have []string
		var best *fromArchive
		for _, f := range list {
			e := clusterimage.Embedded{Name: n, Platform: a.res.Platform, Index: f.Index, Manifest: plainDescriptor(f.Target)}
			platform := f.Platform
			if imagestore.IsIndex(f.Target.MediaType) {
				d, err := a.pick(n, f.Target)
				if err != nil {
					var pe *transfer.PlatformError
					if errors.As(err, &pe) {
						have = append(have, pe.Have...)
						continue
					}
					return nil, a.at(f.src.pos, fmt.Errorf("%s: %w", f.src.name, err))
				}
				e.Manifest, e.Index, platform = plainDescriptor(d), f.Target.Digest, a.res.Platform
			}
			if platform != "" && !runsOn(platform, a.res.Platform) {
				have = append(have, platform)
				continue
			}
			if best == nil || platform == a.res.Platform {
				best = &fromArchive{Embedded: e, bare: f.src.bare}
			}
		}
		if best == nil {
			src := list[0].src
			return nil, a.at(src.pos, fmt.Errorf("%s: %w", src.name, &transfer.PlatformError{Ref: n, Want: a.res.Platform, Have: have}))
		}
		out = append(out, *best)
	}
	return out, nil
}

// sources are the archives by path; the files of a registry's tree are one.
func (a *assembly) sources() []source {
	var paths []string
	for p := range a.taken {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	var out []source
	var tree []string
	for _, p := range paths {
		if strings.HasPrefix(p, registryRoot) {
			tree = append(tree, p)
			continue
		}
		t := a.taken[p]
		out = append(out, source{name: p, identity: t.entry.Identity, pos: t.pos, bare: strings.HasPrefix(p, "registry."), open: func(context.Context) (io.ReadCloser, error) {
			return openEntry(t.entry)
		}})
	}
	if len(tree) > 0 {
		id := digest.SHA256.Digester()
		whole := true
		for _, p := range tree {
			e := a.taken[p].entry
			fmt.Fprintf(id.Hash(), "%q %c %d %s\n", p, e.Type, e.Size, e.Identity)
			whole = whole && (e.Type != tar.TypeReg || e.Size == 0 || e.Identity != "")
		}
		src := source{name: "registry", pos: a.taken[tree[0]].pos, bare: true, open: func(ctx context.Context) (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(a.writeTree(ctx, w, tree)) }() // ends when r is closed
			return r, nil
		}}
		if whole {
			src.identity = id.Digest().String()
		}
		out = append(out, src)
	}
	return out
}

func openEntry(e *pack.Entry) (io.ReadCloser, error) {
	if e.Open == nil {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	r, err := e.Open()
	return r, plain(err)
}

func copyEntry(w io.Writer, e *pack.Entry) error {
	r, err := openEntry(e)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// writeTree writes a registry's tree as a tar, which is how package archive reads it in one pass.
func (a *assembly) writeTree(ctx context.Context, w io.Writer, paths []string) error {
	tw := tar.NewWriter(w)
	for _, p := range paths {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		e := a.taken[p].entry
		switch e.Type {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
		default:
			return fmt.Errorf("/%s is a link, which a registry's tree does not have", p)
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(p, "registry/"), Size: e.Size, Mode: 0o644}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if err := copyEntry(tw, e); err != nil {
			return err
		}
	}
	return tw.Close()
}

// readSource reads one archive into the store, or remembers what it had when it was read before.
func (a *assembly) readSource(ctx context.Context, src source) ([]archive.Found, error) {
	cached := ""
	if src.identity != "" {
		cached = filepath.Join(a.dirs.images, digest.FromString("archive\n"+src.identity).Encoded()+".json")
		var list []archive.Found
		if data, err := os.ReadFile(cached); err == nil && json.Unmarshal(data, &list) == nil &&
			!slices.ContainsFunc(list, func(f archive.Found) bool {
				return !a.whole(ctx, f.Target) || f.Index != "" && !a.b.Store.Has(f.Index)
			}) {
			return list, nil
		}
	}
	p := progress.Event{ID: a.res.Platform + " " + src.name, Name: "reading images of " + src.name}
	a.b.Progress.Emit(p)
	r, err := src.open(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	list, err := archive.Read(ctx, a.b.Store, contextReader{ctx, r})
	p.Err, p.End = err, true
	a.b.Progress.Emit(p)
	if err != nil {
		return nil, err
	}
	if cached != "" {
		data, err := json.Marshal(list)
		if err == nil {
			err = atomicfile.Write(cached, data, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("keeping what is in it: %w", err)
		}
	}
	return list, nil
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
		var head struct {
			MediaType string `json:"mediaType"`
		}
		if err := json.Unmarshal(data, &head); err != nil {
			return nil, fmt.Errorf("writing refs: index %s: %w", d, err)
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: cmp.Or(head.MediaType, ocispec.MediaTypeImageIndex), Digest: d, Size: int64(len(data)),
		})
	}
	desc, err := b.Store.PutJSON(ctx, ocispec.MediaTypeImageManifest, m)
	if err != nil {
		return nil, fmt.Errorf("writing refs: %w", err)
	}
	return []ocispec.Descriptor{desc}, nil
}
