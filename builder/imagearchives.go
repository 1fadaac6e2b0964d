package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/ctxio"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/kubefile"
)

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
		var candidates []fromArchive
		var have, others []string // platforms: of the candidates, and of indexes that have no candidate
		for _, f := range list {
			e := clusterimage.Embedded{Name: n, Platform: a.res.Platform, Index: f.Index, Manifest: plainDescriptor(f.Target)}
			platform := f.Platform
			if imagestore.IsIndex(f.Target.MediaType) {
				d, err := a.pick(n, f.Target)
				if err != nil {
					var pe *transfer.PlatformError
					if errors.As(err, &pe) {
						others = append(others, pe.Have...)
						continue
					}
					return nil, a.at(f.src.pos, fmt.Errorf("%s: %w", f.src.name, err))
				}
				e.Manifest, e.Index, platform = plainDescriptor(d), f.Target.Digest, a.res.Platform
			}
			if platform == "" { // it is for any
				platform = a.res.Platform
			}
			have = append(have, platform)
			candidates = append(candidates, fromArchive{Embedded: e, bare: f.src.bare})
		}
		best, err := transfer.Choose(a.res.Platform, have)
		if err != nil {
			return nil, err
		}
		if best < 0 {
			src := list[0].src
			return nil, a.at(src.pos, fmt.Errorf("%s: %w", src.name, &transfer.PlatformError{Ref: n, Want: a.res.Platform, Have: slices.Concat(have, others)}))
		}
		out = append(out, candidates[best])
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
		if strings.HasPrefix(p, basefs.RegistryTree) {
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
	key := "images of " + src.identity
	if src.identity != "" {
		var list []archive.Found
		if a.cache.Get(key, &list) && !slices.ContainsFunc(list, func(f archive.Found) bool { return !a.whole(ctx, f.Target) }) {
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
	list, err := archive.Read(ctx, a.b.Store, ctxio.Reader(ctx, r))
	p.Err, p.End = err, true
	a.b.Progress.Emit(p)
	if err != nil {
		return nil, err
	}
	if src.identity == "" {
		return list, nil
	}
	var blobs []digest.Digest
	for _, f := range list {
		blobs = append(blobs, f.Target.Digest)
		if f.Index != "" {
			blobs = append(blobs, f.Index)
		}
	}
	return list, a.cache.Put(key, list, blobs...)
}
