package runtime

import (
	"context"
	"errors"
	"io"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// ClusterStatus is how a cluster is now.
type ClusterStatus struct {
	Cluster string `json:"cluster"`
	UID     string `json:"uid"`
	Image   string `json:"image"`
	Digest  string `json:"digest"`
	Runtime string `json:"runtime"`
	// Complete says whether the last run went through.
	Complete bool         `json:"complete"`
	Hosts    []HostStatus `json:"hosts"`
	// Nodes are as the cluster's API knows them.
	Nodes []NodeStatus `json:"nodes"`
	// API is "" when the API answers, and else why it does not.
	API string `json:"api,omitempty"`
	// Registry is the state of its unit on the first control plane, such as "active".
	Registry string `json:"registry"`
	// Last is the newest line of the journal.
	Last *Entry `json:"last,omitempty"`
}

// HostStatus is one host of a ClusterStatus.
type HostStatus struct {
	Host  string          `json:"host"`
	Role  Role            `json:"role"`
	Error string          `json:"error,omitempty"` // "" when it could be asked
	State *node.HostState `json:"state,omitempty"`
	OS    string          `json:"os,omitempty"`
	Arch  string          `json:"arch,omitempty"`
}

// Healthy says whether every host answers, every node is ready, and the registry serves.
func (s ClusterStatus) Healthy() bool {
	for _, h := range s.Hosts {
		if h.Error != "" || h.State == nil {
			return false
		}
	}
	for _, n := range s.Nodes {
		if !n.Ready {
			return false
		}
	}
	return s.API == "" && s.Registry == "active" && len(s.Nodes) >= len(s.Hosts)
}

// Status asks hosts and API how the cluster is. It changes nothing and takes no lock, so that it
// answers while a run is under way; what cannot be asked says so in its place.
func Status(ctx context.Context, c *Cluster) (ClusterStatus, error) {
	s := ClusterStatus{Cluster: c.Name, UID: c.UID, Hosts: []HostStatus{}, Nodes: []NodeStatus{}}
	if r, err := LoadRecord(c.Dir); err != nil {
		return s, err
	} else if r != nil {
		s.UID, s.Image, s.Digest, s.Runtime, s.Complete = r.UID, r.Image, r.Digest.String(), r.Runtime, r.Complete
	}
	entries, err := ReadJournal(c.Dir)
	if err != nil {
		return s, err
	}
	if len(entries) > 0 {
		s.Last = &entries[len(entries)-1]
	}
	defer func() { _ = c.cleanup(ctx, nil) }()
	ask := &phase{title: "ask hosts", limit: 30, tolerant: true, batches: func(c *Cluster) []Batch {
		b := connect(c)
		b = append(b, findAgent(c)...)
		return append(b, gatherFacts(c)...)
	}}
	if err := ask.Run(ctx, c); err != nil {
		return s, err
	}
	for _, n := range c.Nodes {
		h := HostStatus{Host: n.Address.String(), Role: n.Role, State: n.Facts.State, OS: n.Facts.OS, Arch: n.Facts.Arch}
		switch {
		case n.failed != nil:
			h.Error = redact(n.failed.Error())
		case h.State == nil:
			h.Error = errNothingThere.Error()
		}
		s.Hosts = append(s.Hosts, h)
	}
	c.settleLead()
	first := c.First()
	switch {
	case first == nil || first.failed != nil:
		s.API, s.Registry = "the control plane cannot be reached", "unknown"
		return s, nil
	case c.Driver == nil:
		s.API = "this build has no driver for " + s.Runtime
	default:
		if s.Nodes, err = c.APINodes(ctx); err != nil {
			s.API = redact(err.Error())
			s.Nodes = []NodeStatus{}
		}
	}
	s.Registry = unitState(ctx, first.Host, node.RegistryUnitName)
	return s, nil
}

// findAgent uses the keg-node that is there, and sends none to a host that has none.
func findAgent(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{n.On("find keg-node", func(ctx context.Context, _ io.Writer) (err error) {
			var exit *remote.ExitError
			if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"test", "-x", node.Binary}}); errors.As(err, &exit) {
				return errNothingThere
			} else if err != nil {
				return err
			}
			n.Host, err = c.Agent(ctx, n.Runner)
			return err
		})}
	})}
}

var errNothingThere = errors.New("keg has nothing installed there")

// unitState is what the init system says of a unit.
func unitState(ctx context.Context, h Host, unit string) string {
	s, err := h.Unit(ctx, node.UnitQuery{Unit: unit})
	if err != nil {
		return "unknown"
	}
	return s.Active
}
