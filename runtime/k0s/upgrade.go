package k0s

import (
	"context"

	"github.com/clusterimage/keg/runtime"
)

// UpgradeControlPlane refuses an image that does not fit before pods are moved: its program, its
// configuration, settings that cannot change, images that it lacks.
func (d Driver) UpgradeControlPlane(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{checkHost(c, n), checkImages(c, n)}
}

// Restart makes the new k0s run: flags may have changed, so it writes its service again. Containers go on
// meanwhile.
func (d Driver) Restart(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		checkHost(c, n),
		n.On("restart k0s", func(ctx context.Context, _ writer) error {
			if _, err := write(ctx, c, n, creator(n)); err != nil {
				return err
			}
			return start(ctx, n, true)
		}),
		waitFor(c, n),
	}
}

// restart is for a host whose files have changed.
func restart(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	if err := start(ctx, n, true); err != nil {
		return err
	}
	return waitAny(ctx, c, n)
}
