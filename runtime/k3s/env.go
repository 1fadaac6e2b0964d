package k3s

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
)

// Env are the variables of basefs/k3s/README.md.
func (Driver) Env(c *runtime.Cluster, _ *runtime.Node) map[string]string {
	env := map[string]string{
		"POD_CIDR":           "10.42.0.0/16",
		"SERVICE_CIDR":       "10.43.0.0/16",
		"DNS_DOMAIN":         "cluster.local",
		"CERT_SANS":          "",
		"K3S_DISABLE":        "",
		"FLANNEL_BACKEND":    "vxlan",
		"SECRETS_ENCRYPTION": "true",
		"EMBEDDED_REGISTRY":  "false",
		"MAX_PODS":           "110",
		"SWAP":               "refuse",
		"FAIL_CGROUP_V1":     "true",
		"PAUSE_IMAGE":        "",
	}
	if c.HasPlugin(clusterimage.RoleCNI) {
		env["FLANNEL_BACKEND"] = "none"
	}
	// What servers say must be alike, so one host with control groups v1 decides.
	if slices.ContainsFunc(c.Nodes, func(n *runtime.Node) bool { return n.Facts.Cgroup == 1 }) {
		env["FAIL_CGROUP_V1"] = "false"
	}
	if c.Image != nil {
		env["PAUSE_IMAGE"] = embeddedPause(c)
	}
	services, _ := c.Setting("SERVICE_CIDR")
	env["CLUSTER_DNS"] = tenth(cmp.Or(services, env["SERVICE_CIDR"]))
	return env
}

// embeddedPause is the image of pods' first process that the cluster image embeds; "" if there is none.
func embeddedPause(c *runtime.Cluster) string {
	for _, prefix := range []string{"docker.io/rancher/mirrored-pause:", "registry.k8s.io/pause:"} {
		for _, e := range c.Image.Index.Embedded {
			if strings.HasPrefix(e.Name, prefix) {
				return e.Name
			}
		}
	}
	return ""
}

// ranges parses address ranges separated by commas; those that are none are left out.
func ranges(list string) []netip.Prefix {
	var all []netip.Prefix
	for part := range strings.SplitSeq(list, ",") {
		if p, err := netip.ParsePrefix(strings.TrimSpace(part)); err == nil {
			all = append(all, p.Masked())
		}
	}
	return all
}

// tenth is the tenth address of each of the ranges, as k3s chooses that of its DNS.
func tenth(list string) string {
	var dns []string
	for _, p := range ranges(list) {
		addr := p.Addr()
		for range 10 {
			addr = addr.Next()
		}
		dns = append(dns, addr.String())
	}
	return strings.Join(dns, ",")
}

// nodeIPs are the addresses of a host that its node has: one of each family that pods have. ok is false
// if there is none of one of them.
func nodeIPs(env map[string]string, n *runtime.Node) (list []string, ok bool) {
	pods := ranges(env["POD_CIDR"])
	list = []string{n.IP}
	own, err := netip.ParseAddr(n.IP)
	if err != nil || len(pods) < 2 {
		return list, true
	}
	taken := append(pods, ranges(env["SERVICE_CIDR"])...)
	for _, s := range n.Facts.Addresses {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Is4() == own.Is4() || !addr.IsGlobalUnicast() || slices.ContainsFunc(taken, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			continue
		}
		return append(list, s), true
	}
	return list, false
}
