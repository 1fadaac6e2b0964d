package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/kubefile"
)

// ErrNotInStage says that COPY --from names what its stage does not have.
var ErrNotInStage = errors.New("no such file or directory in that stage")

// stageFiles is what a stage holds that others copy from. Nothing of it is packed: an entry opens what
// the stage itself took it from, be it the context, a download or an archive.
type stageFiles struct {
	name    string // for errors
	tree    *node
	entries map[string]*pack.Entry
	links   map[string]*pack.Entry // by name of a hard link, the file that it shares
}

// chain is a stage with the stages it builds on, the first one first.
func chain(f *kubefile.File, stage *kubefile.Stage) []*kubefile.Stage {
	var list []*kubefile.Stage
	for s := stage; s != nil; s = f.BaseStage(s) {
		list = append(list, s)
	}
	slices.Reverse(list)
	return list
}

// stages carries out the instructions of a stage and of those it builds on.
func (a *assembly) stages(ctx context.Context, stage *kubefile.Stage) error {
	all := chain(a.file, stage)
	if err := a.from(ctx, all[0]); err != nil {
		return a.at(all[0].From, err)
	}
	if err := a.triggers(ctx, all[0]); err != nil {
		return err
	}
	for _, s := range all {
		s, _, err := s.Resolve(a.vars, a.image.Config.Env)
		if err != nil {
			return err
		}
		label := a.res.Platform
		if s.Name != "" {
			label += " " + s.Name
		}
		if err := a.carryOut(ctx, s, label); err != nil {
			return err
		}
	}
	return nil
}

