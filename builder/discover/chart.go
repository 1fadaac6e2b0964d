package discover

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	commonutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/ignore"
	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/basefs"
)

// ChartError says why a Helm chart cannot be rendered.
type ChartError struct {
	Chart string // its path in the tree
	// File and Line are the place in the chart's templates, if it is known: "templates/web.yaml", 12.
	File string
	Line int
	// Set names the values that it was rendered with; "" are its own.
	Set string
	// Missing are the values that it asks for there: "image.tag".
	Missing []string
	Err     error
}

// Error names the chart, the place and the missing values.
func (e *ChartError) Error() string {
	at := e.Chart
	if e.File != "" {
		at = path.Join(e.Chart, e.File)
	}
	s := place(at, e.Line, false)
	if e.Set != "" {
		s += " with " + e.Set
	}
	s += ": " + e.Err.Error()
	if len(e.Missing) > 0 {
		s += ": it needs a value for " + strings.Join(e.Missing, ", ")
	}
	return s
}

// Unwrap gives what is wrong.
func (e *ChartError) Unwrap() error { return e.Err }

// chartSource loads a chart; it is loaded once for each rendering, which changes it.
type chartSource struct {
	path string
	load func() (*chart.Chart, error)
}

// valueSet is what a chart is rendered with once.
type valueSet struct {
	name   string // for errors and places; "" are the chart's own values
	values map[string]any
}

// chartDir finds the images of a chart that lies unpacked.
func (f *findings) chartDir(ctx context.Context, dir string) {
	s := f.search
	var files []*archive.BufferedFile
	rules := ignore.Empty()
	if data, err := s.read(path.Join(dir, ".helmignore")); err == nil {
		if rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			f.fail(&FileError{File: path.Join(dir, ".helmignore"), Err: err})
			return
		}
	}
	rules.AddDefaults()
	for _, name := range s.under(dir) {
		rel := name
		if dir != "." {
			rel = strings.TrimPrefix(name, dir+"/")
		}
		if ignored(rules, rel) {
			continue
		}
		data, err := s.read(name)
		if err != nil {
			f.fail(&FileError{File: name, Err: err})
			return
		}
		files = append(files, &archive.BufferedFile{Name: rel, Data: bytes.TrimPrefix(data, bom)})
	}
	f.chart(ctx, chartSource{path: dir, load: func() (*chart.Chart, error) {
		copies := make([]*archive.BufferedFile, len(files))
		for i, b := range files {
			c := *b // LoadFiles renames them
			copies[i] = &c
		}
		return loader.LoadFiles(copies)
	}})
}

// ignored says whether .helmignore leaves out a file or a directory above it.
func ignored(rules *ignore.Rules, rel string) bool {
	for i, c := range rel {
		if c == '/' && rules.Ignore(rel[:i], fileInfo{name: path.Base(rel[:i]), dir: true}) {
			return true
		}
	}
	return rules.Ignore(rel, fileInfo{name: path.Base(rel)})
}

// fileInfo is what .helmignore's rules ask about a file.
type fileInfo struct {
	name string
	dir  bool
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return 0 }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) IsDir() bool        { return i.dir }
func (i fileInfo) Sys() any           { return nil }
func (i fileInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// chartFile finds the images of a packed chart.
func (f *findings) chartFile(ctx context.Context, name string) {
	data, err := f.search.read(name)
	if err != nil {
		f.fail(&FileError{File: name, Err: err})
		return
	}
	isChart, err := packedChart(data)
	switch {
	case err != nil && strings.Contains("/"+name, "/charts/"):
		f.fail(&FileError{File: name, Err: fmt.Errorf("this is no packed chart: %w", err)})
		return
	case err != nil:
		f.skip(Where{File: name}, "it cannot be read as a packed chart: "+err.Error())
		return
	case !isChart:
		f.skip(Where{File: name}, "it is an archive, and no chart")
		return
	}
	f.chart(ctx, chartSource{path: name, load: func() (*chart.Chart, error) { return loader.LoadArchive(bytes.NewReader(data)) }})
}

// packedChart says whether an archive holds a chart: a directory with a Chart.yaml.
func packedChart(data []byte) (bool, error) {
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return false, err
	}
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if dir, base := path.Split(path.Clean(h.Name)); base == "Chart.yaml" && strings.Count(dir, "/") == 1 {
			return true, nil
		}
	}
}

