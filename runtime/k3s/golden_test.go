package k3s

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

var update = flag.Bool("update", false, "write the golden files anew")

const tree = "../../basefs/k3s"

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

// render renders the tree's template for a host as keg-node does there.
func render(t *testing.T, c *runtime.Cluster, n *runtime.Node) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tree, template(n)+".tmpl"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := basefs.RenderText(template(n), string(text), c.Env(n))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// scene is a cluster with facts as a run would find them: 3 control planes, 2 workers.
func scene(s runtime.Settings) *runtime.Cluster {
	img, _ := testImage()
	c := &runtime.Cluster{Name: "shop", Driver: Driver{}, Image: img, Options: runtime.Options{Settings: s}}
	for i := range 5 {
		n := &runtime.Node{Role: runtime.Master, Name: fmt.Sprintf("h%d", i+1), IP: fmt.Sprintf("192.0.2.%d", i+11)}
		n.Address.Host = n.IP
		n.Facts = node.Facts{Arch: "amd64", Cgroup: 2, Addresses: []string{n.IP, fmt.Sprintf("fe80::%d", i+1), fmt.Sprintf("2001:db8::%d", i+11)}}
		if i > 2 {
			n.Role = runtime.Worker
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

func userDocument(t *testing.T, text string) []runtime.Document {
	t.Helper()
	docs, err := runtime.ParseDocuments("k3s.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    runtime.Settings
	}{
		{"default", runtime.Settings{}},
		{"dual", runtime.Settings{Env: map[string]string{"POD_CIDR": "10.42.0.0/16,2001:db8:42::/56", "SERVICE_CIDR": "10.43.0.0/16,2001:db8:43::/112"}}},
		{"all", runtime.Settings{
			Env: map[string]string{"K3S_DISABLE": "traefik,servicelb", "FLANNEL_BACKEND": "none", "CERT_SANS": "api.example.com", "SWAP": "allow", "EMBEDDED_REGISTRY": "true", "FAIL_CGROUP_V1": "false"},
			VIP: "192.0.2.100", Endpoint: "lb.example.com:443", SANs: []string{"k.example.com"},
			Config: userDocument(t, "tls-san: mine.example.com\nkubelet-arg+: [\"max-pods=250\", \"v=2\"]\nnode-label: [\"a=b\"]\nembedded-registry: null\netcd-snapshot-retention: 9\n---\nkind: agent\nnode-taint: [\"only=agents:NoSchedule\"]\n---\nkind: server\ndebug: true\n"),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := scene(tt.s)
			if found := (Driver{}).CheckRequest(c); len(found) > 0 {
				t.Error(found)
			}
			for name, n := range map[string]*runtime.Node{"first": c.Nodes[0], "server": c.Nodes[1], "agent": c.Nodes[3]} {
				doc, err := config(c, n, render(t, c, n), name == "first")
				if err != nil {
					t.Fatal(err)
				}
				out, err := yaml.Marshal(doc)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, tt.name+"-"+name+".yaml", out)
			}
		})
	}
}

// TestCriticalAlike: whatever host it is rendered on, what servers must have alike is alike.
func TestCriticalAlike(t *testing.T) {
	c := scene(runtime.Settings{})
	c.Nodes[1].Facts.Cgroup = 1
	var first map[string]any
	for i, n := range c.ByRole(runtime.Master) {
		doc, err := config(c, n, render(t, c, n), i == 0)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = doc
			continue
		}
		if d := cmp.Diff(critical(first), critical(doc)); d != "" {
			t.Errorf("%s (-first +it):\n%s", n.Name, d)
		}
	}
	working, err := yaml.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := sameCritical(first, working); err != nil {
		t.Error(err)
	}
	first["disable"] = []any{"traefik"}
	if err := sameCritical(first, working); err != nil {
		t.Error(err)
	}
	first["disable"] = []any{"traefik", "servicelb"}
	if err := sameCritical(first, working); err == nil {
		t.Error("servicelb may be disabled later")
	}
	delete(first, "disable")
	first["service-cidr"] = "10.99.0.0/16"
	if err := sameCritical(first, working); err == nil || !strings.Contains(err.Error(), `service-cidr would be "10.99.0.0/16", and the cluster was made with "10.43.0.0/16"`) {
		t.Errorf("error %v", err)
	}
	delete(first, "service-cidr")
	if err := sameCritical(first, working); err == nil {
		t.Error("a critical key that is left out is another value")
	}
}

func TestUnits(t *testing.T) {
	c := scene(runtime.Settings{})
	golden(t, "k3s.service", unitFile(c.Nodes[0]).Data)
	golden(t, "k3s-agent.service", unitFile(c.Nodes[4]).Data)
}

func TestMirror(t *testing.T) {
	files := Driver{}.Mirror(runtime.Registry{Name: "registry.cluster.local", Port: 5000, CA: []byte("PEM")})
	for _, f := range files {
		if f.Path == registriesFile {
			golden(t, "registries.yaml", f.Data)
			if f.Mode != 0o600 {
				t.Errorf("mode %o", f.Mode)
			}
		}
	}
}

// TestPlan is the plan of a dry run: no host is reached, and nothing is known of them.
func TestPlan(t *testing.T) {
	img, _ := testImage()
	c := &runtime.Cluster{Name: "shop", Driver: Driver{}, Image: img, Kubeconfig: "/home/ann/.kube/keg-shop.config"}
	for i, ip := range []string{"192.0.2.11", "192.0.2.12", "192.0.2.13"} {
		n := &runtime.Node{Address: runtime.Address{Host: ip}, Role: runtime.Master}
		if i == 2 {
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
