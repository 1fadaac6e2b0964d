package k0s

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/clusterimage/keg/runtime"
)

// sign is a path that shows an installation.
type sign struct{ path, of string }

var foreign = []sign{
	{configDir, "k0s"},
	{dataDir, "k0s"},
	{"/etc/systemd/system/k0scontroller.service", "k0s"},
	{"/etc/systemd/system/k0sworker.service", "k0s"},
	{runDir + "/status.sock", "k0s (it is running)"},
	{"/etc/rancher/k3s", "k3s"},
	{"/var/lib/rancher/k3s", "k3s"},
	{"/var/lib/rancher/rke2", "RKE2"},
	{"/etc/kubernetes/kubelet.conf", "a Kubernetes node"},
	{"/etc/kubernetes/manifests", "a Kubernetes control plane"},
	{"/var/lib/kubelet/config.yaml", "a Kubernetes node"},
	{"/var/lib/etcd/member", "the data of an etcd"},
	{"/var/snap/microk8s", "MicroK8s"},
}

// selinux is there where SELinux is installed.
const selinux = "/etc/selinux/targeted/policy"

// Signs are the paths above.
func (Driver) Signs() []string {
	list := []string{selinux}
	for _, s := range foreign {
		list = append(list, s.path)
	}
	return list
}

// ports are those that k0s listens on, those of the local load balancer included.
func ports(n *runtime.Node, env map[string]string) []int {
	list := []int{6443, 10248, 10249, 10250, 10256}
	if n.Role == runtime.Master {
		list = append(list, 2379, 2380, 8132, 8133, 9443, 10257, 10259)
	}
	if env["K0S_NLLB"] == "true" {
		list = append(list, 7132, 7443)
	}
	if env["K0S_NETWORK"] == "kuberouter" {
		list = append(list, 179)
	}
	slices.Sort(list)
	return list
}

// What k0s' documentation asks of hosts.
const (
	controllerMemory = 1 << 30
	workerMemory     = 512 << 20
)

// Preflight finds other installations, ports in use, hosts that are too small, swap, and variables that make
// no sense.
func (d Driver) Preflight(c *runtime.Cluster, n *runtime.Node) []runtime.Finding {
	var found []runtime.Finding
	env := c.Env(n)
	add := func(severity runtime.Severity, id, text, cure string) {
		found = append(found, runtime.Finding{Host: n.Address.String(), ID: id, Severity: severity, Text: text, Cure: cure})
	}
	if n == c.First() {
		found = append(found, variables(env)...)
	}
	has := func(path string) bool { return slices.Contains(n.Facts.Existing, path) }
	if n.State.UID == "" { // what is there is not ours
		for _, s := range foreign {
			if has(s.path) {
				add(runtime.Fatal, "other-install", fmt.Sprintf("%s shows %s", s.path, s.of), "remove it with the tool that made it, or use another host")
			}
		}
		for _, p := range append(ports(n, env), c.Registry().Port) {
			if slices.Contains(n.Facts.Listening, p) {
				add(runtime.Fatal, "port", fmt.Sprintf("TCP port %d is in use", p), fmt.Sprintf("stop what listens there: ss -ltnp sport = :%d", p))
			}
		}
	}
	switch {
	case n.Role == runtime.Master && n.Facts.Memory < controllerMemory:
		add(runtime.Warning, "memory", fmt.Sprintf("k0s wants 1 GiB of memory for a control plane, it has %d MiB", n.Facts.Memory>>20), "use a larger host")
	case n.Facts.Memory < workerMemory:
		add(runtime.Warning, "memory", fmt.Sprintf("k0s wants 512 MiB of memory, it has %d", n.Facts.Memory>>20), "use a larger host")
	}
	if n.Facts.Swap > 0 && env["SWAP"] != "allow" {
		add(runtime.Fatal, "swap", "it has swap space", "swapoff -a, and take it out of /etc/fstab; or --env SWAP=allow")
	}
	if n.Facts.Cgroup == 1 {
		add(runtime.Warning, "cgroup-v1", "it has control groups v1, which k0s and Kubernetes are about to give up; both are told to accept them", "boot it with systemd.unified_cgroup_hierarchy=1")
	}
	if has(selinux) {
		add(runtime.Warning, "selinux", "it has SELinux, for which k0s brings no rules", "if it is enforcing, label k0s' files as https://docs.k0sproject.io/stable/selinux/ says")
	}
	return found
}

var nameList = regexp.MustCompile(`^[A-Za-z0-9.:*-]+(,[A-Za-z0-9.:*-]+)*$`)

// variables judges values that would otherwise fail late, or say something else in a template.
func variables(env map[string]string) []runtime.Finding {
	var found []runtime.Finding
	add := func(key, cure string) {
		found = append(found, runtime.Finding{ID: "env", Severity: runtime.Fatal, Text: fmt.Sprintf("%s=%q is not understood", key, env[key]), Cure: cure})
	}
	for _, v := range []struct {
		key     string
		allowed []string
	}{
		{"K0S_NETWORK", []string{"kuberouter", "calico", "custom"}},
		{"K0S_NLLB", []string{"true", "false"}},
		{"KUBE_PROXY", []string{"enabled", "disabled"}},
		{"KUBE_PROXY_MODE", []string{"iptables", "nftables", "ipvs"}},
		{"SWAP", []string{"refuse", "allow"}},
		{"FAIL_CGROUP_V1", []string{"true", "false"}},
	} {
		if !slices.Contains(v.allowed, env[v.key]) {
			cure := "it is one of"
			for i, a := range v.allowed {
				if i > 0 {
					cure += ","
				}
				cure += " " + a
			}
			add(v.key, cure)
		}
	}
	for _, key := range []string{"CERT_SANS", "K0S_DISABLE"} {
		if env[key] != "" && !nameList.MatchString(env[key]) {
			add(key, "give names, separated by commas")
		}
	}
	for _, key := range []string{"POD_CIDR", "SERVICE_CIDR"} {
		if _, err := netip.ParsePrefix(env[key]); err != nil {
			add(key, "give one range of addresses, such as 10.244.0.0/16; those of a second family are spec.network.dualStack in --config")
		}
	}
	return found
}
