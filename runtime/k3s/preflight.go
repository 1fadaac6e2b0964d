package k3s

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
)

// sign is a path that shows an installation.
type sign struct{ path, of string }

var foreign = []sign{
	{sqlite, "k3s with SQLite"},
	{configDir, "k3s"},
	{dataDir, "k3s"},
	{"/etc/rancher/node", "k3s (the password of its node)"},
	{"/run/k3s/containerd/containerd.sock", "k3s (it is running)"},
	{"/var/lib/rancher/rke2", "RKE2"},
	{"/etc/kubernetes/kubelet.conf", "a Kubernetes node"},
	{"/etc/kubernetes/manifests", "a Kubernetes control plane"},
	{"/var/lib/kubelet/config.yaml", "a Kubernetes node"},
	{"/etc/k0s", "k0s"},
	{"/var/lib/k0s", "k0s"},
	{"/var/snap/microk8s", "MicroK8s"},
}

// enforce is there where SELinux is installed, and policy where k3s' own rules are installed.
const (
	enforce = "/etc/selinux/targeted/policy"
	policy  = "/usr/share/selinux/packages/k3s.pp"
)

// Signs are the paths above.
func (Driver) Signs() []string {
	list := []string{enforce, policy}
	for _, s := range foreign {
		list = append(list, s.path)
	}
	return list
}

// ports that a role listens on.
var ports = map[runtime.Role][]int{
	runtime.Master: {2379, 2380, 2381, 2382, 6443, 6444, 10010, 10248, 10249, 10250, 10256, 10257, 10258, 10259},
	runtime.Worker: {6443, 6444, 10010, 10248, 10249, 10250, 10256},
}

// What k3s' documentation asks of hosts.
const (
	serverMemory = 2 << 30
	agentMemory  = 512 << 20
	// leastMemory is what a server does not even start in.
	leastMemory = 512 << 20
)

var nameList = regexp.MustCompile(`^[A-Za-z0-9.:*-]+(,[A-Za-z0-9.:*-]+)*$`)

// Preflight finds other installations, ports in use, hosts that are too small, swap, variables that make no
// sense, and images that k3s is going to start and the image does not embed.
func (d Driver) Preflight(c *runtime.Cluster, n *runtime.Node) []runtime.Finding {
	var found []runtime.Finding
	env := c.Env(n)
	add := func(severity runtime.Severity, id, text, cure string) {
		found = append(found, runtime.Finding{Host: n.Address.String(), ID: id, Severity: severity, Text: text, Cure: cure})
	}
	if n == c.First() {
		found = append(found, variables(env)...)
		found = append(found, images(c, env)...)
	}
	has := func(path string) bool { return slices.Contains(n.Facts.Existing, path) }
	if n.State.UID == "" { // what is there is not ours
		for _, s := range foreign {
			if has(s.path) {
				add(runtime.Fatal, "other-install", fmt.Sprintf("%s shows %s", s.path, s.of), "remove it with the tool that made it, or use another host")
			}
		}
		mine := slices.Clone(ports[n.Role])
		mine = append(mine, c.Registry().Port)
		if env["EMBEDDED_REGISTRY"] == "true" {
			mine = append(mine, 5001)
		}
		for _, p := range mine {
			if slices.Contains(n.Facts.Listening, p) {
				add(runtime.Fatal, "port", fmt.Sprintf("TCP port %d is in use", p), fmt.Sprintf("stop what listens there: ss -ltnp sport = :%d", p))
			}
		}
	} else if has(sqlite) {
		add(runtime.Fatal, "sqlite", sqlite+" shows a k3s with SQLite, which no other control plane can join", "reset the host with keg reset; its data is lost with that")
	}
	switch {
	case n.Role == runtime.Master && n.Facts.Memory < leastMemory:
		add(runtime.Fatal, "memory", fmt.Sprintf("a control plane wants 2 GiB of memory, it has %d MiB", n.Facts.Memory>>20), "use a larger host")
	case n.Role == runtime.Master && n.Facts.Memory < serverMemory:
		add(runtime.Warning, "memory", fmt.Sprintf("k3s wants 2 GiB of memory for a control plane, it has %d MiB", n.Facts.Memory>>20), "use a larger host")
	case n.Role == runtime.Worker && n.Facts.Memory < agentMemory:
		add(runtime.Warning, "memory", fmt.Sprintf("k3s wants 512 MiB of memory, it has %d", n.Facts.Memory>>20), "use a larger host")
	}
	if n.Role == runtime.Master && n.Facts.CPUs < 2 {
		add(runtime.Warning, "cpu", "k3s wants 2 CPUs for a control plane, it has 1", "use a larger host")
	}
	if n.Facts.Swap > 0 && env["SWAP"] != "allow" {
		add(runtime.Fatal, "swap", "it has swap space", "swapoff -a, and take it out of /etc/fstab; or --env SWAP=allow")
	}
	if n.Facts.Cgroup == 1 {
		add(runtime.Warning, "cgroup-v1", "it has control groups v1, which Kubernetes is about to give up; kubelet is told to accept them", "boot it with systemd.unified_cgroup_hierarchy=1")
	}
	if has(enforce) && !has(policy) {
		add(runtime.Warning, "selinux", "it has SELinux, and not the rules for k3s", "install the packages container-selinux and k3s-selinux, if SELinux is enforcing")
	}
	if _, ok := nodeIPs(env, n); !ok {
		add(runtime.Fatal, "dual-stack", fmt.Sprintf("pods have addresses of two families (POD_CIDR %s), it has one", env["POD_CIDR"]), "give it an address of the other family")
	}
	return found
}

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
		{"FLANNEL_BACKEND", []string{"vxlan", "host-gw", "wireguard-native", "none"}},
		{"SECRETS_ENCRYPTION", []string{"true", "false"}},
		{"EMBEDDED_REGISTRY", []string{"true", "false"}},
		{"SWAP", []string{"refuse", "allow"}},
		{"FAIL_CGROUP_V1", []string{"true", "false"}},
	} {
		if !slices.Contains(v.allowed, env[v.key]) {
			add(v.key, "it is one of "+strings.Join(v.allowed, ", "))
		}
	}
	if n, err := strconv.Atoi(env["MAX_PODS"]); err != nil || n < 1 {
		add("MAX_PODS", "give a number, such as 110")
	}
	for _, key := range []string{"CERT_SANS", "K3S_DISABLE"} {
		if env[key] != "" && !nameList.MatchString(env[key]) {
			add(key, "give names, separated by commas")
		}
	}
	services := ranges(env["SERVICE_CIDR"])
	for part := range strings.SplitSeq(env["CLUSTER_DNS"], ",") {
		addr, err := netip.ParseAddr(part)
		if err != nil || !slices.ContainsFunc(services, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			add("CLUSTER_DNS", "give an address of SERVICE_CIDR, or none: the tenth is taken then")
		}
	}
	if pods := ranges(env["POD_CIDR"]); !sameFamilies(pods, services) {
		add("POD_CIDR", "POD_CIDR and SERVICE_CIDR have ranges of the same families, in the same order")
	}
	return found
}

