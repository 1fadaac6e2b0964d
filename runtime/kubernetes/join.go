package kubernetes

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

// decideJoin says what is left to do for a worker: registered is whether the API has a node of its name.
func decideJoin(registered bool, paths []string) action {
	switch {
	case registered && slices.Contains(paths, kubeletConf):
		return skip
	case len(paths) == 0 && !registered:
		return create
	}
	return redo
}

// join is what the steps of one Join share.
type join struct {
	token token
	hash  string
	nodes []string // registered before
}

// JoinWorkers makes the workers nodes, with a token that lives no longer than the joins.
func (d Driver) JoinWorkers(c *runtime.Cluster, workers []*runtime.Node) []runtime.Batch {
	first := c.First()
	j := &join{}
	steps := runtime.Batch{}
	for _, n := range workers {
		steps = append(steps, startContainerd(c, n), n.On("join the cluster with kubeadm", func(ctx context.Context, out writer) error {
			return j.worker(ctx, c, n, out)
		}))
	}
	return []runtime.Batch{
		{first.On("make a join token", func(ctx context.Context, _ writer) error { return j.prepare(ctx, c, workers) })},
		steps,
		{first.On("delete the join token", func(ctx context.Context, _ writer) error {
			if j.token == "" {
				return runtime.ErrAlready
			}
			return j.end(ctx, c)
		})},
	}
}

// prepare makes the token, unless all workers have joined already.
func (j *join) prepare(ctx context.Context, c *runtime.Cluster, workers []*runtime.Node) error {
	list, err := c.APINodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range list {
		j.nodes = append(j.nodes, n.Name)
	}
	if !slices.ContainsFunc(workers, func(n *runtime.Node) bool {
		return !n.Done(runtime.DoneJoin) || !slices.Contains(j.nodes, n.Name)
	}) {
		return runtime.ErrAlready
	}
	return j.makeToken(ctx, c)
}

func (j *join) makeToken(ctx context.Context, c *runtime.Cluster) error {
	first := c.First()
	ca, err := fileOf(ctx, first, "/etc/kubernetes/pki/ca.crt")
	if err != nil {
		return err
	}
	if j.hash, err = caHash(ca); err != nil {
		return err
	}
	t := newToken()
	config, err := tokenConfig(t)
	if err != nil {
		return err
	}
	// What this prints is the token.
	if err := kubeadm(ctx, first, "token.yaml", config, io.Discard, "token", "create", "--kubeconfig", adminConf); err != nil {
		return err
	}
	j.token = t
	c.Defer(func(ctx context.Context) error { return j.end(ctx, c) })
	return nil
}

// end deletes the token, if it is still there: also when a join failed.
func (j *join) end(ctx context.Context, c *runtime.Cluster) error {
	if j.token == "" {
		return nil
	}
	if err := deleteToken(ctx, c, j.token); err != nil {
		return err
	}
	j.token = ""
	return nil
}

func (j *join) worker(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) error {
	if err := clearWay(ctx, n); err != nil {
		return err
	}
	paths, err := existing(ctx, n.Runner, traces...)
	if err != nil {
		return err
	}
	what := decideJoin(slices.Contains(j.nodes, n.Name), paths)
	if what == skip {
		if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}}); err != nil {
			return err
		}
		if err := n.Mark(ctx, runtime.DoneJoin); err != nil {
			return err
		}
		return runtime.ErrAlready
	}
	// By this the next run knows that it needs a token.
	if err := n.Unmark(ctx, func(s string) bool { return s == runtime.DoneJoin }); err != nil {
		return err
	}
	if j.token == "" {
		return fmt.Errorf("joining: the host says that it joined before, but %s is not as it was left; run again", kubeletConf)
	}
	if what == redo {
		fmt.Fprintln(out, "taking back what an earlier run began")
		if err := kubeadmReset(ctx, n, out); err != nil {
			return err
		}
		if err := deleteNode(ctx, c, n); err != nil {
			return err
		}
	}
	if err := j.run(ctx, c, n, out); err != nil {
		return err
	}
	return n.Mark(ctx, runtime.DoneJoin)
}
