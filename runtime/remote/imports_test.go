package remote_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestImports: below runtime only this package speaks SSH and starts programs; and what works on its own
// host, runtime/node/host, starts programs there.
func TestImports(t *testing.T) {
	root := ".."
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), "_") {
			return fs.SkipDir // as Go does
		}
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		dir := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(path), root+string(filepath.Separator)))
		if dir == "remote" || strings.HasPrefix(dir, "remote/") || dir == "runtimetest/life" { // the last is an operator's shell
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			onHost := dir == "node/host" || strings.HasPrefix(dir, "node/host/")
			if name == "os/exec" && !onHost || strings.HasPrefix(name, "golang.org/x/crypto/ssh") {
				t.Errorf("%s imports %s: use runtime/remote", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
