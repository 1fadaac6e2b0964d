package runtime

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime/node"
)

// Driver knows one kind of cluster. What all kinds have in common, such as the order of things, quorum,
// draining, batches and health gates, is this package's. Methods without a ctx are pure: a dry run calls
// them with nodes whose Facts are zero.
type Driver interface {
	// Name is the ClusterRuntime of Metadata.
	Name() string
	Layout
	Maker
	Quorum
	Upgrader
	Keeper
	Archiver
}

// Layout is what a runtime puts on hosts and expects of them.
type Layout interface {
	// Env are the settings that the runtime's templates read, with their defaults on that host.
	Env(c *Cluster, n *Node) map[string]string
	// Signs are paths that tell what is installed on a host; those that exist come as Facts.Existing.
	Signs() []string
	// CheckRequest judges what was asked for before any host is reached: Options.Config above all, where
	// a key that the runtime does not know is an error.
	CheckRequest(c *Cluster) []Finding
	// Preflight judges a host by its facts.
	Preflight(c *Cluster, n *Node) []Finding
	// Items are what is installed from the rootfs. What the runtime reads of it in another way is among
	// them as well, with a place of its own below node.Dir, so that an upgrade sees whether it changes.
	Items(c *Cluster, n *Node) []node.InstallItem
	// Mirror are the files by which the runtime pulls every image from the cluster's registry.
	Mirror(r Registry) []File
	// Claim is what the runtime makes by itself on a host, and Remember which kernel settings it changes.
	Claim(n *Node) node.ClaimRequest
	Remember() []string
	// Kubectl is the beginning of a kubectl command line that works on a control plane's host as
	// administrator.
	Kubectl() []string
	// CommandEnv is added to the environment of apps and commands on the first control plane. It has
	// KUBECONFIG, the administrator's, a file that is on every control plane.
	CommandEnv() map[string]string
}

// Maker makes a cluster and takes hosts off it.
type Maker interface {
	// Init makes the first control plane, or finds that it is made. It ends when the API answers there.
	// It marks DoneInit, after Cluster.Restart, once the control plane is made.
	Init(c *Cluster) []Batch
	// JoinMaster makes one more control plane of n, or finds that it is one, and waits until its own API
	// answers. Control planes join one after another; the caller waits for Gate in between. It marks DoneJoin.
	JoinMaster(c *Cluster, n *Node) []Step
	// JoinWorkers makes workers nodes of the cluster, in parallel. It marks DoneJoin on each.
	JoinWorkers(c *Cluster, workers []*Node) []Batch
	// Network connects pods of all hosts, where no app of the image does.
	Network(c *Cluster) []Batch
	// Alive asks the control plane on n itself, not through any balancer, whether it is ready.
	Alive(ctx context.Context, c *Cluster, n *Node) error
	// Kubeconfig is a kubeconfig that works from outside of the cluster, as its runtime has it. Its server
	// is replaced by the caller.
	Kubeconfig(ctx context.Context, c *Cluster) ([]byte, error)
	// Reset takes the runtime off a host, also where it was half installed. Files that were installed
	// or claimed are not its business, and neither is the cluster that goes on without the host.
	Reset(c *Cluster, n *Node) []Step
}

// Member is a member of the cluster's etcd.
type Member struct {
	ID      string // as the runtime's commands want it
	Name    string
	Address string // IP address of its peer URL
	Learner bool   // does not vote yet
	Healthy bool   // answers
}

// Quorum is about the members of etcd.
type Quorum interface {
	// Members asks Cluster.First.
	Members(ctx context.Context, c *Cluster) ([]Member, error)
	// RemoveMember makes m leave, asked of Cluster.First, which is another. It succeeds if m has left.
	RemoveMember(ctx context.Context, c *Cluster, m Member, out io.Writer) error
	// Left are steps on a control plane's own host right after RemoveMember, before its Node is deleted,
	// that keep it from coming back, such as stopping it.
	Left(c *Cluster, n *Node) []Step
}

// Upgrader changes the version of one host after another. Between the two methods the host is drained
// and what Items lists is installed from the new rootfs; before them the rootfs is there, unpacked and rendered.
type Upgrader interface {
	// UpgradeControlPlane is what must be done on a control plane before its host is drained, with programs
	// from node.Rootfs. Control planes come one by one, Cluster.First first.
	UpgradeControlPlane(c *Cluster, n *Node) []Step
	// Restart makes the host run what was installed. The caller waits until the node is ready with the new
	// version and, on a control plane, Alive.
	Restart(c *Cluster, n *Node) []Step
}

// Keeper keeps what is secret.
type Keeper interface {
	// CertificateFiles are patterns (path.Match) of files on a host with certificates: PEM, or kubeconfigs
	// with certificates in them.
	CertificateFiles(n *Node) []string
	// RenewCertificates issues those of n anew and makes everything there use them. Hosts come one by one,
	// control planes first.
	RenewCertificates(c *Cluster, n *Node) []Step
	// ApplySANs makes the API's certificate of a control plane valid for all of Cluster.SANs.
	ApplySANs(c *Cluster, n *Node) []Step
	// RotateTokens makes every join secret that was ever given out worthless.
	RotateTokens(c *Cluster) []Batch
}

// Archiver saves the cluster's state and brings it back.
type Archiver interface {
	// Backup writes a tar stream: a snapshot of etcd and everything secret without which it is useless.
	Backup(ctx context.Context, c *Cluster, w io.Writer) error
	// Restore takes the place of Init: it makes Cluster.First, which has no cluster, the only control plane
	// of a cluster with that state. backup opens what Backup wrote. It marks DoneInit at its end.
	Restore(c *Cluster, backup func() (io.ReadCloser, error)) []Batch
}

// known are the names of runtimes that an image may ask for, whether this build has a driver or not.
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
