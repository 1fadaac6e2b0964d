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

// k0sBuild is what the stand-in adds to the version of Kubernetes.
const k0sBuild = "+k0s.0"

// K0sContext prepares the build context of a k0s base image in dir: the tree in basefs/k0s, the program,
// and the image that every pod begins with. The program is that of $KEG_K0S, or of $KEG_K0S_BEFORE for the version
// before; where they are not set, the stand-in of testdata/fake-k0s with the real programs in it.
func K0sContext(ctx context.Context, dir string, p Programs) error {
	if err := os.CopyFS(filepath.Join(dir, "etc"), os.DirFS(filepath.Join(moduleRoot(), "basefs", "k0s", "etc"))); err != nil {
		return fmt.Errorf("copying the tree: %w", err)
	}
	program, version := os.Getenv("KEG_K0S"), p.version+k0sBuild
	if p.version == KubeVersionBefore {
		program = os.Getenv("KEG_K0S_BEFORE")
	}
	to := filepath.Join(dir, "bin", "k0s")
	if program == "" {
		if err := standIn(ctx, to, "fake-k0s", version, p); err != nil {
			return err
		}
	} else {
		out, err := exec.CommandContext(ctx, program, "version").Output()
		if err != nil {
			return fmt.Errorf("asking %s for its version: %w", program, err)
		}
		version = strings.TrimSpace(string(out))
		if err := link(program, to); err != nil {
			return err
		}
	}
	pause, err := k0sPause(ctx, to)
	if err != nil {
		return err
	}
	metadata, err := json.Marshal(map[string]string{"version": version, "arch": goruntime.GOARCH, "ClusterRuntime": "k0s"})
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"Metadata": string(metadata), "Kubefile": "FROM scratch\nCOPY . /\n", ".dockerignore": "Kubefile\n.dockerignore\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return writeImages(ctx, filepath.Join(dir, "images", "k0s.tar"), []image{{ref: pause, programs: []string{p.Path("pause")}}})
}

// k0sPause is the name of the image that pods of a k0s begin with.
func k0sPause(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "airgap", "list-images").Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its images: %w", program, err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if strings.Contains(name, "/pause:") {
			return name, nil
		}
	}
	return "", fmt.Errorf("asking %s for its images: it names no pause: %.200s", program, out)
}
