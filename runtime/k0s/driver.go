// Package k0s is the driver for clusters of k0s with the etcd that it runs itself. The files it works with
// are those of the tree in basefs/k0s, whose README lists the variables. The service is written by
// `k0s install`, and everything k0s makes by itself is claimed, so that a reset takes it back.
//
// Every host is a node: control planes run pods too (--enable-worker), and have the usual taint unless
// there is no worker.
package k0s

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
	binDir     = "/usr/local/bin"
	program    = binDir + "/k0s"
	configDir  = "/etc/k0s"
	configFile = configDir + "/k0s.yaml"
	tokenFile  = configDir + "/k0stoken"
	dropInDir  = configDir + "/containerd.d"
	dataDir    = "/var/lib/k0s"
	pkiDir     = dataDir + "/pki"
	caCert     = pkiDir + "/ca.crt"
	adminConf  = pkiDir + "/admin.conf"
	etcdDir    = dataDir + "/etcd"
	etcdData   = etcdDir + "/member/snap/db" // its existence is how k0s knows that it has joined
	kubeletDir = dataDir + "/kubelet"
	// kubeletConf is there once a worker has its certificate.
	kubeletConf = dataDir + "/kubelet.conf"
	runDir      = "/run/k0s"
	// workDir holds what is keg's own.
	workDir = node.Dir + "/k0s"
	// imageConfig is what the image has of k0s.yaml.
	imageConfig = workDir + "/image.yaml"
	// staleFile says that k0s has not yet read what was last written for it.
	staleFile = workDir + "/stale"
	// installedFile says what `k0s install` was last asked for, and what it made of it.
	installedFile = workDir + "/installed"
)

// joinPort is where controllers answer those that join.
const joinPort = "9443"

// Driver is the runtime.Driver of the name "k0s".
type Driver struct{}

var _ runtime.Driver = Driver{}

// Name is "k0s".
func (Driver) Name() string { return "k0s" }

// Items are the programs, and what the image says of configuration: k0s.yaml is made of that on each control
// plane, and an upgrade sees by it that there is something to do. Trees of sealer have none.
func (Driver) Items(_ *runtime.Cluster, n *runtime.Node) []node.InstallItem {
	list := []node.InstallItem{{From: "bin", To: binDir, Mode: 0o755}}
	if n.Role == runtime.Master {
		list = append(list, node.InstallItem{From: template, To: imageConfig, Mode: 0o600, Optional: true})
	}
	return list
}

// users are the accounts that `k0s install controller` makes where they are missing.
var users = []string{"etcd", "konnectivity-server", "kube-apiserver", "kube-scheduler"}

// Claim are the places where k0s, its containerd and kubelet, and network plugins put things.
func (Driver) Claim(n *runtime.Node) node.ClaimRequest {
	r := node.ClaimRequest{
		Paths: []string{
			configDir, dataDir, runDir, "/usr/libexec/k0s",
			"/etc/systemd/system/k0scontroller.service", "/etc/systemd/system/k0scontroller.service.d",
			"/etc/systemd/system/k0sworker.service", "/etc/systemd/system/k0sworker.service.d",
			"/run/containerd", "/run/nri", "/opt/containerd", "/var/lib/kubelet", "/var/log/pods", "/var/log/containers",
			"/usr/libexec/kubernetes", "/root/.kube",
			"/etc/cni/net.d", "/var/lib/cni", "/opt/cni", "/run/netns",
			"/var/lib/kube-router", "/run/flannel", "/var/lib/calico", "/run/calico", "/var/log/calico", "/run/cilium", "/run/xtables.lock",
		},
		Links: []string{
			"kube-bridge", "kube-dummy-if", "tun-*", "cni0", "flannel.1", "kube-ipvs0", "nodelocaldns",
			"vxlan.calico", "cali*", "cilium*", "lxc*",
		},
	}
	if n.Role == runtime.Master {
		r.Users = users
	}
	return r
}

// Remember are the settings that k0s, its kubelet and kube-proxy change on their own.
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
	return map[string]string{"KUBECONFIG": adminConf, "KUBECACHEDIR": node.Dir + "/kubectl"}
}

// Kubectl is the one inside of k0s, as administrator: its kubeconfig names the controller's own API.
func (Driver) Kubectl() []string {
	return []string{program, "kubectl", "--kubeconfig", adminConf, "--cache-dir", node.Dir + "/kubectl"}
}

// Kubeconfig is the administrator's.
func (Driver) Kubeconfig(ctx context.Context, c *runtime.Cluster) ([]byte, error) {
	return remote.Output(ctx, c.First().Runner, "cat", adminConf)
}

// Network is k0s' own, or an app of the image.
func (Driver) Network(*runtime.Cluster) []runtime.Batch { return nil }

// kubectl asks the API through the first control plane.
func kubectl(ctx context.Context, c *runtime.Cluster, args ...string) ([]byte, error) {
	return c.Kubectl(ctx, append(args, "--request-timeout=15s")...)
}
