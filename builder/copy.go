package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/builder/pack"
)

// copying is COPY or ADD, or the part of APP that copies.
type copying struct {
	instructions.SourcesAndDest
	from         string // the stage that sources are in; "" is the context
	chown, chmod string
	exclude      []string
	parents      bool
	unpack       bool // extract local archives
	unpackURL    bool // extract downloaded archives
	urls         bool // sources may be URLs
	checksum     string
}

// copier carries out one copying into one layer.
type copier struct {
	a       *assembly
	l       *layer
	owner   owner
	chowned bool
	mode    modeChange
	exclude *patternmatcher.PatternMatcher
	unpack  bool
	copied  map[*pack.Entry]*pack.Entry // files of a stage, and where they are in the layer
}

// copyInto fills the layer. Files that come from the context keep their modes; everything belongs to
// root unless --chown says otherwise.
func (a *assembly) copyInto(ctx context.Context, l *layer, c copying) error {
	k := &copier{a: a, l: l, chowned: c.chown != "", unpack: c.unpack}
	var err error
	if k.owner, err = parseOwner(c.chown, a.contents); err != nil {
		return fmt.Errorf("--chown=%s: %w", c.chown, err)
	}
	if k.mode, err = parseMode(c.chmod); err != nil {
		return err
	}
	if k.exclude, err = patternmatcher.New(c.exclude); err != nil {
		return fmt.Errorf("--exclude: %w", err)
	}
	want := digest.Digest(c.checksum)
	if want != "" && (len(c.SourcePaths) != 1 || !isURL(c.SourcePaths[0])) {
		return errors.New("--checksum is for one source, a URL")
	}

	var stage *stageFiles
	if c.from != "" {
		if stage, err = a.stageOf(ctx, c.from); err != nil {
			return err
		}
	}
	var local []found
	var pivots []string
	files, dirs := len(c.SourceContents), 0
	for _, src := range c.SourcePaths {
		if c.urls && isURL(src) {
			files++
			continue
		}
		pivot := ""
		if before, after, ok := strings.Cut(src, "/./"); c.parents && ok {
			pivot = strings.Trim(path.Clean("/"+before), "/")
			src = before + "/" + after
		}
		if stage != nil {
			names, err := stage.find(src)
			if err != nil {
				return err
			}
			for _, n := range names {
				local, pivots = append(local, found{name: n}), append(pivots, pivot)
				if stage.isDir(n) {
					dirs++
				} else {
					files++
				}
			}
			continue
		}
		list, err := a.context.find(ctx, src)
		if err != nil {
			return err
		}
		for _, f := range list {
			local, pivots = append(local, f), append(pivots, pivot)
			if f.info.IsDir() {
				dirs++
			} else {
				files++
			}
		}
	}
	dst, isDir, err := a.destination(c.DestPath)
	if err != nil {
		return err
	}
	if n := l.tree.get(dst); n != nil && n.Type == tar.TypeDir {
		isDir = true
	}
	if files > 0 && files+dirs > 1 && !isDir {
		return fmt.Errorf("with more than one source the destination is a directory and must end in /: write %s/", c.DestPath)
	}
	isDir = isDir || c.parents
	if isDir {
		if err := l.mkdir(dst, k.owner); err != nil {
			return err
		}
	}
	for i, f := range local {
		switch {
		case stage != nil && c.parents:
			rel := strings.TrimPrefix(strings.TrimPrefix(f.name, pivots[i]), "/")
			if stage.isDir(f.name) {
				err = k.fromStage(ctx, stage, f.name, path.Join(dst, rel), rel, true)
			} else {
				err = k.fromStage(ctx, stage, f.name, dst, rel, true)
			}
		case stage != nil:
			err = k.fromStage(ctx, stage, f.name, dst, path.Base(f.name), isDir)
		case c.parents:
			err = k.withParents(ctx, f, pivots[i], dst)
		default:
			err = k.local(ctx, f, dst, isDir)
		}
		if err != nil {
			return err
		}
	}
	for _, src := range c.SourcePaths {
		if c.urls && isURL(src) {
			if err := k.url(ctx, src, want, dst, isDir, c.unpackURL); err != nil {
				return err
			}
		}
	}
	for _, doc := range c.SourceContents {
		if err := k.put(inline(path.Base(doc.Path), []byte(doc.Data), 0o644), path.Base(doc.Path), dst, isDir); err != nil {
			return err
		}
	}
	return nil
}

