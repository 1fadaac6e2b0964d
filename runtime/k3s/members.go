package k3s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// What k3s writes on the Node of a server.
const (
	etcdLabel          = "node-role.kubernetes.io/etcd"
	voterCondition     = "EtcdIsVoter"
	learnerReason      = "MemberIsLearner"
	addressAnnotation  = "etcd.k3s.cattle.io/node-address"
	nameAnnotation     = "etcd.k3s.cattle.io/node-name"
	removeAnnotation   = "etcd.k3s.cattle.io/remove"
	removedAnnotation  = "etcd.k3s.cattle.io/removed-node-name"
	memberLeavesWithin = 2 * time.Minute
)

// etcdNode is the part of a Node (core/v1) that tells of its member.
type etcdNode struct {
	Metadata struct {
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Status struct {
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
			Reason string `json:"reason"`
		} `json:"conditions"`
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

// Members are the Nodes of servers, whose ID is the Node's name: there is no etcdctl in k3s, and k3s keeps
// members and Nodes one to one. The leader of etcd writes on each Node whether its member votes, learns or does
// not answer; a member that is just joining and has no Node yet is not among them. Where keg reaches the
// host, Healthy is the answer of its own etcd, by way of its own API; a host of the cluster that keg does not
// reach is not healthy, and of any other it is what the leader wrote and what the Node's kubelet says.
func (d Driver) Members(ctx context.Context, c *runtime.Cluster) ([]runtime.Member, error) {
	out, err := kubectl(ctx, c, "get", "nodes", "-l", etcdLabel+"=true", "-o", "json")
	if err != nil {
		return nil, err
	}
	members, err := parseMembers(out)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	for i := range members {
		at := slices.IndexFunc(c.Nodes, func(n *runtime.Node) bool { return n.Name == members[i].Name })
		switch {
		case at < 0 || c.Nodes[at] == c.First(): // First has just answered, out of etcd
			continue
		case c.Nodes[at].Runner == nil: // the Node says so only after a while
			members[i].Healthy = false
			continue
		}
		wg.Go(func() {
			if d.ownEtcd(ctx, c.Nodes[at]) != nil {
				members[i].Healthy = false
			}
		})
	}
	wg.Wait()
	return members, context.Cause(ctx)
}

// ownEtcd asks the etcd on a server.
func (d Driver) ownEtcd(ctx context.Context, n *runtime.Node) error {
	return n.Runner.Run(ctx, remote.Cmd{Args: append(d.Kubectl(), "get", "--raw", "/readyz/etcd", "--request-timeout=10s")})
}

func parseMembers(data []byte) ([]runtime.Member, error) {
	var list struct {
		Items []etcdNode `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("reading the API's list of servers: %w", err)
	}
	var members []runtime.Member
	for _, item := range list.Items {
		if item.left() {
			continue
		}
		m := runtime.Member{ID: item.Metadata.Name, Name: item.Metadata.Name, Address: item.address()}
		ready := false
		for _, cond := range item.Status.Conditions {
			switch cond.Type {
			case "Ready":
				// A node without a network yet is not ready, and its etcd may well be: only "Unknown" says
				// that the host says nothing any more.
				ready = cond.Status != "Unknown"
			case voterCondition:
				m.Healthy = cond.Status == "True" || cond.Reason == learnerReason
				m.Learner = cond.Reason == learnerReason
			}
		}
		m.Healthy = m.Healthy && ready
		members = append(members, m)
	}
	return members, nil
}

// left says whether k3s has taken the member out. A server that came back has another member's name.
func (n etcdNode) left() bool {
	removed := n.Metadata.Annotations[removedAnnotation]
	now := n.Metadata.Annotations[nameAnnotation]
	return removed != "" && (now == "" || now == removed)
}

func (n etcdNode) address() string {
	if addr, err := netip.ParseAddr(n.Metadata.Annotations[addressAnnotation]); err == nil {
		return addr.String()
	}
	for _, a := range n.Status.Addresses {
		if a.Type == "InternalIP" {
			return a.Address
		}
	}
	return ""
}

// RemoveMember asks k3s to take the member out, and waits until it says so. Any server does it, for one
// that is dead as well.
func (Driver) RemoveMember(ctx context.Context, c *runtime.Cluster, m runtime.Member, _ writer) error {
	if _, err := kubectl(ctx, c, "annotate", "node", m.ID, removeAnnotation+"=true", "--overwrite"); err != nil {
		if strings.Contains(err.Error(), "NotFound") { // its member went with it
			return nil
		}
		return err
	}
	return runtime.Wait(ctx, memberLeavesWithin, "k3s to take "+m.Name+" out of etcd", func(ctx context.Context) error {
		out, err := kubectl(ctx, c, "get", "node", m.ID, "--ignore-not-found", "-o", "json")
		if err != nil || len(out) == 0 {
			return err
		}
		var n etcdNode
		if err := json.Unmarshal(out, &n); err != nil {
			return fmt.Errorf("reading node %s: %w", m.ID, err)
		}
		if !n.left() {
			return errors.New("it is still a member")
		}
		return nil
	})
}

// Left stops k3s on a server that has left: it would wait for its data to be deleted, and be started again
// and again.
func (Driver) Left(_ *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{n.On("stop k3s", func(ctx context.Context, _ writer) error {
		return n.Host.Units(ctx, node.UnitRequest{Units: []string{serverUnit}, Stop: true, Disable: true})
	})}
}
