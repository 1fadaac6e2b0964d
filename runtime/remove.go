package runtime

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// RemoveOptions say how hosts are taken off a cluster.
type RemoveOptions struct {
	// Dead are hosts that are given up: they may be out of reach, and what is on them stays there.
	Dead bool
}

// RemovePhases take some hosts off a cluster that goes on: workers first, then control planes one by
// one. The others of c.Nodes stay. Hosts that leave must not be all control planes.
func RemovePhases(leaving []*Node, o RemoveOptions) []Phase {
	for _, n := range leaving {
		n.leaving = true
	}
	mine := func(n *Node) bool { return n.leaving }
	var phases []Phase
	reach := func(title string, limit int, batches func(c *Cluster) []Batch) {
		phases = append(phases, &phase{title: title, limit: limit, batches: batches, tolerated: func(n *Node) bool { return o.Dead && mine(n) }})
	}
	phases = append(phases, &phase{title: "check request", limit: 1, batches: checkRemove})
	reach("connect", 30, connect)
	reach("send keg-node", 10, sendAgent)
	reach("lock", 30, lock)
	reach("gather facts", 30, gatherFacts)
	phases = append(phases,
		&phase{title: "validate", limit: 1, batches: validateRemove},
		&phase{title: "drain workers", limit: 10, batches: func(c *Cluster) []Batch { return c.drainLeaving(Worker) }},
		&phase{title: "remove workers", limit: 10, batches: func(c *Cluster) []Batch { return c.removeWorkers() }},
		&phase{title: "remove control planes", limit: 1, batches: func(c *Cluster) []Batch { return c.removeMasters() }},
		&phase{title: "tell the others", limit: 10, batches: tellOthers},
		&phase{title: "record", limit: 1, batches: recordLeft},
	)
	return phases
}

// checkRemove refuses what makes no sense before any host is reached.
func checkRemove(c *Cluster) []Batch {
	return []Batch{{{Text: "check what is asked for", Do: func(context.Context, io.Writer) error {
		if len(c.ByRole(Master)) == 0 {
			return judge([]Finding{{
				ID: "last-master", Severity: Fatal,
				Text: "no control plane would be left",
				Cure: fmt.Sprintf("leave one, or end the whole cluster with `keg reset --name %s`", c.Name),
			}})
		}
		return nil
	}}}}
}

func (c *Cluster) leaving(r Role) []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return !n.leaving || n.Role != r })
}

// validateRemove sees that the hosts are this cluster's, that somebody is there to ask, and that etcd
// goes on.
func validateRemove(c *Cluster) []Batch {
	return []Batch{{{Text: "see that the cluster goes on without them", Do: func(ctx context.Context, out io.Writer) error {
		c.settleAlive(ctx)
		var list []Finding
		for _, n := range c.Nodes {
			if n.failed != nil {
				fmt.Fprintf(out, "%s is given up: %v\n", n.Address, n.failed)
				continue
			}
			if n.State.UID != "" && (n.State.Cluster != c.Name || n.State.UID != c.UID) {
				list = append(list, Finding{
					Host: n.Address.String(), ID: "other-cluster", Severity: Fatal,
					Text: fmt.Sprintf("it belongs to cluster %q (UID %s), not to %q (UID %s)", n.State.Cluster, n.State.UID, c.Name, c.UID),
					Cure: "see `keg status`; a host that was made anew is removed with --force",
				})
			}
		}
		if first := c.First(); first == nil || !first.Made() {
			list = append(list, Finding{
				ID: "no-survivor", Severity: Fatal, Text: "none of the control planes that are to stay answers",
				Cure: "bring one of them back, or restore the cluster from a backup with keg restore",
			})
		}
		if err := judge(list); err != nil {
			return err
		}
		if err := c.recallSettings(ctx); err != nil {
			return err
		}
		if len(c.leaving(Master)) == 0 {
			return nil
		}
		members, err := c.Driver.Members(ctx, c)
		if err != nil {
			return err
		}
		err = checkQuorum(members, func(m Member) bool {
			return slices.ContainsFunc(c.leaving(Master), func(n *Node) bool {
				o, ok := memberOf([]Member{m}, n)
				return ok && o.ID == m.ID
			})
		})
		if err != nil {
			return judge([]Finding{{ID: "quorum", Severity: Fatal, Text: err.Error(), Cure: "bring the members of etcd back that do not answer, or remove those first with keg delete --force"}})
		}
		return nil
	}}}}
}

