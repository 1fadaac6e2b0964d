package runtime

import (
	"context"
	"io"
	"strings"
)

// initControlPlane makes the first control plane.
func initControlPlane(c *Cluster) []Batch {
	first := c.First()
	return bracket(Batch{c.hook(first, "pre-init")}, c.Driver.Init(c), Batch{c.hook(first, "post-init")})
}

// Restart forgets on the first control plane what was done on a cluster that is no more: drivers call
// it right before they make a new one there.
func (c *Cluster) Restart(ctx context.Context) error {
	return c.First().Unmark(ctx, func(step string) bool {
		for _, p := range []string{"app:", "cmds:", "hook:post-init:", "hook:pre-apps:", "hook:post-apps:"} {
			if strings.HasPrefix(step, p) {
				return true
			}
		}
		return step == doneInit
	})
}

// joinWorkers makes the other hosts nodes.
func joinWorkers(c *Cluster) []Batch {
	workers := c.ByRole(Worker)
	hooks := func(name string) Batch {
		return each(workers, func(n *Node) []Step { return []Step{c.hook(n, name)} })
	}
	return bracket(hooks("pre-join"), c.Driver.Join(c), hooks("post-join"))
}

func bracket(before Batch, between []Batch, after Batch) []Batch {
	all := append([]Batch{before}, between...)
	return append(all, after)
}

func network(c *Cluster) []Batch { return append(pluginApps(c), c.Driver.Network(c)...) }

func ready(c *Cluster) []Batch { return c.Driver.Ready(c) }

// kubeconfig fetches the kubeconfig, for the operator alone to read.
func kubeconfig(c *Cluster) []Batch {
	return []Batch{{{Text: "write " + c.Kubeconfig, Do: func(ctx context.Context, _ io.Writer) error {
		data, err := c.Driver.Kubeconfig(ctx, c)
		if err != nil {
			return err
		}
		return writePrivate(c.Kubeconfig, data)
	}}}}
}

// recordEnd writes down that the cluster stands.
func recordEnd(c *Cluster) []Batch {
	return []Batch{{{Text: "record that the cluster stands", Do: func(context.Context, io.Writer) error { return c.record(true) }}}}
}
