package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime/node"
)

// Driver knows one kind of cluster. Methods without a ctx are pure: a dry run calls them with nodes
// whose Facts are zero.
type Driver interface {
	// Name is the ClusterRuntime of Metadata.
	Name() string
	// Env are the settings that the runtime's templates read, with their defaults on that host.
	Env(c *Cluster, n *Node) map[string]string
	// Signs are paths that tell what is installed on a host; those that exist come as Facts.Existing.
	Signs() []string
	// Preflight judges a host by its facts.
	Preflight(c *Cluster, n *Node) []Finding
	// Items are what is installed from the rootfs.
	Items(c *Cluster, n *Node) []node.InstallItem
	// Mirror are the files by which the runtime pulls every image from the cluster's registry.
	Mirror(r Registry) []File
	// Claim is what the runtime makes by itself on a host, and Remember which kernel settings it changes.
	Claim(n *Node) node.ClaimRequest
	Remember() []string
	// Init makes the first control plane.
	Init(c *Cluster) []Batch
	// Join makes the workers nodes of the cluster.
	Join(c *Cluster) []Batch
	// Network connects pods of all hosts, where no app of the image does.
	Network(c *Cluster) []Batch
	// Ready waits until all nodes are.
	Ready(c *Cluster) []Batch
	// Kubeconfig is a kubeconfig that works from outside of the cluster.
	Kubeconfig(ctx context.Context, c *Cluster) ([]byte, error)
	// Nodes are the cluster's nodes as its API knows them, asked through the first control plane.
	Nodes(ctx context.Context, c *Cluster) ([]NodeStatus, error)
	// CommandEnv is added to the environment of apps and commands on the first control plane.
	CommandEnv() map[string]string
	// Reset takes the runtime off a host, also where it was half installed. Files that were installed
	// or claimed are not its business.
	Reset(c *Cluster, n *Node) []Step
}

// NodeStatus is a node as the cluster's API knows it.
type NodeStatus struct {
	Name    string   `json:"name"`
	Ready   bool     `json:"ready"`
	Reason  string   `json:"reason,omitempty"` // why it is not ready
	Roles   []string `json:"roles,omitempty"`
	Version string   `json:"version"` // of kubelet
	Engine  string   `json:"engine"`  // such as "containerd://2.4.2"
	Address string   `json:"address,omitempty"`
	PodCIDR string   `json:"podCIDR,omitempty"`
}

// Known are the names of runtimes that an image may ask for, whether this build has a driver or not.
var known = []string{"kubernetes", "k3s", "k0s"}

// UnknownRuntimeError says that an image asks for a runtime that no keg knows. Name is "" where the
// image says nothing at all.
type UnknownRuntimeError struct {
	Name  string
	Known []string
}

// Error lists what is known.
func (e *UnknownRuntimeError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("choosing runtime: the image names none, neither in Metadata (ClusterRuntime) nor in label %s; known are %s", clusterimage.LabelRuntime, strings.Join(e.Known, ", "))
	}
	return fmt.Sprintf("choosing runtime: %q is not one of %s", e.Name, strings.Join(e.Known, ", "))
}

// UnavailableRuntimeError says that a runtime is known, but this build of keg has no driver for it.
type UnavailableRuntimeError struct {
	Name      string
	Available []string
}

// Error lists what this build has.
func (e *UnavailableRuntimeError) Error() string {
	return fmt.Sprintf("choosing runtime: this build of keg has no driver for %s, only for %s", e.Name, strings.Join(e.Available, ", "))
}

// ContradictionError says that Metadata and label of one image name different runtimes.
type ContradictionError struct{ Metadata, Label string }

// Error names both.
func (e *ContradictionError) Error() string {
	return fmt.Sprintf("choosing runtime: Metadata says %q and label %s says %q", e.Metadata, clusterimage.LabelRuntime, e.Label)
}

// Choose returns the driver that an image asks for: by ClusterRuntime of its Metadata, or else by the
// label LabelRuntime of its rootfs. The errors are *UnknownRuntimeError, *UnavailableRuntimeError and
// *ContradictionError.
func Choose(drivers []Driver, md basefs.Metadata, label string) (Driver, error) {
	if md.Runtime != "" && label != "" && md.Runtime != label {
		return nil, &ContradictionError{Metadata: md.Runtime, Label: label}
	}
	name := md.Runtime
	if name == "" {
		name = label
	}
	var available []string
	for _, d := range drivers {
		if d.Name() == name {
			return d, nil
		}
		available = append(available, d.Name())
	}
	if slices.Contains(known, name) {
		return nil, &UnavailableRuntimeError{Name: name, Available: available}
	}
	all := slices.Clone(known)
	for _, a := range available {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return nil, &UnknownRuntimeError{Name: name, Known: all}
}
