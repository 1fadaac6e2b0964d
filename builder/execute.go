package builder

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/kubefile"
)

// group is a stretch of a stage that one Execution carries out: instructions that execute, and between them
// some that only change their environment.
type group struct {
	// list are all instructions, docker those that the solver is given.
	list   []kubefile.Instruction
	docker []*kubefile.Docker
	// runs are the indexes in list of those that execute.
	runs []int
	// outside says that it depends on files that no digest names beforehand: only the solver can say whether
	// something changed.
	outside bool
}

// group is what begins with the first instruction, if that executes; else it has no runs.
func (a *assembly) group(stage *kubefile.Stage, list []kubefile.Instruction) group {
	var g group
	end := 0
	args := map[string]bool{}
search:
	for i, in := range list {
		d, ok := in.(*kubefile.Docker)
		if ok && a.req.needsSolver(a.file, stage, d) != "" {
			if len(g.runs) > 0 && bare(d) != bare(g.docker[0]) {
				break search
			}
			g.runs = append(g.runs, i)
			g.docker = append(g.docker, d)
			g.outside = g.outside || outside(d)
			end = i + 1
			continue
		}
		if i == 0 || !ok {
			break search
		}
		switch c := d.Command.(type) {
		case *instructions.EnvCommand, *instructions.UserCommand, *instructions.ShellCommand:
			g.docker = append(g.docker, d)
		case *instructions.ArgCommand:
			for _, arg := range c.Args {
				if _, had := a.args[arg.Key]; had || args[arg.Key] {
					break search // one Execution has one value for each
				}
				args[arg.Key] = true
			}
			g.docker = append(g.docker, d)
		case *instructions.LabelCommand, *instructions.ExposeCommand, *instructions.VolumeCommand, *instructions.MaintainerCommand:
		default:
			break search
		}
	}
	g.list = list[:end]
	g.docker = slices.DeleteFunc(g.docker, func(d *kubefile.Docker) bool { return !slices.Contains(g.list, kubefile.Instruction(d)) })
	return g
}

// bare says whether an instruction that executes runs no command: it needs no shell, and must not see tools.
func bare(d *kubefile.Docker) bool {
	_, run := d.Command.(*instructions.RunCommand)
	return !run
}

// outside says whether what an instruction does depends on more than the base, its own text and images named by
// digest.
func outside(d *kubefile.Docker) bool {
	switch c := d.Command.(type) {
	case *instructions.CopyCommand:
		return false
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			if m.Type == instructions.MountTypeBind {
				return true
			}
		}
		return false
	}
	return true // ADD of git: what a branch holds changes
}

// remember keeps the values of ARGs for what executes later.
func (a *assembly) remember(c instructions.Command) {
	switch c := c.(type) {
	case *instructions.ArgCommand:
		for _, arg := range c.Args {
			if arg.Value != nil {
				set(&a.args, arg.Key, *arg.Value)
			}
		}
	case *instructions.EnvCommand:
		for _, kv := range c.Env { // the later one counts
			delete(a.args, kv.Key)
		}
	}
}

// executed is what the cache has of a group.
type executed struct {
	// Layers are as they came out of pack, one for each instruction; the zero value is no change.
	Layers []pack.Layer
}

