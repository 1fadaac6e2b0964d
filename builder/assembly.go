package builder

import (
	"archive/tar"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/kubefile"
)

// assembly is the rootfs of one platform while it is built.
type assembly struct {
	b         *Builder
	req       *Request
	file      *kubefile.File // with its FROMs resolved
	context   *buildContext
	contexts  contexts
	platform  ocispec.Platform
	vars      kubefile.Vars
	downloads downloads
	cache     *imagestore.Cache
	remote    *caches
	aside     bool // a stage that others copy from or mount

	tree   *node
	image  dockerspec.DockerOCIImage
	layers []ocispec.Descriptor
	spec   clusterimage.Spec
	base   base
	// held are the files of the tree that the build itself reads.
	held map[string]held
	// taken are the image archives that become embedded images, by their path in the rootfs.
	taken map[string]taken
	// apps are the apps of this Kubefile, with what their files tell.
	apps deferred
	// brought tells, of files in which images are looked for, the instruction.
	brought  map[string]kubefile.Pos
	images   wanted
	tarballs []*tarball
	res      PlatformResult

	// current is the stage that is carried out, known those that it and others copy from, by their FROM.
	current *kubefile.Stage
	known   map[kubefile.Pos]*stageFiles
	// args are the ARGs that a command sees, but for those whose name a later ENV has; tooled are the tools
	// of the last RUN; stageImages are stages built as images, by their FROM.
	args        map[string]string
	tooled      tools
	stageImages map[kubefile.Pos]ocispec.Descriptor
	// files takes the layers if this is a stage that others copy from: then nothing is packed.
	files *stageFiles
}

// held is the content of a small file of the rootfs, and the instruction that brought it.
type held struct {
	data []byte
	pos  kubefile.Pos
}

// heldFiles are the files that the build reads: what tells the runtime, which images to embed, and who
// the users of the rootfs are.
var heldFiles = append([]string{basefs.MetadataFile, "etc/passwd", "etc/group"}, basefs.ImageLists()...)

// maxHeld bounds such a file.
const maxHeld = 8 << 20

// taken is an image archive, or a file of a distribution registry's tree.
type taken struct {
	entry *pack.Entry
	pos   kubefile.Pos
}

// platform builds the rootfs for one platform, and finds its embedded images.
func (b *Builder) platform(ctx context.Context, req Request, bc *buildContext, named contexts, remote *caches, p ocispec.Platform) (PlatformResult, []clusterimage.Embedded, error) {
	a := &assembly{
		b: b, req: &req, context: bc, contexts: named, remote: remote, platform: p, tree: newTree(),
		held: map[string]held{}, taken: map[string]taken{}, known: map[kubefile.Pos]*stageFiles{}, stageImages: map[kubefile.Pos]ocispec.Descriptor{}, downloads: downloads{fetch: b.Fetch, store: b.Store},
		res: PlatformResult{Platform: clusterimage.PlatformString(&p)},
	}
	defer func() {
		for _, arch := range a.tarballs {
			arch.close()
		}
	}()
	var err error
	if a.cache, err = b.Store.Cache("build"); err != nil {
		return PlatformResult{}, nil, fmt.Errorf("building: %w", err)
	}
	if a.vars, err = req.vars(bc, kubefile.Vars{BuildArgs: req.Vars, Platform: a.res.Platform, BuildPlatform: hostPlatform()}); err != nil {
		return PlatformResult{}, nil, err
	}
	if a.file, err = req.File.ResolveFrom(a.vars); err != nil {
		return PlatformResult{}, nil, err
	}
	a.current = a.stage()
	if err := a.stages(ctx, a.current); err != nil {
		return PlatformResult{}, nil, err
	}
	if err := a.finishApps(); err != nil {
		return PlatformResult{}, nil, err
	}
	embedded, err := a.embedded(ctx)
	if err != nil {
		return PlatformResult{}, nil, err
	}
	if a.res.Rootfs, err = a.write(ctx); err != nil {
		return PlatformResult{}, nil, err
	}
	a.res.Spec, a.res.Labels = a.spec, a.image.Config.Labels
	return a.res, embedded, nil
}

func (a *assembly) at(pos kubefile.Pos, err error) error { return at(a.file, pos, err) }

// instruction carries out one instruction.
func (a *assembly) instruction(ctx context.Context, in kubefile.Instruction, id, name string) error {
	var fill func(l *layer) error // nil where the instruction brings no files
	switch in := in.(type) {
	case *kubefile.Docker:
		a.remember(in.Command)
		switch c := in.Command.(type) {
		case *instructions.CopyCommand:
			fill = func(l *layer) error {
				from, c2 := a, c.From
				if named := a.contexts[strings.ToLower(c.From)]; c.From != "" && named != nil {
					// All of it is the same but where files come from.
					other := *a
					other.context, from, c2 = named, &other, ""
				}
				return from.copyInto(ctx, l, copying{
					SourcesAndDest: c.SourcesAndDest, from: c2, chown: c.Chown, chmod: c.Chmod, exclude: c.ExcludePatterns, parents: c.Parents,
				})
			}
		case *instructions.AddCommand:
			fill = func(l *layer) error {
				return a.copyInto(ctx, l, copying{
					SourcesAndDest: c.SourcesAndDest, chown: c.Chown, chmod: c.Chmod, exclude: c.ExcludePatterns,
					unpack: c.Unpack == nil || *c.Unpack, unpackURL: c.Unpack != nil && *c.Unpack, urls: true, checksum: c.Checksum,
				})
			}
		case *instructions.WorkdirCommand:
			dir := c.Path
			if !path.IsAbs(dir) {
				dir = path.Join(a.workdir(), dir)
			}
			a.image.Config.WorkingDir = path.Clean(dir)
			fill = a.makeWorkdir
		default:
			if err := a.configure(c); err != nil {
				return err
			}
		}
	case *kubefile.App:
		fill = func(l *layer) error { return a.app(ctx, l, in) }
	case *kubefile.Images:
		if err := a.want(ctx, in); err != nil {
			return err
		}
	default:
		a.declare(in)
	}
	if fill == nil {
		a.history(in.Text(), true)
		return nil
	}
	l := newLayer(a.tree)
	if err := fill(l); err != nil {
		return err
	}
	if err := a.keep(l, in.Pos()); err != nil {
		return err
	}
	if a.files != nil {
		a.files.add(l)
		return nil
	}
	return a.commit(ctx, l, in.Text(), id, name)
}

