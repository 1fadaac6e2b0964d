package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/clusterimage/keg/runtime/remote"
)

// NodeStatus is a node as the cluster's API knows it.
type NodeStatus struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why it is not ready
	// Cordoned says that no pods are put there.
	Cordoned bool     `json:"cordoned,omitempty"`
	Roles    []string `json:"roles,omitempty"`
	Version  string   `json:"version"` // of kubelet
	Engine   string   `json:"engine"`  // such as "containerd://2.4.2"
	Address  string   `json:"address,omitempty"`
	PodCIDR  string   `json:"podCIDR,omitempty"`
	// Addresses and PodCIDRs are all of them where the node has more than one, Address and PodCIDR first.
	Addresses []string `json:"addresses,omitempty"`
	PodCIDRs  []string `json:"podCIDRs,omitempty"`
}

// Kubectl runs kubectl as administrator on the first control plane.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return c.KubectlOn(ctx, c.First(), nil, io.Discard, args...)
}

// KubectlOn runs kubectl on a control plane. Its standard output is returned, its standard error goes to
// out, and stdin, where something secret may stand, may be nil.
func (c *Cluster) KubectlOn(ctx context.Context, n *Node, stdin io.Reader, out io.Writer, args ...string) ([]byte, error) {
	var stdout strings.Builder
	err := n.Runner.Run(ctx, remote.Cmd{Args: append(slices.Clone(c.Driver.Kubectl()), args...), Stdin: stdin, Stdout: &stdout, Stderr: out})
	return []byte(stdout.String()), err
}

// apiLimit bounds one question to the API.
const apiLimit = "--request-timeout=15s"

// APINodes are the cluster's nodes as its API knows them.
func (c *Cluster) APINodes(ctx context.Context) ([]NodeStatus, error) {
	out, err := c.Kubectl(ctx, "get", "nodes", "-o", "json", apiLimit)
	if err != nil {
		return nil, err
	}
	return parseNodes(out)
}

// nodeList is the part of a NodeList (core/v1) that is looked at.
type nodeList struct {
	Items []struct {
		Metadata struct {
			Name   string            `json:"name"`
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
		Spec struct {
			Unschedulable bool     `json:"unschedulable"`
			PodCIDR       string   `json:"podCIDR"`
			PodCIDRs      []string `json:"podCIDRs"`
		} `json:"spec"`
		Status struct {
			Conditions []struct {
				Type    string `json:"type"`
				Status  string `json:"status"`
				Reason  string `json:"reason"`
				Message string `json:"message"`
			} `json:"conditions"`
			Addresses []struct {
				Type    string `json:"type"`
				Address string `json:"address"`
			} `json:"addresses"`
			NodeInfo struct {
				KubeletVersion          string `json:"kubeletVersion"`
				ContainerRuntimeVersion string `json:"containerRuntimeVersion"`
			} `json:"nodeInfo"`
		} `json:"status"`
	} `json:"items"`
}

const rolePrefix = "node-role.kubernetes.io/"

func parseNodes(data []byte) ([]NodeStatus, error) {
	var list nodeList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("reading the API's list of nodes: %w", err)
	}
	nodes := make([]NodeStatus, 0, len(list.Items))
	for _, item := range list.Items {
		s := NodeStatus{
			Name: item.Metadata.Name, PodCIDR: item.Spec.PodCIDR, Cordoned: item.Spec.Unschedulable, Reason: "its kubelet has not reported yet",
			Version: item.Status.NodeInfo.KubeletVersion, Engine: item.Status.NodeInfo.ContainerRuntimeVersion,
		}
		for label := range item.Metadata.Labels {
			if role, ok := strings.CutPrefix(label, rolePrefix); ok {
				s.Roles = append(s.Roles, role)
			}
		}
		slices.Sort(s.Roles)
		if len(item.Spec.PodCIDRs) > 1 {
			s.PodCIDRs = item.Spec.PodCIDRs
		}
		for _, a := range item.Status.Addresses {
			if a.Type != "InternalIP" {
				continue
			}
			if s.Address == "" {
				s.Address = a.Address
			}
			s.Addresses = append(s.Addresses, a.Address)
		}
		if len(s.Addresses) < 2 {
			s.Addresses = nil
		}
		for _, cond := range item.Status.Conditions {
			if cond.Type != "Ready" {
				continue
			}
			s.Ready, s.Reason = cond.Status == "True", cond.Reason+": "+cond.Message
			if s.Ready {
				s.Reason = ""
			}
		}
		nodes = append(nodes, s)
	}
	return nodes, nil
}

