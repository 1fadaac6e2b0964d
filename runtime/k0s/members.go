package k0s

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// Objects of k0s about its controllers.
const (
	etcdMembers  = "etcdmembers.etcd.k0sproject.io"
	controlNodes = "controlnodes.autopilot.k0sproject.io"
	leasePrefix  = "k0s-ctrl-"
	leaseSpace   = "kube-node-lease"
)

// Members are those of etcd's own list, whose ID is their address: k0s knows no other. One that k0s has not
// noted as joined learns, or was never started: k0s notes it from its own host, once it votes. Where keg
// reaches the host, Healthy is the answer of its own etcd by way of its own API; elsewhere it is the lease
// that a controller at work renews.
func (d Driver) Members(ctx context.Context, c *runtime.Cluster) ([]runtime.Member, error) {
	members, err := listMembers(ctx, c)
	if err != nil {
		return nil, err
	}
	var leases map[string]bool
	var wg sync.WaitGroup
	for i := range members {
		m := &members[i]
		at := slices.IndexFunc(c.Nodes, func(n *runtime.Node) bool { return n.IP == m.Address })
		switch {
		case at >= 0 && c.Nodes[at] == c.First(): // it has just answered, out of etcd
			m.Healthy = true
		case at >= 0 && c.Nodes[at].Runner != nil:
			wg.Go(func() { m.Healthy = d.ownEtcd(ctx, c.Nodes[at]) == nil })
		case at < 0:
			if leases == nil {
				if leases, err = liveLeases(ctx, c); err != nil {
					return nil, err
				}
			}
			m.Healthy = leases[leasePrefix+m.Name]
		}
	}
	wg.Wait()
	return members, context.Cause(ctx)
}

// ownEtcd asks the etcd on a controller.
func (d Driver) ownEtcd(ctx context.Context, n *runtime.Node) error {
	return n.Runner.Run(ctx, remote.Cmd{Args: append(d.Kubectl(), "get", "--raw", "/readyz/etcd", "--request-timeout=10s")})
}

// listMembers does not say whether they are healthy.
func listMembers(ctx context.Context, c *runtime.Cluster) ([]runtime.Member, error) {
	out, err := remote.Output(ctx, c.First().Runner, program, "etcd", "member-list")
	if err != nil {
		return nil, err
	}
	objects, err := kubectl(ctx, c, "get", etcdMembers, "-o", "json")
	if err != nil {
		return nil, err
	}
	return parseMembers(out, objects)
}

// parseMembers reads `k0s etcd member-list`, which is name to peer URL, and the list of EtcdMembers. Of a
// member that was never started etcd has no name.
func parseMembers(list, objects []byte) ([]runtime.Member, error) {
	var answer struct {
		Members map[string]string `json:"members"`
	}
	if err := json.Unmarshal(list, &answer); err != nil {
		return nil, fmt.Errorf("reading etcd's members: %w", err)
	}
	var known struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				PeerAddress string
				Conditions  []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal(objects, &known); err != nil {
		return nil, fmt.Errorf("reading the API's list of EtcdMembers: %w", err)
	}
	var members []runtime.Member
	for name, peer := range answer.Members {
		u, err := url.Parse(peer)
		if err != nil {
			return nil, fmt.Errorf("reading etcd's members: %w", err)
		}
		m := runtime.Member{ID: u.Hostname(), Name: name, Address: u.Hostname(), Learner: true}
		for _, item := range known.Items {
			if !sameHost(item.Status.PeerAddress, m.Address) {
				continue
			}
			for _, cond := range item.Status.Conditions {
				m.Learner = m.Learner && !(cond.Type == "Joined" && cond.Status == "True")
			}
		}
		if m.Name == "" {
			m.Name = m.Address
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b runtime.Member) int { return strings.Compare(a.Address, b.Address) })
	return members, nil
}

func sameHost(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x.Unmap() == y.Unmap()
}

// leaseList is the part of a list of Leases (coordination.k8s.io/v1) that is looked at.
type leaseList struct {
	Items []struct {
		Metadata struct{ Name string }
		Spec     struct {
			RenewTime            time.Time
			LeaseDurationSeconds int
		}
	}
}

// liveLeases are the names of leases of controllers that were renewed in time, by the clock of the host that is
// asked: the newest of all is its own.
func liveLeases(ctx context.Context, c *runtime.Cluster) (map[string]bool, error) {
	out, err := kubectl(ctx, c, "-n", leaseSpace, "get", "leases", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list leaseList
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("reading the controllers' leases: %w", err)
	}
	var newest time.Time
	for _, l := range list.Items {
		if l.Spec.RenewTime.After(newest) {
			newest = l.Spec.RenewTime
		}
	}
	live := map[string]bool{}
	for _, l := range list.Items {
		if newest.Sub(l.Spec.RenewTime) < time.Duration(l.Spec.LeaseDurationSeconds)*time.Second {
			live[l.Metadata.Name] = true
		}
	}
	return live, nil
}

// RemoveMember takes a member out of etcd. It does so itself and does not ask k0s to see to it, which would
// wait for five minutes where the host is dead. Its host is stopped by Left right away.
func (Driver) RemoveMember(ctx context.Context, c *runtime.Cluster, m runtime.Member, _ writer) error {
	if err := leaveEtcd(ctx, c, m.ID); err != nil {
		return err
	}
	return forgetController(ctx, c, m.Name)
}

// leaveEtcd takes the member with that peer address out.
func leaveEtcd(ctx context.Context, c *runtime.Cluster, address string) error {
	return c.First().Runner.Run(ctx, remote.Cmd{Args: []string{program, "etcd", "leave", "--peer-address", address}})
}

// forgetController deletes what the API holds of a controller. Where autopilot is disabled there are no
// ControlNodes at all.
func forgetController(ctx context.Context, c *runtime.Cluster, name string) error {
	name = strings.ToLower(name)
	for _, kind := range []string{etcdMembers, controlNodes} {
		if _, err := kubectl(ctx, c, "delete", kind, name, "--ignore-not-found"); err != nil && !strings.Contains(err.Error(), "have a resource type") {
			return err
		}
	}
	_, err := kubectl(ctx, c, "-n", leaseSpace, "delete", "lease", leasePrefix+name, "--ignore-not-found")
	return err
}

// Left stops k0s on a controller that has left: its etcd would be started again and again, and a restart
// of k0s would take back that it leaves (k0s issue 8141).
func (Driver) Left(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{n.On("stop k0s", func(ctx context.Context, _ writer) error {
		if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{unitOf(n)}, Stop: true, Disable: true}); err != nil {
			return err
		}
		return forgetController(ctx, c, n.Name) // what it wrote while it stopped
	})}
}
