package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder/discover"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/internal/ctxio"
	"github.com/clusterimage/keg/kubefile"
)

// Discovery says how container images are found in the tree.
type Discovery struct {
	// Off embeds only what IMAGES and lists name.
	Off bool
	// Candidates embeds also what only looks like an image.
	Candidates bool
	// Strict makes it an error that something could not be looked into.
	Strict bool
	// KeepGoing reports the errors of all files and not only the first.
	KeepGoing bool
}

// discovered finds the images that the tree will pull and that none of the wishes names. What already the
// base's files name was decided when the base was built: it embeds them, or leaves them out.
func (a *assembly) discovered(ctx context.Context, wishes []wish, archived []fromArchive) ([]wish, error) {
	if a.req.Discovery.Off {
		return nil, nil
	}
	tree := newTree()
	files := map[string]*content{}
	var before map[string]bool // what the files of the base name
	for i, l := range a.layers {
		if i == a.base.layers && a.base.cluster {
			var err error
			if before, err = a.namedByBase(ctx, tree, files); err != nil {
				return nil, err
			}
		}
		if err := a.layerContents(ctx, tree, files, l); err != nil {
			return nil, fmt.Errorf("looking for images in layer %s: %w", l.Digest, err)
		}
	}
	if len(a.layers) == a.base.layers && a.base.cluster { // nothing is new but values
		var err error
		if before, err = a.namedByBase(ctx, tree, files); err != nil {
			return nil, err
		}
	}
	o := a.options(a.spec)
	o.System = a.runtimeLacksImages(tree, wishes, archived)
	o.Candidates, o.KeepGoing = a.req.Discovery.Candidates, a.req.Discovery.KeepGoing
	r, err := discover.Find(ctx, &treeFS{tree: tree, files: files}, o)
	if err != nil {
		return nil, a.blameFile(err)
	}
	embedded := map[string]bool{}
	for _, e := range a.base.embedded {
		embedded[e.Name] = true
	}
	var out []wish
	for _, f := range r.Taken() {
		w, err := parseWish(f.Ref)
		if err != nil {
			return nil, err
		}
		switch {
		case a.images.ignore[w.name] || embedded[w.name]:
			continue
		case before[f.Ref]:
			r.Skipped = append(r.Skipped, discover.Skipped{Where: f.Where[0], Reason: w.name + " is named by the base image's files, and the base image does not embed it; IMAGES can add it"})
			continue
		}
		w.where, w.pos = f.Where[0].String(), a.broughtBy(f.Where[0].File)
		out = append(out, w)
	}
	a.res.Discovered = r
	if a.req.Discovery.Strict && len(r.Skipped) > 0 {
		return nil, &discover.StrictError{Skipped: r.Skipped}
	}
	return out, nil
}

// options are those for the tree with a spec.
func (a *assembly) options(spec clusterimage.Spec) discover.Options {
	o := discover.Options{
		Roots: discover.Roots(), Elsewhere: true, Parallelism: a.b.Parallelism,
		Env: spec.Env, Apps: map[string]map[string]string{},
	}
	for _, app := range spec.Apps {
		o.Apps[app.Name] = app.Env
	}
	if h, ok := a.held[basefs.MetadataFile]; ok {
		if meta, err := basefs.ParseMetadata(h.data); err == nil { // what is wrong with it is said where it is labelled
			o.Metadata = meta
		}
	}
	o.Metadata.Arch = a.platform.Architecture
	return o
}

// namedByBase are the images that the files of the base name, with the values that it has.
func (a *assembly) namedByBase(ctx context.Context, tree *node, files map[string]*content) (map[string]bool, error) {
	o := a.options(a.base.spec)
	o.Candidates, o.KeepGoing = a.req.Discovery.Candidates, true
	r, err := discover.Find(ctx, &treeFS{tree: tree, files: files}, o)
	if r == nil { // nothing could be found: errors about files are met again below
		return nil, err
	}
	out := map[string]bool{}
	for _, f := range r.Taken() {
		out[f.Ref] = true
	}
	return out, nil
}

