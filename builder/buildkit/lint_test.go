package buildkit

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/kubefile"
	"github.com/clusterimage/keg/kubefile/lint"
)

// upstreamCase is one Dockerfile of BuildKit's own tests of its linter, with what it wants to be said.
type upstreamCase struct {
	name, dockerfile, ignore, check string
	anywhere                        bool     // BuildKit's test does not look at the lines
	want                            []string // LINE RULE: TEXT
}

// upstream reads the cases out of the tests in BuildKit's module.
func upstream(t *testing.T) []upstreamCase {
	t.Helper()
	dir := moduleDir(t)
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, "frontend/dockerfile/dockerfile_check_test.go"), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Skipf("BuildKit's module has no tests here: %v", err)
	}
	var list []upstreamCase
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || !strings.HasPrefix(fn.Name.Name, "test") {
			continue
		}
		texts := map[string]string{}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if name, ok := n.Lhs[0].(*ast.Ident); ok {
					if text, ok := literal(n.Rhs[0], texts); ok {
						texts[name.Name] = text
					} else {
						delete(texts, name.Name)
					}
				}
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "checkLinterWarnings" {
					if c, ok := caseOf(n.Args[2], texts); ok {
						c.name = fmt.Sprintf("%s %d", fn.Name.Name, len(list))
						list = append(list, c)
					}
				}
			}
			return true
		})
	}
	return list
}

func moduleDir(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/buildkit").Output()
	if err != nil || len(bytes.TrimSpace(out)) == 0 {
		t.Skipf("no go command or no module cache here: %v", err)
	}
	return string(bytes.TrimSpace(out))
}

// literal is a string, []byte("...") or a variable that holds one.
func literal(e ast.Expr, texts map[string]string) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING || e.Kind == token.INT {
			if s, err := strconv.Unquote(e.Value); err == nil {
				return s, true
			}
			return e.Value, true
		}
	case *ast.Ident:
		s, ok := texts[e.Name]
		return s, ok
	case *ast.CallExpr:
		if _, conversion := e.Fun.(*ast.ArrayType); conversion {
			return literal(e.Args[0], texts)
		}
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "UnixOrWindows" {
			return literal(e.Args[0], texts)
		}
	}
	return "", false
}

func caseOf(e ast.Expr, texts map[string]string) (upstreamCase, bool) {
	var c upstreamCase
	for key, value := range fields(e) {
		switch key {
		case "Dockerfile":
			c.dockerfile, _ = literal(value, texts)
		case "DockerIgnore":
			c.ignore, _ = literal(value, texts)
		case "FrontendAttrs":
			for _, el := range value.(*ast.CompositeLit).Elts {
				kv := el.(*ast.KeyValueExpr)
				if k, _ := literal(kv.Key, nil); k == "build-arg:BUILDKIT_DOCKERFILE_CHECK" {
					c.check, _ = literal(kv.Value, nil)
				}
			}
		}
	}
	all := fields(e)
	list, ok := all["UnmarshalWarnings"] // of all stages
	if c.anywhere = ok; !ok {
		list, ok = all["Warnings"]
	}
	if ok {
		for _, el := range list.(*ast.CompositeLit).Elts {
			w := fields(el)
			rule, _ := literal(w["RuleName"], texts)
			text, _ := literal(w["Detail"], texts)
			line, ok := literal(w["Line"], texts)
			if !ok || text == "" {
				return c, false // made by code
			}
			if strings.Contains(text, "for CMD to") || strings.Contains(text, "Multiple CMD") {
				continue // CMD is a cluster instruction, and may be repeated
			}
			if c.anywhere {
				line = "0"
			}
			c.want = append(c.want, line+" "+rule+": "+text)
		}
	}
	slices.Sort(c.want)
	return c, c.dockerfile != ""
}

func fields(e ast.Expr) map[string]ast.Expr {
	if u, ok := e.(*ast.UnaryExpr); ok {
		e = u.X
	}
	m := map[string]ast.Expr{}
	if lit, ok := e.(*ast.CompositeLit); ok {
		for _, el := range lit.Elts {
			if kv, ok := el.(*ast.KeyValueExpr); ok {
				if k, ok := kv.Key.(*ast.Ident); ok {
					m[k.Name] = kv.Value
				}
			}
		}
	}
	return m
}

// TestUpstreamLinter runs BuildKit's own tests of its linter through keg's. What keg does not take at all is
// an error there and here.
func TestUpstreamLinter(t *testing.T) {
	list := upstream(t)
	if len(list) < 50 {
		t.Fatalf("only %d cases were found in BuildKit's tests", len(list))
	}
	ours := map[string]bool{}
	for _, r := range lint.Rules() {
		ours[r.Name] = !r.BuildKit
	}
	compared := 0
	for _, c := range list {
		t.Run(c.name, func(t *testing.T) {
			f, err := kubefile.Parse("Kubefile", strings.NewReader(c.dockerfile))
			if err != nil {
				t.Skipf("keg refuses this: %v", err)
			}
			o := lint.Options{Dockerfile: Lint, Platforms: []string{"linux/amd64"}}
			if c.check != "" {
				o.BuildArgs = map[string]string{"BUILDKIT_DOCKERFILE_CHECK": c.check}
			}
			if o.Context, err = lint.OpenContext(fstest.MapFS{".dockerignore": {Data: []byte(c.ignore)}, "Dockerfile": {}}, "Kubefile"); err != nil {
				t.Fatal(err)
			}
			res, err := lint.Lint(t.Context(), f, o)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range res.Findings {
				if c.anywhere {
					f.Line = 0
				}
				if !ours[f.Rule] {
					got = append(got, fmt.Sprintf("%d %s: %s", f.Line, f.Rule, f.Text))
				}
			}
			slices.Sort(got)
			compared++
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s\n(-BuildKit +keg)\n%s", c.dockerfile, d)
			}
		})
	}
	if compared < 40 {
		t.Errorf("only %d cases were compared", compared)
	}
}
