// Package runtime makes Kubernetes clusters of bare hosts: phases that anybody can read in order, run
// over hosts, with a driver for each kind of cluster. The standard library's package of that name is
// imported as goruntime.
//
// A run is RunPhases over a Cluster. What a phase does is a list of steps, each a host, a text and a
// function: the texts are the plan of a dry run, the progress of a real one and the lines of the
// journal. Facts on the hosts decide what there is left to do, so the same run after a crash goes on
// where it stopped.
package runtime

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// Role is what a node does. The words are those of the flags --masters and --nodes.
type Role string

// The roles.
const (
	Master Role = "master" // control plane
	Worker Role = "worker"
)

// Content is where the blobs of a cluster image come from.
type Content interface {
	// Open opens a blob whose content is known to be right.
	Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
}

// Image is a cluster image, resolved.
type Image struct {
	// Name is the full name it was asked for, or the name inside the file it came from.
	Name string
	// Target is its index.
	Target ocispec.Descriptor
	// Index is the index read.
	Index clusterimage.Image
	// Platforms are the rootfs images by platform, such as "linux/amd64".
	Platforms map[string]Rootfs
	// Spec is that of the platform of the first master.
	Spec clusterimage.Spec
	// Documents are manifests of embedded images and refs, by digest, read for their layers.
	Documents map[digest.Digest]ocispec.Manifest
}

// Rootfs is the rootfs image of one platform.
type Rootfs struct {
	Descriptor ocispec.Descriptor
	Manifest   ocispec.Manifest
	Labels     map[string]string
	Metadata   basefs.Metadata
}

// platforms are the names of the rootfs images, sorted.
func (img *Image) platforms() []string {
	return slices.Sorted(maps.Keys(img.Platforms))
}

// rootfs is the rootfs image for an architecture of hosts; ok says whether there is one. For "", which
// is what a dry run knows, it is the only one, if there is only one.
func (img *Image) rootfs(arch string) (r Rootfs, ok bool) {
	names := img.platforms()
	if arch == "" {
		if len(names) != 1 {
			return Rootfs{}, false
		}
		return img.Platforms[names[0]], true
	}
	r, ok = img.Platforms["linux/"+arch]
	return r, ok
}

// Address is how to reach a host and under which address the cluster knows it.
type Address struct {
	// Host is an IP address; "" is the machine keg runs on.
	Host string `json:"host"`
	// Port is that of SSH; 0 is the usual one.
	Port int `json:"port,omitempty"`
}

// String is the name of the host in plans, progress and errors.
func (a Address) String() string {
	switch {
	case a.Host == "":
		return "localhost"
	case a.Port != 0 && a.Port != 22:
		return netip.AddrPortFrom(parseAddr(a.Host), uint16(a.Port)).String()
	}
	return a.Host
}