// runtimeLacksImages says whether the images of the runtime itself have to be found out: its program is there, and
// nobody names its images. Lists and archives may have them under other names than the runtime's makers.
func (a *assembly) runtimeLacksImages(tree *node, wishes []wish, archived []fromArchive) bool {
	named := func(full string) bool {
		repo, _, _ := strings.Cut(full[strings.LastIndex(full, "/")+1:], ":")
		return repo == "kube-apiserver"
	}
	switch {
	case tree.get("bin/kubeadm") != nil || tree.get("usr/bin/kubeadm") != nil:
		return !slices.ContainsFunc(wishes, func(w wish) bool { return named(w.name) }) &&
			!slices.ContainsFunc(archived, func(f fromArchive) bool { return named(f.Name) }) &&
			!slices.ContainsFunc(a.base.embedded, func(e clusterimage.Embedded) bool { return named(e.Name) })
	case tree.get("bin/k3s") != nil || tree.get("bin/k0s") != nil:
		return len(wishes) == 0 && len(archived) == 0 && len(a.base.embedded) == 0
	}
	return false
}

// broughtBy is the instruction that brought a file, or FROM.
func (a *assembly) broughtBy(file string) kubefile.Pos {
	for f := file; f != "." && f != ""; f = path.Dir(f) { // a chart or kustomization is named by its directory
		for _, n := range []string{f, f + ".tmpl", f + "/Chart.yaml", f + "/kustomization.yaml"} {
			if pos, ok := a.brought[n]; ok {
				return pos
			}
		}
	}
	return a.stage().From
}

// blameFile says which instruction brought the file that is wrong.
func (a *assembly) blameFile(err error) error {
	var fe *discover.FileError
	var ce *discover.ChartError
	switch {
	case errors.As(err, &fe):
		return a.at(a.broughtBy(fe.File), err)
	case errors.As(err, &ce):
		return a.at(a.broughtBy(ce.Chart), err)
	}
	return err
}

// bring remembers which instruction brought the files of a layer in which images are looked for.
func (a *assembly) bring(l *layer, pos kubefile.Pos) {
	if a.brought == nil {
		a.brought = map[string]kubefile.Pos{}
	}
	for _, n := range l.names() {
		if discover.Wanted(n, 0) {
			a.brought[n] = pos
		}
	}
}

// content is a file in which images are looked for.
type content struct {
	Data []byte `json:",omitempty"`
	Size int64  `json:",omitempty"` // of a file whose data is not kept
	Link string `json:",omitempty"` // of a hard link, the file that it shares
}

// contentsKey is under which the cache has the contents of a layer; it changes with their form, and with what
// discover.Wanted says.
func contentsKey(layer digest.Digest) string { return "contents 1 of " + layer.String() }

// layerContents brings a layer into a tree, with the contents of files in which images are looked for.
func (a *assembly) layerContents(ctx context.Context, tree *node, files map[string]*content, desc ocispec.Descriptor) error {
	var list listing
	if !a.cache.Get(listingKey(desc.Digest), &list) {
		var err error
		if list, err = a.scanLayer(ctx, desc.Digest); err != nil {
			return err
		}
	}
	some := false
	for _, whiteouts := range []bool{true, false} {
		for _, p := range list.Paths {
			if strings.HasPrefix(path.Base(p.Name), pack.WhiteoutPrefix) == whiteouts {
				tree.apply(p.Name, p.attr)
				some = some || p.Type != tar.TypeDir && discover.Wanted(p.Name, 0)
			}
		}
	}
	if !some {
		return nil
	}
	contents := map[string]*content{}
	if key := contentsKey(desc.Digest); !a.cache.Get(key, &contents) {
		if err := a.scanContents(ctx, desc.Digest, contents); err != nil {
			return err
		}
		if err := a.cache.Put(key, contents, desc.Digest); err != nil {
			return err
		}
	}
	for n, c := range contents {
		files[n] = c
	}
	return nil
}

