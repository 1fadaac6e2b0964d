package k3s

import (
	"context"
	"fmt"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// VersionError says that the k3s in an image is not the one that its Metadata names.
type VersionError struct{ Metadata, Program string }

// Error names both.
func (e *VersionError) Error() string {
	return fmt.Sprintf("comparing bin/k3s of the image with its Metadata: the program is %s, Metadata says %s; build the image with the right one", e.Program, e.Metadata)
}

// checkVersion is a step before anything starts.
func checkVersion(c *runtime.Cluster, n *runtime.Node) runtime.Step {
	return n.On("see that k3s is the version that the image names", func(ctx context.Context, _ writer) error {
		out, err := remote.Output(ctx, n.Runner, node.Rootfs+"/bin/k3s", "--version")
		if err != nil {
			return err
		}
		return compareVersion(string(out), c.KubeVersion())
	})
}

// compareVersion reads what `k3s --version` answers: "k3s version v1.37.2+k3s1 (hash)" and more lines. A
// Metadata without a build, "v1.37.2", is of any.
func compareVersion(answer, want string) error {
	line, _, _ := strings.Cut(answer, "\n")
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "k3s" || words[1] != "version" {
		return fmt.Errorf("asking bin/k3s of the image for its version: it answers %.100q", line)
	}
	got := words[2]
	if !strings.Contains(want, "+") {
		got, _, _ = strings.Cut(got, "+")
	}
	if want != "" && got != want {
		return &VersionError{Metadata: want, Program: words[2]}
	}
	return nil
}
