package basefs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	sprig "github.com/go-task/slim-sprig/v3"
)

const (
	templateSuffix = ".tmpl"
	// templateLimit bounds a template and what comes of it.
	templateLimit = 16 << 20
)

// AppsDir has a directory for each app of the image.
const AppsDir = "application/apps"

// templateDirs are the directories whose *.tmpl files are rendered.
var templateDirs = []string{"etc", "charts", "manifests", AppsDir, "scripts", "statics"}

// TemplateError says what is wrong with a template.
type TemplateError struct {
	File string
	Line int    // from 1; 0 if it is about the whole
	Key  string // the missing one, if that is what is wrong
	Text string
}

// Error names the file and the line.
func (e *TemplateError) Error() string {
	where := e.File
	if e.Line > 0 {
		where += ":" + strconv.Itoa(e.Line)
	}
	if e.Key != "" {
		return fmt.Sprintf("%s: no value for %s: %s", where, e.Key, e.Text)
	}
	return where + ": " + e.Text
}

// Renderer holds the values for the templates of a tree. A template refers to them as {{ .NAME }};
// a name without value is an error.
type Renderer struct {
	// Env is for all templates.
	Env map[string]string
	// Apps are by name of the app, and override Env for the templates in application/apps/NAME.
	Apps map[string]map[string]string
}

// Render renders every *.tmpl file in etc, charts, manifests, application/apps, scripts and statics, and
// gives the result to write, under the name without .tmpl and with the template's permission bits, in
// lexical order of each directory. If templates are wrong, all of them are reported, as joined
// *TemplateErrors, and nothing is written.
func (r Renderer) Render(tree fs.FS, write func(name string, mode fs.FileMode, data []byte) error) error {
	var wrong []error
	type result struct {
		name string
		mode fs.FileMode
		data []byte
	}
	var results []result
	err := walkTemplates(tree, func(name string, mode fs.FileMode, text string) error {
		data, err := RenderText(name, text, r.envOf(name))
		if err != nil {
			wrong = append(wrong, err)
			return nil
		}
		results = append(results, result{strings.TrimSuffix(name, templateSuffix), mode, data})
		return nil
	})
	if err := errors.Join(append(wrong, err)...); err != nil {
		return err
	}
	for _, t := range results {
		if err := write(t.name, t.mode, t.data); err != nil {
			return fmt.Errorf("rendering %s: %w", t.name, err)
		}
	}
	return nil
}

// envOf is Env, or that of the app that name belongs to.
func (r Renderer) envOf(name string) map[string]string {
	rest, ok := strings.CutPrefix(name, AppsDir+"/")
	if !ok {
		return r.Env
	}
	app, _, _ := strings.Cut(rest, "/")
	if len(r.Apps[app]) == 0 {
		return r.Env
	}
	env := maps.Clone(r.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, r.Apps[app])
	return env
}

// walkTemplates reads every template. What is called like one and is no regular file is an error.
func walkTemplates(tree fs.FS, visit func(name string, mode fs.FileMode, text string) error) error {
	for _, dir := range templateDirs {
		err := fs.WalkDir(tree, dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				if name == dir && errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			if entry.IsDir() || !strings.HasSuffix(name, templateSuffix) {
				return nil
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			switch {
			case !info.Mode().IsRegular():
				return &TemplateError{File: name, Text: "a template must be a regular file"}
			case info.Size() > templateLimit:
				return &TemplateError{File: name, Text: fmt.Sprintf("larger than %d bytes", templateLimit)}
			}
			text, err := fs.ReadFile(tree, name)
			if err != nil {
				return err
			}
			return visit(name, info.Mode().Perm(), string(text))
		})
		if err != nil {
			return fmt.Errorf("reading templates: %w", err)
		}
	}
	return nil
}

// RenderText renders one template; name is for errors, which are *TemplateErrors. The functions are those
// of Go's text/template and of sprig that always give the same result: no clock, environment, network
// or chance.
func RenderText(name, text string, env map[string]string) ([]byte, error) {
	t, err := parseTemplate(name, text)
	if err != nil {
		return nil, err
	}
	data := make(map[string]any, len(env)) // any, for sprig's get, hasKey and pick
	for k, v := range env {
		data[k] = v
	}
	out := limitedBuffer{limit: templateLimit}
	if err := t.Execute(&out, data); err != nil {
		return nil, templateError(name, err)
	}
	// What text/template prints for a value that is not there, and no missing key: index, a nested map.
	if hole := []byte("<no value>"); bytes.Contains(out.buf.Bytes(), hole) && !strings.Contains(text, string(hole)) {
		line := 1 + bytes.Count(out.buf.Bytes()[:bytes.Index(out.buf.Bytes(), hole)], []byte("\n"))
		return nil, &TemplateError{File: name, Text: fmt.Sprintf("line %d of what comes out has a value that is not there", line)}
	}
	return out.buf.Bytes(), nil
}

func parseTemplate(name, text string) (*template.Template, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(functions()).Parse(text)
	if err != nil {
		return nil, templateError(name, err)
	}
	return t, nil
}

// functions are sprig's hermetic ones, less those that ask for the time or for chance all the same.
func functions() template.FuncMap {
	f := sprig.HermeticTxtFuncMap()
	for _, name := range []string{"ago", "randInt", "hello"} {
		delete(f, name)
	}
	return f
}

var (
	templatePlace = regexp.MustCompile(`(?s)^template: (.*?):(\d+)(?::\d+)?: (.*)$`)
	missingKey    = regexp.MustCompile(`map has no entry for key "([^"]*)"`)
	executing     = regexp.MustCompile(`(?s)^executing ".*?" at (<.*?>): (.*)$`)
)

// templateError takes apart the text of text/template's errors, which have no fields.
func templateError(name string, err error) error {
	out := &TemplateError{File: name, Text: err.Error()}
	m := templatePlace.FindStringSubmatch(out.Text)
	if m == nil {
		out.Text = strings.TrimPrefix(out.Text, "template: ")
		return out
	}
	out.Line, _ = strconv.Atoi(m[2])
	out.Text = m[3]
	if at := executing.FindStringSubmatch(out.Text); at != nil {
		out.Text = at[1] + ": " + at[2]
	}
	if key := missingKey.FindStringSubmatch(out.Text); key != nil {
		out.Key = key[1]
		out.Text = "set it in the env of the image or of the run"
	}
	return out
}

// limitedBuffer refuses to grow without end.
type limitedBuffer struct {
	buf   bytes.Buffer
	limit int
}

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("more than %d bytes come out", b.limit)
	}
	return b.buf.Write(p)
}
