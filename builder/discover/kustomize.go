package discover

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// kustomization is a directory that kubectl apply -k takes.
type kustomization struct {
	dir string
	// reads are the files that it is made of, as far as its own and its bases' kustomization files tell.
	reads  []string
	bases  []string // directories
	remote []Where  // what it wants from other machines
	urls   []string // of remote
	err    error    // its file cannot be read
	kind   string
	offset int // of the lines of an inline document in its file
}

// kustomizations are those that no other one builds on: what another one changes is not applied as it is.
func (s *search) kustomizations(part map[string]bool) []*kustomization {
	all := map[string]*kustomization{}
	var dirs []string
	for _, name := range s.files {
		if slices.Contains(kustomizationNames, path.Base(name)) && !part[name] && all[path.Dir(name)] == nil {
			k := s.readKustomization(name)
			all[k.dir] = k
			dirs = append(dirs, k.dir)
		}
	}
	used := map[string]bool{}
	var mark func(k *kustomization, root *kustomization, depth int)
	mark = func(k, root *kustomization, depth int) {
		for _, b := range k.bases {
			base := all[b]
			if base == nil || base == root || depth > 50 {
				continue
			}
			if root == k || !slices.Contains(root.reads, base.reads[0]) {
				root.reads = append(root.reads, base.reads...)
				root.remote, root.urls = append(root.remote, base.remote...), append(root.urls, base.urls...)
				mark(base, root, depth+1)
			}
			used[b] = true
		}
	}
	for _, d := range dirs {
		mark(all[d], all[d], 0)
	}
	var out []*kustomization
	covered := map[string]bool{}
	for _, d := range dirs {
		if k := all[d]; !used[d] && k.kind != "Component" {
			out = append(out, k)
			for _, f := range k.reads {
				covered[f] = true
			}
		}
	}
	for _, d := range dirs { // in a circle, nobody is first: kustomize says what is wrong with it
		if k := all[d]; !covered[k.reads[0]] && k.kind != "Component" {
			out = append(out, k)
			for _, f := range k.reads {
				covered[f] = true
			}
		}
	}
	return out
}

// pathKeys are the fields of a kustomization, and of the objects that configure its plugins, that hold paths.
var pathKeys = map[string]bool{
	"resources": true, "bases": true, "components": true, "crds": true, "configurations": true, "generators": true, "transformers": true,
	"validators": true, "patchesStrategicMerge": true, "patches": true, "patchesJson6902": true, "replacements": true, "openapi": true,
	"configMapGenerator": true, "secretGenerator": true, "path": true, "paths": true, "files": true, "envs": true, "env": true,
}

// readKustomization finds out what a kustomization is made of.
func (s *search) readKustomization(name string) *kustomization {
	k := &kustomization{dir: path.Dir(name), reads: []string{name}}
	data, err := s.read(name)
	if err != nil {
		k.err = &FileError{File: name, Err: err}
		return k
	}
	docs, err := readDocuments(data)
	if err != nil {
		k.err = (&findings{file: name, rendered: s.isRendered(name)}).errorAt(0, err)
		return k
	}
	for _, d := range docs {
		k.kind = text(field(d, "kind"))
		for _, key := range []string{"helmCharts", "helmChartInflationGenerator"} {
			if n := field(d, key); n != nil {
				k.err = &FileError{File: name, Line: n.Line, Err: errors.New(key + " makes kustomize download a chart and run helm: put the chart itself into charts/")}
			}
		}
		k.paths(s, name, d, "", 0)
	}
	return k
}

// paths goes through the fields that hold paths.
func (k *kustomization) paths(s *search, name string, n *yaml.Node, key string, depth int) {
	n = follow(n)
	if n == nil || depth > 12 {
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for _, c := range n.Content {
			k.paths(s, name, c, key, depth+1)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if sub := n.Content[i].Value; pathKeys[sub] {
				k.paths(s, name, n.Content[i+1], sub, depth+1)
			}
		}
	case yaml.ScalarNode:
		k.path(s, name, key, n, depth)
	}
}

// url is what kustomize may take for something on another machine: it would ask the network or run git.
var url = regexp.MustCompile(`(?i)^(?:[a-z][a-z0-9+.-]*://|git::|gh:|[^/\s]+@[^/\s]+[:/]|(?:www\.)?github\.com[/:]|git\.)|\.git(?:/|$|\?)|_git/|\?(?:ref|version|timeout|submodules)=|//`)

// path adds one path of a kustomization.
func (k *kustomization) path(s *search, name, key string, n *yaml.Node, depth int) {
	value := n.Value
	plugin := key == "generators" || key == "transformers" || key == "validators"
	if strings.Contains(value, "\n") { // inline: a patch, or the configuration of a plugin
		if plugin {
			k.offset += n.Line
			k.plugin(s, name, []byte(value), depth)
			k.offset -= n.Line
		}
		return
	}
	if key == "files" {
		if _, file, ok := strings.Cut(value, "="); ok {
			value = file
		}
	}
	if url.MatchString(value) {
		k.remote, k.urls = append(k.remote, Where{File: name, Line: k.offset + n.Line}), append(k.urls, value)
		return
	}
	full := path.Join(k.dir, value)
	switch {
	case s.has(full):
		k.reads = append(k.reads, full)
		if data, err := s.read(full); plugin && err == nil {
			k.plugin(s, full, data, depth)
		}
	case slices.ContainsFunc(kustomizationNames, func(n string) bool { return s.has(path.Join(full, n)) }):
		k.bases = append(k.bases, full)
	}
}

