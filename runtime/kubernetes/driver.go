// Package kubernetes is the driver for clusters of containerd and kubeadm (1.31 or newer, kubeadm
// v1beta4). The files it works with are those of the tree in basefs/kubernetes, whose README lists the
// variables; what may be configured is configured there and not here.
package kubernetes

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// Paths on hosts.
const (
	binDir      = "/usr/local/bin"
	adminConf   = "/etc/kubernetes/admin.conf"
	kubeletConf = "/etc/kubernetes/kubelet.conf"
	criSocket   = "unix:///run/containerd/containerd.sock"
	// secretDir holds files with join tokens while kubeadm runs.
	secretDir = node.Dir + "/kubeadm"
)

// Driver is the runtime.Driver of the name "kubernetes".
type Driver struct{}

var _ runtime.Driver = Driver{}

// Name is "kubernetes".
func (Driver) Name() string { return "kubernetes" }

// defaultPause is kubeadm's for Kubernetes 1.37; an image that embeds another says so by that.
const defaultPause = "registry.k8s.io/pause:3.10.2"

// Env are the variables of basefs/kubernetes/README.md.
func (Driver) Env(c *runtime.Cluster, n *runtime.Node) map[string]string {
	env := map[string]string{
		"POD_CIDR":                 "10.244.0.0/16",
		"SERVICE_CIDR":             "10.96.0.0/12",
		"DNS_DOMAIN":               "cluster.local",
		"KUBE_DNS":                 "enabled",
		"KUBE_PROXY":               "enabled",
		"KUBE_PROXY_MODE":          "iptables",
		"CNI":                      "bridge",
		"CNI_MASQUERADE":           masquerade(n.Facts.Existing),
		"CERT_SANS":                "",
		"PAUSE_IMAGE":              defaultPause,
		"SWAP":                     "refuse",
		"KUBEADM_IGNORE_PREFLIGHT": "",
		"RESTRICT_OOM_SCORE_ADJ":   strconv.FormatBool(!n.Facts.OOMScoreAdj),
		"FAIL_CGROUP_V1":           "true",
		"CONTAINERD":               bundled,
		"CGROUP":                   strconv.Itoa(n.Facts.Cgroup),
		"NODE_POD_CIDR":            "",
		"NODE_IPS":                 strings.Join(nodeIPs(c, n), ","),
	}
	if c.HasPlugin(clusterimage.RoleCNI) {
		env["CNI"] = "none"
	}
	// kubelet's configuration is the cluster's, so one host with control groups v1 decides.
	if slices.ContainsFunc(c.Nodes, func(n *runtime.Node) bool { return n.Facts.Cgroup == 1 }) {
		env["FAIL_CGROUP_V1"] = "false"
	}
	if c.Image != nil {
		for _, e := range c.Image.Index.Embedded {
			if strings.HasPrefix(e.Name, "registry.k8s.io/pause:") {
				env["PAUSE_IMAGE"] = e.Name
			}
		}
	}
	return env
}

// setting is a variable as the image or the user set it.
func setting(c *runtime.Cluster, key, otherwise string) string {
	if v, ok := c.Setting(key); ok {
		return v
	}
	return otherwise
}

// nodeIPs are the addresses that kubelet is told: the one by which the cluster knows the host, and where
// pods have addresses of both families, the first that the host has of the other.
func nodeIPs(c *runtime.Cluster, n *runtime.Node) []string {
	list := []string{n.IP}
	own, err := netip.ParseAddr(n.IP)
	if err != nil || !strings.Contains(setting(c, "POD_CIDR", ""), ",") {
		return list
	}
	for _, a := range n.Facts.Addresses {
		other, err := netip.ParseAddr(a)
		if err == nil && other.Unmap().Is4() != own.Unmap().Is4() && other.IsGlobalUnicast() && !sameAddress(a, c.Options.VIP) {
			return append(list, a)
		}
	}
	return list
}

// masquerade is the packet filter that the bridge plugin can use on the host.
func masquerade(existing []string) string {
	has := func(paths []string) bool {
		return slices.ContainsFunc(existing, func(e string) bool { return slices.Contains(paths, e) })
	}
	switch {
	case has(iptables):
		return "iptables"
	case has(nftables):
		return "nftables"
	}
	return "none"
}

// Items are the programs, units and configuration. That of the pod network comes later, when the
// cluster has given the node its part.
func (Driver) Items(c *runtime.Cluster, _ *runtime.Node) []node.InstallItem {
	if theirs(c) {
		return itemsBesideTheirs()
	}
	return []node.InstallItem{
		{From: "bin", To: binDir, Mode: 0o755},
		{From: "opt/cni/bin", To: "/opt/cni/bin", Mode: 0o755, Optional: true},
		{From: "etc/systemd/system", To: "/etc/systemd/system", Mode: 0o644},
		{From: "etc/containerd/config.toml", To: "/etc/containerd/config.toml", Mode: 0o644},
		{From: "etc/crictl.yaml", To: "/etc/crictl.yaml", Mode: 0o644, Optional: true},
	}
}

// Claim are the places where kubeadm, kubelet, containerd, kubectl and network plugins put things.
func (Driver) Claim(n *runtime.Node) node.ClaimRequest {
	var engine []string
	if !theirsOn(n) {
		engine = []string{"/var/lib/containerd", "/run/containerd", "/opt/containerd", "/run/nri", "/etc/containerd"}
	}
	return node.ClaimRequest{
		Paths: append(engine,
			"/etc/kubernetes", "/var/lib/kubelet", "/var/lib/etcd", "/var/log/pods", "/var/log/containers",
			"/usr/libexec/kubernetes", "/root/.kube",
			"/etc/cni/net.d", "/var/lib/cni", "/opt/cni", "/run/netns",
			"/run/flannel", "/var/lib/calico", "/run/calico", "/var/log/calico", "/run/cilium", "/run/xtables.lock",
		),
		Links: []string{"cni0", "flannel.1", "kube-ipvs0", "nodelocaldns", "vxlan.calico", "cali*", "cilium*", "lxc*"},
	}
}

// Remember are the settings that kubelet and kube-proxy change on their own.
func (Driver) Remember() []string {
	return []string{
		"vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops",
		"kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
		"net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_tcp_timeout_established",
		"net.netfilter.nf_conntrack_tcp_timeout_close_wait", "net.ipv4.conf.all.route_localnet",
	}
}

// CommandEnv lets kubectl and helm find the cluster.
func (Driver) CommandEnv() map[string]string {
	return map[string]string{"KUBECONFIG": adminConf, "KUBECACHEDIR": node.Dir + "/kubectl"}
}

// Kubectl reads the administrator's kubeconfig.
func (Driver) Kubectl() []string {
	return []string{binDir + "/kubectl", "--kubeconfig", adminConf, "--cache-dir", node.Dir + "/kubectl"}
}

// kubectl asks the API through the first control plane.
func kubectl(ctx context.Context, c *runtime.Cluster, args ...string) ([]byte, error) {
	return c.Kubectl(ctx, append(args, "--request-timeout=15s")...)
}

// existing says which of the paths are on the host.
func existing(ctx context.Context, r remote.Runner, paths ...string) ([]string, error) {
	out, err := remote.Output(ctx, r, append([]string{"/bin/sh", "-c", `for p; do [ ! -e "$p" ] || echo "$p"; done`, "sh"}, paths...)...)
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(out)), nil
}
