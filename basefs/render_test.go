package basefs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/basefs"
)

func TestRender(t *testing.T) {
	tree := fstest.MapFS{
		"etc/kubeadm.yml.tmpl":                 {Data: []byte("registry: {{ .RegistryURL }}\n"), Mode: 0o640},
		"etc/plain.yml":                        {Data: []byte("{{ .Not }}")},
		"charts/a/values.yaml.tmpl":            {Data: []byte(`{{ b64enc .User }} {{ "eA==" | b64dec }}`), Mode: 0o644},
		"manifests/deep/er/x.yaml.tmpl":        {Data: []byte(`{{ .Size | default "small" | upper | quote }}`), Mode: 0o644},
		"scripts/init.sh.tmpl":                 {Data: []byte("#!/bin/sh\necho {{ .User }}\n"), Mode: 0o755},
		"statics/s.tmpl":                       {Data: []byte(`{{ if hasKey . "Nope" }}{{ .Nope }}{{ else }}without{{ end }}`), Mode: 0o644},
		"application/apps/shop/values.tmpl":    {Data: []byte("{{ .User }} {{ .Size }}"), Mode: 0o644},
		"application/apps/blog/sub/app.y.tmpl": {Data: []byte("{{ .User }}"), Mode: 0o644},
		"bin/x.tmpl":                           {Data: []byte("{{ .Untouched }}")},
		"other.tmpl":                           {Data: []byte("{{ .Untouched }}")},
	}
	r := basefs.Renderer{
		Env:  map[string]string{"RegistryURL": "https://r:5000", "User": "<a&b>", "Size": ""},
		Apps: map[string]map[string]string{"shop": {"User": "shop's"}},
	}
	got := map[string]string{}
	err := r.Render(tree, func(name string, mode fs.FileMode, data []byte) error {
		got[name] = fmt.Sprintf("%o %s", mode, data)
		return nil
	})
	want := map[string]string{
		"etc/kubeadm.yml":                 "640 registry: https://r:5000\n",
		"charts/a/values.yaml":            "644 PGEmYj4= x",
		"manifests/deep/er/x.yaml":        `644 "SMALL"`,
		"scripts/init.sh":                 "755 #!/bin/sh\necho <a&b>\n",
		"statics/s":                       "644 without",
		"application/apps/shop/values":    "644 shop's ",
		"application/apps/blog/sub/app.y": "644 <a&b>",
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	if r.Env["User"] != "<a&b>" {
		t.Error("the values were changed")
	}
}

// TestRenderFails: all that is wrong is said, and nothing is written.
func TestRenderFails(t *testing.T) {
	tree := fstest.MapFS{
		"etc/a.tmpl":     {Data: []byte("fine")},
		"etc/b.tmpl":     {Data: []byte("one\ntwo {{ .MISSING }}\n")},
		"etc/c.tmpl":     {Data: []byte("{{ if }}")},
		"charts/d.tmpl":  {Data: []byte("\n\n{{ fail \"no way\" }}")},
		"scripts/e.tmpl": {Data: []byte(`{{ index . "X" }}`)},
		"scripts/f.tmpl": {Data: []byte(`{{ env "HOME" }}`)},
	}
	err := basefs.Renderer{}.Render(tree, func(name string, _ fs.FileMode, _ []byte) error {
		t.Errorf("%s was written", name)
		return nil
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"etc/b.tmpl:2: no value for MISSING: set it", "etc/c.tmpl:1: missing value for if", "charts/d.tmpl:3: ", "no way", "scripts/e.tmpl: line 1 of what comes out", `scripts/f.tmpl:1: function "env" not defined`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	var wrong *basefs.TemplateError
	if !errors.As(err, &wrong) {
		t.Errorf("error is of type %T", err)
	}
}

func TestRenderWriteFails(t *testing.T) {
	full := errors.New("disk full")
	err := basefs.Renderer{}.Render(fstest.MapFS{"etc/a.tmpl": {}}, func(string, fs.FileMode, []byte) error { return full })
	if !errors.Is(err, full) || !strings.Contains(err.Error(), "etc/a") {
		t.Errorf("error is %v", err)
	}
}

func TestRenderTextBounds(t *testing.T) {
	_, err := basefs.RenderText("x", `{{ range until 100000 }}{{ printf "%1000d" . }}{{ end }}`, nil)
	if err == nil || !strings.Contains(err.Error(), "bytes come out") {
		t.Errorf("error is %v", err)
	}
	if _, err := basefs.RenderText("x", `<no value> is {{ "fine" }}`, nil); err != nil {
		t.Error(err)
	}
}

func TestRenderLinkRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", dir+"/etc/x.tmpl"); err != nil {
		t.Fatal(err)
	}
	err := basefs.Renderer{}.Render(os.DirFS(dir), func(string, fs.FileMode, []byte) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("error is %v", err)
	}
}

// TestHermetic: a tree must render alike everywhere and at any time.
func TestHermetic(t *testing.T) {
	for _, call := range []string{"now", `env "HOME"`, `expandenv "$HOME"`, `getHostByName "x"`, "uuidv4", "randInt 1 2", `ago "x"`, "randAlpha 3", `date "2006" 0`} {
		if _, err := basefs.RenderText("x", "{{ "+call+" }}", nil); err == nil || !strings.Contains(err.Error(), "not defined") {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func FuzzRenderText(f *testing.F) {
	for _, seed := range []string{"{{ .A }}", "{{ .B }}", "{{ range $i, $x := . }}{{ $i }}{{ end }}", `{{ define "x" }}{{ .C }}{{ end }}{{ template "x" . }}`, "{{ if", "{{/* x */}}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, bomb := range []string{"repeat", "until", "seq", "indent", "template", "printf", "range", "1"} {
			if strings.Contains(text, bomb) {
				t.Skip("may take all memory, as its author asks")
			}
		}
		_, err := basefs.RenderText("etc/x.tmpl", text, map[string]string{"A": "a"})
		var wrong *basefs.TemplateError
		if err != nil && (!errors.As(err, &wrong) || wrong.File != "etc/x.tmpl") {
			t.Errorf("%T: %v", err, err)
		}
	})
}