// destination makes the path of a destination one of the rootfs, through the working directory and the links that the
// image has. isDir says that it was written as a directory.
func (a *assembly) destination(dst string) (name string, isDir bool, err error) {
	isDir = dst == "" || dst == "." || strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")
	if !path.IsAbs(dst) {
		dst = path.Join(a.workdir(), dst)
	}
	name, err = a.tree.resolve(strings.TrimPrefix(path.Clean("/"+dst), "/"))
	return name, isDir || name == "", err
}

func (a *assembly) workdir() string { return path.Join("/", a.image.Config.WorkingDir) }

// own gives an entry the owner and mode that the flags say.
func (k *copier) own(e *pack.Entry) {
	e.UID, e.GID = k.owner.uid, k.owner.gid
	if e.Type != tar.TypeSymlink {
		e.Mode = k.mode(e.Mode, e.Type == tar.TypeDir)
	}
}

// put adds a single file under its own name in a directory, or under the destination's.
func (k *copier) put(e pack.Entry, base, dst string, isDir bool) error {
	e.Name = dst
	if isDir {
		e.Name = path.Join(dst, base)
	}
	k.own(&e)
	return k.l.add(&e, k.owner)
}

// local copies one file, or the contents of one directory.
func (k *copier) local(ctx context.Context, f found, dst string, isDir bool) error {
	scan := &pack.Scanner{Root: k.a.context.root}
	if f.info.IsDir() {
		return k.directory(ctx, scan, f.real, dst, "")
	}
	if out, err := matches(k.exclude, path.Base(f.name)); err != nil || out {
		return err
	}
	e, err := scan.File(f.real)
	if err != nil {
		return plain(err)
	}
	if k.unpack {
		return k.putOrExtract(ctx, e, f.name, path.Base(f.name), dst, isDir)
	}
	return k.put(e, path.Base(f.name), dst, isDir)
}

