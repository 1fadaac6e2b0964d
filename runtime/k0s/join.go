package k0s

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clusterimage/keg/runtime"
)

// JoinMaster makes one more control plane. One whose join was cut off after its etcd had joined goes on
// by itself once k0s runs again; before that, it begins anew.
func (d Driver) JoinMaster(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		checkHost(c, n),
		nameTools(n),
		n.On("join the cluster as a controller of k0s", func(ctx context.Context, out writer) error {
			goOn, err := d.canGoOn(ctx, c, n, out)
			if err != nil {
				return err
			}
			if goOn {
				return keepRunning(ctx, c, n)
			}
			return d.joinController(ctx, c, n, out)
		}),
		n.On("wait for its API and its member of etcd", func(ctx context.Context, _ writer) error {
			if err := waitController(ctx, c, n); err != nil {
				return err
			}
			if err := waitMember(ctx, c, n); err != nil {
				return err
			}
			if err := spend(ctx, c, n); err != nil {
				return err
			}
			return n.Mark(ctx, runtime.DoneJoin)
		}),
	}
}

// canGoOn judges by the facts whether a host is part of the cluster. What is left of a join that was cut off
// is taken back.
func (d Driver) canGoOn(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) (bool, error) {
	found, err := n.Existing(ctx, traces...)
	if err != nil {
		return false, err
	}
	if n.Made() && !found[etcdData] {
		return false, errLost
	}
	same := false
	if len(found) > 0 {
		if same, err = n.SameFile(ctx, c.First(), caCert); err != nil {
			return false, err
		}
	}
	if n.Made() && !same {
		return false, fmt.Errorf("joining: the data of k0s in %s is of another cluster: its CA is not that of %s; take the host out with keg delete --force, and name it again", dataDir, c.First().Address)
	}
	if n.Made() {
		return true, nil
	}
	members, err := listMembers(ctx, c)
	if err != nil {
		return false, err
	}
	listed := slices.ContainsFunc(members, func(m runtime.Member) bool { return m.Address == n.IP })
	if same && found[etcdData] && listed {
		return true, nil
	}
	if len(found) > 0 {
		fmt.Fprintln(out, "taking back what an earlier run began")
		if err := wipe(ctx, n); err != nil {
			return false, err
		}
	}
	if listed { // it never voted, or it is of a host that was made anew
		if err := leaveEtcd(ctx, c, n.IP); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (d Driver) joinController(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) error {
	if err := clearName(ctx, c, n, out); err != nil {
		return err
	}
	if err := forgetController(ctx, c, n.Name); err != nil { // k0s takes its word for the new member's
		return err
	}
	t, err := controllerToken(ctx, c)
	if err != nil {
		return err
	}
	if err := putToken(ctx, n, t); err != nil {
		return err
	}
	stale, err := write(ctx, c, n, false)
	if err != nil {
		return err
	}
	return start(ctx, n, stale)
}

// waitMember waits until etcd has taken a control plane in for good.
func waitMember(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	return runtime.Wait(ctx, 5*time.Minute, "the member on "+n.Name+" to join etcd", func(ctx context.Context) error {
		members, err := listMembers(ctx, c)
		if err != nil {
			return err
		}
		for _, m := range members {
			if m.Address == n.IP && !m.Learner {
				return nil
			}
		}
		return errors.New("it has not joined yet")
	})
}

// clearName forgets the node that a host was before it was installed anew. A node that lives is somebody
// else's.
func clearName(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) error {
	list, err := c.APINodes(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(s runtime.NodeStatus) bool { return s.Name == n.Name })
	if i < 0 {
		return nil
	}
	if s := list[i]; s.Ready && s.Address != n.IP {
		return fmt.Errorf("joining: the cluster has a node %q already, at %s; give this host another name: hostnamectl set-hostname NAME", n.Name, s.Address)
	}
	fmt.Fprintf(out, "forgetting the node %s that was before\n", n.Name)
	_, err = kubectl(ctx, c, "delete", "node", n.Name, "--ignore-not-found", "--timeout=60s")
	return err
}

// JoinWorkers makes the workers nodes. They share a token, which is worth nothing once all have joined.
func (d Driver) JoinWorkers(c *runtime.Cluster, workers []*runtime.Node) []runtime.Batch {
	t := &workerToken{}
	b := runtime.Batch{}
	for _, n := range workers {
		b = append(b, checkHost(c, n),
			n.On("join the cluster as a worker of k0s", func(ctx context.Context, out writer) error { return d.joinWorker(ctx, c, n, t, out) }),
			n.On("wait until the API knows its node", func(ctx context.Context, _ writer) error {
				if err := waitWorker(ctx, c, n); err != nil {
					return err
				}
				if err := spend(ctx, c, n); err != nil {
					return err
				}
				return n.Mark(ctx, runtime.DoneJoin)
			}))
	}
	return []runtime.Batch{b, {c.First().On("make the workers' join token worthless", func(ctx context.Context, _ writer) error {
		if t.id == "" {
			return runtime.ErrAlready
		}
		return invalidate(ctx, c, t.id)
	})}}
}

func (d Driver) joinWorker(ctx context.Context, c *runtime.Cluster, n *runtime.Node, t *workerToken, out writer) error {
	found, err := n.Existing(ctx, kubeletConf, dataDir+"/bin")
	if err != nil {
		return err
	}
	switch {
	case n.Done(runtime.DoneJoin) && found[kubeletConf]:
		return keepRunning(ctx, c, n)
	case len(found) > 0:
		fmt.Fprintln(out, "taking back what an earlier run began")
		if err := wipe(ctx, n); err != nil {
			return err
		}
	}
	if err := clearName(ctx, c, n, out); err != nil {
		return err
	}
	got, err := t.get(ctx, c)
	if err != nil {
		return err
	}
	if err := putToken(ctx, n, got); err != nil {
		return err
	}
	stale, err := write(ctx, c, n, false)
	if err != nil {
		return err
	}
	return start(ctx, n, stale)
}