// plugin adds the paths in the configuration of a plugin.
func (k *kustomization) plugin(s *search, name string, data []byte, depth int) {
	docs, err := readDocuments(data)
	if err != nil {
		return // kustomize will say so
	}
	for _, d := range docs {
		k.paths(s, name, d, "", depth+1)
	}
}

// kustomize changes a schema that all its runs share.
var kustomizing sync.Mutex

// kustomization finds the images of a kustomization.
func (f *findings) kustomization(k *kustomization) {
	if k.err != nil {
		f.fail(k.err)
		return
	}
	for i, where := range k.remote {
		f.fail(&FileError{File: where.File, Line: where.Line, Err: fmt.Errorf("%s lies on another machine, and a build asks none: put it into the tree", k.urls[i])})
	}
	if len(k.remote) > 0 {
		return
	}
	kustomizing.Lock()
	defer kustomizing.Unlock()
	out, err := runKustomize(f.search, k.dir)
	if err != nil {
		f.fail(&FileError{File: path.Join(k.dir, path.Base(k.reads[0])), Err: err})
		return
	}
	f.rendered = true
	f.manifest(out)
}

func runKustomize(s *search, dir string) (out []byte, err error) {
	defer func() { // kustomize does not promise to survive every file
		if r := recover(); r != nil {
			err = fmt.Errorf("kustomize gave up: %v", r)
		}
	}()
	o := krusty.MakeDefaultOptions()
	m, err := krusty.MakeKustomizer(o).Run(treeFiles{s}, path.Join("/", dir))
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "'/", "'"))
	}
	return m.AsYaml()
}

// treeFiles shows the tree, with rendered templates, to kustomize, below "/".
type treeFiles struct{ s *search }

var _ filesys.FileSystem = treeFiles{}

func rel(name string) string {
	if name = strings.TrimPrefix(path.Clean("/"+filepath.ToSlash(name)), "/"); name == "" {
		return "."
	}
	return name
}

func readOnly(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission} }

// Create implements filesys.FileSystem; nothing is written.
func (t treeFiles) Create(name string) (filesys.File, error) { return nil, readOnly("create", name) }

// Mkdir implements filesys.FileSystem.
func (t treeFiles) Mkdir(name string) error { return readOnly("mkdir", name) }

// MkdirAll implements filesys.FileSystem.
func (t treeFiles) MkdirAll(name string) error { return readOnly("mkdir", name) }

// RemoveAll implements filesys.FileSystem.
func (t treeFiles) RemoveAll(name string) error { return readOnly("remove", name) }

// WriteFile implements filesys.FileSystem.
func (t treeFiles) WriteFile(name string, _ []byte) error { return readOnly("write", name) }

// Open implements filesys.FileSystem; kustomize reads by ReadFile.
func (t treeFiles) Open(name string) (filesys.File, error) { return nil, readOnly("open", name) }

// IsDir says whether there is such a directory.
func (t treeFiles) IsDir(name string) bool {
	name = rel(name)
	if name == "." || len(t.s.under(name)) > 0 {
		return true
	}
	info, err := fs.Stat(t.s.tree, name)
	return err == nil && info.IsDir()
}

// ReadDir lists a directory.
func (t treeFiles) ReadDir(name string) ([]string, error) {
	name = rel(name)
	if !t.IsDir(name) {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	var out []string
	for _, f := range t.s.under(name) {
		first, _, _ := strings.Cut(strings.TrimPrefix(f, strings.TrimPrefix(name+"/", "./")), "/")
		out = append(out, first)
	}
	return slices.Compact(out), nil
}

// CleanedAbs splits a path into a directory that exists and the rest.
func (t treeFiles) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	full := path.Join("/", rel(name))
	if t.IsDir(full) {
		return filesys.ConfirmedDir(full), "", nil
	}
	if !t.Exists(full) {
		return "", "", &fs.PathError{Op: "open", Path: rel(name), Err: fs.ErrNotExist}
	}
	return filesys.ConfirmedDir(path.Dir(full)), path.Base(full), nil
}

// Exists says whether there is such a file or directory.
func (t treeFiles) Exists(name string) bool {
	name = rel(name)
	if t.s.has(name) || t.IsDir(name) {
		return true
	}
	_, err := fs.Stat(t.s.tree, name)
	return err == nil
}

// Glob matches files.
func (t treeFiles) Glob(pattern string) ([]string, error) {
	var out []string
	for _, f := range t.s.files {
		ok, err := path.Match(rel(pattern), f)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, "/"+f)
		}
	}
	return out, nil
}

// ReadFile reads a file.
func (t treeFiles) ReadFile(name string) ([]byte, error) { return t.s.read(rel(name)) }

// Walk walks over files.
func (t treeFiles) Walk(name string, walk filepath.WalkFunc) error {
	for _, f := range t.s.under(rel(name)) {
		if err := walk("/"+f, fileInfo{name: path.Base(f)}, nil); err != nil {
			return err
		}
	}
	return nil
}