// execute carries out a group by the solver.
func (a *assembly) execute(ctx context.Context, g group, id, name string) error {
	base, err := a.runBase(ctx, g)
	if err != nil {
		return err
	}
	e := Execution{
		Name: a.file.Name, Base: base, Layout: a.b.Store.Dir(), BuildArgs: maps.Clone(a.args),
		Context: a.req.Context, Ignore: a.context.rules, Platform: a.res.Platform, NoCache: a.req.NoCache, Network: a.req.Network, Runs: !bare(g.docker[0]),
		Scratch: a.b.Store.Scratch, Progress: a.b.Progress, Parent: id,
	}
	e.Dockerfile = kubefile.Excerpt(FromName, slices.Sorted(maps.Keys(a.args)), g.docker)
	for _, d := range g.docker {
		if c, ok := d.Command.(*instructions.ArgCommand); ok {
			for _, arg := range c.Args {
				if arg.Value != nil {
					set(&e.BuildArgs, arg.Key, *arg.Value)
				}
			}
		}
	}
	if e.Images, err = a.named(ctx, g); err != nil {
		return err
	}
	for n, c := range a.contexts {
		set(&e.Contexts, n, c.dir)
	}
	keep := !g.outside
	if g.outside && a.remote.wanted() {
		if e.mounted, err = a.mounted(ctx, g); err != nil {
			return err
		}
		keep = e.mounted != ""
	}
	key := a.executionKey(g, e)
	if keep && !a.req.NoCache {
		done, ok, err := a.executedBefore(ctx, key, len(g.runs))
		if err != nil {
			return err
		}
		if ok {
			a.remote.use(key, done.Layers, !a.aside)
			return a.replay(ctx, g, done)
		}
	}
	if a.b.Solver == nil {
		return fmt.Errorf("%s %w", a.req.needsSolver(a.file, a.current, g.docker[0]), ErrSolver)
	}
	changes, err := a.b.Solver.Execute(ctx, e)
	for _, c := range changes {
		defer c.Tar.Close()
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return a.executeError(g, err)
	}
	if len(changes) != len(g.runs) {
		return fmt.Errorf("the solver returned %d layers for %d instructions", len(changes), len(g.runs))
	}
	archives := len(a.taken)
	var done executed
	var blobs []digest.Digest
	for i, in := range g.list {
		n := slices.Index(g.runs, i)
		if n < 0 {
			if err := a.instruction(ctx, in, id, name); err != nil {
				return a.at(in.Pos(), err)
			}
			continue
		}
		before := len(a.layers)
		l, err := a.changed(ctx, changes[n])
		if err == nil {
			err = a.keep(l, in.Pos())
		}
		if err == nil {
			err = a.commit(ctx, l, in.Text(), id, name)
		}
		if err != nil {
			return a.at(in.Pos(), err)
		}
		var packed pack.Layer
		if len(a.layers) > before {
			packed = pack.Layer{Descriptor: a.layers[before], DiffID: a.image.RootFS.DiffIDs[before]}
			blobs = append(blobs, packed.Descriptor.Digest)
		}
		done.Layers = append(done.Layers, packed)
	}
	if !keep || len(a.taken) != archives { // an archive went elsewhere and is not in the layer
		return nil
	}
	a.remote.use(key, done.Layers, !a.aside)
	return a.cache.Put(key, done, blobs...)
}

// executedBefore finds what n instructions made, in the store or in a cache outside of it.
func (a *assembly) executedBefore(ctx context.Context, key string, n int) (executed, bool, error) {
	var done executed
	if a.cache.Get(key, &done) && len(done.Layers) == n {
		return done, true, nil
	}
	layers, ok, err := a.remote.find(ctx, key, n)
	if err != nil || !ok {
		return executed{}, false, err
	}
	var blobs []digest.Digest
	for _, l := range layers {
		if l.Descriptor.Digest != "" {
			blobs = append(blobs, l.Descriptor.Digest)
		}
	}
	done = executed{Layers: layers}
	return done, true, a.cache.Put(key, done, blobs...)
}

// replay takes over what a group changed the last time.
func (a *assembly) replay(ctx context.Context, g group, done executed) error {
	for i, in := range g.list {
		n := slices.Index(g.runs, i)
		if n < 0 {
			if err := a.instruction(ctx, in, "", ""); err != nil {
				return a.at(in.Pos(), err)
			}
			continue
		}
		packed := done.Layers[n]
		if packed.Descriptor.Digest == "" {
			a.history(in.Text(), true)
			continue
		}
		if err := a.reread(ctx, packed.Descriptor, in.Pos()); err != nil {
			return err
		}
		a.res.Layers++
		a.res.Cached++
		a.layers = append(a.layers, packed.Descriptor)
		a.image.RootFS.DiffIDs = append(a.image.RootFS.DiffIDs, packed.DiffID)
		a.history(in.Text(), false)
	}
	return nil
}

