package k0s

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
	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

var update = flag.Bool("update", false, "write the golden files anew")

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

// render renders the template of the tree as keg-node does on the host.
func render(t *testing.T, c *runtime.Cluster, n *runtime.Node) []byte {
	t.Helper()
	const name = "etc/k0s/k0s.yaml.tmpl"
	text, err := os.ReadFile("../../basefs/k0s/" + name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := basefs.RenderText(name, string(text), c.Env(n))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// scene is a cluster of 2 control planes and a worker with facts as a run would find them.
func scene(s runtime.Settings, hosts int) *runtime.Cluster {
	img, _ := testImage(newVersion)
	c := &runtime.Cluster{Name: "shop", Driver: Driver{}, Image: img, Options: runtime.Options{Settings: s}}
	for i := range hosts {
		n := &runtime.Node{Role: runtime.Master, Name: fmt.Sprintf("h%d", i+1), IP: fmt.Sprintf("192.0.2.%d", i+11)}
		n.Address.Host = n.IP
		n.Facts = node.Facts{Arch: "amd64", Cgroup: 2, Addresses: []string{n.IP}}
		if i > 1 {
			n.Role = runtime.Worker
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

func userDocument(t *testing.T, text string) []runtime.Document {
	t.Helper()
	docs, err := runtime.ParseDocuments("k0s.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

const document = "apiVersion: k0s.k0sproject.io/v1beta1\nkind: ClusterConfig\n"

// realK0s runs the program in $KEG_K0S, if there is one.
func realK0s(t *testing.T, args ...string) []byte {
	t.Helper()
	if os.Getenv("KEG_K0S") == "" {
		t.Skip("SKIP: no real k0s in $KEG_K0S")
	}
	out, err := exec.CommandContext(t.Context(), os.Getenv("KEG_K0S"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("k0s %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestConfig makes k0s.yaml of control planes, and asks a real k0s whether it is right.
func TestConfig(t *testing.T) {
	all := runtime.Settings{
		Env: map[string]string{"CERT_SANS": "api.example.com", "SWAP": "allow", "FAIL_CGROUP_V1": "false", "K0S_NETWORK": "custom", "KUBE_PROXY": "disabled", "KUBE_PROXY_MODE": "nftables"},
		VIP: "192.0.2.100", Endpoint: "lb.example.com:443", SANs: []string{"k.example.com"},
		Config: userDocument(t, document+"spec:\n  api:\n    sans: [mine.example.com]\n  telemetry: {enabled: true}\n  workerProfiles:\n  - name: default\n    values: {maxPods: 250}\n  - name: big\n    values: {maxPods: 500}\n"),
	}
	for _, tt := range []struct {
		name  string
		hosts int
		s     runtime.Settings
	}{{"default", 3, runtime.Settings{}}, {"single", 1, runtime.Settings{}}, {"all", 3, all}} {
		t.Run(tt.name, func(t *testing.T) {
			c := scene(tt.s, tt.hosts)
			for _, f := range (Driver{}).CheckRequest(c) {
				if f.Severity == runtime.Fatal {
					t.Error(f)
				}
			}
			for _, n := range c.ByRole(runtime.Master) {
				doc, err := config(c, n, render(t, c, n))
				if err != nil {
					t.Fatal(err)
				}
				out, err := yaml.Marshal(doc)
				if err != nil {
					t.Fatal(err)
				}
				name := tt.name + "-" + n.Name + ".yaml"
				golden(t, name, out)
				t.Run("real "+n.Name, func(t *testing.T) { realK0s(t, "config", "validate", "--config", filepath.Join("testdata", name)) })
			}
		})
	}
}

// TestKnownKeys: every key of a real k0s' own configuration is known here.
func TestKnownKeys(t *testing.T) {
	var doc map[string]any
	if err := yaml.Unmarshal(realK0s(t, "config", "create", "--include-images"), &doc); err != nil {
		t.Fatal(err)
	}
	for _, p := range checkKeys("", doc) {
		if !p.own {
			t.Error(p.text)
		}
	}
}

func TestTemplateKeys(t *testing.T) {
	c := scene(runtime.Settings{}, 3)
	for text, want := range map[string]string{
		"spec: {network: {podCIRD: 10.1.0.0/16}}":    "did you mean podCIDR?",
		"spec: {storage: {type: etcd}}":              "",
		"spec: {telemetry: 1, telemetry: 2}":         "already",
		"spec: {workerProfiles: {name: default}}":    "wants a list",
		"spec: {api: {extraArgs: {anything: \"\"}}}": "",
	} {
		_, err := config(c, c.Nodes[0], []byte(text))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func TestArguments(t *testing.T) {
	var b strings.Builder
	show := func(name string, c *runtime.Cluster, n *runtime.Node, creator bool, before []string) {
		fmt.Fprintf(&b, "%s: %s %s\n", name, subcommand(n), strings.Join(arguments(c, n, creator, before), " "))
	}
	c := scene(runtime.Settings{}, 3)
	show("first", c, c.Nodes[0], true, nil)
	show("joins", c, c.Nodes[1], false, nil)
	show("worker", c, c.Nodes[2], false, nil)
	single := scene(runtime.Settings{Env: map[string]string{"K0S_DISABLE": ""}}, 1)
	show("single", single, single.Nodes[0], true, nil)
	show("single before", c, c.Nodes[0], true, []string{"x", noTaints})
	show("tainted before", single, single.Nodes[0], true, []string{"x"})
	old := scene(runtime.Settings{}, 3)
	old.Nodes[2].Facts.Cgroup = 1
	show("cgroup v1", old, old.Nodes[2], false, nil)
	dual := scene(runtime.Settings{Config: userDocument(t, document+"spec: {network: {dualStack: {enabled: true}}}\n")}, 3)
	show("dual stack", dual, dual.Nodes[2], false, nil)
	golden(t, "arguments.txt", []byte(b.String()))
}

func TestMirror(t *testing.T) {
	var b strings.Builder
	files := Driver{}.Mirror(runtime.Registry{Name: "registry.cluster.local", Port: 5000, CA: []byte("PEM\n")})
	for _, f := range append(files, dropIn("v1.37.2"), dropIn("v1.35.1+k0s.0")) {
		fmt.Fprintf(&b, "== %s %o\n%s", f.Path, f.Mode, f.Data)
	}
	golden(t, "mirror.txt", []byte(b.String()))
}

// TestPlan is the plan of a dry run: no host is reached, and nothing is known of them.
func TestPlan(t *testing.T) {
	img, _ := testImage(newVersion)
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
