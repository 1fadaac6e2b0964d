package k3s

import (
	"context"
	"fmt"
	"slices"

	"github.com/clusterimage/keg/runtime"
)

// JoinMaster makes one more server. One whose join was cut off goes on by itself once k3s runs again: its
// data is the truth, and etcd knows it already.
func (d Driver) JoinMaster(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		checkVersion(c, n),
		n.On("name kubectl, crictl and ctr, where there are none", func(ctx context.Context, _ writer) error { return nameTools(ctx, n) }),
		n.On("join the cluster as a server of k3s", func(ctx context.Context, out writer) error {
			found, err := n.Existing(ctx, traces...)
			if err != nil {
				return err
			}
			if len(found) > 0 {
				same, err := n.SameFile(ctx, c.First(), serverCA)
				switch {
				case err != nil:
					return err
				case same && n.Made():
					return d.keepRunning(ctx, c, n)
				case !same && n.Made():
					return fmt.Errorf("joining: the data of k3s in %s is of another cluster: its CA is not that of %s; take the host out with keg delete --force, and name it again", dataDir, c.First().Address)
				case !same:
					fmt.Fprintln(out, "taking back what an earlier run began")
					if err := wipe(ctx, n); err != nil {
						return err
					}
				}
			} else if n.Made() {
				return errLost
			}
			return d.join(ctx, c, n, out)
		}),
		n.On("wait for its API", func(ctx context.Context, _ writer) error {
			if err := waitServer(ctx, c, n); err != nil {
				return err
			}
			return n.Mark(ctx, runtime.DoneJoin)
		}),
	}
}

// join writes what a host needs to join, and starts k3s.
func (d Driver) join(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) error {
	if err := clearName(ctx, c, n, out); err != nil {
		return err
	}
	s, err := joinSecrets(ctx, c)
	if err != nil {
		return err
	}
	files := s.files()
	if n.Role == runtime.Worker {
		files = []runtime.File{{Path: tokenFile, Mode: 0o600, Data: s.agentToken()}}
	}
	stale, err := d.write(ctx, c, n, false, files...)
	if err != nil {
		return err
	}
	return start(ctx, n, stale)
}

// clearName forgets the node that a host was before it was installed anew: k3s lets nobody in under a
// name that has another password, and etcd no second member of one name. A node that lives is somebody
// else's.
func clearName(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) error {
	found, err := n.Existing(ctx, nodePassword)
	if err != nil || found[nodePassword] {
		return err
	}
	list, err := c.APINodes(ctx)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(list, func(s runtime.NodeStatus) bool { return s.Name == n.Name }); i >= 0 {
		if s := list[i]; s.Ready && s.Address != n.IP {
			return fmt.Errorf("joining: the cluster has a node %q already, at %s; give this host another name: hostnamectl set-hostname NAME", n.Name, s.Address)
		}
		fmt.Fprintf(out, "forgetting the node %s that was before\n", n.Name)
		if _, err := kubectl(ctx, c, "delete", "node", n.Name, "--ignore-not-found", "--timeout=60s"); err != nil {
			return err
		}
	}
	return forgetPassword(ctx, c, n)
}

// forgetPassword lets the next k3s of that name choose its password. k3s does it itself when it sees that
// a node is gone, but it may not have seen.
func forgetPassword(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	_, err := kubectl(ctx, c, "-n", "kube-system", "delete", "secret", n.Name+".node-password.k3s", "--ignore-not-found")
	return err
}

// JoinWorkers makes the workers agents.
func (d Driver) JoinWorkers(c *runtime.Cluster, workers []*runtime.Node) []runtime.Batch {
	b := runtime.Batch{}
	for _, n := range workers {
		b = append(b, checkVersion(c, n),
			n.On("name kubectl, crictl and ctr, where there are none", func(ctx context.Context, _ writer) error { return nameTools(ctx, n) }),
			n.On("join the cluster as an agent of k3s", func(ctx context.Context, out writer) error { return d.joinWorker(ctx, c, n, out) }),
			n.On("wait until the API knows its node", func(ctx context.Context, _ writer) error {
				if err := waitAgent(ctx, c, n); err != nil {
					return err
				}
				return n.Mark(ctx, runtime.DoneJoin)
			}))
	}
	return []runtime.Batch{b}
}

func (d Driver) joinWorker(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) error {
	if n.Done(runtime.DoneJoin) {
		found, err := n.Existing(ctx, tokenFile, nodePassword)
		if err != nil {
			return err
		}
		if len(found) == 2 {
			return d.keepRunning(ctx, c, n)
		}
	}
	return d.join(ctx, c, n, out)
}