// reread brings a layer of an earlier build into the tree.
func (a *assembly) reread(ctx context.Context, desc ocispec.Descriptor, pos kubefile.Pos) error {
	lists := map[string]held{}
	for _, name := range basefs.ImageLists() { // readLayer takes them for the base's
		if h, ok := a.held[name]; ok {
			lists[name] = h
		}
	}
	list, err := a.readLayer(ctx, desc)
	if err != nil {
		return err
	}
	for _, name := range basefs.ImageLists() {
		if h, ok := lists[name]; ok && a.tree.get(name) != nil {
			a.held[name] = h
		}
	}
	for name, data := range list.Files {
		a.held[name] = held{data: data, pos: pos}
	}
	return nil
}

// executionKey is under which the cache has what a group changed.
func (a *assembly) executionKey(g group, e Execution) string {
	texts := []string{}
	for _, d := range g.docker {
		texts = append(texts, d.Text())
		if c, ok := d.Command.(*instructions.RunCommand); ok {
			for _, f := range c.Files {
				texts = append(texts, f.Name, f.Data)
			}
		}
	}
	data, err := json.Marshal(struct {
		Texts       []string
		Args        map[string]string
		Base        digest.Digest
		Images      map[string]ocispec.Descriptor
		Platform    string
		Network     string
		Mounted     string
		Compression pack.Compression
		Epoch       int64
	}{texts, e.BuildArgs, e.Base.Digest, e.Images, e.Platform, e.Network, e.mounted, a.req.Compression, a.req.SourceDateEpoch.Unix()})
	if err != nil {
		return ""
	}
	return "execution 2 " + digest.FromBytes(data).String()
}

// runBase writes the image that a group changes: the rootfs as it is, with tools below where it needs them.
func (a *assembly) runBase(ctx context.Context, g group) (ocispec.Descriptor, error) {
	a.tooled = tools{tree: newTree()}
	if bare(g.docker[0]) {
		return a.runImage(ctx, a.tooled)
	}
	t, err := a.tools(ctx, g)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return a.runImage(ctx, t)
}

// runImage writes the rootfs as it is as an image to run in, or to copy from. It has what a command sees of the config, and
// nothing else, so that a new label executes nothing anew.
func (a *assembly) runImage(ctx context.Context, t tools) (ocispec.Descriptor, error) {
	var image dockerspec.DockerOCIImage
	image.Platform = a.platform
	image.Config.Env, image.Config.WorkingDir = a.image.Config.Env, a.image.Config.WorkingDir
	image.Config.User, image.Config.Shell = a.image.Config.User, a.image.Config.Shell
	image.RootFS.Type = "layers"
	image.RootFS.DiffIDs = slices.Concat(t.diffIDs, a.image.RootFS.DiffIDs)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: slices.Concat(t.layers, a.layers)}
	if len(m.Layers) == 0 {
		empty, err := a.b.pack(ctx, nil, pack.Options{Compression: pack.Gzip})
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Layers = append(m.Layers, empty.Descriptor)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, empty.DiffID)
	}
	for range m.Layers {
		image.History = append(image.History, ocispec.History{CreatedBy: FromName})
	}
	var err error
	if m.Config, err = a.b.Store.PutJSON(ctx, ocispec.MediaTypeImageConfig, image); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("writing the image to run in: %w", err)
	}
	m.SchemaVersion = 2
	desc, err := a.b.Store.PutJSON(ctx, ocispec.MediaTypeImageManifest, m)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("writing the image to run in: %w", err)
	}
	p := a.platform
	desc.Platform = &p
	return desc, nil
}

// mountPoints are directories that a container has whether or not its image does: empty ones that a command leaves
// behind are not its work.
var mountPoints = []string{"dev", "proc", "sys", "etc", "run", "tmp"}

