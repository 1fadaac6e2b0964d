package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/kubefile"
)

// What a Request has for RunTools.
const (
	// DefaultRunTools lies below a rootfs that has no shell while a RUN runs.
	DefaultRunTools = "docker.io/library/alpine:3.22"
	// NoRunTools leaves a rootfs without a shell alone.
	NoRunTools = "none"
)

// ErrNoShell says that a RUN needs a program that the rootfs does not have.
var ErrNoShell = errors.New("is not in the image, and without run tools there is no other")

// tools lie below the rootfs while a RUN runs: programs that a basefs has no use for, such as a shell.
type tools struct {
	layers  []ocispec.Descriptor
	diffIDs []digest.Digest
	tree    *node
}

// tools finds what a group needs below the rootfs: nothing where the rootfs has the program that each RUN
// starts, unless the request names tools.
func (a *assembly) tools(ctx context.Context, g group) (tools, error) {
	a.tooled = tools{tree: newTree()}
	want := a.req.RunTools
	if want == "" || want == NoRunTools {
		missing := a.missingProgram(g)
		if missing == "" {
			return a.tooled, nil
		}
		if want == NoRunTools {
			return tools{}, fmt.Errorf("%s %w", missing, ErrNoShell)
		}
		want = DefaultRunTools
	}
	var err error
	if strings.HasPrefix(want, "/") || strings.HasPrefix(want, "./") || strings.HasPrefix(want, "../") || want == "." {
		a.tooled, err = a.toolsDir(ctx, want)
	} else {
		a.tooled, err = a.toolsImage(ctx, want)
	}
	if err != nil {
		return tools{}, fmt.Errorf("tools for RUN: %w", err)
	}
	return a.tooled, nil
}

// missingProgram is the first program that a RUN of the group starts and the rootfs does not have, or "".
func (a *assembly) missingProgram(g group) string {
	shell := a.image.Config.Shell
	env := a.image.Config.Env
	for _, d := range g.docker {
		switch c := d.Command.(type) {
		case *instructions.ShellCommand:
			shell = c.Shell
		case *instructions.EnvCommand:
			for _, kv := range c.Env {
				env = setEnv(env, kv.Key, kv.Value)
			}
		case *instructions.RunCommand:
			program := "/bin/sh"
			switch {
			case !c.PrependShell && len(c.CmdLine) > 0:
				program = c.CmdLine[0]
			case len(shell) > 0:
				program = shell[0]
			}
			if !a.hasProgram(program, env) {
				return program
			}
		}
	}
	return ""
}

func (a *assembly) hasProgram(program string, env []string) bool {
	places := []string{path.Join(a.workdir(), program)}
	switch {
	case path.IsAbs(program):
		places = []string{program}
	case !strings.Contains(program, "/"):
		search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		for _, kv := range env {
			if v, ok := strings.CutPrefix(kv, "PATH="); ok {
				search = v
			}
		}
		places = nil
		for dir := range strings.SplitSeq(search, ":") {
			places = append(places, path.Join("/", dir, program))
		}
	}
	for _, p := range places {
		if real, err := a.tree.resolve(strings.TrimPrefix(path.Clean(p), "/")); err == nil && a.tree.get(real) != nil {
			return true
		}
	}
	return false
}

// toolsImage takes the tools from an image.
func (a *assembly) toolsImage(ctx context.Context, text string) (tools, error) {
	ref, err := imagestore.ParseName(text)
	if err != nil {
		return tools{}, err
	}
	desc, err := a.findBase(ctx, ref)
	if err != nil {
		return tools{}, err
	}
	inner := a.inner(a.platform)
	if err := inner.inherit(ctx, text, desc); err != nil {
		return tools{}, err
	}
	return tools{layers: inner.layers, diffIDs: inner.image.RootFS.DiffIDs, tree: inner.tree}, nil
}