// directory copies what is in a directory of the context into dst. The patterns of --exclude see paths
// below prefix.
func (k *copier) directory(ctx context.Context, scan *pack.Scanner, real, dst, prefix string) error {
	ignore, exclude := newFilter(k.a.context.ignore), newFilter(k.exclude)
	below := func(name string) string {
		if real == "." {
			return name
		}
		return strings.TrimPrefix(name, real+"/")
	}
	var failed error
	scan.Filter = func(name string, d fs.DirEntry) (include, descend bool) {
		out1, down1, err1 := ignore.match(name, d.IsDir())
		out2, down2, err2 := exclude.match(path.Join(prefix, below(name)), d.IsDir())
		failed = errors.Join(failed, err1, err2)
		return !out1 && !out2, down1 && down2
	}
	list, err := scan.Dir(ctx, real)
	if err = errors.Join(plain(err), failed); err != nil {
		return err
	}
	if err := k.l.mkdir(dst, k.owner); err != nil {
		return err
	}
	there := map[string]*pack.Entry{real: nil}
	for i := range list {
		// A directory that is left out and holds something that is not comes along.
		var above []pack.Entry
		for dir := path.Dir(list[i].Name); dir != "." && !has(there, dir); dir = path.Dir(dir) {
			e, err := scan.File(dir)
			if err != nil {
				return plain(err)
			}
			above = append([]pack.Entry{e}, above...)
			there[dir] = nil
		}
		for _, e := range append(above, list[i]) {
			name := e.Name
			e.Name = path.Join(dst, below(name))
			file := (*pack.Entry)(nil)
			if e.Type == tar.TypeLink {
				file = there[e.Linkname]
				e.Linkname = path.Join(dst, below(e.Linkname))
			}
			k.own(&e)
			there[name] = &e
			if file != nil {
				err = k.l.link(&e, file, k.owner)
			} else {
				err = k.l.add(&e, k.owner)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func has(m map[string]*pack.Entry, name string) bool { _, ok := m[name]; return ok }

// withParents copies a source with the directories above it, up to the pivot ("/./" in the source) or
// the context's root.
func (k *copier) withParents(ctx context.Context, f found, pivot, dst string) error {
	rel := f.name
	if pivot != "" {
		rel = strings.TrimPrefix(f.name, pivot+"/")
	}
	if out, err := matches(k.exclude, rel); err != nil || out {
		return err
	}
	scan := &pack.Scanner{Root: k.a.context.root}
	elems := split(rel)
	for i := range len(elems) - 1 {
		up := strings.Join(elems[:i+1], "/")
		if err := k.dirEntry(scan, path.Join(pivot, up), path.Join(dst, up)); err != nil {
			return err
		}
	}
	if f.info.IsDir() {
		if rel != "." {
			if err := k.dirEntry(scan, f.name, path.Join(dst, rel)); err != nil {
				return err
			}
		}
		return k.directory(ctx, scan, f.real, path.Join(dst, rel), rel)
	}
	e, err := scan.File(f.real)
	if err != nil {
		return plain(err)
	}
	return k.put(e, rel, dst, true)
}

// dirEntry copies a directory itself.
func (k *copier) dirEntry(scan *pack.Scanner, from, to string) error {
	real, err := k.a.context.real(from)
	if err != nil {
		return plain(err)
	}
	e, err := scan.File(real)
	if err != nil {
		return plain(err)
	}
	e.Name = to
	k.own(&e)
	return k.l.add(&e, k.owner)
}

// putOrExtract extracts an archive into dst, or puts what is none.
func (k *copier) putOrExtract(ctx context.Context, e pack.Entry, source, base, dst string, isDir bool) error {
	if e.Type != tar.TypeReg || e.Open == nil {
		return k.put(e, base, dst, isDir)
	}
	ok, err := isArchive(e.Open)
	if err != nil {
		return fmt.Errorf("reading %s: %w", source, plain(err))
	}
	if !ok {
		return k.put(e, base, dst, isDir)
	}
	arch := k.a.tarball(source, e)
	members, err := arch.members(ctx)
	if err != nil {
		return err
	}
	return k.extract(ctx, arch, members, dst)
}

// extract puts an archive's members below dst. They keep the owners that the archive gives them, unless
// --chown says otherwise; --chmod is not for them, as in Docker.
func (k *copier) extract(ctx context.Context, arch *tarball, members []member, dst string) error {
	if err := k.l.mkdir(dst, k.owner); err != nil {
		return err
	}
	by := map[string]*pack.Entry{}
	for _, m := range members {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		e := arch.entry(ctx, m)
		dir, err := k.l.tree.resolve(path.Join(dst, path.Dir(m.Name)))
		if err != nil {
			return fmt.Errorf("extracting %s: %w", arch.name, err)
		}
		e.Name = path.Join(dir, path.Base(m.Name))
		if k.chowned {
			e.UID, e.GID = k.owner.uid, k.owner.gid
		}
		if e.Type == tar.TypeLink {
			file := by[m.Link]
			for file != nil && file.Type == tar.TypeLink {
				file = k.l.links[file.Name]
			}
			if file == nil || file.Type != tar.TypeReg {
				return fmt.Errorf("%w: %s: %q is a hard link to %q, which is no file", ErrArchive, arch.name, m.Name, m.Link)
			}
			e.Linkname, e.Mode, e.UID, e.GID = file.Name, file.Mode, file.UID, file.GID
			err = k.l.link(&e, file, owner{})
		} else {
			err = k.l.add(&e, owner{})
		}
		if err != nil {
			return fmt.Errorf("extracting %s: %w", arch.name, err)
		}
		by[m.Name] = &e
	}
	return nil
}

// url downloads one source.
func (k *copier) url(ctx context.Context, src string, want digest.Digest, dst string, isDir, unpack bool) error {
	base := urlFile(src)
	if isDir && !unpack && base == "" {
		return fmt.Errorf("%s has no file name: give the destination one", src)
	}
	f, err := k.a.downloads.get(ctx, src, want)
	if err != nil {
		return err
	}
	e := downloaded(f)
	if unpack {
		return k.putOrExtract(ctx, e, src, base, dst, isDir)
	}
	return k.put(e, base, dst, isDir)
}

// downloaded is a fetched file as an entry. It has mode 0600, as in Docker.
func downloaded(f fetched) pack.Entry {
	return pack.Entry{Type: tar.TypeReg, Mode: 0o600, Size: f.size, Identity: f.sum.String(), Open: f.open}
}

// inline is a file whose content stands in the Kubefile.
func inline(name string, data []byte, mode int64) pack.Entry {
	return pack.Entry{
		Name: name, Type: tar.TypeReg, Mode: mode, Size: int64(len(data)),
		Identity: digest.FromBytes(data).String(),
		Open:     func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}
}

func isURL(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") }

func matches(pm *patternmatcher.PatternMatcher, name string) (bool, error) {
	return pm.MatchesOrParentMatches(filepath.FromSlash(name))
}
