package runtime

import (
	"context"
	"io"
	"slices"
	"strings"
)

// initControlPlane makes the first control plane, out of a backup if there is one.
func initControlPlane(c *Cluster) []Batch {
	first := c.First()
	makeIt := c.Driver.Init
	if c.backup != nil {
		makeIt = func(c *Cluster) []Batch { return c.Driver.Restore(c, c.backup.open) }
	}
	return bracket(Batch{c.hook(first, "pre-init")}, makeIt(c), Batch{c.hook(first, "post-init")})
}

// Restart forgets what was done on a cluster that is no more: drivers call it right before they make a
// new one.
func (c *Cluster) Restart(ctx context.Context) error {
	for _, n := range c.ByRole(Master) {
		if n.Host == nil {
			continue
		}
		if err := n.Unmark(ctx, func(step string) bool {
			return step == DoneInit || isClusterStep(step)
		}); err != nil {
			return err
		}
	}
	return nil
}

// clusterSteps are the beginnings of steps that are done once in a cluster and not once on a host. Every
// control plane knows them, so that any of them may be replaced.
var clusterSteps = []string{doneStands, "app:", "cmds:", "hook:post-init:", "hook:pre-apps:", "hook:post-apps:"}

func isClusterStep(step string) bool {
	return slices.ContainsFunc(clusterSteps, func(p string) bool { return strings.HasPrefix(step, p) })
}

// done says whether a cluster step has ended well.
func (c *Cluster) done(step string) bool {
	return slices.ContainsFunc(c.ByRole(Master), func(n *Node) bool { return n.Done(step) })
}

// mark writes down on all control planes that a cluster step has ended well.
func (c *Cluster) mark(ctx context.Context, step string) error {
	for _, n := range c.ByRole(Master) {
		if n.Host == nil || n.failed != nil {
			continue
		}
		if err := n.Mark(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// joinMasters makes the other masters control planes, one after another: etcd must agree on each before
// the next comes.
func joinMasters(c *Cluster) []Batch {
	var all []Batch
	for _, n := range c.ByRole(Master) {
		if n == c.First() {
			continue
		}
		b := Batch{c.hook(n, "pre-join")}
		b = append(b, c.Driver.JoinMaster(c, n)...)
		b = append(b,
			n.On("name itself as the API", func(ctx context.Context, _ io.Writer) error { return c.names(ctx, n) }),
			n.On("wait until all control planes are well", func(ctx context.Context, _ io.Writer) error { return c.Gate(ctx) }),
			n.On("note what the cluster has done", func(ctx context.Context, _ io.Writer) error { return c.shareSteps(ctx, n) }),
			c.hook(n, "post-join"))
		all = append(all, b)
	}
	return all
}

// shareSteps tells a new control plane what the cluster has done.
func (c *Cluster) shareSteps(ctx context.Context, n *Node) error {
	missing := slices.DeleteFunc(slices.Clone(c.First().State.Done), func(s string) bool { return !isClusterStep(s) || n.Done(s) })
	if len(missing) == 0 {
		return ErrAlready
	}
	state := n.State
	state.Done = append(slices.Clone(state.Done), missing...)
	return n.setState(ctx, state)
}

// joinWorkers makes the other hosts nodes.
func joinWorkers(c *Cluster) []Batch {
	workers := c.ByRole(Worker)
	hooks := func(name string) Batch {
		return each(workers, func(n *Node) []Step { return []Step{c.hook(n, name)} })
	}
	return bracket(hooks("pre-join"), c.Driver.JoinWorkers(c, workers), hooks("post-join"))
}

func bracket(before Batch, between []Batch, after Batch) []Batch {
	all := append([]Batch{before}, between...)
	return append(all, after)
}

func network(c *Cluster) []Batch { return append(pluginApps(c), c.Driver.Network(c)...) }

// kubeconfig fetches the kubeconfig, for the operator alone to read.
func kubeconfig(c *Cluster) []Batch {
	return []Batch{{{Text: "write " + c.Kubeconfig, Do: func(ctx context.Context, _ io.Writer) error {
		data, err := c.ExternalKubeconfig(ctx)
		if err != nil {
			return err
		}
		return writePrivate(c.Kubeconfig, data)
	}}}}
}

// recordEnd writes down that the cluster stands.
func recordEnd(c *Cluster) []Batch {
	return []Batch{{{Text: "record that the cluster stands", Do: func(ctx context.Context, _ io.Writer) error {
		if err := c.mark(ctx, doneStands); err != nil {
			return err
		}
		return c.record(true)
	}}}}
}
