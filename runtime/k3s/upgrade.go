package k3s

import (
	"context"

	"github.com/clusterimage/keg/runtime"
)

// UpgradeControlPlane refuses an image that does not fit before pods are moved: its program, keys that its
// k3s or keg does not know, settings that cannot change.
func (d Driver) UpgradeControlPlane(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		checkVersion(c, n),
		n.On("compare its configuration with the cluster's", func(ctx context.Context, _ writer) error {
			_, err := configText(ctx, c, n, n.Done(runtime.DoneInit))
			return err
		}),
	}
}

// Restart makes the new k3s run. Containers go on meanwhile. An agent's program is compared here, after
// its host was drained and before anything of it starts.
func (d Driver) Restart(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		checkVersion(c, n),
		n.On("restart k3s", func(ctx context.Context, _ writer) error {
			if _, err := d.write(ctx, c, n, n.Done(runtime.DoneInit)); err != nil {
				return err
			}
			return start(ctx, n, true)
		}),
		waitFor(c, n),
	}
}

// waitFor waits for k3s on a host of either role.
func waitFor(c *runtime.Cluster, n *runtime.Node) runtime.Step {
	return n.On("wait for k3s", func(ctx context.Context, _ writer) error { return waitAny(ctx, c, n) })
}

func waitAny(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	if n.Role == runtime.Worker {
		return waitAgent(ctx, c, n)
	}
	return waitServer(ctx, c, n)
}

// restart is for a host whose files have changed.
func restart(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	if err := start(ctx, n, true); err != nil {
		return err
	}
	return waitAny(ctx, c, n)
}
