package k0s

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime"
)

func TestCheckRequest(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"typing error", document + "spec: {network: {podCIRD: 10.1.0.0/16}}", `k0s.yaml:1: k0s has no key "podCIRD" (spec.network.podCIRD) (config-key): did you mean podCIDR?`},
		{"line of the second document", document + "---\n" + document + "spec: {network: {provder: calico}}", `k0s.yaml:4: k0s has no key "provder"`},
		{"in the wrong place", document + "spec: {sans: [a]}", "did you mean spec.api.sans?"},
		{"something else", document + "xyzzy: 1", "see https://docs.k0sproject.io"},
		{"address", document + "spec: {api: {address: 10.0.0.1}}", "key spec.api.address is not for the user: it is each host's own"},
		{"another storage", document + "spec: {storage: {type: kine}}", "keg makes clusters with the etcd of k0s"},
		{"port", document + "spec: {api: {port: 7443}}", "port 6443"},
		{"accounts", document + "spec: {installConfig: {users: {etcdUser: me}}}", "accounts"},
		{"in a list", document + "spec: {workerProfiles: [{name: a, vals: {}}]}", `k0s has no key "vals" (spec.workerProfiles.vals) (config-key): did you mean values?`},
		{"no list", document + "spec: {workerProfiles: {name: a}}", "key spec.workerProfiles wants a list"},
		{"no mapping", document + "spec: {api: 1}", "key spec.api wants a mapping"},
		{"no value", document + "spec: {network: {podCIDR: {a: b}}}", "key spec.network.podCIDR wants a plain value"},
		{"no number", document + "spec: {konnectivity: {adminPort: many}}", "key spec.konnectivity.adminPort wants a whole number"},
		{"a number in quotes", document + "spec: {network: {calico: {mtu: \"1450\"}}}", "key spec.network.calico.mtu wants a whole number"},
		{"no switch", document + "spec: {network: {kubeProxy: {disabled: \"yes\"}}}", "key spec.network.kubeProxy.disabled wants true or false"},
		{"kind", "kind: ClusterConfiguration", `kind "ClusterConfiguration" is not understood`},
		{"no kind", "spec: {}", `kind "" is not understood`},
		{"version", "apiVersion: v1\nkind: ClusterConfig", "apiVersion v1 is not understood"},
		{"all well", document + "spec: {api: {extraArgs: {v: \"3\"}, ca: null}, network: {kubeProxy: {disabled: true}, calico: {mtu: 1450}}, workerProfiles: [{name: a, values: {maxPods: 9}}]}", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := Driver{}.CheckRequest(scene(runtime.Settings{Config: userDocument(t, tt.text)}, 3))
			if tt.want == "" {
				if len(found) > 0 {
					t.Errorf("found %v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Severity != runtime.Fatal || !strings.Contains(found[0].String(), tt.want) {
				t.Errorf("found %v, want %q", found, tt.want)
			}
		})
	}
}

