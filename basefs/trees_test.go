package basefs_test

import (
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/basefs"
)

// TestTemplatesOfTrees renders the configuration that k3s and k0s are given, with the defaults of the
// trees' READMEs and with what differs most from them.
func TestTemplatesOfTrees(t *testing.T) {
	for file, envs := range map[string][2]map[string]string{
		"k3s/etc/rancher/k3s/config.yaml.tmpl": k3sEnvs,
		"k3s/etc/rancher/k3s/agent.yaml.tmpl":  k3sEnvs,
		"k0s/etc/k0s/k0s.yaml.tmpl":            k0sEnvs,
	} {
		text, err := os.ReadFile(filepath.FromSlash(file))
		if err != nil {
			t.Fatal(err)
		}
		for _, env := range envs {
			out, err := basefs.RenderText(file, string(text), env)
			if err != nil {
				t.Error(err)
				continue
			}
			var doc map[string]any
			if err := yaml.UnmarshalStrict(out, &doc); err != nil || len(doc) == 0 {
				t.Errorf("%s: %v\n%s", file, err, out)
			}
		}
	}
}

var k3sEnvs = [2]map[string]string{
	{
		"POD_CIDR": "10.42.0.0/16", "SERVICE_CIDR": "10.43.0.0/16", "CLUSTER_DNS": "10.43.0.10", "DNS_DOMAIN": "cluster.local",
		"K3S_DISABLE": "", "FLANNEL_BACKEND": "vxlan", "SECRETS_ENCRYPTION": "true", "EMBEDDED_REGISTRY": "false",
		"MAX_PODS": "110", "SWAP": "refuse", "FAIL_CGROUP_V1": "true",
	},
	{
		"POD_CIDR": "10.42.0.0/16,fd42::/56", "SERVICE_CIDR": "10.43.0.0/16,fd43::/112", "CLUSTER_DNS": "10.43.0.10,fd43::a", "DNS_DOMAIN": "c.example",
		"K3S_DISABLE": "traefik, servicelb", "FLANNEL_BACKEND": "none", "SECRETS_ENCRYPTION": "false", "EMBEDDED_REGISTRY": "true",
		"MAX_PODS": "250", "SWAP": "allow", "FAIL_CGROUP_V1": "false",
	},
}

var k0sEnvs = [2]map[string]string{
	{
		"POD_CIDR": "10.244.0.0/16", "SERVICE_CIDR": "10.96.0.0/12", "DNS_DOMAIN": "cluster.local", "K0S_NETWORK": "kuberouter", "K0S_NLLB": "true",
		"KUBE_PROXY": "enabled", "KUBE_PROXY_MODE": "iptables", "SWAP": "refuse", "FAIL_CGROUP_V1": "true",
	},
	{
		"POD_CIDR": "10.1.0.0/16", "SERVICE_CIDR": "10.2.0.0/16", "DNS_DOMAIN": "c.example", "K0S_NETWORK": "custom", "K0S_NLLB": "false",
		"KUBE_PROXY": "disabled", "KUBE_PROXY_MODE": "nftables", "SWAP": "allow", "FAIL_CGROUP_V1": "false",
	},
}
