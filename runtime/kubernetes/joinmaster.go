package kubernetes

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

// authorities are the files that all control planes share; everything else in /etc/kubernetes/pki is
// made of them on each.
var authorities = []string{
	"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.pub", "sa.key", "etcd/ca.crt", "etcd/ca.key",
}

const pkiDir = "/etc/kubernetes/pki"

// decideMaster says what is left to do for one more control plane: marked is whether keg wrote down that it was
// made, member whether etcd knows a member there, registered whether the API has a node of its name.
func decideMaster(marked, member, registered bool, paths []string) action {
	switch {
	case marked && member && slices.Contains(paths, adminConf) && slices.Contains(paths, kubeletConf):
		return skip
	case len(paths) == 0 && !member && !registered:
		return create
	}
	return redo
}

// JoinMaster makes one more control plane. What its authorities sign comes from First in memory, so that
// nothing secret lies in the cluster's API while it joins.
func (d Driver) JoinMaster(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	j := &join{}
	return []runtime.Step{
		startContainerd(c, n),
		n.On("join the control plane with kubeadm", func(ctx context.Context, out writer) error {
			return d.joinMaster(ctx, c, n, j, out)
		}),
		n.On("wait for its API", func(ctx context.Context, _ writer) error {
			if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}}); err != nil {
				return err
			}
			return waitAlive(ctx, d, c, n)
		}),
	}
}

// waitAlive waits for the API server of one control plane.
func waitAlive(ctx context.Context, d Driver, c *runtime.Cluster, n *runtime.Node) error {
	return runtime.Wait(ctx, 5*time.Minute, "the API on "+n.Address.String(), func(ctx context.Context) error { return d.Alive(ctx, c, n) })
}

func (d Driver) joinMaster(ctx context.Context, c *runtime.Cluster, n *runtime.Node, j *join, out writer) error {
	if err := clearWay(ctx, n); err != nil {
		return err
	}
	paths, err := existing(ctx, n.Runner, traces...)
	if err != nil {
		return err
	}
	// The member of a join that was cut off may be one of two: then etcd stands still until it is up again.
	if slices.Contains(paths, etcdManifest) && slices.Contains(paths, kubeletConf) {
		if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}}); err != nil {
			return err
		}
	}
	var members []runtime.Member
	if err := runtime.Wait(ctx, 3*time.Minute, "the members of etcd", func(ctx context.Context) (err error) {
		members, err = d.Members(ctx, c)
		return err
	}); err != nil {
		return err
	}
	mine := slices.IndexFunc(members, func(m runtime.Member) bool { return sameAddress(m.Address, n.IP) })
	nodes, err := c.APINodes(ctx)
	if err != nil {
		return err
	}
	registered := slices.ContainsFunc(nodes, func(s runtime.NodeStatus) bool { return s.Name == n.Name })
	switch decideMaster(n.Made(), mine >= 0, registered, paths) {
	case skip:
		return runtime.ErrAlready
	case redo:
		fmt.Fprintln(out, "taking back what an earlier run began")
		if err := d.takeBack(ctx, c, n, members, mine, out); err != nil {
			return err
		}
	}
	for i, m := range members {
		if i != mine && !m.Healthy && !m.Learner {
			return fmt.Errorf("joining: member %s (%s) of etcd does not answer; bring it back, or take it out first", m.Name, m.Address)
		}
	}
	return j.master(ctx, c, n, out)
}

// takeBack leaves nothing of a join that was cut off: its member goes first, asked of a control plane that
// stands, since etcd counts it as long as it is known.
func (d Driver) takeBack(ctx context.Context, c *runtime.Cluster, n *runtime.Node, members []runtime.Member, mine int, out writer) error {
	if err := n.Unmark(ctx, func(s string) bool { return s == runtime.DoneJoin || s == runtime.DoneInit }); err != nil {
		return err
	}
	if mine >= 0 {
		if err := d.RemoveMember(ctx, c, members[mine], out); err != nil {
			return err
		}
	}
	if err := kubeadmReset(ctx, n, out); err != nil {
		return err
	}
	return deleteNode(ctx, c, n)
}

// deleteNode deletes a Node of an earlier life: kubeadm refuses a name that a ready node has.
func deleteNode(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	_, err := kubectl(ctx, c, "delete", "node", n.Name, "--ignore-not-found")
	return err
}

// master joins n with a token that lives no longer than this.
func (j *join) master(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) error {
	if err := copyAuthorities(ctx, c.First(), n); err != nil {
		return err
	}
	if err := j.makeToken(ctx, c); err != nil {
		return err
	}
	if err := j.run(ctx, c, n, out); err != nil {
		return err
	}
	if err := j.end(ctx, c); err != nil {
		return err
	}
	return n.Mark(ctx, runtime.DoneJoin)
}

// copyAuthorities gives n what its certificates are to be signed by.
func copyAuthorities(ctx context.Context, from, to *runtime.Node) error {
	var files []runtime.File
	for _, name := range authorities {
		data, err := fileOf(ctx, from, pkiDir+"/"+name)
		if err != nil {
			return fmt.Errorf("copying the cluster's authorities: %w", err)
		}
		mode := int64(0o600)
		if !strings.HasSuffix(name, ".key") {
			mode = 0o644
		}
		files = append(files, runtime.File{Path: pkiDir + "/" + name, Mode: mode, Data: data})
	}
	_, err := to.Host.Put(ctx, files)
	return err
}

// run runs kubeadm join for any role: the rendered file says which.
func (j *join) run(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out io.Writer) error {
	if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}, EnableOnly: true}); err != nil {
		return err
	}
	base, err := rendered(ctx, n, "etc/kubeadm-join.yaml")
	if err != nil {
		return err
	}
	config, err := joinConfig(base, c.Options.Config, c.APIEndpoint(), j.token, j.hash)
	if err != nil {
		return err
	}
	return kubeadm(ctx, n, "join.yaml", config, out, "join")
}
