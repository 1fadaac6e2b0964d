package kubernetes

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
)

// Programs that filter packets, where distributions put them.
var (
	iptables = []string{"/usr/sbin/iptables", "/sbin/iptables", "/usr/bin/iptables"}
	nftables = []string{"/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"}
)

// sign is a path that shows an installation.
type sign struct{ path, of string }

var foreign = []sign{
	{"/etc/kubernetes/kubelet.conf", "a Kubernetes node"},
	{"/etc/kubernetes/manifests", "a Kubernetes control plane"},
	{"/var/lib/etcd", "etcd"},
	{"/var/lib/kubelet/config.yaml", "a Kubernetes node"},
	{"/etc/rancher/k3s", "k3s"},
	{"/var/lib/rancher/k3s", "k3s"},
	{"/var/lib/rancher/rke2", "RKE2"},
	{"/etc/k0s", "k0s"},
	{"/var/lib/k0s", "k0s"},
	{"/var/snap/microk8s", "MicroK8s"},
	{containerdSocket, "another containerd (it is running)"},
	{"/run/docker.sock", "Docker (it is running)"},
	{"/run/crio/crio.sock", "CRI-O (it is running)"},
	{"/etc/cni/net.d", "another network plugin's configuration"},
}

// Signs are the paths above, and the packet filters.
func (Driver) Signs() []string {
	var list []string
	for _, s := range foreign {
		list = append(list, s.path)
	}
	return append(append(append(list, theirsMark), iptables...), nftables...)
}

var (
	checkNames = regexp.MustCompile(`^[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*$`)
	nameList   = regexp.MustCompile(`^[A-Za-z0-9.:*-]+(,[A-Za-z0-9.:*-]+)*$`)
)

// ports that a role listens on, besides the registry's: on a worker the API's is the balancer's.
var ports = map[runtime.Role][]int{
	runtime.Master: {6443, 2379, 2380, 10250, 10257, 10259},
	runtime.Worker: {6443, 10250},
}

// Preflight finds other installations, ports in use, hosts that are too small, swap, and variables
// that make no sense.
func (d Driver) Preflight(c *runtime.Cluster, n *runtime.Node) []runtime.Finding {
	var list []runtime.Finding
	env := c.Env(n)
	add := func(severity runtime.Severity, id, text, cure string) {
		list = append(list, runtime.Finding{Host: n.Address.String(), ID: id, Severity: severity, Text: text, Cure: cure})
	}
	if n == c.First() {
		list = append(list, variables(env)...)
		list = append(list, images(c, env)...)
	}
	if n.State.UID == "" { // what is there is not ours
		for _, s := range foreign {
			if s.path == containerdSocket && theirs(c) {
				continue
			}
			if slices.Contains(n.Facts.Existing, s.path) {
				add(runtime.Fatal, "other-install", fmt.Sprintf("%s shows %s", s.path, s.of), "remove it with the tool that made it, or use another host")
			}
		}
		for _, p := range append(slices.Clone(ports[n.Role]), c.Registry().Port) {
			if slices.Contains(n.Facts.Listening, p) {
				add(runtime.Fatal, "port", fmt.Sprintf("TCP port %d is in use", p), fmt.Sprintf("stop what listens there: ss -ltnp sport = :%d", p))
			}
		}
	}
	ignored := strings.Split(env["KUBEADM_IGNORE_PREFLIGHT"], ",")
	if n.Role == runtime.Master {
		if n.Facts.CPUs < 2 && !slices.Contains(ignored, "NumCPU") {
			add(runtime.Fatal, "cpu", "a control plane wants 2 CPUs, it has 1", "use a larger host, or --env KUBEADM_IGNORE_PREFLIGHT=NumCPU")
		}
		if n.Facts.Memory < 1700<<20 && !slices.Contains(ignored, "Mem") {
			add(runtime.Fatal, "memory", fmt.Sprintf("a control plane wants 1700 MiB of memory, it has %d", n.Facts.Memory>>20), "use a larger host, or --env KUBEADM_IGNORE_PREFLIGHT=Mem")
		}
	}
	if n.Facts.Swap > 0 && env["SWAP"] != "allow" {
		add(runtime.Fatal, "swap", "it has swap space", "swapoff -a, and take it out of /etc/fstab; or --env SWAP=allow")
	}
	if n.Facts.Cgroup == 1 {
		add(runtime.Warning, "cgroup-v1", "it has control groups v1, which Kubernetes is about to give up; kubelet is told to accept them", "boot it with systemd.unified_cgroup_hierarchy=1")
	}
	if env["CNI"] == "bridge" && env["CNI_MASQUERADE"] == "none" {
		add(runtime.Warning, "packet-filter", "it has neither iptables nor nft: pods reach no address outside of the cluster", "install one of them")
	}
	return list
}

