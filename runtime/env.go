package runtime

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/basefs"
)

// APIServerName is the name under which everything in a cluster reaches its API; /etc/hosts of every
// host knows it.
const APIServerName = "apiserver.cluster.local"

// Env are the variables of a host that templates, hooks and commands see. Later wins: the driver's
// defaults, the image's ENV, what the user gave, and what only keg can know:
//
//	CLUSTER_NAME        name of the cluster
//	KUBE_VERSION        of the image, such as v1.37.2
//	IMAGE_NAME          name of the cluster image
//	NODE_NAME NODE_IP NODE_ROLE ARCH   of the host; NODE_ROLE is master or worker, ARCH a GOARCH
//	MASTER_IP           of the first control plane
//	API_ENDPOINT        APIEndpoint, "host:port"
//	SANS                SANs, separated by commas
//	MASTERS WORKERS     addresses, separated by commas
//	APISERVER_NAME      apiserver.cluster.local
//	REGISTRY REGISTRY_DOMAIN REGISTRY_PORT   the cluster's registry, "domain:port"
//	ROOTFS              where the rootfs lies on the host
//
// and, for trees made for sealer: HostIP HostIPFamily RegistryDomain RegistryPort RegistryURL
// LocalRegistryDomain LocalRegistryPort LocalRegistryURL, and those of basefs.LegacyEnv. PodCIDR, SvcCIDR and CertSANs
// may be set instead of POD_CIDR, SERVICE_CIDR and CERT_SANS.
func (c *Cluster) Env(n *Node) map[string]string {
	env := map[string]string{}
	if c.Driver != nil {
		maps.Copy(env, c.Driver.Env(c, n))
	}
	if c.Image != nil {
		maps.Copy(env, basefs.FromLegacyEnv(c.Image.Spec.Env))
		env["IMAGE_NAME"] = c.Image.Name
	}
	maps.Copy(env, basefs.FromLegacyEnv(c.Options.Env))
	ips := func(r Role) string {
		var list []string
		for _, n := range c.ByRole(r) {
			list = append(list, n.IP)
		}
		return strings.Join(list, ",")
	}
	env["MASTER_IP"] = ""
	if first := c.First(); first != nil { // the last hosts of a reset have none
		env["MASTER_IP"] = first.IP
	}
	r := c.Registry()
	port := strconv.Itoa(r.Port)
	family := "4"
	if addr, err := netip.ParseAddr(n.IP); err == nil && addr.Is6() {
		family = "6"
	}
	maps.Copy(env, map[string]string{
		"CLUSTER_NAME": c.Name, "KUBE_VERSION": c.KubeVersion(),
		"NODE_NAME": n.Name, "NODE_IP": n.IP, "NODE_ROLE": string(n.Role), "ARCH": n.Facts.Arch,
		"MASTERS": ips(Master), "WORKERS": ips(Worker),
		"APISERVER_NAME": APIServerName, "API_ENDPOINT": c.APIEndpoint(), "SANS": strings.Join(c.SANs(), ","),
		"REGISTRY": r.Endpoint(), "REGISTRY_DOMAIN": r.Name, "REGISTRY_PORT": port,
		"ROOTFS": c.rootfsDir(),

		"HostIP": n.IP, "HostIPFamily": family,
		"RegistryDomain": r.Name, "RegistryPort": port, "RegistryURL": r.Endpoint(),
		"LocalRegistryDomain": r.Name, "LocalRegistryPort": port, "LocalRegistryURL": r.Endpoint(),
	})
	return basefs.LegacyEnv(env)
}

// Setting is a variable as the user set it, or else the image; ok is false where neither did.
func (c *Cluster) Setting(key string) (value string, ok bool) {
	if value, ok = basefs.FromLegacyEnv(c.Options.Env)[key]; ok || c.Image == nil {
		return value, ok
	}
	value, ok = basefs.FromLegacyEnv(c.Image.Spec.Env)[key]
	return value, ok
}

// AppEnv are the values that apps have for themselves, by name; what the user gave wins.
func (c *Cluster) AppEnv() map[string]map[string]string {
	all := map[string]map[string]string{}
	if c.Image == nil {
		return all
	}
	for _, a := range c.Image.Spec.Apps {
		if len(a.Env) == 0 {
			continue
		}
		env := maps.Clone(a.Env)
		for k := range env {
			if v, ok := c.Options.Env[k]; ok {
				env[k] = v
			}
		}
		all[a.Name] = env
	}
	return all
}

var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// exports is env as lines for a shell. Names that a shell cannot hold are left out; templates and
// hooks see them all the same.
func exports(env map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if shellName.MatchString(k) {
			b.WriteString("export " + k + "='" + strings.ReplaceAll(env[k], "'", `'\''`) + "'\n")
		}
	}
	return b.String()
}