// toolsDir takes them from a directory.
func (a *assembly) toolsDir(ctx context.Context, dir string) (tools, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return tools{}, err
	}
	defer root.Close()
	list, err := (&pack.Scanner{Root: root}).Dir(ctx, ".")
	if err != nil {
		return tools{}, plain(err)
	}
	o := pack.Options{Compression: a.req.Compression, Parallelism: a.b.Parallelism, ModTime: a.req.SourceDateEpoch}
	tree := newTree()
	for i := range list {
		list[i].UID, list[i].GID = 0, 0
		e := list[i]
		tree.set(e.Name, attr{Type: e.Type, Mode: e.Mode, Link: e.Linkname})
	}
	key, cacheable := pack.Key(list, o)
	key = "layer " + key
	var packed pack.Layer
	if !cacheable || !a.cache.Get(key, &packed) {
		if packed, err = a.b.pack(ctx, list, o); err != nil {
			return tools{}, err
		}
		if cacheable {
			if err := a.cache.Put(key, packed, packed.Descriptor.Digest); err != nil {
				return tools{}, err
			}
		}
	}
	return tools{layers: []ocispec.Descriptor{packed.Descriptor}, diffIDs: []digest.Digest{packed.DiffID}, tree: tree}, nil
}

// inner is an assembly for something that this one needs.
func (a *assembly) inner(p ocispec.Platform) *assembly {
	return &assembly{
		b: a.b, req: a.req, file: a.file, context: a.context, contexts: a.contexts, platform: p, vars: a.vars, cache: a.cache, remote: a.remote, aside: true, downloads: a.downloads,
		tree: newTree(), held: map[string]held{}, taken: map[string]taken{}, known: a.known, stageImages: a.stageImages,
		res: PlatformResult{Platform: clusterimage.PlatformString(&p)},
	}
}

// named finds the stages and images that instructions of a group name.
func (a *assembly) named(ctx context.Context, g group) (map[string]ocispec.Descriptor, error) {
	out := map[string]ocispec.Descriptor{}
	for _, d := range g.docker {
		var names []string
		switch c := d.Command.(type) {
		case *instructions.CopyCommand:
			names = append(names, c.From)
		case *instructions.RunCommand:
			for _, m := range instructions.GetMounts(c) {
				names = append(names, m.From)
			}
		}
		for _, n := range names {
			if _, ok := out[kubefile.ExcerptName(n)]; ok || n == "" || n == "scratch" || a.contexts[strings.ToLower(n)] != nil {
				continue
			}
			desc, err := a.namedOne(ctx, n)
			if err != nil {
				return nil, a.at(d.Pos(), err)
			}
			out[kubefile.ExcerptName(n)] = desc
		}
	}
	return out, nil
}

func (a *assembly) namedOne(ctx context.Context, n string) (ocispec.Descriptor, error) {
	if desc, ok := a.req.layouts[strings.ToLower(n)]; ok {
		return a.manifestOf(ctx, n, desc)
	}
	if image, ok := a.req.contextImage(n); ok {
		n = image
	} else if stage := a.file.FromStage(a.current, n); stage != nil {
		return a.stageImage(ctx, stage)
	}
	ref, err := imagestore.ParseName(n)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := a.findBase(ctx, ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return a.manifestOf(ctx, n, desc)
}

// manifestOf is the image for this platform of one that n names.
func (a *assembly) manifestOf(ctx context.Context, n string, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	if !imagestore.IsIndex(desc.MediaType) {
		return desc, nil
	}
	img, err := a.b.Store.ClusterImage(ctx, desc)
	if errors.Is(err, clusterimage.ErrNotClusterImage) {
		return a.pick(n, desc)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m, ok := img.RootfsFor(a.res.Platform)
	if !ok {
		return ocispec.Descriptor{}, &transfer.PlatformError{Ref: n, Want: a.res.Platform, Have: platformsOf(img.Rootfs)}
	}
	return m, nil
}

// stageImage builds an earlier stage, once, as an image that instructions can copy from and mount.
func (a *assembly) stageImage(ctx context.Context, stage *kubefile.Stage) (ocispec.Descriptor, error) {
	if done, ok := a.stageImages[stage.From]; ok {
		return done, nil
	}
	p := a.platform
	if first := chain(a.file, stage)[0]; first.Platform != "" {
		var err error
		if p, err = parsePlatform(first.Platform); err != nil {
			return ocispec.Descriptor{}, a.at(first.From, err)
		}
	}
	inner := a.inner(p)
	inner.current = stage
	err := inner.stages(ctx, stage)
	a.tarballs = append(a.tarballs, inner.tarballs...)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := inner.runImage(ctx, tools{})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	a.stageImages[stage.From] = desc
	return desc, nil
}
