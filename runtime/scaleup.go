package runtime

import (
	"context"
	"io"
	"slices"

	"github.com/clusterimage/keg/runtime/node"
)

// Steps that HostState.Done knows.
const (
	// doneStands is marked once a run has gone through: hosts that come later are added to a cluster.
	doneStands = "stands"
	// doneScaleUp is on the control plane that was asked from the hook pre-scaleup to post-scaleup.
	doneScaleUp = "scale-up"
)

// growing says whether hosts are to be added to a cluster that stands.
func (c *Cluster) growing() bool {
	first := c.First()
	return first != nil && first.Made() && c.done(doneStands) && slices.ContainsFunc(c.staying(), func(n *Node) bool {
		return !n.Done(DoneInit) && !n.Done(DoneJoin)
	})
}

// beforeScaleUp runs the hook pre-scaleup before hosts are added, each time.
func (c *Cluster) beforeScaleUp() []Batch {
	if !c.growing() {
		return nil
	}
	first := c.First()
	return []Batch{{first.On("run scripts/pre-scaleup.sh, if there is one", func(ctx context.Context, out io.Writer) error {
		if first.Done(doneScaleUp) {
			return ErrAlready // of a run that was cut off
		}
		if _, err := c.runHook(ctx, first, node.HookRequest{Name: "pre-scaleup"}, out); err != nil {
			return err
		}
		return first.Mark(ctx, doneScaleUp)
	})}}
}

// readyAdded waits for every node, and runs the hook post-scaleup where hosts were added.
func readyAdded(c *Cluster) []Batch {
	all := ready(c)
	if !c.done(doneScaleUp) {
		return all
	}
	first := c.First()
	return append(all, Batch{first.On("run scripts/post-scaleup.sh, if there is one", func(ctx context.Context, out io.Writer) error {
		if _, err := c.runHook(ctx, first, node.HookRequest{Name: "post-scaleup"}, out); err != nil {
			return err
		}
		for _, n := range c.ByRole(Master) {
			if n.Host == nil || n.failed != nil {
				continue
			}
			if err := n.Unmark(ctx, func(step string) bool { return step == doneScaleUp }); err != nil {
				return err
			}
		}
		return nil
	})})
}