// chart renders a chart with every set of values, and takes the images of all of them.
func (f *findings) chart(ctx context.Context, src chartSource) {
	c, err := src.load()
	if err != nil {
		f.fail(chartError(src.path, nil, "", err))
		return
	}
	f.annotated(src.path, c)
	if c.Metadata.Type == "library" {
		return // it has nothing to install; charts that use it contain it
	}
	if missing := missingDependencies(c); len(missing) > 0 {
		f.fail(&ChartError{Chart: src.path, File: "Chart.yaml", Err: fmt.Errorf("its dependencies are not in charts/: %s", strings.Join(missing, ", "))})
		return
	}
	for _, crd := range c.CRDObjects() {
		sub := &findings{search: f.search, loose: f.loose, file: f.inChart(src.path, c, crd.Filename)}
		sub.manifest(crd.File.Data)
		f.take(sub)
	}
	sets, optional, err := f.valueSets(src.path, c)
	if err != nil {
		f.fail(err)
		return
	}
	rendered := 0
	var failed []error
	for i, set := range sets {
		if context.Cause(ctx) != nil {
			return
		}
		if err := f.renderChart(ctx, src, set); err != nil {
			if i == 0 && optional { // the chart is not made for its own values alone
				failed = append(failed, err)
				continue
			}
			f.fail(err)
			return
		}
		rendered++
	}
	if rendered == 0 {
		f.fail(errors.Join(failed...))
	}
}

func (f *findings) take(sub *findings) {
	f.found, f.skipped, f.errs = append(f.found, sub.found...), append(f.skipped, sub.skipped...), append(f.errs, sub.errs...)
}

// inChart is the path in the tree of a file that Helm calls CHART/templates/x.yaml.
func (f *findings) inChart(root string, c *chart.Chart, name string) string {
	return path.Join(root, strings.TrimPrefix(name, c.Name()+"/"))
}

// annotated takes the images that a chart's annotations list.
func (f *findings) annotated(root string, c *chart.Chart) {
	for _, key := range []string{"artifacthub.io/images", "helm.sh/images"} {
		text := c.Metadata.Annotations[key]
		if text == "" {
			continue
		}
		where := Where{File: path.Join(root, "Chart.yaml"), Field: "annotations." + key}
		for _, d := range c.Raw {
			if d.Name == "Chart.yaml" {
				where.Line = annotationLine(d.Data, key)
			}
		}
		var list []struct {
			Image string `json:"image"`
		}
		if err := yaml.Unmarshal([]byte(text), &list); err != nil {
			f.skip(where, "this is no list of images: "+err.Error())
			continue
		}
		for _, e := range list {
			f.add(e.Image, Declared, Certain, "", where)
		}
	}
	for _, d := range c.Dependencies() {
		f.annotated(path.Join(root, "charts", d.Name()), d)
	}
}

func annotationLine(chartYAML []byte, key string) int {
	docs, err := readDocuments(chartYAML)
	if err != nil || len(docs) == 0 {
		return 0
	}
	return line(field(field(docs[0], "annotations"), key))
}

// missingDependencies are those that Chart.yaml wants and charts/ has not: Helm refuses such a chart.
func missingDependencies(c *chart.Chart) []string {
	var out []string
	for _, want := range c.Metadata.Dependencies {
		if want != nil && !slices.ContainsFunc(c.Dependencies(), func(d *chart.Chart) bool { return d.Name() == want.Name }) {
			out = append(out, want.Name)
		}
	}
	for _, d := range c.Dependencies() {
		for _, m := range missingDependencies(d) {
			out = append(out, d.Name()+"/charts/"+m)
		}
	}
	return out
}