func sameFamilies(a, b []netip.Prefix) bool {
	return slices.EqualFunc(a, b, func(x, y netip.Prefix) bool { return x.Addr().Is4() == y.Addr().Is4() })
}

// parts are what k3s starts by itself unless it is disabled, each with an image that it needs.
var parts = []struct{ name, image string }{
	{"coredns", "docker.io/rancher/mirrored-coredns-coredns"},
	{"local-storage", "docker.io/rancher/local-path-provisioner"},
	{"metrics-server", "docker.io/rancher/mirrored-metrics-server"},
	{"traefik", "docker.io/rancher/mirrored-library-traefik"},
	{"servicelb", "docker.io/rancher/klipper-lb"},
}

// images finds what k3s is going to start and the image does not embed: nobody is asked outside.
func images(c *runtime.Cluster, env map[string]string) []runtime.Finding {
	if c.Image == nil {
		return nil
	}
	embeds := func(name string) bool {
		return slices.ContainsFunc(c.Image.Index.Embedded, func(e clusterimage.Embedded) bool {
			return e.Name == name || strings.HasPrefix(e.Name, name+":")
		})
	}
	var found []runtime.Finding
	if pause := env["PAUSE_IMAGE"]; pause == "" || !embeds(pause) {
		found = append(found, runtime.Finding{
			ID: "images", Severity: runtime.Fatal, Text: "the image does not embed the image of pods' first process (PAUSE_IMAGE), so no pod would start",
			Cure: "add what the release's k3s-images.txt lists to imageList and build it again",
		})
	}
	disabled := strings.Split(env["K3S_DISABLE"], ",")
	var missing []string
	for _, p := range parts {
		if !slices.Contains(disabled, p.name) && !embeds(p.image) {
			missing = append(missing, p.name)
		}
	}
	if len(missing) > 0 {
		found = append(found, runtime.Finding{
			ID: "images", Severity: runtime.Warning, Text: "the image embeds nothing for " + strings.Join(missing, ", ") + ", which k3s starts by itself: those pods will wait for ever",
			Cure: "add what the release's k3s-images.txt lists to imageList, or --env K3S_DISABLE=" + strings.Join(missing, ","),
		})
	}
	return found
}
