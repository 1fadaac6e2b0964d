// Package builder makes a cluster image of a Kubefile and a build context: it packs the files into
// layers, pulls the container images that are embedded, and writes the index that holds them all. The
// same inputs give the same digest, whatever the machine, its clock, its user or its number of cores.
package builder

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder/discover"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/kubefile"
)

// Puller brings images from registries into a store. *transfer.Client is one.
type Puller interface {
	// Pull brings an image whole, for the platforms in opts.
	Pull(ctx context.Context, s *imagestore.Store, ref name.Reference, opts transfer.PullOptions) (ocispec.Descriptor, error)
	// PullImage brings the image for one platform.
	PullImage(ctx context.Context, s *imagestore.Store, ref name.Reference, platform string) (transfer.Pulled, error)
}

var _ Puller = (*transfer.Client)(nil)

// Builder builds cluster images into a store. Its fields are not changed once it is used; several
// builds may run at once.
type Builder struct {
	// Store receives the image.
	Store *imagestore.Store
	// Images pulls base images and those to embed; nil makes every pull an error.
	Images Puller
	// Fetch downloads what ADD and APP name by URL; nil makes every download an error, unless the file has
	// a checksum and was downloaded before.
	Fetch Fetcher
	// Solver executes what packing files cannot do; nil makes every RUN an error. It is not touched by a
	// Kubefile that executes nothing.
	Solver Solver
	// Caches moves what CacheFrom and CacheTo of a request name in registries; nil makes it an error.
	Caches CacheClient
	// Progress is told about every step.
	Progress progress.Func
	// Parallelism is how many goroutines compress, and how many images are pulled at a time; 0 is the
	// number of cores, and 4 images. It does not change the result.
	Parallelism int
}

// Request is one build.
type Request struct {
	// File is the parsed Kubefile.
	File *kubefile.File
	// Context is the directory that sources are relative to; "" is none.
	Context string
	// IgnoreFile is the text of an ignore file. "" takes KUBEFILE.dockerignore or .dockerignore from
	// the context.
	IgnoreFile string
	// Vars are the build arguments.
	Vars map[string]string
	// Platforms are the platforms to build for, such as "linux/arm64"; none is linux on this machine's
	// architecture.
	Platforms []string
	// Compression is that of new layers; "" is zstd.
	Compression pack.Compression
	// SourceDateEpoch is the time that everything new in the image has; the zero time is 1970.
	SourceDateEpoch time.Time
	// Tags are the names that the image gets, all at once, when it is complete.
	Tags []name.Reference
	// NoCache packs every layer anew, executes every instruction, and reads no CacheFrom.
	NoCache bool
	// CacheFrom are caches outside of the store that are asked for what instructions made that the store's own
	// has not. One that cannot be read is a warning.
	CacheFrom []CachePlace
	// CacheTo are where what this build executed is kept, once the image is complete and before it gets its names.
	CacheTo []CacheExport
	// Pull asks the registry for base images even where the store has them.
	Pull bool
	// Network is "default", "none" or "host" for every RUN that says nothing itself; "" is "default".
	Network string
	// KeepArchives leaves image archives in the rootfs beside the embedded images made of them.
	KeepArchives bool
	// RunTools is the image or directory (a path that begins with / or .) whose files lie below the rootfs
	// while a RUN runs. "" is DefaultRunTools where the rootfs lacks the program to start, NoRunTools none.
	RunTools string
	// BuildContexts are what FROM, COPY --from and RUN --mount name: by that name, lower case, a directory,
	// "docker-image://" and an image, or "oci-layout://" and the directory of an OCI layout, with :TAG or @DIGEST
	// where it has several images. They win over stages and images of the same name.
	BuildContexts map[string]string
	// Discovery says how container images are found in the tree.
	Discovery Discovery
	// MissingPlatform is the answer to images to embed that do not exist for a platform; "" is an error.
	MissingPlatform transfer.MissingPlatform
	// Labels are set on the rootfs over those of the Kubefile.
	Labels map[string]string
	// Type is clusterimage.TypeCluster or TypeApp where the image is to be that; "" finds out.
	Type string

	// layouts are the images of build contexts that are OCI layouts, in the store.
	layouts map[string]ocispec.Descriptor
}