// renderChart renders a chart once.
func (f *findings) renderChart(ctx context.Context, src chartSource, set valueSet) error {
	c, err := src.load()
	if err != nil {
		return chartError(src.path, nil, set.name, err)
	}
	caps := common.DefaultCapabilities.Copy()
	if v := f.search.kubeVersion; v != "" {
		kv, err := common.ParseKubeVersion(v)
		if err != nil {
			return &ChartError{Chart: src.path, Err: fmt.Errorf("version %q of Kubernetes: %w", v, err)}
		}
		caps.KubeVersion = *kv
	}
	if want := c.Metadata.KubeVersion; want != "" && f.search.kubeVersion != "" && !chartutil.IsCompatibleRange(want, caps.KubeVersion.String()) {
		return &ChartError{Chart: src.path, File: "Chart.yaml", Err: fmt.Errorf("it is for Kubernetes %s, and this is %s", want, caps.KubeVersion.String())}
	}
	caps.APIVersions = append(slices.Clone(caps.APIVersions), f.search.opts.APIVersions...)
	values := set.values
	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return chartError(src.path, c, set.name, err)
	}
	name := c.Name()
	if rest, ok := strings.CutPrefix(src.path, basefs.AppsDir+"/"); ok {
		name, _, _ = strings.Cut(rest, "/") // as the app is started
	}
	runs := []common.ReleaseOptions{{Name: name, Namespace: "default", Revision: 1, IsInstall: true}}
	if slices.ContainsFunc(allTemplates(c), func(t *common.File) bool { return bytes.Contains(t.Data, []byte(".Release.Is")) }) {
		runs = append(runs, common.ReleaseOptions{Name: name, Namespace: "default", Revision: 2, IsUpgrade: true})
	}
	for _, run := range runs {
		top, err := commonutil.ToRenderValuesWithSchemaValidation(c, values, run, caps, remoteSchema(c))
		if err != nil {
			return chartError(src.path, c, set.name, err)
		}
		out, err := engine.Engine{CustomTemplateFuncs: hermetic()}.RenderWithContext(ctx, c, top)
		if err != nil {
			return chartError(src.path, c, set.name, err)
		}
		for _, file := range slices.Sorted(maps.Keys(out)) {
			if path.Base(file) == "NOTES.txt" || strings.TrimSpace(out[file]) == "" {
				continue
			}
			sub := &findings{search: f.search, loose: f.loose, file: f.inChart(src.path, c, file), rendered: true}
			sub.manifest([]byte(documentStart.ReplaceAllString(out[file], "---\n$1")))
			f.take(sub)
		}
	}
	return nil
}

// documentStart is a separator with text right behind it, which Helm takes for one where templates trim too much.
var documentStart = regexp.MustCompile(`(?m)^---([^\s-].*)$`)

func allTemplates(c *chart.Chart) []*common.File {
	out := slices.Clone(c.Templates)
	for _, d := range c.Dependencies() {
		out = append(out, allTemplates(d)...)
	}
	return out
}

// remoteSchema says whether a schema of values lies on another machine: rendering asks nobody.
func remoteSchema(c *chart.Chart) bool {
	for _, s := range remoteRef.FindAll(c.Schema, -1) {
		if len(s) > 0 {
			return true
		}
	}
	return slices.ContainsFunc(c.Dependencies(), remoteSchema)
}

var remoteRef = regexp.MustCompile(`"\$ref"\s*:\s*"[a-z]+:`)

// certificate is what the functions for certificates return.
type certificate struct{ Cert, Key string }