// drainLeaving moves pods off hosts that can be reached.
func (c *Cluster) drainLeaving(r Role) []Batch {
	return []Batch{each(c.leaving(r), func(n *Node) []Step { return []Step{c.drainStep(n)} })}
}

// drainStep is on the control plane that is asked, but belongs to the node.
func (c *Cluster) drainStep(n *Node) Step {
	return n.On("drain", func(ctx context.Context, out io.Writer) error {
		if n.failed != nil { // its pods cannot end, and kubectl would wait for them
			return ErrAlready
		}
		if _, err := c.apiNode(ctx, n); err != nil {
			if list, listErr := c.APINodes(ctx); listErr == nil && !slices.ContainsFunc(list, func(s NodeStatus) bool { return s.Name == n.Name }) {
				return ErrAlready
			}
			return err
		}
		return c.drain(ctx, n, out)
	})
}

// deleteNodeStep comes after the host's kubelet was stopped, which would register it again.
func (c *Cluster) deleteNodeStep(n *Node) Step {
	return c.First().On("delete node "+n.Name, func(ctx context.Context, _ io.Writer) error { return c.deleteNode(ctx, n) })
}

func (c *Cluster) removeWorkers() []Batch {
	// In batches of their own, so that the steps of one host stay in order though some are another host's.
	var stop, finish Batch
	for _, n := range c.leaving(Worker) {
		if n.failed == nil {
			stop = append(stop, c.takenOff(n)...)
			finish = append(finish, c.cleanSteps(n)...)
		}
	}
	var nodes Batch
	for _, n := range c.leaving(Worker) {
		nodes = append(nodes, c.deleteNodeStep(n))
	}
	return []Batch{stop, nodes, finish}
}

func (c *Cluster) cleanSteps(n *Node) []Step {
	return []Step{
		n.On("put back what was changed", func(ctx context.Context, _ io.Writer) error { return c.undoHost(ctx, n) }),
		n.On("remove keg-node", func(ctx context.Context, _ io.Writer) error { return c.forgetHost(ctx, n) }),
	}
}

// removeMasters takes control planes off one after another: its member leaves etcd, asked of one that
// stays, before anything on the host is stopped.
func (c *Cluster) removeMasters() []Batch {
	var all []Batch
	for _, n := range c.leaving(Master) {
		alive := n.failed == nil
		if alive {
			all = append(all, Batch{c.drainStep(n), c.cleanHook(n, "clean")})
		}
		all = append(all, Batch{c.First().On("take the member on "+n.Address.String()+" out of etcd", func(ctx context.Context, out io.Writer) error {
			return c.removeMember(ctx, n, out)
		})})
		if alive {
			all = append(all, Batch(c.Driver.Left(c, n)), append(Batch(c.Driver.Reset(c, n)), c.cleanHook(n, "post-clean")))
		}
		all = append(all, Batch{c.deleteNodeStep(n)})
		if alive {
			all = append(all, Batch(c.cleanSteps(n)))
		}
		all = append(all, Batch{c.First().On("wait until the other control planes are well", func(ctx context.Context, _ io.Writer) error { return c.Gate(ctx) })})
	}
	return all
}

// tellOthers lets the hosts that stay know who is left.
func tellOthers(c *Cluster) []Batch {
	if len(c.leaving(Master)) == 0 {
		return []Batch{each(c.ByRole(Worker), func(*Node) []Step { return nil })}
	}
	return []Batch{each(c.ByRole(Worker), c.balancerSteps)}
}

// recordLeft writes down who is left, and fetches the kubeconfig anew, which may have named a host that is gone.
func recordLeft(c *Cluster) []Batch {
	b := Batch{{Text: "record who is left", Do: func(context.Context, io.Writer) error { return c.forgetRecord(c.staying(), true) }}}
	if c.Kubeconfig == "" || len(c.leaving(Master)) == 0 {
		return []Batch{b}
	}
	return append([]Batch{b}, kubeconfig(c)...)
}

func (c *Cluster) undoHost(ctx context.Context, n *Node) error {
	r, err := n.Host.Undo(ctx)
	if err != nil {
		return err
	}
	n.reset.Restored, n.reset.Residue = r.Restored, r.Residue
	if len(r.Residue) > 0 {
		return &ResidueError{Residue: r.Residue}
	}
	return nil
}

func (c *Cluster) forgetHost(ctx context.Context, n *Node) error {
	err := n.Host.Forget(ctx)
	n.forgotten = err == nil
	return err
}
