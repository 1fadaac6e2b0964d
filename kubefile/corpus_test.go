package kubefile

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// stricter are files of BuildKit's corpus that keg refuses, and what it says: BuildKit's parser takes them, its build
// does not, or does what nobody meant.
var stricter = map[string]string{
	"brimstone-docker-consul":                "CMD: the array has no command",
	"env":                                    "ENV: cannot read 'a\\'b'",
	"escapes":                                "ADD: cannot read",
	"flags":                                  "unknown flag: --user",
	"health":                                 "HEALTHCHECK requires at least one argument",
	"jeztah-invalid-json-json-inside-string": "CMD before the first FROM",
	"jeztah-invalid-json-json-inside-string-double": "CMD before the first FROM",
	"jeztah-invalid-json-single-quotes":             "CMD before the first FROM",
	"jeztah-invalid-json-unterminated-bracket":      "CMD before the first FROM",
	"jeztah-invalid-json-unterminated-string":       "CMD before the first FROM",
	"json": "CMD before the first FROM",
}

// corpus are the directories of one kind of test files in BuildKit's module.
func corpus(t *testing.T, kind string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/moby/buildkit/frontend/dockerfile/parser").Output()
	if err != nil {
		t.Skipf("no go command here: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), kind, "*", "Dockerfile"))
	if err != nil || len(files) == 0 {
		t.Skipf("BuildKit's module has no test files here: %v", err)
	}
	return files
}

// TestUpstreamCorpus reads what BuildKit's own parser tests read: the same instructions at the same lines, or one of
// the errors that are known.
func TestUpstreamCorpus(t *testing.T) {
	for _, file := range corpus(t, "testfiles") {
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			ast, err := parser.Parse(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			f, err := Parse("Kubefile", bytes.NewReader(text))
			if err != nil {
				placed(t, text, err)
				if want, ok := stricter[name]; !ok || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
				return
			}
			if stricter[name] != "" {
				t.Errorf("accepted; the list says: %s", stricter[name])
			}
			var want, got []int
			for _, n := range ast.AST.Children {
				want = append(want, n.StartLine, n.EndLine)
			}
			for _, a := range f.Args {
				got = append(got, a.Pos().Line, a.EndLine())
			}
			for _, s := range f.Stages {
				got = append(got, s.From.Line, s.EndLine())
				for _, in := range s.Instructions {
					got = append(got, in.Pos().Line, in.EndLine())
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("lines %v, BuildKit has %v", got, want)
			}
		})
	}
}

func TestUpstreamNegativeCorpus(t *testing.T) {
	for _, file := range corpus(t, "testfiles-negative") {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse("Kubefile", bytes.NewReader(text))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			placed(t, text, err)
		})
	}
}
