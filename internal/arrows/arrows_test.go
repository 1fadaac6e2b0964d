// Package arrows holds no code: its test keeps the imports of keg's packages as the design wants them.
package arrows

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/clusterimage/keg/"

// mayImport lists for each room which others its packages may import directly. A name stands for the
// package and all below it, but for longer names that are listed as well.
var mayImport = map[string][]string{
	"internal/progress":       {},
	"internal/atomicfile":     {},
	"internal/lockfile":       {},
	"internal/compression":    {},
	"internal/ctxio":          {},
	"internal/writeback":      {},
	"imagestore/clusterimage": {},
	"imagestore/unpack":       {"internal/progress", "internal/atomicfile", "internal/lockfile", "internal/writeback"},
	"kubefile":                {},
	"basefs":                  {},
	"imagestore":              {"imagestore/clusterimage", "imagestore/unpack", "internal/progress", "internal/atomicfile", "internal/lockfile", "internal/compression", "internal/ctxio", "internal/writeback"},
	"builder":                 {"builder/pack", "builder/discover", "builder/lock", "imagestore", "imagestore/clusterimage", "kubefile", "basefs", "internal/progress", "internal/compression", "internal/ctxio"},
	"builder/pack":            {},
	"builder/contextdir":      {"imagestore", "internal/compression", "internal/ctxio"},
	"builder/discover":        {"basefs", "imagestore"},
	"builder/lock":            {"imagestore", "imagestore/clusterimage", "internal/atomicfile"},
	"builder/buildkit":        {"builder", "kubefile", "imagestore", "internal/progress", "internal/lockfile"},
	"runtime/remote":          {"internal/progress", "internal/atomicfile", "internal/lockfile"},
	"runtime/pki":             {},
	"runtime/node":            {"runtime/remote", "imagestore/clusterimage", "internal/progress"},
	"runtime/node/balancer":   {"runtime/node"},
	"runtime/node/vip":        {"runtime/node", "internal/atomicfile"},
	"runtime/node/host":       {"runtime/node", "runtime/node/balancer", "runtime/node/vip", "imagestore", "imagestore/unpack", "imagestore/clusterimage", "basefs", "internal/progress", "internal/atomicfile", "internal/lockfile"},
	"runtime":                 {"basefs", "imagestore/clusterimage", "runtime/remote", "runtime/node", "runtime/pki", "internal/progress", "internal/atomicfile"},
	"runtime/runtimetest":     {"runtime", "runtime/node", "internal/labtest"},
	"internal/labtest":        {},
	"runtime/kubernetes":      {"runtime", "runtime/remote", "runtime/node", "basefs", "imagestore/clusterimage"},
	"runtime/k3s":             {"runtime", "runtime/remote", "runtime/node", "basefs", "imagestore/clusterimage"},
	"runtime/k0s":             {"runtime", "runtime/remote", "runtime/node", "basefs", "imagestore/clusterimage"},
	"cmd/keg-node":            {"runtime/node", "runtime/node/host"},
}

// neverDepends lists what packages may not have among their dependencies, at any distance.
var neverDepends = map[string][]string{
	"kubefile":     {"google.golang.org/grpc"},
	"runtime":      {"github.com/moby/buildkit", module + "builder"},
	"cmd/keg-node": {"github.com/moby/buildkit", "golang.org/x/crypto/ssh", "helm.sh", "k8s.io", "github.com/spf13/cobra", module + "builder", module + "imagestore/transfer"},
	"imagestore":   {"github.com/moby/buildkit", "golang.org/x/crypto/ssh"},
	"basefs":       {"github.com/moby/buildkit", "golang.org/x/crypto/ssh"},
}

type pkg struct {
	ImportPath    string
	Imports, Deps []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// room is the longest name in mayImport that path is in, or "".
func room(path string) string {
	path = strings.TrimPrefix(path, module)
	best := ""
	for name := range mayImport {
		if within(path, name) && len(name) > len(best) {
			best = name
		}
	}
	return best
}

// allowed: a room may import itself, and rooms that it lists.
func allowed(from, to string) bool {
	return room(to) == from || slices.Contains(mayImport[from], room(to))
}

func within(path, name string) bool { return path == name || strings.HasPrefix(path, name+"/") }

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		from := room(p.ImportPath)
		if from == "" {
			continue // cmd/keg knows everybody; test support and tools are nobody's dependency (below)
		}
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, module) {
				continue
			}
			to := strings.TrimPrefix(imported, module)
			if !allowed(from, to) {
				t.Errorf("%s imports %s: %s may import %v", strings.TrimPrefix(p.ImportPath, module), to, from, mayImport[from])
			}
			if room(to) == "" {
				t.Errorf("%s imports %s, which is test support, a tool or a command", strings.TrimPrefix(p.ImportPath, module), to)
			}
		}
	}
}

func TestDependencies(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		for name, banned := range neverDepends {
			if !within(path, name) {
				continue
			}
			for _, dep := range p.Deps {
				if slices.ContainsFunc(banned, func(b string) bool { return within(dep, b) }) {
					t.Errorf("%s depends on %s", path, dep)
				}
			}
		}
	}
}

// TestSolver holds that nothing but builder/buildkit knows BuildKit's worker.
func TestSolver(t *testing.T) {
	for _, p := range packages(t) {
		if strings.HasPrefix(p.ImportPath, module+"builder/buildkit") {
			continue
		}
		for _, imported := range p.Imports {
			if within(imported, "github.com/moby/buildkit/worker") || within(imported, "github.com/moby/buildkit/solver") || within(imported, "github.com/moby/buildkit/client") {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
		}
	}
}
