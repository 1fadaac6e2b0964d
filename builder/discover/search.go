package discover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"

	"github.com/clusterimage/keg/basefs"
)

// search is one run of Find.
type search struct {
	opts        Options
	kubeVersion string
	take        patterns
	ignore      patterns
	paths       []kindPaths
	charts      []chartValues
	skip        []string
	configs     []string // files of configuration

	tree  fs.FS
	files []string          // all files that are searched, sorted, templates under the name that they get
	loose map[string]bool   // those of them that are outside of the roots
	texts map[string][]byte // of rendered templates, by that name
	own   findings
	errs  []error
}

// maxFile bounds one file.
const maxFile = 64 << 20

// unit is one thing that is looked into at a time.
type unit struct {
	name  string
	loose bool
	find  func(ctx context.Context, f *findings)
}

// load lists the files and renders the templates among them.
func (s *search) load(ctx context.Context, tree fs.FS) error {
	s.tree, s.texts, s.loose = tree, map[string][]byte{}, map[string]bool{}
	s.own.search = s
	skip, err := patternmatcher.New(s.skip)
	if err != nil {
		return fmt.Errorf("reading patterns of files to skip: %w", err)
	}
	roots := s.opts.Roots
	if len(roots) == 0 {
		roots = []string{"."}
	}
	seen := map[string]bool{}
	places := roots
	if s.opts.Elsewhere {
		places = append(slices.Clone(roots), ".")
	}
	for i, root := range places {
		err := fs.WalkDir(tree, path.Clean(root), func(name string, d fs.DirEntry, err error) error {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			if err != nil {
				if name == path.Clean(root) && errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			if d.IsDir() {
				if base := path.Base(name); base == ".git" || name == basefs.RegistryTree {
					return fs.SkipDir
				}
				return nil
			}
			loose := i >= len(roots)
			if loose && (inRoots(name, roots) || !isElsewhere(name)) {
				return nil
			}
			info, err := fs.Stat(tree, name) // through links
			switch {
			case loose && (err != nil || info.IsDir() || info.Size() > maxElsewhere):
				return nil
			case err != nil:
				s.own.skip(Where{File: name}, "it is a link to something that is not in the tree")
				return nil
			case info.IsDir():
				s.own.skip(Where{File: name}, "it is a link to a directory: what lies there is searched where it lies")
				return nil
			case !info.Mode().IsRegular():
				return nil
			}
			if out, _ := skip.MatchesOrParentMatches(name); out {
				return nil
			}
			if info.Size() > maxFile && relevant(name) && !isPacked(name) {
				s.own.skip(Where{File: name}, fmt.Sprintf("it is larger than %d bytes", maxFile))
				return nil
			}
			if !seen[name] {
				seen[name] = true
				base, template := strings.CutSuffix(name, templateSuffix)
				s.loose[base] = loose || template && path.Ext(base) == "" && !strings.Contains("/"+name, "/manifests/") // which may be anything
				s.files = append(s.files, name)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("searching %s: %w", root, err)
		}
	}
	s.render()
	slices.Sort(s.files)
	s.files = slices.Compact(s.files)
	s.kubeVersion = s.opts.KubeVersion
	if s.kubeVersion == "" {
		s.kubeVersion = s.opts.Metadata.KubernetesVersion()
	}
	return nil
}

// read is the content of a file, of a template what comes of it.
func (s *search) read(name string) ([]byte, error) {
	if data, ok := s.texts[name]; ok {
		return data, nil
	}
	return fs.ReadFile(s.tree, name)
}

func (s *search) isRendered(name string) bool { _, ok := s.texts[name]; return ok }

func (s *search) has(name string) bool { _, ok := slices.BinarySearch(s.files, name); return ok }

// under are the files below a directory.
func (s *search) under(dir string) []string {
	if dir == "." {
		return s.files
	}
	i, _ := slices.BinarySearch(s.files, dir+"/")
	end := i
	for end < len(s.files) && strings.HasPrefix(s.files[end], dir+"/") {
		end++
	}
	return s.files[i:end]
}

func isManifest(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

func isPacked(name string) bool {
	return strings.HasSuffix(name, ".tgz") || strings.HasSuffix(name, ".tar.gz")
}

// relevant says whether a file could name images.
func relevant(name string) bool { return isManifest(name) || isList(name) || isPacked(name) }

// units decides what each file is, in the order of their names: part of a chart, of a kustomization, a list, or a
// manifest.
func (s *search) units() []unit {
	var out []unit
	part := map[string]bool{}
	for _, name := range s.configs {
		part[name] = true
	}
	// Charts: the outermost Chart.yaml takes all below it, but for charts in directories that Helm ignores.
	for _, name := range s.files {
		if path.Base(name) != "Chart.yaml" || part[name] {
			continue
		}
		dir := path.Dir(name)
		for _, f := range s.under(dir) {
			part[f] = true
		}
		if dir != "." {
			for _, set := range s.valuesBeside(dir) {
				for _, f := range set {
					part[f] = true
				}
			}
		}
		out = append(out, unit{dir, s.loose[name], func(ctx context.Context, f *findings) { f.chartDir(ctx, dir) }})
	}
	for _, name := range s.files {
		if part[name] || !isPacked(name) || basefs.IsImageArchive(name) {
			continue
		}
		for _, set := range s.valuesBeside(name) {
			for _, f := range set {
				part[f] = true
			}
		}
		part[name] = true
		out = append(out, unit{name, s.loose[name], func(ctx context.Context, f *findings) { f.chartFile(ctx, name) }})
	}
	for _, k := range s.kustomizations(part) {
		for _, f := range k.reads {
			part[f] = true
		}
		out = append(out, unit{k.dir, s.loose[k.reads[0]], func(_ context.Context, f *findings) { f.kustomization(k) }})
	}
	for _, name := range s.files {
		switch {
		case part[name]:
		case isList(name):
			out = append(out, unit{name, s.loose[name], func(_ context.Context, f *findings) { f.text(f.list) }})
		case name == sealosArchives:
			out = append(out, unit{name, s.loose[name], func(_ context.Context, f *findings) {
				f.skip(Where{File: name}, "keg reads archives of images in images/ itself, and not this list of them: put them there as images/*.tar")
			}})
		case isManifest(name), path.Ext(name) == "" && s.isRendered(name):
			out = append(out, unit{name, s.loose[name], func(_ context.Context, f *findings) { f.text(f.manifest) }})
		}
	}
	if s.opts.System {
		out = append(out, unit{basefs.MetadataFile, false, func(_ context.Context, f *findings) { f.system() }})
	}
	slices.SortStableFunc(out, func(a, b unit) int { return strings.Compare(a.name, b.name) })
	return out
}

// text reads the unit's file and gives it to find.
func (f *findings) text(find func([]byte)) {
	data, err := f.search.read(f.file)
	if err != nil {
		f.fail(&FileError{File: f.file, Err: err})
		return
	}
	f.rendered = f.search.isRendered(f.file)
	find(bytes.ToValidUTF8(data, []byte("\uFFFD")))
}
