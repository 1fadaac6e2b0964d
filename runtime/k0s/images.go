package k0s

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// checkImages asks k0s which images it is going to start, and compares with those that the cluster image
// embeds: nobody is asked outside. Without the image of pods' first process no pod would start; without
// another one, only some would wait.
func checkImages(c *runtime.Cluster, n *runtime.Node) runtime.Step {
	return n.On("see that the image embeds what k0s starts", func(ctx context.Context, out writer) error {
		if c.Image == nil {
			return runtime.ErrAlready
		}
		text, err := configText(ctx, c, n)
		if err != nil {
			return err
		}
		var list bytes.Buffer
		if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{node.Rootfs + "/bin/k0s", "airgap", "list-images", "--config", "-"}, Stdin: bytes.NewReader(text), Stdout: &list}); err != nil {
			return fmt.Errorf("asking k0s for its images: %w", err)
		}
		var missing []string
		for name := range strings.FieldsSeq(list.String()) {
			if slices.ContainsFunc(c.Image.Index.Embedded, func(e clusterimage.Embedded) bool { return e.Name == name }) {
				continue
			}
			repository, _, _ := strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ":")
			if repository == "pause" {
				return &MissingImageError{Name: name}
			}
			if !slices.Contains(words(c.Env(n)["K0S_DISABLE"]), partOf[repository]) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			fmt.Fprintf(out, "the image does not embed %s: pods of these will wait for ever, unless K0S_DISABLE leaves them out\n", strings.Join(missing, ", "))
		}
		return nil
	})
}

// partOf are the parts of k0s whose images are listed also where they are disabled.
var partOf = map[string]string{
	"apiserver-network-proxy-agent": "konnectivity-server", "coredns": "coredns", "kube-proxy": "kube-proxy", "metrics-server": "metrics-server",
}

// MissingImageError says that a cluster image lacks an image without which nothing starts.
type MissingImageError struct{ Name string }

// Error names it.
func (e *MissingImageError) Error() string {
	return fmt.Sprintf("looking for %s in the image: it does not embed this image of pods' first process, so no pod would start; add what `k0s airgap list-images` prints to imageList and build it again", e.Name)
}
