package discover

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/patternmatcher"

	"github.com/clusterimage/keg/imagestore"
)

// Kind says how it is known that an image is one.
type Kind string

// Kinds, the surest first.
const (
	// Typed is the value of a field that holds an image by the definition of the object.
	Typed Kind = "typed"
	// Declared is what somebody wrote into a list of images: a file, or a chart's annotation.
	Declared Kind = "declared"
	// Candidate is a text that looks like an image.
	Candidate Kind = "candidate"
)

// Confidence says how likely a candidate is an image that the cluster pulls.
type Confidence string

// Confidences, the surest first. What is no candidate is Certain.
const (
	Certain Confidence = "certain"
	High    Confidence = "high"
	Medium  Confidence = "medium"
	Low     Confidence = "low"
)

// rank orders kinds and confidences; lower is surer.
func rank(k Kind, c Confidence) int {
	return 4*slices.Index([]Kind{Typed, Declared, Candidate}, k) + slices.Index([]Confidence{Certain, High, Medium, Low}, c)
}

// Report is what a search found.
type Report struct {
	// KubeVersion is the version of Kubernetes that charts were rendered for.
	KubeVersion string `json:"kubeVersion"`
	// Files is how many files were looked at.
	Files int `json:"files"`
	// Images are sorted by Ref.
	Images []Found `json:"images"`
	// Skipped are in the order of the files.
	Skipped []Skipped `json:"skipped"`
}

// Taken are the images that are to be embedded.
func (r *Report) Taken() []Found {
	return slices.DeleteFunc(slices.Clone(r.Images), func(f Found) bool { return !f.Taken })
}

// Candidates are those candidates that are neither taken nor ignored.
func (r *Report) Candidates() []Found {
	return slices.DeleteFunc(slices.Clone(r.Images), func(f Found) bool { return f.Taken || f.Ignored })
}

// Why finds an image by any way to write its name.
func (r *Report) Why(ref string) (Found, bool) {
	full, err := fullName(ref)
	if err != nil {
		return Found{}, false
	}
	i := slices.IndexFunc(r.Images, func(f Found) bool { return f.Ref == full })
	if i < 0 { // the digest need not be repeated
		i = slices.IndexFunc(r.Images, func(f Found) bool { before, _, _ := strings.Cut(f.Ref, "@"); return before == full })
	}
	if i < 0 {
		return Found{}, false
	}
	return r.Images[i], true
}

// Found is one image.
type Found struct {
	// Ref is the full name: "docker.io/library/nginx:1.27". A tag and a digest are both kept.
	Ref        string     `json:"ref"`
	Kind       Kind       `json:"kind"`
	Confidence Confidence `json:"confidence"`
	// Reason says why a candidate is one.
	Reason string `json:"reason,omitempty"`
	// Taken says that it is to be embedded, Ignored that it is not because somebody said so.
	Taken   bool    `json:"taken"`
	Ignored bool    `json:"ignored,omitempty"`
	Where   []Where `json:"where"`
}

// add merges another find of the same image.
func (f *Found) add(o Found) {
	f.Where = append(f.Where, o.Where...)
	if rank(o.Kind, o.Confidence) < rank(f.Kind, f.Confidence) {
		f.Kind, f.Confidence, f.Reason = o.Kind, o.Confidence, o.Reason
	}
}

// Where is one place that names an image.
type Where struct {
	// File is its path in the tree; "" for what follows from Metadata.
	File string `json:"file,omitempty"`
	// Line is from 1, or 0. If Rendered, it is a line of what comes of the template, chart or kustomization.
	Line     int  `json:"line,omitempty"`
	Rendered bool `json:"rendered,omitempty"`
	// Object is such as "Deployment shop/web".
	Object string `json:"object,omitempty"`
	// Field is such as "spec.template.spec.containers[0].image".
	Field string `json:"field,omitempty"`
}