// makeWorkdir makes the working directory where the image does not have it.
func (a *assembly) makeWorkdir(l *layer) error {
	name, _, err := a.destination(a.workdir())
	if err != nil {
		return err
	}
	o, err := parseOwner(a.image.Config.User, a.contents)
	if err != nil {
		return fmt.Errorf("USER %s: %w", a.image.Config.User, err)
	}
	return l.mkdir(name, o)
}

// contents is the content of a held file of the tree as it is now.
func (a *assembly) contents(name string) []byte { return a.held[name].data }

// keep reads what the build itself needs of a layer, and takes the image archives out of it.
func (a *assembly) keep(l *layer, pos kubefile.Pos) error {
	for _, name := range heldFiles {
		e := l.entries[name]
		if e == nil {
			continue
		}
		if file := l.links[name]; file != nil {
			e = file
		}
		delete(a.held, name)
		if e.Type != tar.TypeReg {
			continue
		}
		data, err := readEntry(*e, maxHeld)
		if err != nil {
			return fmt.Errorf("reading /%s: %w", name, err)
		}
		a.held[name] = held{data: data, pos: pos}
	}
	a.bring(l, pos)
	if a.files != nil {
		return nil // who copies from here decides what the archives are
	}
	for _, name := range l.names() {
		e := l.entries[name]
		if !holdsImages(name, e.Type) {
			delete(a.taken, name)
			continue
		}
		if file := l.links[name]; file != nil {
			e = file
		}
		a.taken[name] = taken{entry: e, pos: pos}
		if !a.req.KeepArchives {
			l.take(name)
		}
	}
	return nil
}

func readEntry(e pack.Entry, limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, fmt.Errorf("%d bytes are too many", e.Size)
	}
	if e.Open == nil {
		return nil, nil
	}
	r, err := e.Open()
	if err != nil {
		return nil, plain(err)
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, limit))
}

// holdsImages says whether an entry of the rootfs is an image archive, or part of a registry's storage.
func holdsImages(name string, typ byte) bool {
	if name == basefs.RegistryTree || strings.HasPrefix(name, basefs.RegistryTree+"/") {
		return true
	}
	return typ != tar.TypeDir && typ != tar.TypeSymlink && basefs.IsImageArchive(name)
}

func (a *assembly) history(text string, empty bool) {
	t := a.req.SourceDateEpoch
	a.image.History = append(a.image.History, ocispec.History{Created: &t, CreatedBy: text, EmptyLayer: empty})
}

// write writes config and manifest of the rootfs image.
func (a *assembly) write(ctx context.Context) (ocispec.Descriptor, error) {
	if err := a.label(); err != nil {
		return ocispec.Descriptor{}, err
	}
	t := a.req.SourceDateEpoch
	a.image.Created = &t
	a.image.Platform.OS, a.image.Platform.Architecture = a.platform.OS, a.platform.Architecture
	a.image.Platform.Variant = cmp.Or(a.platform.Variant, a.image.Platform.Variant)
	a.image.RootFS.Type = "layers"
	if len(a.layers) == 0 { // an image of embedded images alone: OCI wants one layer of every image
		packed, err := a.b.pack(ctx, nil, pack.Options{Compression: a.req.Compression, ModTime: t})
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		a.layers = append(a.layers, packed.Descriptor)
		a.image.RootFS.DiffIDs = append(a.image.RootFS.DiffIDs, packed.DiffID)
		a.history(a.stage().Text, false)
	}
	config, err := a.b.Store.PutJSON(ctx, ocispec.MediaTypeImageConfig, a.image)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("writing image: %w", err)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: a.layers}
	m.SchemaVersion = 2
	desc, err := a.b.Store.PutJSON(ctx, ocispec.MediaTypeImageManifest, m)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("writing image: %w", err)
	}
	p := a.platform
	desc.Platform = &p
	return desc, nil
}

func (a *assembly) stage() *kubefile.Stage { return a.file.Stages[len(a.file.Stages)-1] }

// tarball makes a tar file's entry one to extract. It is closed at the end of the build.
func (a *assembly) tarball(name string, e pack.Entry) *tarball {
	arch := &tarball{
		name: name, size: e.Size, identity: e.Identity, open: e.Open, scratch: a.b.Store.Scratch, cache: a.cache,
	}
	if a.req.NoCache {
		arch.identity = ""
	}
	a.tarballs = append(a.tarballs, arch)
	return arch
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
