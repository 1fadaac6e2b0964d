package k0s

import (
	"slices"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
)

// Env are the variables of basefs/k0s/README.md.
func (Driver) Env(c *runtime.Cluster, _ *runtime.Node) map[string]string {
	env := map[string]string{
		"POD_CIDR":        "10.244.0.0/16",
		"SERVICE_CIDR":    "10.96.0.0/12",
		"DNS_DOMAIN":      "cluster.local",
		"CERT_SANS":       "",
		"K0S_NETWORK":     "kuberouter",
		"K0S_DISABLE":     "autopilot,update-prober",
		"KUBE_PROXY":      "enabled",
		"KUBE_PROXY_MODE": "iptables",
		"SWAP":            "refuse",
		"FAIL_CGROUP_V1":  "true",
	}
	// A single host reaches its own API. k0s refuses both the balancer and an address of somebody else's.
	env["K0S_NLLB"] = strconv.FormatBool(c.Options.Endpoint == "" && len(hosts(c)) > 1)
	if c.HasPlugin(clusterimage.RoleCNI) {
		env["K0S_NETWORK"] = "custom"
	}
	// What controllers say must be alike, so one host with control groups v1 decides.
	if slices.ContainsFunc(c.Nodes, func(n *runtime.Node) bool { return n.Facts.Cgroup == 1 }) {
		env["FAIL_CGROUP_V1"] = "false"
	}
	return env
}

// hosts are those that stay in the cluster.
func hosts(c *runtime.Cluster) []*runtime.Node {
	return append(c.ByRole(runtime.Master), c.ByRole(runtime.Worker)...)
}

// words are the parts of a list separated by commas.
func words(list string) []string {
	var all []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}
