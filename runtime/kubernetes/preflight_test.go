package kubernetes

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime"
)

func TestPreflight(t *testing.T) {
	for _, tt := range []struct {
		name   string
		env    map[string]string
		change func(c *runtime.Cluster, n *runtime.Node)
		want   []string
	}{
		{"good", nil, func(*runtime.Cluster, *runtime.Node) {}, nil},
		{"other installations", nil, func(_ *runtime.Cluster, n *runtime.Node) {
			n.Facts.Existing = append(n.Facts.Existing, "/var/lib/k0s", "/run/docker.sock", "/etc/cni/net.d")
		}, []string{"error other-install", "error other-install", "error other-install"}},
		{"our own", nil, func(_ *runtime.Cluster, n *runtime.Node) {
			n.State.UID = "u"
			n.Facts.Existing = append(n.Facts.Existing, "/etc/kubernetes/kubelet.conf", "/run/containerd/containerd.sock")
			n.Facts.Listening = []int{6443, 10250, 5000}
		}, nil},
		{"ports", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Listening = []int{22, 6443, 5000} }, []string{"error port", "error port"}},
		{"small", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.CPUs, n.Facts.Memory = 1, 1<<30 }, []string{"error cpu", "error memory"}},
		{"small, and told so", map[string]string{"KUBEADM_IGNORE_PREFLIGHT": "NumCPU,Mem"}, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.CPUs, n.Facts.Memory = 1, 1<<30 }, nil},
		{"ignore all", map[string]string{"KUBEADM_IGNORE_PREFLIGHT": "NumCPU,all"}, func(*runtime.Cluster, *runtime.Node) {}, []string{"error env"}},
		{"ignore YAML", map[string]string{"KUBEADM_IGNORE_PREFLIGHT": "x]\ntaints: []"}, func(*runtime.Cluster, *runtime.Node) {}, []string{"error env"}},
		{"swap", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Swap = 1 << 30 }, []string{"error swap"}},
		{"swap allowed", map[string]string{"SWAP": "allow"}, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Swap = 1 << 30 }, nil},
		{"cgroup v1", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Cgroup = 1 }, []string{"warning cgroup-v1"}},
		{"no packet filter", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Existing = nil }, []string{"warning packet-filter"}},
		{"no packet filter, CNI by an app", map[string]string{"CNI": "none"}, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Existing = nil }, nil},
		{"wrong words", map[string]string{"CNI": "calico", "KUBE_DNS": "no"}, func(*runtime.Cluster, *runtime.Node) {}, []string{"error env", "error env"}},
		{"images", nil, func(c *runtime.Cluster, _ *runtime.Node) {
			c.Image.Index.Embedded = c.Image.Index.Embedded[1:]
		}, []string{"error images"}},
		{"another pause image", map[string]string{"PAUSE_IMAGE": "reg.example.com/pause:1"}, func(*runtime.Cluster, *runtime.Node) {}, []string{"error images"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := scene(0, 2, tt.env)
			n := c.First()
			n.Facts.CPUs, n.Facts.Memory = 4, 8<<30
			tt.change(c, n)
			var got []string
			for _, f := range c.Driver.Preflight(c, n) {
				got = append(got, string(f.Severity)+" "+f.ID)
				if f.Text == "" || f.Cure == "" {
					t.Errorf("%s has no text or no cure", f.ID)
				}
			}
			slices.Sort(got)
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// TestPreflightPorts: what balancer and registries listen on is looked at on every host.
func TestPreflightPorts(t *testing.T) {
	c := masters(scene(1, 2, nil))
	worker := &runtime.Node{Role: runtime.Worker, IP: "192.0.2.13"}
	worker.Facts.Listening = []int{5000, 6443}
	c.Nodes[1].Facts.CPUs, c.Nodes[1].Facts.Memory, c.Nodes[1].Facts.Listening = 4, 8<<30, []int{5000}
	for n, want := range map[*runtime.Node]int{c.Nodes[1]: 1, worker: 2} {
		found := slices.DeleteFunc(c.Driver.Preflight(c, n), func(f runtime.Finding) bool { return f.ID != "port" })
		if len(found) != want {
			t.Errorf("%s %s: %v", n.Role, n.IP, found)
		}
	}
}

func TestToken(t *testing.T) {
	seen := map[token]bool{}
	for range 100 {
		tok := newToken()
		if len(tok) != 23 || tok[6] != '.' || len(tok.id()) != 6 || seen[tok] {
			t.Fatalf("token of %d bytes, or one twice", len(tok))
		}
		seen[tok] = true
	}
}

func TestPhaseLines(t *testing.T) {
	var out strings.Builder
	w := &phaseLines{out: &out}
	for _, part := range []string{"[init] Using\n\x1b[0;37mKERNEL\x1b[0m: 6\n[certs] Gener", "ating\n\nYour Kubernetes control-plane\n", "\t[WARNING Swap]: x\nkubeadm join --token x"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := "[init] Using\n[certs] Generating\n[WARNING Swap]: x\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