// changed makes a layer of what an instruction changed. Directories that are as they were are left out, and so
// is what starting a container leaves behind.
func (a *assembly) changed(ctx context.Context, c Change) (*layer, error) {
	arch := &tarball{name: "the layer of this instruction", size: c.Size, scratch: a.b.Store.Scratch, cache: a.cache}
	arch.open = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(c.Tar, 0, c.Size)), nil }
	a.tarballs = append(a.tarballs, arch)
	members, err := arch.members(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{} // directories with something in them
	for _, m := range members {
		if m.Type == tar.TypeDir && (used[m.Name] || !a.changedDir(m)) {
			continue
		}
		for dir := path.Dir(m.Name); dir != "." && !used[dir]; dir = path.Dir(dir) {
			used[dir] = true
		}
	}
	l := newLayer(a.tree)
	by := map[string]*pack.Entry{}
	for _, deletions := range []bool{true, false} { // they are about lower layers, wherever they stand
		for _, m := range members {
			base := path.Base(m.Name)
			if strings.HasPrefix(base, pack.WhiteoutPrefix) != deletions {
				continue
			}
			switch {
			case base == pack.WhiteoutOpaque:
				if a.tree.get(path.Dir(m.Name)) != nil {
					if err := l.hide(path.Dir(m.Name)); err != nil {
						return nil, err
					}
				}
			case deletions:
				gone := path.Join(path.Dir(m.Name), strings.TrimPrefix(base, pack.WhiteoutPrefix))
				if a.tree.get(gone) != nil {
					if err := l.parents(gone, owner{}); err != nil {
						return nil, err
					}
					l.tree.remove(gone)
					l.entries[m.Name] = &pack.Entry{Name: m.Name, Type: tar.TypeReg, Whiteout: true}
				}
			case m.Type == tar.TypeDir && !used[m.Name] && !a.changedDir(m):
			default:
				e := arch.entry(ctx, m)
				if err := l.overwrite(&e, by[m.Link]); err != nil {
					return nil, err
				}
				by[m.Name] = &e
			}
		}
	}
	return l, nil
}

// changedDir says whether a directory without content is a change.
func (a *assembly) changedDir(m member) bool {
	n := a.tree.get(m.Name)
	if n == nil || n.Type != tar.TypeDir {
		if t := a.tooled.tree.get(m.Name); t != nil && t.Type == tar.TypeDir && t.Mode == m.Mode && t.UID == m.UID && t.GID == m.GID {
			return false
		}
		return !slices.Contains(mountPoints, m.Name)
	}
	return n.Mode != m.Mode || n.UID != m.UID || n.GID != m.GID
}

// executeError says which instruction failed, and of a command what it printed last.
func (a *assembly) executeError(g group, err error) error {
	in := g.list[g.runs[0]]
	var placed *InstructionError
	if errors.As(err, &placed) {
		for _, r := range g.runs {
			if g.list[r].Pos().Line <= placed.Line {
				in = g.list[r]
			}
		}
	}
	e := &located{place: kubefile.Error{File: a.file.Name, Pos: in.Pos(), Line: lineOf(a.file, in.Pos()), Msg: err.Error()}, err: err}
	if d, ok := in.(*kubefile.Docker); ok {
		if lines := d.Lines(); len(lines) > 1 {
			e.place.More = lines[1:]
		}
	}
	var exec *ExecError
	if errors.As(err, &exec) {
		e.place.Hint = "it printed nothing"
		if exec.Output != "" {
			e.place.Hint = "it printed last:\n    " + strings.ReplaceAll(exec.Output, "\n", "\n    ")
		}
	}
	return e
}

// overwrite puts an entry as unpacking it over the rootfs would: whatever stands there gives way.
func (l *layer) overwrite(e, file *pack.Entry) error {
	if err := l.parents(e.Name, owner{}); err != nil {
		return err
	}
	if n := l.tree.get(e.Name); n != nil && (n.Type == tar.TypeDir) != (e.Type == tar.TypeDir) {
		l.tree.remove(e.Name)
	}
	if e.Type != tar.TypeLink {
		return l.add(e, owner{})
	}
	for file != nil && file.Type == tar.TypeLink {
		file = l.links[file.Name]
	}
	if file == nil {
		return fmt.Errorf("%w: /%s is a hard link to what the layer does not have", ErrArchive, e.Name)
	}
	e.Linkname, e.Mode, e.UID, e.GID = file.Name, file.Mode, file.UID, file.GID
	return l.link(e, file, owner{})
}

// hide empties a directory of what lower layers have in it.
func (l *layer) hide(dir string) error {
	if err := l.parents(path.Join(dir, "x"), owner{}); err != nil {
		return err
	}
	if n := l.tree.get(dir); n != nil {
		n.children = nil
	}
	name := path.Join(dir, pack.WhiteoutOpaque)
	l.entries[name] = &pack.Entry{Name: name, Type: tar.TypeReg, Whiteout: true}
	return nil
}