// variables judges values that would otherwise fail late, or say something else in a template.
func variables(env map[string]string) []runtime.Finding {
	var list []runtime.Finding
	add := func(key, cure string) {
		list = append(list, runtime.Finding{ID: "env", Severity: runtime.Fatal, Text: fmt.Sprintf("%s=%q is not understood", key, env[key]), Cure: cure})
	}
	for _, v := range []struct {
		key     string
		allowed []string
	}{
		{"KUBE_DNS", []string{"enabled", "disabled"}},
		{"KUBE_PROXY", []string{"enabled", "disabled"}},
		{"KUBE_PROXY_MODE", []string{"iptables", "nftables", "ipvs"}},
		{"CNI", []string{"bridge", "none"}},
		{"CNI_MASQUERADE", []string{"iptables", "nftables", "none"}},
		{"CONTAINERD", []string{bundled, "existing"}},
		{"SWAP", []string{"refuse", "allow"}},
		{"RESTRICT_OOM_SCORE_ADJ", []string{"true", "false"}},
		{"FAIL_CGROUP_V1", []string{"true", "false"}},
	} {
		if !slices.Contains(v.allowed, env[v.key]) {
			add(v.key, "it is one of "+strings.Join(v.allowed, ", "))
		}
	}
	if names := env["KUBEADM_IGNORE_PREFLIGHT"]; names != "" {
		if !checkNames.MatchString(names) {
			add("KUBEADM_IGNORE_PREFLIGHT", "give names of kubeadm's checks, separated by commas")
		} else if slices.ContainsFunc(strings.Split(names, ","), func(s string) bool { return strings.EqualFold(s, "all") }) {
			add("KUBEADM_IGNORE_PREFLIGHT", "name the checks: ignoring all of them hides what will fail later")
		}
	}
	if names := env["CERT_SANS"]; names != "" && !nameList.MatchString(names) {
		add("CERT_SANS", "give names and addresses, separated by commas")
	}
	return list
}

// images finds what kubeadm is going to start and the image does not embed: without it, kubeadm waits
// for minutes and then says little.
func images(c *runtime.Cluster, env map[string]string) []runtime.Finding {
	const registry, anyTag = "registry.k8s.io/", ":"
	wanted := []string{env["PAUSE_IMAGE"], registry + "etcd" + anyTag}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		if name != "kube-proxy" || env["KUBE_PROXY"] != "disabled" {
			wanted = append(wanted, registry+name+":"+c.KubeVersion())
		}
	}
	if env["KUBE_DNS"] != "disabled" {
		wanted = append(wanted, registry+"coredns/coredns"+anyTag)
	}
	var missing []string
	for _, w := range wanted {
		if !slices.ContainsFunc(c.Image.Index.Embedded, func(e clusterimage.Embedded) bool {
			return e.Name == w || strings.HasSuffix(w, anyTag) && strings.HasPrefix(e.Name, w)
		}) {
			missing = append(missing, strings.TrimSuffix(w, anyTag))
		}
	}
	if missing == nil {
		return nil
	}
	return []runtime.Finding{{
		ID: "images", Severity: runtime.Fatal,
		Text: "the image does not embed " + strings.Join(missing, ", "),
		Cure: "add what `kubeadm config images list` prints to imageList and build it again",
	}}
}