// String is such as "manifests/web.yaml:12: Deployment shop/web: spec.template.spec.containers[0].image".
func (w Where) String() string {
	var parts []string
	for _, p := range []string{place(w.File, w.Line, w.Rendered), w.Object, w.Field} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

func place(file string, line int, rendered bool) string {
	switch {
	case line == 0:
		return file
	case rendered:
		return fmt.Sprintf("%s (line %d of what it renders to)", file, line)
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// Skipped is something that may name images and was not looked into, or not fully.
type Skipped struct {
	Where
	Reason string `json:"reason"`
}

// String names the place and the reason.
func (s Skipped) String() string {
	if w := s.Where.String(); w != "" {
		return w + ": " + s.Reason
	}
	return s.Reason
}

// Under puts the files of a report below a directory.
func (r *Report) Under(dir string) *Report {
	out := *r
	out.Images, out.Skipped = slices.Clone(r.Images), slices.Clone(r.Skipped)
	under := func(w Where) Where {
		if w.File != "" {
			w.File = path.Join(dir, w.File)
		}
		return w
	}
	for i, f := range out.Images {
		f.Where = slices.Clone(f.Where)
		for j, w := range f.Where {
			f.Where[j] = under(w)
		}
		out.Images[i] = f
	}
	for i, s := range out.Skipped {
		out.Skipped[i].Where = under(s.Where)
	}
	return &out
}

// Merge makes one report of several.
func Merge(reports ...*Report) *Report {
	out := &Report{Images: []Found{}, Skipped: []Skipped{}}
	byRef := map[string]int{}
	for _, r := range reports {
		out.KubeVersion = cmp.Or(out.KubeVersion, r.KubeVersion)
		out.Files += r.Files
		out.Skipped = append(out.Skipped, r.Skipped...)
		for _, f := range r.Images {
			i, ok := byRef[f.Ref]
			if !ok {
				byRef[f.Ref] = len(out.Images)
				f.Where = slices.Clone(f.Where)
				out.Images = append(out.Images, f)
				continue
			}
			had := &out.Images[i]
			had.add(f)
			had.Where = uniq(had.Where)
			had.Taken, had.Ignored = had.Taken || f.Taken, had.Ignored && f.Ignored
		}
	}
	slices.SortFunc(out.Images, func(a, b Found) int { return strings.Compare(a.Ref, b.Ref) })
	out.Skipped = uniq(out.Skipped)
	return out
}

// fullName reads an image's name and makes it full; beside a digest the tag is kept.
func fullName(s string) (string, error) {
	ref, err := imagestore.ParseName(s)
	if err != nil {
		return "", err
	}
	full := imagestore.FullName(ref)
	before, _, isDigest := strings.Cut(s, "@")
	if _, ok := ref.(name.Digest); ok && isDigest && strings.Contains(before[strings.LastIndex(before, "/")+1:], ":") {
		tag, err := imagestore.ParseName(before)
		if err != nil {
			return "", err
		}
		return imagestore.FullName(tag) + full[strings.Index(full, "@"):], nil
	}
	return full, nil
}

// patterns are names of images, or patterns of them.
type patterns struct {
	names map[string]bool
	globs []*patternmatcher.PatternMatcher
}

func newPatterns(list []string) (patterns, error) {
	p := patterns{names: map[string]bool{}}
	for _, s := range list {
		if !strings.ContainsAny(s, "*?[") {
			full, err := fullName(s)
			if err != nil {
				return p, err
			}
			p.names[full] = true
			continue
		}
		pm, err := patternmatcher.New([]string{s})
		if err != nil {
			return p, fmt.Errorf("reading pattern %q: %w", s, err)
		}
		p.globs = append(p.globs, pm)
	}
	return p, nil
}

// matches says whether one of the patterns means an image; a name without digest means it with any.
func (p patterns) matches(full string) bool {
	before, _, _ := strings.Cut(full, "@")
	if p.names[full] || p.names[before] {
		return true
	}
	return slices.ContainsFunc(p.globs, func(pm *patternmatcher.PatternMatcher) bool {
		ok, _, err := pm.MatchesUsingParentResults(full, patternmatcher.MatchInfo{})
		return ok && err == nil
	})
}