// carryOut carries out the instructions of a stage whose variables are resolved.
func (a *assembly) carryOut(ctx context.Context, s *kubefile.Stage, label string) error {
	done := 0 // by a group
	for i, in := range s.Instructions {
		if i < done {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		id := fmt.Sprintf("%s %d", label, in.Pos().Line)
		name := fmt.Sprintf("[%s %d/%d] %s", label, i+1, len(s.Instructions), firstLine(in.Text()))
		a.b.Progress.Emit(progress.Event{ID: id, Name: name})
		var err error
		if g := a.group(s, s.Instructions[i:]); len(g.runs) > 0 {
			done = i + len(g.list)
			err = a.execute(ctx, g, id, name)
		} else {
			err = a.instruction(ctx, in, id, name)
		}
		err = a.at(in.Pos(), err)
		a.b.Progress.Emit(progress.Event{ID: id, Name: name, Err: err, End: true})
		if err != nil {
			return err
		}
	}
	return nil
}

// triggers carries out what the base image has for those who build on it.
func (a *assembly) triggers(ctx context.Context, stage *kubefile.Stage) error {
	list := a.image.Config.OnBuild
	if len(list) == 0 {
		return nil
	}
	a.image.Config.OnBuild = nil
	// In front stands a line more than an excerpt of it needs.
	text := "\n\nFROM scratch\n" + strings.Join(list, "\n") + "\n"
	file, err := kubefile.Parse("ONBUILD of "+stage.Base, strings.NewReader(text))
	if err == nil && len(file.Stages) != 1 {
		err = fmt.Errorf("%w: its ONBUILD instructions have a FROM", ErrBase)
	}
	if err != nil {
		return a.at(stage.From, fmt.Errorf("FROM %s: %w", stage.Base, err))
	}
	s, _, err := file.Stages[0].Resolve(a.vars, a.image.Config.Env)
	if err != nil {
		return a.at(stage.From, fmt.Errorf("FROM %s: %w", stage.Base, err))
	}
	own, current := a.file, a.current
	defer func() { a.file, a.current = own, current }()
	a.file, a.current = file, s
	return a.carryOut(ctx, s, a.res.Platform+" ONBUILD")
}

// stageOf gives what a packable stage holds; each is looked at once, and not at all if nothing needs it.
func (a *assembly) stageOf(ctx context.Context, from string) (*stageFiles, error) {
	stage := a.file.FromStage(a.current, from)
	if !a.file.Packable(stage) {
		return nil, fmt.Errorf("COPY --from %w", ErrSolver)
	}
	if done := a.known[stage.From]; done != nil {
		return done, nil
	}
	inner := &assembly{
		b: a.b, req: a.req, file: a.file, context: a.context, contexts: a.contexts, platform: a.platform, vars: a.vars, cache: a.cache, remote: a.remote, aside: true, downloads: a.downloads,
		tree: newTree(), held: map[string]held{}, taken: map[string]taken{}, known: a.known, current: stage,
		files: &stageFiles{name: from, entries: map[string]*pack.Entry{}, links: map[string]*pack.Entry{}},
		res:   PlatformResult{Platform: a.res.Platform},
	}
	err := inner.stages(ctx, stage)
	a.tarballs = append(a.tarballs, inner.tarballs...) // read while layers of this one are packed
	if err != nil {
		return nil, err
	}
	inner.files.tree = inner.tree
	a.known[stage.From] = inner.files
	return inner.files, nil
}

// add takes a layer in, as unpacking it over the others would.
func (f *stageFiles) add(l *layer) {
	for name, e := range l.entries {
		if e.Whiteout {
			continue // of an app that the base brings, and a stage of files has no such base
		}
		f.entries[name] = e
		delete(f.links, name)
		if file := l.links[name]; file != nil {
			f.links[name] = file
		}
	}
}

// find resolves a source as COPY --from writes it: a path or a pattern of path.Match, from the stage's
// root. Links on it are followed. The result is sorted and never empty.
func (f *stageFiles) find(source string) ([]string, error) {
	pattern := strings.TrimPrefix(path.Clean("/"+source), "/")
	names := []string{pattern}
	if hasWildcard(pattern) {
		var err error
		if names, err = f.glob("", split(pattern)); err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
	}
	for _, n := range names {
		real, err := f.tree.resolve(n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
		if real != "" && f.tree.get(real) == nil {
			names = nil
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: stage %s: %w", source, f.name, ErrNotInStage)
	}
	return names, nil
}

func (f *stageFiles) glob(dir string, elems []string) ([]string, error) {
	if len(elems) == 0 {
		return []string{dir}, nil
	}
	real, err := f.tree.resolve(dir)
	if err != nil {
		return nil, err
	}
	parent := f.tree
	if real != "" {
		parent = f.tree.get(real)
	}
	if parent == nil {
		return nil, nil
	}
	var out []string
	for _, base := range slices.Sorted(maps.Keys(parent.children)) {
		ok, err := path.Match(elems[0], base)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		more, err := f.glob(path.Join(dir, base), elems[1:])
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// isDir says whether a name that find gave is a directory.
func (f *stageFiles) isDir(name string) bool {
	real, err := f.tree.resolve(name)
	if err != nil || real == "" {
		return err == nil
	}
	n := f.tree.get(real)
	return n != nil && n.Type == tar.TypeDir
}

// fromStage copies one source of a stage: a file, or what is in a directory. rel is the name that the
// patterns of --exclude see.
func (k *copier) fromStage(ctx context.Context, f *stageFiles, name, dst, rel string, isDir bool) error {
	real, err := f.tree.resolve(name)
	if err != nil {
		return err
	}
	if !f.isDir(name) {
		if out, err := matches(k.exclude, rel); err != nil || out {
			return err
		}
		to := dst
		if isDir {
			to = path.Join(dst, rel)
		}
		return k.staged(f, real, to)
	}
	if err := k.l.mkdir(dst, k.owner); err != nil {
		return err
	}
	below := ""
	if real != "" {
		below = real + "/"
	}
	for _, n := range slices.Sorted(maps.Keys(f.entries)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		rest, ok := strings.CutPrefix(n, below)
		if !ok || f.tree.get(n) == nil {
			continue
		}
		if out, err := matches(k.exclude, rest); err != nil {
			return err
		} else if out {
			continue
		}
		if err := k.staged(f, n, path.Join(dst, rest)); err != nil {
			return err
		}
	}
	return nil
}

// staged puts one entry of a stage, with the owner and mode that it has there, but for --chown and
// --chmod. Names of one file stay names of one file.
func (k *copier) staged(f *stageFiles, from, to string) error {
	e := *f.entries[from]
	file := f.links[from]
	if file != nil {
		e = *file
	} else if e.Type == tar.TypeReg {
		file = f.entries[from]
	}
	e.Name = to
	if k.chowned {
		e.UID, e.GID = k.owner.uid, k.owner.gid
	}
	if e.Type != tar.TypeSymlink {
		e.Mode = k.mode(e.Mode, e.Type == tar.TypeDir)
	}
	if there := k.copied[file]; file != nil && there != nil {
		e.Type, e.Linkname, e.Size, e.Open, e.Identity = tar.TypeLink, there.Name, 0, nil, ""
		return k.l.link(&e, there, k.owner)
	}
	if file != nil {
		if k.copied == nil {
			k.copied = map[*pack.Entry]*pack.Entry{}
		}
		k.copied[file] = &e
	}
	return k.l.add(&e, k.owner)
}