// scanContents reads the files of a layer in which images are looked for.
func (a *assembly) scanContents(ctx context.Context, d digest.Digest, contents map[string]*content) error {
	blob, err := a.b.Store.Open(d)
	if err != nil {
		return err
	}
	defer blob.Close()
	r, err := compression.NewReader(ctxio.Reader(ctx, blob))
	if err != nil {
		return err
	}
	defer r.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch {
		case !discover.Wanted(n, 0) || strings.HasPrefix(path.Base(n), pack.WhiteoutPrefix):
		case h.Typeflag == tar.TypeLink:
			contents[n] = &content{Link: strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")}
		case h.Typeflag == tar.TypeReg && !discover.Wanted(n, h.Size):
			contents[n] = &content{Size: h.Size}
		case h.Typeflag == tar.TypeReg:
			c := &content{}
			if c.Data, err = io.ReadAll(tr); err != nil {
				return err
			}
			contents[n] = c
		}
	}
}

// treeFS shows a tree, as far as contents are known, as a file system. Links are followed within it.
type treeFS struct {
	tree  *node
	files map[string]*content
}

var _ fs.ReadDirFS = (*treeFS)(nil)
var _ fs.ReadFileFS = (*treeFS)(nil)
var _ fs.StatFS = (*treeFS)(nil)

// find resolves a name to a node and its path.
func (t *treeFS) find(op, name string) (*node, string, error) {
	if !fs.ValidPath(name) {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	real, err := t.tree.resolve(name)
	if err != nil {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: err}
	}
	n := t.tree.get(real)
	if n == nil {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return n, real, nil
}

// content is that of a file; hard links are followed.
func (t *treeFS) content(name string) *content {
	c := t.files[name]
	for range maxLinks {
		if c == nil || c.Link == "" {
			return c
		}
		c = t.files[c.Link]
	}
	return nil
}

// Open implements fs.FS; files are read by ReadFile.
func (t *treeFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

// ReadFile implements fs.ReadFileFS.
func (t *treeFS) ReadFile(name string) ([]byte, error) {
	n, real, err := t.find("read", name)
	if err != nil {
		return nil, err
	}
	if c := t.content(real); c != nil && n.Type != tar.TypeDir && c.Size == 0 {
		return c.Data, nil
	}
	return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
}

// Stat implements fs.StatFS.
func (t *treeFS) Stat(name string) (fs.FileInfo, error) {
	n, real, err := t.find("stat", name)
	if err != nil {
		return nil, err
	}
	return t.info(path.Base(name), real, n), nil
}

func (t *treeFS) info(base, real string, n *node) nodeInfo {
	i := nodeInfo{name: base, mode: 0o644}
	switch n.Type {
	case tar.TypeDir:
		i.mode = fs.ModeDir | 0o755
	case tar.TypeSymlink:
		i.mode = fs.ModeSymlink | 0o777
	case tar.TypeReg, tar.TypeLink:
		if c := t.content(real); c != nil {
			i.size = max(c.Size, int64(len(c.Data)))
		}
	default:
		i.mode = fs.ModeIrregular
	}
	return i
}

// ReadDir implements fs.ReadDirFS.
func (t *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, real, err := t.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if n.Type != tar.TypeDir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	var out []fs.DirEntry
	for base, child := range n.children {
		out = append(out, fs.FileInfoToDirEntry(t.info(base, path.Join(real, base), child)))
	}
	slices.SortFunc(out, func(x, y fs.DirEntry) int { return strings.Compare(x.Name(), y.Name()) })
	return out, nil
}

// nodeInfo describes a node of a tree.
type nodeInfo struct {
	name string
	mode fs.FileMode
	size int64
}

// Name implements fs.FileInfo.
func (i nodeInfo) Name() string { return i.name }

// Size implements fs.FileInfo.
func (i nodeInfo) Size() int64 { return i.size }

// Mode implements fs.FileInfo.
func (i nodeInfo) Mode() fs.FileMode { return i.mode }

// ModTime implements fs.FileInfo.
func (i nodeInfo) ModTime() time.Time { return time.Time{} }

// IsDir implements fs.FileInfo.
func (i nodeInfo) IsDir() bool { return i.mode.IsDir() }

// Sys implements fs.FileInfo.
func (i nodeInfo) Sys() any { return nil }
