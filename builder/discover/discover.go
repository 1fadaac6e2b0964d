// Package discover finds the container images that the files of a cluster image will ever pull: in
// Kubernetes objects, Helm charts, kustomizations, custom resources and image lists. Every image comes with
// the file, the line and the field that names it, and everything that could not be looked into comes with
// its reason. The result does not depend on parallelism.
package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	goruntime "runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/clusterimage/keg/basefs"
)

// Roots are the places of a basefs tree that are searched: what is applied to a cluster lies there.
func Roots() []string {
	return []string{"manifests", "charts", basefs.AppsDir, "images", ListK3s, ListK0s, "imageList", ConfigFile}
}

// Wanted says whether a search of a basefs tree reads a file, by its path and size: all in Roots, and with
// Options.Elsewhere YAML in other places.
func Wanted(name string, size int64) bool {
	switch {
	case basefs.IsImageArchive(name) || strings.HasPrefix(name, "images/") && !isList(name) && name != sealosArchives:
		return false
	case inRoots(name, Roots()):
		return size <= maxFile
	}
	return isElsewhere(name) && size <= maxElsewhere
}

func inRoots(name string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return root == "." || name == root || strings.HasPrefix(name, root+"/")
	})
}

// maxElsewhere bounds files that are outside of Roots.
const maxElsewhere = 1 << 20

// isElsewhere says whether a file outside of Roots may be something for the cluster: YAML that some command applies. The
// directories of an operating system have none.
func isElsewhere(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case "usr", "lib", "lib64", "bin", "sbin", "var", "proc", "sys", "dev", "run", "boot":
		return false
	}
	base := strings.TrimSuffix(name, templateSuffix)
	switch strings.ToLower(path.Ext(base)) {
	case ".yaml", ".yml", ".tpl":
		return true
	}
	return slices.Contains(kustomizationNames, path.Base(base))
}

// Options are what a search needs to know beside the files.
type Options struct {
	// Roots are the files and directories to search, relative to the tree; none is all of it. What does not
	// exist is left out.
	Roots []string
	// Elsewhere searches other places of the tree as well, for YAML that some command may apply: what is broken there
	// is skipped, and what is no object of Kubernetes is nobody's business.
	Elsewhere bool
	// Metadata is that of the tree, if it has one: its version is Kubernetes' for charts, and its runtime
	// tells which images the cluster itself consists of.
	Metadata basefs.Metadata
	// System makes images of the runtime itself part of the result: kubeadm's, by Metadata.
	System bool
	// KubeVersion overrides Metadata's version, such as "v1.37.2".
	KubeVersion string
	// APIVersions are APIs that charts may use beside those of Kubernetes, such as "monitoring.coreos.com/v1".
	APIVersions []string
	// Env and Apps are the values of templates, as in basefs.Renderer.
	Env  map[string]string
	Apps map[string]map[string]string
	// Values are values for all charts, in place of the files of values beside them; later ones win.
	Values []Values
	// Candidates takes every candidate.
	Candidates bool
	// Take are candidates to take, and Ignore are images to leave out: names, or patterns in which * stands for
	// anything but a slash, ** for anything.
	Take, Ignore []string
	// Strict makes it an error that something was skipped.
	Strict bool
	// KeepGoing reports all errors and not only the first; the report has what could be found all the same.
	KeepGoing bool
	// Parallelism is how many files are read at a time; 0 is the number of cores.
	Parallelism int
}

// Values is one file of values for Helm charts.
type Values struct {
	Name string // for errors
	Data []byte // YAML
}

// Find searches a tree. An error about a file is a *FileError, one about a chart a *ChartError; with KeepGoing
// they are joined, in the order of the files, and the report is not nil. With Strict the error may be a
// *StrictError, and the report is not nil either.
func Find(ctx context.Context, tree fs.FS, o Options) (*Report, error) {
	s := &search{opts: o}
	if err := s.configure(tree); err != nil {
		return nil, err
	}
	if err := s.load(ctx, tree); err != nil {
		return nil, err
	}
	units := s.units()
	results := make([]*findings, len(units))
	var g errgroup.Group
	g.SetLimit(cmp.Or(o.Parallelism, goruntime.GOMAXPROCS(0)))
	for i, u := range units {
		g.Go(func() error {
			f := &findings{search: s, file: u.name, loose: u.loose}
			results[i] = f
			if context.Cause(ctx) == nil {
				u.find(ctx, f)
			}
			return nil
		})
	}
	_ = g.Wait() // errors are kept with the findings, so that their order is that of the files
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return s.report(results)
}

// report merges what the units found, in their order.
func (s *search) report(results []*findings) (*Report, error) {
	r := &Report{KubeVersion: s.kubeVersion, Files: len(s.files)}
	errs := slices.Clone(s.errs)
	byRef := map[string]*Found{}
	for _, f := range append([]*findings{&s.own}, results...) {
		errs = append(errs, f.errs...)
		r.Skipped = append(r.Skipped, f.skipped...)
		for _, n := range f.found {
			had := byRef[n.Ref]
			if had == nil {
				byRef[n.Ref] = &n
				continue
			}
			had.add(n)
		}
	}
	for _, f := range byRef {
		f.Where = uniq(f.Where)
		f.Ignored = s.ignore.matches(f.Ref)
		f.Taken = !f.Ignored && (f.Kind != Candidate || s.opts.Candidates || s.take.matches(f.Ref))
		r.Images = append(r.Images, *f)
	}
	slices.SortFunc(r.Images, func(a, b Found) int { return strings.Compare(a.Ref, b.Ref) })
	r.Skipped = uniq(r.Skipped)
	switch {
	case len(errs) > 0 && s.opts.KeepGoing:
		return r, errors.Join(errs...)
	case len(errs) > 0:
		return nil, errs[0]
	case s.opts.Strict && len(r.Skipped) > 0:
		return r, &StrictError{Skipped: r.Skipped}
	}
	return r, nil
}

// uniq removes what is repeated and keeps the order.
func uniq[T comparable](list []T) []T {
	seen := make(map[T]bool, len(list))
	return slices.DeleteFunc(list, func(v T) bool {
		had := seen[v]
		seen[v] = true
		return had
	})
}

// FileError is what is wrong with a file.
type FileError struct {
	File string
	// Line is from 1; 0 if the error is about the whole. If Rendered, it is that of what came of the template.
	Line     int
	Rendered bool
	Err      error
}

// Error names the file and the line.
func (e *FileError) Error() string {
	return fmt.Sprintf("%s: %v", place(e.File, e.Line, e.Rendered), e.Err)
}

// Unwrap gives what is wrong.
func (e *FileError) Unwrap() error { return e.Err }

// StrictError says that something was skipped where nothing may be.
type StrictError struct{ Skipped []Skipped }

// Error lists what was skipped.
func (e *StrictError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d places were skipped:", len(e.Skipped))
	for _, s := range e.Skipped {
		b.WriteString("\n  " + s.String())
	}
	return b.String()
}