// Result is what was built.
type Result struct {
	// Target is the index.
	Target ocispec.Descriptor
	// Image is the same, read.
	Image clusterimage.Image
	// Platforms are the builds, in the order of the request.
	Platforms []PlatformResult
	// Warnings are for the user: caches that could not be used.
	Warnings []string
}

// PlatformResult is what was built for one platform.
type PlatformResult struct {
	// Platform is such as "linux/amd64".
	Platform string
	// Rootfs is the rootfs image's manifest.
	Rootfs ocispec.Descriptor
	// Spec and Labels are those in its config.
	Spec   clusterimage.Spec
	Labels map[string]string
	// Discovered is what was found of container images in the tree, nil if nothing was looked for.
	Discovered *discover.Report
	// Missing are the images that do not exist for the platform, and what became of them.
	Missing []MissingImage
	// Layers is the number of layers that this build added, Cached how many of them were not packed anew.
	Layers, Cached int
}

// Build makes the image and then moves the tags to it. On any error, and when the context ends, the
// store's tags are as before. An error about an instruction holds a *kubefile.Error.
func (b *Builder) Build(ctx context.Context, req Request) (res Result, err error) {
	platforms, err := req.platforms()
	if err != nil {
		return Result{}, err
	}
	if req.Type != "" && req.Type != clusterimage.TypeCluster && req.Type != clusterimage.TypeApp {
		return Result{}, fmt.Errorf("image type %q: it is %s or %s", req.Type, clusterimage.TypeCluster, clusterimage.TypeApp)
	}
	if !slices.Contains([]pack.Compression{"", pack.Zstd, pack.Gzip}, req.Compression) {
		return Result{}, fmt.Errorf("compression %q: it is %s or %s", req.Compression, pack.Zstd, pack.Gzip)
	}
	if err := req.MissingPlatform.Check(); err != nil {
		return Result{}, fmt.Errorf("images without the platform: %w", err)
	}
	if req.SourceDateEpoch.IsZero() {
		req.SourceDateEpoch = time.Unix(0, 0)
	}
	req.SourceDateEpoch = req.SourceDateEpoch.UTC().Truncate(time.Second)
	switch req.Network {
	case "default":
		req.Network = ""
	case "", "none", "host":
	default:
		return Result{}, fmt.Errorf("network %q is none of default, none, host", req.Network)
	}
	if err := b.executes(ctx, req); err != nil {
		return Result{}, err
	}
	release, err := b.Store.Hold(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("building: %w", err)
	}
	defer release()
	if req.layouts, err = b.takeLayouts(ctx, req.BuildContexts); err != nil {
		return Result{}, err
	}
	named, err := openContexts(req.BuildContexts)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, named.close()) }()
	bc, err := openContext(req.Context, req.IgnoreFile, req.File.Name)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, bc.close()) }()
	remote, err := b.openCaches(ctx, req)
	if err != nil {
		return Result{}, err
	}
	for _, p := range platforms {
		one, embedded, err := b.platform(ctx, req, bc, named, remote, p)
		if err != nil {
			if len(platforms) > 1 {
				err = fmt.Errorf("building for %s: %w", clusterimage.PlatformString(&p), err)
			}
			return Result{}, err
		}
		res.Platforms = append(res.Platforms, one)
		res.Image.Rootfs = append(res.Image.Rootfs, one.Rootfs)
		res.Image.Embedded = append(res.Image.Embedded, embedded...)
	}
	if res.Image.Refs, err = b.refs(ctx, res.Image.Embedded); err != nil {
		return Result{}, err
	}
	idx := res.Image.Index()
	if res.Image, err = clusterimage.Parse(idx); err != nil {
		return Result{}, fmt.Errorf("writing image: %w", err)
	}
	if res.Target, err = b.Store.PutJSON(ctx, ocispec.MediaTypeImageIndex, idx); err != nil {
		return Result{}, fmt.Errorf("writing image: %w", err)
	}
	res.Target.ArtifactType = clusterimage.ArtifactType
	if err := b.Store.Whole(ctx, res.Target); err != nil { // no tag for what is not whole
		return Result{}, fmt.Errorf("writing image: %w", err)
	}
	if err := remote.export(ctx); err != nil {
		return Result{}, err
	}
	res.Warnings = remote.warning
	var tags []imagestore.Tagged
	for _, t := range req.Tags {
		tags = append(tags, imagestore.Tagged{Name: imagestore.FullName(t), Target: res.Target})
	}
	if err := b.Store.TagAll(ctx, tags...); err != nil {
		return Result{}, err
	}
	return res, nil
}