// hermetic are the template functions that ask chance, the clock or the network, with always the same answer: the images
// of a chart do not depend on it, and a key takes seconds to make.
func hermetic() map[string]any {
	now := func() time.Time { return time.Unix(0, 0).UTC() }
	text := func(n int) (string, error) {
		if n < 0 || n > 1<<20 {
			return "", fmt.Errorf("%d random characters are too many", n)
		}
		return strings.Repeat("x", n), nil
	}
	cert := func(...any) (certificate, error) { return certificate{"certificate", "key"}, nil }
	constant := func(s string) any { return func(...any) string { return s } }
	return map[string]any{
		"now": now, "randAlphaNum": text, "randAlpha": text, "randAscii": text, "randNumeric": func(n int) (string, error) {
			s, err := text(n)
			return strings.ReplaceAll(s, "x", "1"), err
		},
		"randBytes": text, "randInt": func(low, _ int) int { return low }, "shuffle": func(s string) string { return s },
		"uuidv4": constant("00000000-0000-4000-8000-000000000000"), "genPrivateKey": constant("key"),
		"genCA": cert, "genCAWithKey": cert, "genSelfSignedCert": cert, "genSelfSignedCertWithKey": cert, "genSignedCert": cert,
		"genSignedCertWithKey": cert, "bcrypt": constant("hash"), "htpasswd": constant("user:hash"), "derivePassword": constant("password"),
		"encryptAES": constant("text"),
	}
}

var (
	helmPlace  = regexp.MustCompile(`\(?([\w.-]+/(?:charts/[\w.-]+/)*templates/[^\s:()]+):(\d+)`)
	valueName  = regexp.MustCompile(`\.Values((?:\.[A-Za-z_][A-Za-z0-9_]*)+)`)
	schemaName = regexp.MustCompile(`missing propert(?:y|ies) ('[^\n]*')`)
)

// chartError takes apart the text of an error of Helm, which has no fields, and finds out which values are missing.
func chartError(root string, c *chart.Chart, set string, err error) error {
	out := &ChartError{Chart: root, Set: set, Err: errors.New(strings.Join(strings.Fields(err.Error()), " "))}
	places := helmPlace.FindAllStringSubmatch(err.Error(), -1)
	if m := schemaName.FindStringSubmatch(err.Error()); m != nil {
		out.Missing = append(out.Missing, strings.ReplaceAll(m[1], "'", ""))
	}
	if c == nil || len(places) == 0 {
		return out
	}
	// The innermost place is where it happened, and the outermost that uses a value is what the user can act on.
	for i, m := range places {
		n, _ := strconv.Atoi(m[2])
		file := strings.TrimPrefix(m[1], c.Name()+"/")
		if i == 0 {
			out.File, out.Line = file, n
		}
		if len(out.Missing) > 0 {
			continue
		}
		for _, name := range valueName.FindAllStringSubmatch(templateLine(c, m[1], n), -1) {
			if key := name[1][1:]; !slices.Contains(out.Missing, key) && !hasValue(c.Values, key) {
				out.Missing = append(out.Missing, key)
			}
		}
	}
	return out
}

// templateLine is one line of a template, by the name that Helm has for it.
func templateLine(c *chart.Chart, name string, n int) string {
	rest, ok := strings.CutPrefix(name, c.Name()+"/")
	if !ok {
		return ""
	}
	if sub, ok := strings.CutPrefix(rest, "charts/"); ok {
		for _, d := range c.Dependencies() {
			if l := templateLine(d, sub, n); l != "" {
				return l
			}
		}
		return ""
	}
	for _, t := range c.Templates {
		if lines := strings.Split(string(t.Data), "\n"); t.Name == rest && n > 0 && n <= len(lines) {
			return lines[n-1]
		}
	}
	return ""
}

// hasValue says whether a value is set and not empty.
func hasValue(values map[string]any, key string) bool {
	first, rest, more := strings.Cut(key, ".")
	v, ok := values[first]
	if !more {
		return ok && v != nil && v != ""
	}
	table, _ := v.(map[string]any)
	return hasValue(table, rest)
}