func TestPreflight(t *testing.T) {
	for _, tt := range []struct {
		name   string
		env    map[string]string
		change func(n *runtime.Node)
		want   []string
	}{
		{"well", nil, func(*runtime.Node) {}, nil},
		{"foreign", nil, func(n *runtime.Node) { n.Facts.Existing = []string{dataDir} }, []string{"error other-install"}},
		{"ours", nil, func(n *runtime.Node) { n.Facts.Existing, n.State.UID = []string{dataDir}, "x" }, nil},
		{"join port", nil, func(n *runtime.Node) { n.Facts.Listening = []int{9443} }, []string{"error port"}},
		{"load balancer's port", nil, func(n *runtime.Node) { n.Facts.Listening = []int{7443} }, []string{"error port"}},
		{"BGP where nobody speaks it", map[string]string{"K0S_NETWORK": "custom"}, func(n *runtime.Node) { n.Facts.Listening = []int{179} }, nil},
		{"swap", nil, func(n *runtime.Node) { n.Facts.Swap = 1 }, []string{"error swap"}},
		{"cgroup v1", nil, func(n *runtime.Node) { n.Facts.Cgroup = 1 }, []string{"warning cgroup-v1"}},
		{"network", map[string]string{"K0S_NETWORK": "flannel"}, func(*runtime.Node) {}, []string{"error env"}},
		{"parts", map[string]string{"K0S_DISABLE": "a b"}, func(*runtime.Node) {}, []string{"error env"}},
		{"range", map[string]string{"POD_CIDR": "10.0.0.0"}, func(*runtime.Node) {}, []string{"error env"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := scene(runtime.Settings{Env: tt.env}, 3)
			n := c.Nodes[0]
			n.Facts.Memory, n.Facts.CPUs = 8<<30, 4
			tt.change(n)
			var got []string
			for _, f := range (Driver{}).Preflight(c, n) {
				got = append(got, string(f.Severity)+" "+f.ID)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
		})
	}
}

func TestCompareVersion(t *testing.T) {
	for _, tt := range []struct {
		answer, want string
		ok           bool
	}{
		{"v1.37.2+k0s.0\n", "v1.37.2+k0s.0", true}, {"v1.37.2+k0s.0", "v1.37.2", true}, {"v1.37.2+k0s.0", "", true},
		{"v1.37.2+k0s.0", "v1.37.2+k0s.1", false}, {"v1.37.2+k0s.0", "v1.37.1", false}, {"k3s version v1.2.3", "v1.2.3", false}, {"", "v1", false},
	} {
		if err := compareVersion(tt.answer, tt.want); (err == nil) != tt.ok {
			t.Errorf("%q, %s: %v", tt.answer, tt.want, err)
		}
	}
	var wrong *VersionError
	if err := compareVersion("v1.37.2+k0s.0", "v1.36.0"); !errors.As(err, &wrong) || wrong.Program != "v1.37.2+k0s.0" {
		t.Errorf("error %v", err)
	}
}

func TestToken(t *testing.T) {
	named := func(key string, v map[string]any) []any { return []any{map[string]any{"name": "k0s", key: v}} }
	text, err := packToken(map[string]any{
		"apiVersion": "v1", "clusters": named("cluster", map[string]any{"server": "https://192.0.2.1:9443", "certificate-authority-data": "Q0E="}),
		"users": named("user", map[string]any{"token": "abcdef.0123456789abcdef"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := redirect(text, "https://apiserver.cluster.local:6443")
	if err != nil || got.id != "abcdef" {
		t.Fatalf("id %q, error %v", got.id, err)
	}
	doc, err := unpackToken(got.text)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"server": "https://apiserver.cluster.local:6443", "certificate-authority-data": "Q0E="}
	if d := cmp.Diff(want, one(doc, "clusters", "cluster")); d != "" {
		t.Errorf("cluster (-want +got):\n%s", d)
	}
	spent, err := spentToken()
	if err != nil {
		t.Fatal(err)
	}
	if doc, err := unpackToken(spent); err != nil || tokenID(doc) != noID || !strings.HasPrefix(string(spent), "H4sI") {
		t.Errorf("the spent token is %v, %v", doc, err)
	}
	for _, bad := range []string{"", "x", base64.StdEncoding.EncodeToString([]byte("secret")), "H4sIAAAAAAAA"} {
		if _, err := redirect([]byte(bad), "https://x"); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

func FuzzToken(f *testing.F) {
	spent, err := spentToken()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(spent)
	f.Add([]byte("H4sI"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := redirect(text, "https://apiserver.cluster.local:6443")
		if err != nil {
			return
		}
		doc, err := unpackToken(got.text)
		if err != nil || tokenID(doc) != got.id {
			t.Errorf("what was made of a token is none: %v", err)
		}
	})
}

func TestParseMembers(t *testing.T) {
	members, err := parseMembers([]byte(`{"members": {"H1": "https://192.0.2.1:2380", "h2": "https://192.0.2.2:2380", "": "https://[2001:db8::3]:2380"}}`),
		[]byte(`{"items": [
			{"metadata": {"name": "h1"}, "status": {"peerAddress": "192.0.2.1", "conditions": [{"type": "Joined", "status": "True"}]}},
			{"metadata": {"name": "h2"}, "status": {"peerAddress": "192.0.2.2", "conditions": [{"type": "Joined", "status": "False"}]}},
			{"metadata": {"name": "h9"}, "status": {"peerAddress": "192.0.2.9", "conditions": [{"type": "Joined", "status": "True"}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []runtime.Member{
		{ID: "192.0.2.1", Name: "H1", Address: "192.0.2.1"},
		{ID: "192.0.2.2", Name: "h2", Address: "192.0.2.2", Learner: true},
		{ID: "2001:db8::3", Name: "2001:db8::3", Address: "2001:db8::3", Learner: true},
	}
	if d := cmp.Diff(want, members); d != "" {
		t.Errorf("members (-want +got):\n%s", d)
	}
}

func TestListedTokens(t *testing.T) {
	got := listedTokens("ID       ROLE     EXPIRES AT\nabc123   worker   2026-11-23T09:00:00Z\nzzzzzz   worker   \n")
	if !slices.Equal(got, []string{"abc123", "zzzzzz"}) {
		t.Errorf("tokens %v", got)
	}
	if got := listedTokens("No k0s join tokens found\n"); len(got) > 0 {
		t.Errorf("tokens %v", got)
	}
}
