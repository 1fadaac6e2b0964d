// Package k3s is the driver for clusters of k3s with embedded etcd (1.31 or newer). The files it works
// with are those of the tree in basefs/k3s, whose README lists the variables. install.sh is not used:
// configuration and units are written here, and k3s reads nothing from the internet.
//
// The real k3s could not be run where this was written: what it is taken to do is documented, or was
// read in its source. testdata/fake-k3s says the same in a program.
package k3s

import (
	"context"
	"io"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

type writer = io.Writer

// Paths on hosts.
const (
	binDir         = "/usr/local/bin"
	program        = binDir + "/k3s"
	configDir      = "/etc/rancher/k3s"
	configFile     = configDir + "/config.yaml"
	imageConfig    = configDir + "/image.yaml"  // what the image has of it; k3s does not read it
	tokenFile      = configDir + "/token"       // of servers: the server token; of agents: the agent token
	agentTokenFile = configDir + "/agent-token" // of servers
	kubeconfigFile = configDir + "/k3s.yaml"
	nodePassword   = "/etc/rancher/node/password"
	dataDir        = "/var/lib/rancher/k3s"
	serverDir      = dataDir + "/server"
	fullToken      = serverDir + "/token" // as k3s writes it: K10HASH::server:PASSWORD
	serverCA       = serverDir + "/tls/server-ca.crt"
	etcdMember     = serverDir + "/db/etcd/member"
	sqlite         = serverDir + "/db/state.db"
	snapshots      = serverDir + "/db/snapshots"
	// workDir holds what is keg's own: backups under way, and staleFile.
	workDir = node.Dir + "/k3s"
	// staleFile says that k3s has not yet read what was last written for it.
	staleFile = workDir + "/stale"
)

// Driver is the runtime.Driver of the name "k3s".
type Driver struct{}

var _ runtime.Driver = Driver{}

// Name is "k3s".
func (Driver) Name() string { return "k3s" }

// Items are the programs, and what the image says of configuration: config.yaml is made of that on each
// host, and an upgrade sees by it that there is something to do.
func (Driver) Items(_ *runtime.Cluster, n *runtime.Node) []node.InstallItem {
	return []node.InstallItem{
		{From: "bin", To: binDir, Mode: 0o755},
		{From: template(n), To: imageConfig, Mode: 0o600},
	}
}

// Claim are the places where k3s, its containerd and kubelet, and network plugins put things.
func (Driver) Claim(*runtime.Node) node.ClaimRequest {
	return node.ClaimRequest{
		Paths: []string{
			"/etc/rancher", "/var/lib/rancher", "/run/k3s", "/run/flannel", "/run/containerd", "/run/nri", "/opt/containerd",
			"/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/usr/libexec/kubernetes", "/root/.kube",
			"/etc/cni/net.d", "/var/lib/cni", "/opt/cni", "/run/netns",
			"/var/lib/calico", "/run/calico", "/var/log/calico", "/run/cilium", "/run/xtables.lock",
		},
		Links: []string{
			"cni0", "flannel.1", "flannel-v6.1", "flannel-wg", "flannel-wg-v6", "kube-ipvs0", "nodelocaldns",
			"vxlan.calico", "cali*", "cilium*", "lxc*",
		},
	}
}

// Remember are the settings that k3s, its kubelet and kube-proxy change on their own.
func (Driver) Remember() []string {
	return []string{
		"vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops",
		"kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
		"net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_tcp_timeout_established",
		"net.netfilter.nf_conntrack_tcp_timeout_close_wait", "net.ipv4.conf.all.route_localnet",
		"net.ipv4.conf.all.forwarding", "net.ipv4.conf.default.forwarding",
		"net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding",
	}
}

// CommandEnv lets kubectl and helm find the cluster.
func (Driver) CommandEnv() map[string]string {
	return map[string]string{"KUBECONFIG": kubeconfigFile, "KUBECACHEDIR": node.Dir + "/kubectl"}
}

// Kubectl is the one inside of k3s, as administrator: its kubeconfig names the server's own API.
func (Driver) Kubectl() []string {
	return []string{program, "kubectl", "--kubeconfig", kubeconfigFile, "--cache-dir", node.Dir + "/kubectl"}
}

// Kubeconfig is the administrator's.
func (Driver) Kubeconfig(ctx context.Context, c *runtime.Cluster) ([]byte, error) {
	return remote.Output(ctx, c.First().Runner, "cat", kubeconfigFile)
}

// Network is k3s' own, or an app of the image.
func (Driver) Network(*runtime.Cluster) []runtime.Batch { return nil }

// kubectl asks the API through the first control plane.
func kubectl(ctx context.Context, c *runtime.Cluster, args ...string) ([]byte, error) {
	return c.Kubectl(ctx, append(args, "--request-timeout=15s")...)
}
