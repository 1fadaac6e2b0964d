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

	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/kubefile"
)

// Errors of apps that callers tell apart.
var (
	// ErrNoApp says that an instruction names an app that the image does not have.
	ErrNoApp = errors.New("there is no such app in this image")
	// ErrAppType says that nothing tells how an app is started.
	ErrAppType = errors.New("nothing tells how to start it")
)

// deferred is what can be checked only when all apps are known.
type deferred struct {
	later []kubefile.Instruction // APPENV, APPCMDS, LAUNCH
	pos   map[string]kubefile.Pos
	cmds  bool // CMDS stands in this Kubefile
}

// app carries out APP, CNI and CSI.
func (a *assembly) app(ctx context.Context, l *layer, in *kubefile.App) error {
	root := path.Join(basefs.AppsDir, in.AppName)
	real, err := a.tree.resolve(root)
	if err != nil {
		return err
	}
	if real != root {
		return fmt.Errorf("/%s is a link in the image", root)
	}
	if slices.Contains(a.base.apps, in.AppName) && a.tree.get(root) != nil {
		l.opaque(root)
	}
	if err := l.mkdir(root, owner{}); err != nil {
		return err
	}
	var files []string // in the order of the sources
	before := l.names()
	for _, src := range in.Sources {
		if err := a.appSource(ctx, l, root, src); err != nil {
			return err
		}
		now := l.names()
		for _, n := range now {
			_, had := slices.BinarySearch(before, n)
			if e := l.entries[n]; !had && (e.Type == tar.TypeReg || e.Type == tar.TypeLink) && strings.HasPrefix(n, root+"/") {
				files = append(files, strings.TrimPrefix(n, root+"/"))
			}
		}
		before = now
	}
	if len(files) == 0 {
		return fmt.Errorf("the sources of app %s hold no file: %w", in.AppName, ErrSource)
	}
	app := clusterimage.App{Name: in.AppName, Role: string(in.Role)}
	app.Type, app.Files = detect(files)
	if a.apps.pos == nil {
		a.apps.pos = map[string]kubefile.Pos{}
	}
	a.apps.pos[app.Name] = in.Pos()
	a.putApp(app)
	return nil
}

func (a *assembly) putApp(app clusterimage.App) {
	apps := slices.Clone(a.spec.Apps)
	if i := slices.IndexFunc(apps, func(o clusterimage.App) bool { return o.Name == app.Name }); i >= 0 {
		apps[i] = app
	} else {
		apps = append(apps, app)
	}
	a.spec.Apps = apps
}

// appSource brings one source into an app's directory.
func (a *assembly) appSource(ctx context.Context, l *layer, root, src string) error {
	k := &copier{a: a, l: l, mode: func(m int64, _ bool) int64 { return m }, exclude: &patternmatcher.PatternMatcher{}}
	switch {
	case strings.HasPrefix(src, "oci://"):
		return fmt.Errorf("%s: charts from OCI registries cannot be read by this build of keg: pull the chart and name its file", src)
	case isURL(src):
		link, sum, hasSum := strings.Cut(src, "#")
		want := digest.Digest("")
		if hasSum {
			hex, ok := strings.CutPrefix(sum, "sha256=")
			if !ok {
				return fmt.Errorf("%s: what follows # must be sha256=HEX", src)
			}
			want = digest.NewDigestFromEncoded(digest.SHA256, hex)
		}
		base := urlFile(link)
		if base == "" {
			return fmt.Errorf("%s has no file name", src)
		}
		f, err := a.downloads.get(ctx, link, want)
		if err != nil {
			return err
		}
		e := downloaded(f)
		e.Mode = 0o644
		return a.appFile(ctx, k, e, src, base, root)
	}
	list, err := a.context.find(ctx, strings.TrimPrefix(src, "local://"))
	if err != nil {
		return err
	}
	for _, f := range list {
		scan := &pack.Scanner{Root: a.context.root}
		if f.info.IsDir() {
			if err := k.directory(ctx, scan, f.real, root, ""); err != nil {
				return err
			}
			continue
		}
		e, err := scan.File(f.real)
		if err != nil {
			return plain(err)
		}
		if err := a.appFile(ctx, k, e, f.name, path.Base(f.name), root); err != nil {
			return err
		}
	}
	return nil
}

