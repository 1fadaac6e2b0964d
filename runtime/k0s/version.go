package k0s

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// VersionError says that the k0s in an image is not the one that its Metadata names.
type VersionError struct{ Metadata, Program string }

// Error names both.
func (e *VersionError) Error() string {
	return fmt.Sprintf("comparing bin/k0s of the image with its Metadata: the program is %s, Metadata says %s; build the image with the right one", e.Program, e.Metadata)
}

// checkHost is a step before anything of k0s starts on a host: its program is the one that the image
// names, and names resolve without any name service, as k0s is linked.
func checkHost(c *runtime.Cluster, n *runtime.Node) runtime.Step {
	return n.On("see that k0s is the version that the image names", func(ctx context.Context, _ writer) error {
		out, err := remote.Output(ctx, n.Runner, node.Rootfs+"/bin/k0s", "version")
		if err != nil {
			return err
		}
		if err := compareVersion(string(out), wantedVersion(c, n)); err != nil {
			return err
		}
		if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"grep", "-Eq", `^[^#]*[[:space:]]localhost([[:space:]]|$)`, "/etc/hosts"}}); err != nil {
			return fmt.Errorf("looking for localhost: k0s asks no name service for it; add the line \"127.0.0.1 localhost\" to /etc/hosts: %w", err)
		}
		return nil
	})
}

// wantedVersion is what Metadata says: all of the version of k0s, or that of its Kubernetes alone.
func wantedVersion(c *runtime.Cluster, n *runtime.Node) string {
	if c.Image != nil {
		if v := c.Image.Platforms["linux/"+n.Facts.Arch].Metadata.Version; strings.Contains(v, "+") {
			return v
		}
	}
	return c.KubeVersion()
}

var versionForm = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+\S*$`)

// compareVersion reads what `k0s version` answers, such as "v1.37.2+k0s.0".
func compareVersion(answer, want string) error {
	full := strings.TrimSpace(answer)
	if !versionForm.MatchString(full) {
		return fmt.Errorf("asking bin/k0s of the image for its version: it answers %.100q", full)
	}
	got := full
	if !strings.Contains(want, "+") {
		got, _, _ = strings.Cut(full, "+")
	}
	if want != "" && got != want {
		return &VersionError{Metadata: want, Program: full}
	}
	return nil
}

// minorOf is the minor version in "v1.37.2"; 0 if there is none.
func minorOf(version string) int {
	parts := strings.Split(version, ".")
	if len(parts) < 2 {
		return 0
	}
	minor, _ := strconv.Atoi(parts[1])
	return minor
}
