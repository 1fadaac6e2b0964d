package kubernetes

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

var update = flag.Bool("update", false, "write the golden files anew")

const tree = "../../basefs/kubernetes"

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// render renders a template of the tree as keg-node does on the host.
func render(t *testing.T, name string, env map[string]string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tree, name))
	if err != nil {
		t.Fatal(err)
	}
	out, err := basefs.RenderText(name, string(text), env)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// scene is a cluster with facts as a run would find them.
func scene(workers int, cgroup int, env map[string]string) *runtime.Cluster {
	img, _ := testImage()
	c := &runtime.Cluster{Name: "shop", Driver: Driver{}, Image: img, Options: runtime.Options{Settings: runtime.Settings{Env: env}}}
	for i := range workers + 1 {
		n := &runtime.Node{Role: runtime.Worker, Name: fmt.Sprintf("h%d", i+1), IP: fmt.Sprintf("192.0.2.%d", i+11)}
		n.Address.Host = n.IP
		n.Facts = node.Facts{Arch: "amd64", Cgroup: cgroup, OOMScoreAdj: cgroup == 2, Existing: []string{"/usr/sbin/nft"}}
		if i == 0 {
			n.Role = runtime.Master
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

// masters has all hosts be control planes, behind a load balancer.
func masters(c *runtime.Cluster) *runtime.Cluster {
	for _, n := range c.Nodes {
		n.Role = runtime.Master
	}
	c.Options.Endpoint, c.Options.VIP = "api.example.com:443", "192.0.2.100"
	return c
}

// dual gives hosts an IPv6 address.
func dual(c *runtime.Cluster) *runtime.Cluster {
	for i, n := range c.Nodes {
		n.Facts.Addresses = []string{n.IP, "fe80::1", fmt.Sprintf("fd00:1::%d", i+11)}
	}
	return c
}

// configured has documents of the user's.
func configured(t *testing.T, c *runtime.Cluster) *runtime.Cluster {
	t.Helper()
	docs, err := runtime.ParseDocuments("user.yaml", []byte(`apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
apiServer:
  certSANs: [api.example.com]
  extraArgs: [{name: audit-log-maxage, value: "7"}]
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
nodeRegistration:
  kubeletExtraArgs: [{name: node-labels, value: zone=a}]
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 50
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: UpgradeConfiguration
apply:
  etcdUpgrade: false
`))
	if err != nil {
		t.Fatal(err)
	}
	c.Options.Config = docs
	if list := (Driver{}).CheckRequest(c); len(list) > 0 {
		t.Fatalf("findings %v", list)
	}
	return c
}

// TestKubeadmFiles renders what kubeadm is given, and asks a real one (KEG_E2E_BIN) whether it is right.
func TestKubeadmFiles(t *testing.T) {
	kubeadm := filepath.Join(os.Getenv("KEG_E2E_BIN"), "kubeadm")
	tok := token("abcdef.0123456789abcdef")
	for _, tt := range []struct {
		name string
		c    *runtime.Cluster
	}{
		{"default", scene(1, 2, nil)},
		{"single", scene(0, 2, nil)},
		{"cgroup1", scene(1, 1, map[string]string{"KUBE_DNS": "disabled", "KUBE_PROXY": "disabled", "KUBEADM_IGNORE_PREFLIGHT": "NumCPU,Mem"})},
		{"masters", masters(scene(2, 2, nil))},
		{"dual", dual(scene(1, 2, map[string]string{"POD_CIDR": "10.244.0.0/16,fd00:10:244::/56", "SERVICE_CIDR": "10.96.0.0/16,fd00:10:96::/112"}))},
		{"user", configured(t, scene(1, 2, nil))},
		{"swap", scene(1, 2, map[string]string{"SWAP": "allow", "CERT_SANS": "api.example.com,198.51.100.7", "KUBE_PROXY_MODE": "nftables"})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string][]byte{}
			config, err := initConfig(render(t, "etc/kubeadm.yaml.tmpl", tt.c.Env(tt.c.First())), tt.c.Options.Config, tok)
			if err != nil {
				t.Fatal(err)
			}
			files["init-"+tt.name+".yaml"] = config
			upgrade, err := upgradeConfig(render(t, "etc/kubeadm-upgrade.yaml.tmpl", tt.c.Env(tt.c.First())), tt.c.Options.Config)
			if err != nil {
				t.Fatal(err)
			}
			files["upgrade-"+tt.name+".yaml"] = upgrade
			if workers := tt.c.Nodes[1:]; len(workers) > 0 {
				config, err := joinConfig(render(t, "etc/kubeadm-join.yaml.tmpl", tt.c.Env(workers[0])), tt.c.Options.Config, tt.c.APIEndpoint(), tok, "sha256:"+strings.Repeat("ab", 32))
				if err != nil {
					t.Fatal(err)
				}
				files["join-"+tt.name+".yaml"] = config
			}
			for name, data := range files {
				golden(t, name, data)
				t.Run("kubeadm", func(t *testing.T) {
					if _, err := os.Stat(kubeadm); err != nil {
						t.Skipf("no real kubeadm in $KEG_E2E_BIN: %v", err)
					}
					out, err := exec.CommandContext(t.Context(), kubeadm, "config", "validate", "--config", filepath.Join("testdata", name)).CombinedOutput()
					if err != nil || strings.Contains(strings.ToLower(string(out)), "warning") {
						t.Errorf("%s: %v\n%s", name, err, out)
					}
				})
			}
		})
	}
}

func TestTokenConfigIsValid(t *testing.T) {
	config, err := tokenConfig("abcdef.0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "token.yaml", config)
}

// TestContainerdConfig asks a real containerd whether it reads the configuration as it is meant.
func TestContainerdConfig(t *testing.T) {
	c := scene(1, 1, nil)
	config := render(t, "etc/containerd/config.toml.tmpl", c.Env(c.First()))
	golden(t, "containerd.toml", config)
	containerd := filepath.Join(os.Getenv("KEG_E2E_BIN"), "containerd")
	if _, err := os.Stat(containerd); err != nil {
		t.Skipf("no real containerd in $KEG_E2E_BIN: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), containerd, "--config", filepath.Join("testdata", "containerd.toml"), "config", "dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"restrict_oom_score_adj = true", "SystemdCgroup = true", "registry.k8s.io/pause:3.10.2", "/etc/containerd/certs.d"} {
		if !strings.Contains(string(out), want) && !strings.Contains(string(out), strings.ReplaceAll(want, `"`, `'`)) {
			t.Errorf("containerd does not take over %s", want)
		}
	}
}

func TestConflist(t *testing.T) {
	c := scene(1, 2, nil)
	for name, change := range map[string]map[string]string{
		"bridge.conflist":        {"NODE_POD_CIDR": "10.244.1.0/24"},
		"bridge-dual.conflist":   {"NODE_POD_CIDR": "10.244.1.0/24,fd00:10:244:1::/64"},
		"bridge-nomasq.conflist": {"NODE_POD_CIDR": "10.244.1.0/24", "CNI_MASQUERADE": "none"},
	} {
		env := c.Env(c.Nodes[1])
		for k, v := range change {
			env[k] = v
		}
		got := render(t, conflist+".tmpl", env)
		if !json.Valid(got) {
			t.Errorf("%s is no JSON:\n%s", name, got)
		}
		golden(t, name, got)
	}
}

func TestRoutesUnit(t *testing.T) {
	parts := map[string]runtime.NodeStatus{
		"h1": {Name: "h1", Address: "192.0.2.11", PodCIDR: "10.244.0.0/24"},
		"h2": {Name: "h2", Address: "192.0.2.12", PodCIDR: "10.244.1.0/24"},
		"h3": {Name: "h3", Address: "192.0.2.13", PodCIDR: "10.244.2.0/24"},
	}
	golden(t, "routes.service", routes("h2", parts))
	for name, s := range parts {
		s.PodCIDRs = []string{s.PodCIDR, "fd00:10:244:" + name[1:] + "::/64"}
		s.Addresses = []string{s.Address, "fd00:1::" + name[1:]}
		parts[name] = s
	}
	golden(t, "routes-dual.service", routes("h2", parts))
}

// TestPlan is the plan of a dry run: no host is reached, and nothing is known of them.
func TestPlan(t *testing.T) {
	img, _ := testImage()
	c := &runtime.Cluster{Name: "shop", Driver: Driver{}, Image: img, Kubeconfig: "/home/ann/.kube/keg-shop.config"}
	for i, ip := range []string{"192.0.2.11", "192.0.2.12"} {
		n := &runtime.Node{Address: runtime.Address{Host: ip}, Role: runtime.Master}
		if i > 0 {
			n.Role = runtime.Worker
		}
		c.Nodes = append(c.Nodes, n)
	}
	plan, err := runtime.NewPlan(c, runtime.RunPhases())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", append(data, '\n'))
}