// executes asks the solver early whether it is there, if it will be needed, before anything is pulled.
func (b *Builder) executes(ctx context.Context, r Request) error {
	if r.File == nil || len(r.File.Stages) == 0 {
		return errors.New("building: the Kubefile has no FROM")
	}
	for _, s := range chain(r.File, r.File.Stages[len(r.File.Stages)-1]) {
		for _, in := range s.Instructions {
			d, ok := in.(*kubefile.Docker)
			if !ok {
				continue
			}
			what := r.needsSolver(r.File, s, d)
			if what == "" {
				continue
			}
			if b.Solver == nil {
				return at(r.File, in.Pos(), fmt.Errorf("%s %w", what, ErrSolver))
			}
			if err := b.Solver.Available(ctx); err != nil {
				return at(r.File, in.Pos(), fmt.Errorf("%s: %w", what, err))
			}
		}
	}
	return nil
}

// platforms reads the platforms asked for, each once, in the form in which images are found by them.
func (r Request) platforms() ([]ocispec.Platform, error) {
	if len(r.Platforms) == 0 {
		return []ocispec.Platform{{OS: "linux", Architecture: goruntime.GOARCH}}, nil
	}
	var list []ocispec.Platform
	seen := map[string]bool{}
	for _, s := range r.Platforms {
		p, err := parsePlatform(s)
		if err != nil {
			return nil, err
		}
		if full := clusterimage.PlatformString(&p); !seen[full] {
			seen[full] = true
			list = append(list, p)
		}
	}
	return list, nil
}

func parsePlatform(s string) (ocispec.Platform, error) {
	p, err := clusterimage.ParsePlatform(strings.ToLower(s))
	if err != nil {
		return p, err
	}
	if p.OS != "linux" {
		return p, fmt.Errorf("platform %q: the nodes of a cluster run linux", s)
	}
	p.Architecture = basefs.GOARCH(p.Architecture)
	if p.Architecture == "arm64" && p.Variant == "v8" { // there is no other
		p.Variant = ""
	}
	return p, nil
}

// at says which instruction is to blame for an error. What says so itself stays as it is, and so does
// the end of the context.
func at(f *kubefile.File, pos kubefile.Pos, err error) error {
	var already *kubefile.Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	return &located{place: kubefile.Error{File: f.Name, Pos: pos, Line: lineOf(f, pos), Msg: err.Error()}, err: err}
}

// located is an error of an instruction: a *kubefile.Error to show, and what lies under it to tell apart.
type located struct {
	place kubefile.Error
	err   error
}

func (e *located) Error() string { return e.place.Error() }

func (e *located) Unwrap() []error { return []error{&e.place, e.err} }

func lineOf(f *kubefile.File, pos kubefile.Pos) string {
	n := 0
	for line := range strings.Lines(string(f.Source)) {
		if n++; n == pos.Line {
			return strings.TrimRight(line, "\r\n")
		}
	}
	return ""
}

// indexesOf returns the digests among the embedded images' indexes, each once, sorted.
func indexesOf(list []clusterimage.Embedded) []digest.Digest {
	var out []digest.Digest
	for _, e := range list {
		if e.Index != "" {
			out = append(out, e.Index)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func hostPlatform() string { return "linux/" + goruntime.GOARCH }