func parseAddr(s string) netip.Addr {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

// Node is one host of a cluster. Address and Role are given; the rest is found out by phases.
type Node struct {
	Address Address
	Role    Role
	// Runner runs commands there as root; set by the phase that connects, if it was not given.
	Runner remote.Runner
	// Host is keg-node there; set by the phase that sends it.
	Host Host
	// Facts are what the host is like.
	Facts node.Facts
	// State is what keg wrote down about the host; its Done grows while phases run.
	State node.HostState
	// Name is the Kubernetes node's name.
	Name string
	// IP is the address under which the cluster knows the host.
	IP string

	skew      time.Duration // of the host's clock against this machine's
	skewError time.Duration // the measurement is right to this much
	known     bool          // Facts and State are what the host says
	forgotten bool          // keg-node is gone from there
	findings  []Finding
	same      bool // an upgrade changes no program on the host
	leaving   bool // taken off the cluster by Remove
	reset     ResetHost
	changed   []string // paths that installing changed
	failed    error    // of a reset: nothing more is tried here
}

// Changed says whether this run has installed one of the paths anew, so that what has read it before
// must be restarted.
func (n *Node) Changed(paths ...string) bool {
	return slices.ContainsFunc(n.changed, func(p string) bool { return slices.Contains(paths, p) })
}

// Done says whether the step of that name has ended well on the host in this run or an earlier one.
func (n *Node) Done(step string) bool { return slices.Contains(n.State.Done, step) }

// Mark writes down on the host that a step has ended well.
func (n *Node) Mark(ctx context.Context, step string) error {
	if n.Done(step) {
		return nil
	}
	state := n.State
	state.Done = append(slices.Clone(state.Done), step)
	return n.setState(ctx, state)
}

// Unmark takes back the steps that match, before they are done once more.
func (n *Node) Unmark(ctx context.Context, match func(step string) bool) error {
	state := n.State
	state.Done = slices.DeleteFunc(slices.Clone(state.Done), match)
	if len(state.Done) == len(n.State.Done) {
		return nil
	}
	return n.setState(ctx, state)
}

func (n *Node) setState(ctx context.Context, state node.HostState) error {
	if err := n.Host.SetState(ctx, state); err != nil {
		return fmt.Errorf("writing state: %w", err)
	}
	n.State = state
	return nil
}

// Options are what a run may be told. All but Progress is kept on the control planes, so that later
// commands, also by another operator, work with the same settings.
type Options struct {
	// Progress hears of phases and steps. The ID of a step is "PHASE/HOST/TEXT".
	Progress progress.Func
	Settings
}

// Settings are what a cluster was made with.
type Settings struct {
	// Env overrides the image's defaults.
	Env map[string]string `json:"env,omitempty"`
	// Config are documents of the runtime's own configuration, merged over keg's: the user's word is last.
	Config []Document `json:"config,omitempty"`
	// Endpoint is "host:port" of a load balancer in front of the API that is there already; "" is none.
	Endpoint string `json:"endpoint,omitempty"`
	// VIP is an address that one of the control planes has at a time; "" is none.
	VIP string `json:"vip,omitempty"`
	// SANs are more names and addresses for the API's certificate.
	SANs []string `json:"sans,omitempty"`
}

// Cluster is the cluster that phases work on. The caller fills in the exported fields; UID and those
// of Nodes are settled while phases run.
type Cluster struct {
	// Name tells clusters of one operator apart.
	Name string
	// UID is made by the first run and found on the hosts by later ones.
	UID string
	// Image may be nil for Reset and Status.
	Image *Image
	Nodes []*Node
	// Driver is what Choose chose.
	Driver Driver
	// Content holds the blobs of Image.
	Content Content
	// Dir is the operator's directory for this cluster: record, journal, CA of the registry.
	Dir string
	// Kubeconfig is the file to write the kubeconfig to; "" writes none.
	Kubeconfig string
	// Login is what the caller needs to reach the hosts again, such as user and key file. It is kept in
	// the Record and must hold nothing secret.
	Login map[string]string
	// Connect reaches a host. A Runner that is also an io.Closer is closed at the end.
	Connect func(ctx context.Context, a Address) (remote.Runner, error)
	// Agent makes sure that this keg's keg-node is on the host, and returns it.
	Agent   func(ctx context.Context, r remote.Runner) (Host, error)
	Options Options

	lead     *Node // settled by facts
	backup   *Archive
	newNames []string // for the API's certificate, that a cluster that is there was not made with
	later    bool     // Image is an app image that comes to a cluster that is there
	findings []Finding
	mu       sync.Mutex // of cleanups
	cleanups []func(ctx context.Context) error
	journal  *journal
	ca       registryCA
}

// First is the control plane that is asked, and where the apps' commands run: the first in the list that
// is one already, or, as long as none is, the first that is to be one. It is nil if all are leaving.
func (c *Cluster) First() *Node {
	if c.lead != nil {
		return c.lead
	}
	if masters := c.ByRole(Master); len(masters) > 0 {
		return masters[0]
	}
	return nil
}

// ByRole are the nodes of a role that stay, in the order given.
func (c *Cluster) ByRole(r Role) []*Node {
	var list []*Node
	for _, n := range c.staying() {
		if n.Role == r {
			list = append(list, n)
		}
	}
	return list
}

// staying are the nodes that are not on their way out.
func (c *Cluster) staying() []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return n.leaving })
}

// Made says whether the host is part of the cluster's control plane, as far as keg noted.
func (n *Node) Made() bool {
	return n.Role == Master && n.failed == nil && (n.Done(DoneInit) || n.Done(DoneJoin))
}

// settleLead chooses First by what the hosts say.
func (c *Cluster) settleLead() {
	c.lead = nil
	for _, n := range c.ByRole(Master) {
		if n.Made() && n.State.Cluster == c.Name {
			c.lead = n
			return
		}
	}
	for _, n := range c.ByRole(Master) { // nothing is made, or nothing answers
		if n.failed == nil {
			c.lead = n
			return
		}
	}
}

// Defer has f called when the run ends, however it ends; the last one deferred is called first. Its ctx
// is not cancelled with the run's and lasts a minute at most.
func (c *Cluster) Defer(f func(ctx context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cleanups = append(c.cleanups, f)
}

// KubeVersion is the version of Kubernetes in the image, such as "v1.37.2"; "" without an image.
func (c *Cluster) KubeVersion() string {
	if c.Image == nil {
		return ""
	}
	arch := ""
	if first := c.First(); first != nil {
		arch = first.Facts.Arch
	}
	r, ok := c.Image.rootfs(arch)
	if !ok && len(c.Image.Platforms) > 0 {
		r = c.Image.Platforms[c.Image.platforms()[0]]
	}
	if v := r.Metadata.KubernetesVersion(); v != "" {
		return v
	}
	return r.Labels[clusterimage.LabelKubeVersion]
}

func megabytes(n int64) string { return strconv.FormatInt((n+999_999)/1_000_000, 10) + " MB" }

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