// appFile puts a file into an app's directory; the archive of a Helm chart becomes the chart.
func (a *assembly) appFile(ctx context.Context, k *copier, e pack.Entry, source, base, root string) error {
	if e.Open != nil && (strings.HasSuffix(base, ".tgz") || strings.HasSuffix(base, ".tar.gz")) {
		ok, err := isArchive(e.Open)
		if err != nil {
			return fmt.Errorf("reading %s: %w", source, plain(err))
		}
		if ok {
			arch := a.tarball(source, e)
			members, err := arch.members(ctx)
			if err != nil {
				return err
			}
			if chart, ok := chartOf(members); ok {
				k.chowned = true // a chart's files are root's, whoever packed it
				return k.extract(ctx, arch, chart, root)
			}
		}
	}
	if k.l.entries[path.Join(root, base)] != nil {
		return fmt.Errorf("%s: another source of this app has a file of that name", source)
	}
	return k.put(e, base, root, true)
}

// chartOf returns the members of a packed chart, whose single top directory is left out of the names.
func chartOf(members []member) ([]member, bool) {
	top := ""
	for _, m := range members {
		first, rest, _ := strings.Cut(m.Name, "/")
		if top == "" {
			top = first
		}
		if first != top || rest == "" && m.Type != tar.TypeDir {
			return nil, false
		}
	}
	if !slices.ContainsFunc(members, func(m member) bool { return m.Name == top+"/Chart.yaml" }) {
		return nil, false
	}
	var out []member
	for _, m := range members {
		if m.Name == top {
			continue
		}
		m.Name = strings.TrimPrefix(m.Name, top+"/")
		if m.Type == tar.TypeLink {
			m.Link = strings.TrimPrefix(m.Link, top+"/")
		}
		out = append(out, m)
	}
	return out, true
}

// detect finds the type of an app by the names of its files, and its entry points in the order of the
// sources. A template counts as what it is rendered to, and is named so.
func detect(files []string) (kind string, entry []string) {
	var rendered []string
	for _, f := range files {
		if cut, ok := strings.CutSuffix(f, ".tmpl"); ok {
			f = cut
		}
		rendered = append(rendered, f)
	}
	has := func(names ...string) bool {
		return slices.ContainsFunc(rendered, func(f string) bool { return slices.Contains(names, f) })
	}
	all := func(exts ...string) bool {
		return !slices.ContainsFunc(rendered, func(f string) bool { return !slices.Contains(exts, strings.ToLower(path.Ext(f))) })
	}
	switch {
	case has("Chart.yaml"):
		return clusterimage.AppHelm, []string{"."}
	case has("kustomization.yaml", "kustomization.yml", "Kustomization"):
		return clusterimage.AppKustomize, []string{"."}
	case all(".yaml", ".yml", ".json"):
		return clusterimage.AppKube, rendered
	case all(".sh"):
		return clusterimage.AppShell, rendered
	}
	return "", nil
}

// finishApps carries out what had to wait until all apps were known.
func (a *assembly) finishApps() error {
	for _, in := range a.apps.later {
		var names []string
		switch in := in.(type) {
		case *kubefile.AppEnv:
			names = []string{in.AppName}
		case *kubefile.AppCmds:
			names = []string{in.AppName}
		case *kubefile.Launch:
			names = in.Apps
		}
		for _, n := range names {
			if _, ok := a.spec.App(n); !ok {
				return a.at(in.Pos(), fmt.Errorf("%s: %w%s", n, ErrNoApp, a.knownApps()))
			}
		}
		switch in := in.(type) {
		case *kubefile.AppEnv:
			app, _ := a.spec.App(in.AppName)
			app.Env = maps.Clone(app.Env)
			for _, kv := range in.Env {
				set(&app.Env, kv.Key, kv.Value)
			}
			a.putApp(app)
		case *kubefile.AppCmds:
			app, _ := a.spec.App(in.AppName)
			app.Cmds = slices.Clone(in.Cmds)
			a.putApp(app)
		case *kubefile.Launch:
			a.spec.Launch = slices.Clone(in.Apps)
		}
	}
	for _, app := range a.spec.Apps {
		if pos, ok := a.apps.pos[app.Name]; ok && app.Type == "" && len(app.Cmds) == 0 {
			return a.at(pos, fmt.Errorf("app %s is no chart, no kustomization, and its files are not all YAML or all shell scripts: %w: add APPCMDS %s [\"COMMAND\"]", app.Name, ErrAppType, app.Name))
		}
	}
	return nil
}

func (a *assembly) knownApps() string {
	var names []string
	for _, app := range a.spec.Apps {
		names = append(names, app.Name)
	}
	if len(names) == 0 {
		return ": it has none"
	}
	return ": it has " + strings.Join(names, ", ")
}