// NodeReadyLimit is how long a node may take to be ready. A kubelet that registers slowly stays "not ready"
// for two minutes and then comes by itself.
const NodeReadyLimit = 5 * time.Minute

var errNoNode = errors.New("the API has no node")

// apiNode is one node of the API's list; errNoNode says that it is not there.
func (c *Cluster) apiNode(ctx context.Context, n *Node) (NodeStatus, error) {
	list, err := c.APINodes(ctx)
	if err != nil {
		return NodeStatus{}, err
	}
	if i := slices.IndexFunc(list, func(s NodeStatus) bool { return s.Name == n.Name }); i >= 0 {
		return list[i], nil
	}
	return NodeStatus{}, fmt.Errorf("%w %q", errNoNode, n.Name)
}

// waitNode waits until a node is ready; a version that is not "" must be its kubelet's.
func (c *Cluster) waitNode(ctx context.Context, n *Node, version string) error {
	return Wait(ctx, NodeReadyLimit, "node "+n.Name, func(ctx context.Context) error {
		s, err := c.apiNode(ctx, n)
		switch {
		case err != nil:
			return err
		case version != "" && !sameVersion(s.Version, version):
			return fmt.Errorf("node %s runs %s, not %s", n.Name, s.Version, version)
		case !s.Ready:
			return fmt.Errorf("node %s is not ready: %s", n.Name, s.Reason)
		}
		return nil
	})
}

// ready waits for every node.
func ready(c *Cluster) []Batch {
	return []Batch{each(c.staying(), func(n *Node) []Step {
		return []Step{n.On("wait until the node is ready", func(ctx context.Context, _ io.Writer) error { return c.waitNode(ctx, n, "") })}
	})}
}

// drainLimit is how long pods may take to leave a host: each two minutes, all five.
const drainLimit = 5 * time.Minute

// drain takes new pods off a node and moves those that are there. Pods of DaemonSets stay; what lies in
// emptyDir volumes goes, as it does whenever a pod moves.
func (c *Cluster) drain(ctx context.Context, n *Node, out io.Writer) error {
	return c.despiteAPI(ctx, func(ctx context.Context) error {
		if _, err := c.apiNode(ctx, n); err != nil {
			return err
		}
		_, err := c.KubectlOn(ctx, c.First(), nil, out, "drain", n.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
			"--grace-period=120", "--timeout="+drainLimit.String())
		return err
	})
}

// uncordon lets pods onto a node again. kubectl ends well even where the API went away before it took the change.
func (c *Cluster) uncordon(ctx context.Context, n *Node) error {
	return c.despiteAPI(ctx, func(ctx context.Context) error {
		if _, err := c.Kubectl(ctx, "uncordon", n.Name, apiLimit); err != nil {
			return err
		}
		s, err := c.apiNode(ctx, n)
		if err == nil && s.Cordoned {
			err = fmt.Errorf("node %s is still cordoned", n.Name)
		}
		return err
	})
}

// despiteAPI does something by way of the API, and again where that failed while the API went away and came back: a
// server that was upgraded or got another certificate may restart late. What took drainLimit has failed for good.
func (c *Cluster) despiteAPI(ctx context.Context, do func(ctx context.Context) error) error {
	begin := time.Now()
	for again := 2; ; again-- {
		err := do(ctx)
		if err == nil || again == 0 || ctx.Err() != nil || errors.Is(err, errNoNode) || time.Since(begin) >= drainLimit {
			return err
		}
		answers := func(ctx context.Context) error {
			_, err := c.Kubectl(ctx, "get", "--raw", "/readyz", "--request-timeout=5s")
			return err
		}
		if Wait(ctx, comingUp, "the API", answers) != nil {
			return err
		}
	}
}

// deleteNode deletes the Node object; that it is gone already is no error.
func (c *Cluster) deleteNode(ctx context.Context, n *Node) error {
	if n.Name == "" {
		return errors.New("deleting node: its name is not known")
	}
	_, err := c.Kubectl(ctx, "delete", "node", n.Name, "--ignore-not-found", "--timeout=60s", apiLimit)
	return err
}
