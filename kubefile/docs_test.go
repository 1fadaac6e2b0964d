package kubefile

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
)

var (
	example  = regexp.MustCompile("(?s)```dockerfile\n(.*?)```")
	mistaken = regexp.MustCompile("(?s)```dockerfile wrong\n(.*?)```\n\n```text\n(.*?)```")
)

// TestDocs holds that docs/kubefile.md has a section for every instruction, that its examples are read
// and that its errors are the real ones.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/kubefile.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range instructionNames() {
		if !regexp.MustCompile(`(?m)^### .*\b` + name + `\b`).Match(page) {
			t.Errorf("no section about %s", name)
		}
	}
	vars := Vars{Platform: "linux/arm64", BuildPlatform: "linux/amd64"}
	resolve := func(text string) error {
		f, err := Parse("Kubefile", strings.NewReader(text))
		if err != nil {
			return err
		}
		if f, err = f.ResolveFrom(vars); err != nil {
			return err
		}
		for _, s := range f.Stages {
			_, _, stageErr := s.Resolve(vars, nil)
			err = errors.Join(err, stageErr)
		}
		return err
	}
	good := example.FindAllSubmatch(page, -1)
	if len(good) < 15 {
		t.Errorf("%d examples", len(good))
	}
	for _, m := range good {
		if err := resolve(string(m[1])); err != nil {
			t.Errorf("%s\n%v", m[1], err)
		}
	}
	bad := mistaken.FindAllSubmatch(page, -1)
	if len(bad) == 0 {
		t.Error("no example of an error")
	}
	for _, m := range bad {
		if err := resolve(string(m[1])); err == nil || err.Error()+"\n" != string(m[2]) {
			t.Errorf("%s\n%v", m[1], err)
		}
	}
}
