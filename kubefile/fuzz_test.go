package kubefile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse holds that no text panics, that every error has a place in the text, and that what was
// parsed can be resolved, twice with the same result.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*/Kubefile", "testdata/bad/*/Kubefile"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse("Kubefile", bytes.NewReader(text))
		if err != nil {
			placed(t, text, err)
			return
		}
		v := Vars{Platform: "linux/arm64", BuildPlatform: "linux/amd64", BuildArgs: map[string]string{"A": "a b", "VERSION": "1.30"}}
		file.UnusedBuildArgs(v)
		resolved, err := file.ResolveFrom(v)
		if err != nil {
			placed(t, text, err)
			resolved = file
		}
		for _, s := range resolved.Stages {
			once, _, err := s.Resolve(v, []string{"PATH=/bin"})
			if err != nil {
				placed(t, text, err)
				continue
			}
			resolved.Executes(once)
			if _, _, err := once.Resolve(v, []string{"PATH=/bin"}); err != nil {
				t.Errorf("resolved once, but not twice: %v", err)
			}
		}
	})
}

func placed(t *testing.T, text []byte, err error) {
	t.Helper()
	lines := bytes.Count(text, []byte("\n")) + 1
	for _, e := range each(err) {
		var at *Error
		if !errors.As(e, &at) {
			t.Fatalf("not an *Error: %#v", e)
		}
		if at.Pos.Line < 1 || at.Pos.Line > lines || at.Pos.Column < 1 {
			t.Errorf("place %v in %d lines: %v", at.Pos, lines, e)
		}
		if at.Error() == "" {
			t.Error("an empty error")
		}
	}
}
