package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
)

// k3sBuild is what the stand-in adds to the version of Kubernetes.
const k3sBuild = "+k3s1"

// K3sContext prepares the build context of a k3s base image in dir: the tree in basefs/k3s, the program,
// and the image that every pod begins with. The program is that of $KEG_K3S, or of $KEG_K3S_BEFORE for the version
// before; where they are not set, the stand-in of testdata/fake-k3s with the real programs in it.
func K3sContext(ctx context.Context, dir string, p Programs) error {
	if err := os.CopyFS(filepath.Join(dir, "etc"), os.DirFS(filepath.Join(moduleRoot(), "basefs", "k3s", "etc"))); err != nil {
		return fmt.Errorf("copying the tree: %w", err)
	}
	program, version := os.Getenv("KEG_K3S"), p.version+k3sBuild
	if p.version == KubeVersionBefore {
		program = os.Getenv("KEG_K3S_BEFORE")
	}
	to := filepath.Join(dir, "bin", "k3s")
	if program == "" {
		if err := standIn(ctx, to, "fake-k3s", version, p); err != nil {
			return err
		}
	} else {
		out, err := exec.CommandContext(ctx, program, "--version").Output()
		words := strings.Fields(string(out))
		if err != nil || len(words) < 3 {
			return fmt.Errorf("asking %s for its version: %w", program, err)
		}
		version = words[2]
		if err := link(program, to); err != nil {
			return err
		}
	}
	metadata, err := json.Marshal(map[string]string{"version": version, "arch": goruntime.GOARCH, "ClusterRuntime": "k3s"})
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"Metadata": string(metadata), "Kubefile": "FROM scratch\nCOPY . /\n", ".dockerignore": "Kubefile\n.dockerignore\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return writeImages(ctx, filepath.Join(dir, "images", "k3s.tar"), []image{{ref: "docker.io/rancher/mirrored-pause:3.6", programs: []string{p.Path("pause")}}})
}

// standIn builds a stand-in of testdata with the real programs in it.
func standIn(ctx context.Context, to, name, version string, p Programs) error {
	tmp, err := os.MkdirTemp("", "keg-e2e-standin")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	program := filepath.Join(tmp, name)
	pack := []string{"run", "./internal/standin/pack", "-programs", p.dir, "-o", to}
	if p.version == KubeVersionBefore {
		pack = append(pack, "-before")
	}
	for _, args := range [][]string{
		{"build", "-trimpath", "-ldflags", "-s -w -X main.version=" + version, "-o", program, "./testdata/" + name},
		append(pack, program),
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Env = moduleRoot(), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w: %s", name, err, out)
		}
	}
	return nil
}
