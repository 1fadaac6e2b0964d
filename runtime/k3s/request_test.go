package k3s

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/clusterimage/keg/runtime"
)

func TestCheckRequest(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"typing error", "flannel-backent: vxlan", `k3s.yaml:1: k3s has no key "flannel-backent" (config-key): did you mean flannel-backend?`},
		{"line of the second document", "debug: true\n---\nkubelet-args: [a=b]", `k3s.yaml:3: k3s has no key "kubelet-args" (config-key): did you mean kubelet-arg?`},
		{"something else", "xyzzy: 1", "see https://docs.k3s.io/cli/server"},
		{"token", "token: abc", `key "token" is not for the user: keg makes the tokens`},
		{"data directory", "data-dir: /data", "keg works with k3s' usual paths"},
		{"port", "https-listen-port: 7443", "port 6443"},
		{"another database", "datastore-endpoint: mysql://x", "embedded etcd"},
		{"server's key for agents", "kind: agent\ncluster-cidr: 10.1.0.0/16", `agents have no key "cluster-cidr", servers do`},
		{"kind", "kind: ClusterConfiguration", "kind ClusterConfiguration is not understood"},
		{"mapping", "tls-san: {a: b}", "it is a mapping"},
		{"list", "cluster-cidr: [a, b]", "it is a list"},
		{"list of lists", "tls-san: [[a]]", "no plain value"},
		{"boolean", "debug: maybe", `"maybe" is neither true nor false`},
		{"number", "etcd-snapshot-retention: many", `"many" is no whole number`},
		{"all well", "debug: true\nnode-label+: [a=b]\nv: 3\nkube-apiserver-arg: v=2", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := Driver{}.CheckRequest(scene(runtime.Settings{Config: userDocument(t, tt.text)}))
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

func TestTemplateKeys(t *testing.T) {
	c := scene(runtime.Settings{})
	for text, want := range map[string]string{
		"cluster-cider: 10.1.0.0/16":     `did its author mean "cluster-cidr"?`,
		"token: x":                       "keg makes the tokens",
		"debug: [true]":                  "it is a list",
		"debug: true\ndebug: false":      "already",
		"kubelet-arg+: [\"max-pods=1\"]": "",
	} {
		_, err := config(c, c.Nodes[0], []byte(text), true)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
	if _, err := config(c, c.Nodes[3], []byte("cluster-cidr: 10.1.0.0/16"), false); err == nil {
		t.Error("an agent's template with a server's key is taken")
	}
}

func TestCompareVersion(t *testing.T) {
	const answer = "k3s version v1.37.2+k3s1 (abcdef)\ngo version go1.26\n"
	for _, tt := range []struct {
		answer, want string
		ok           bool
	}{
		{answer, "v1.37.2+k3s1", true}, {answer, "v1.37.2", true}, {answer, "", true},
		{answer, "v1.37.2+k3s2", false}, {answer, "v1.37.1", false}, {"k0s v1.2.3", "v1.2.3", false}, {"", "v1", false},
	} {
		err := compareVersion(tt.answer, tt.want)
		if (err == nil) != tt.ok {
			t.Errorf("%q, %s: %v", tt.answer, tt.want, err)
		}
	}
	var wrong *VersionError
	if err := compareVersion(answer, "v1.36.0"); !errors.As(err, &wrong) || wrong.Program != "v1.37.2+k3s1" {
		t.Errorf("error %v", err)
	}
}

func TestPassword(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	for _, tt := range []struct{ token, password, hash string }{
		{"secret\n", "secret", ""},
		{"K10" + hash + "::server:secret\n", "secret", hash},
		{"K10" + hash + "::node:se:cret", "se:cret", hash},
		{"K10short::server:x", "K10short::server:x", ""},
		{"", "", ""},
	} {
		if p, h := password([]byte(tt.token)); p != tt.password || h != tt.hash {
			t.Errorf("%q: %q %q", tt.token, p, h)
		}
	}
	a, b := newPassword(), newPassword()
	if len(a) != 64 || a == b {
		t.Errorf("passwords %q %q", a, b)
	}
}

func TestParseMembers(t *testing.T) {
	members, err := parseMembers([]byte(`{"items": [
		{"metadata": {"name": "h1", "annotations": {"etcd.k3s.cattle.io/node-address": "192.0.2.11", "etcd.k3s.cattle.io/node-name": "h1-a"}},
		 "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "EtcdIsVoter", "status": "True", "reason": "MemberNotLearner"}]}},
		{"metadata": {"name": "h2"},
		 "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.12"}], "conditions": [{"type": "Ready", "status": "True"}, {"type": "EtcdIsVoter", "status": "False", "reason": "MemberIsLearner"}]}},
		{"metadata": {"name": "h3", "annotations": {"etcd.k3s.cattle.io/removed-node-name": "h3-a", "etcd.k3s.cattle.io/node-name": "h3-a"}}, "status": {}},
		{"metadata": {"name": "h4", "annotations": {"etcd.k3s.cattle.io/removed-node-name": "h4-a", "etcd.k3s.cattle.io/node-name": "h4-b", "etcd.k3s.cattle.io/node-address": "192.0.2.14"}},
		 "status": {"conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "EtcdIsVoter", "status": "True", "reason": "MemberNotLearner"}]}},
		{"metadata": {"name": "h5", "annotations": {"etcd.k3s.cattle.io/node-address": "192.0.2.15"}},
		 "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "EtcdIsVoter", "status": "False", "reason": "Unhealthy"}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []runtime.Member{
		{ID: "h1", Name: "h1", Address: "192.0.2.11", Healthy: true},
		{ID: "h2", Name: "h2", Address: "192.0.2.12", Learner: true, Healthy: true},
		{ID: "h4", Name: "h4", Address: "192.0.2.14"},
		{ID: "h5", Name: "h5", Address: "192.0.2.15"},
	}
	if !slices.Equal(members, want) {
		t.Errorf("members\n%+v\nwant\n%+v", members, want)
	}
	if _, err := parseMembers([]byte("x")); err == nil {
		t.Error("no list at all is taken")
	}
}

func TestPreflight(t *testing.T) {
	for _, tt := range []struct {
		name   string
		env    map[string]string
		change func(c *runtime.Cluster, n *runtime.Node)
		at     int
		id     string
		want   runtime.Severity
	}{
		{"all well", nil, nil, 0, "", ""},
		{"another k3s", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Existing = []string{dataDir} }, 1, "other-install", runtime.Fatal},
		{"password of a node", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Existing = []string{"/etc/rancher/node"} }, 3, "other-install", runtime.Fatal},
		{"SQLite of ours", nil, func(_ *runtime.Cluster, n *runtime.Node) {
			n.Facts.Existing, n.State.UID = []string{sqlite}, "u"
		}, 0, "sqlite", runtime.Fatal},
		{"port", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Listening = []int{6444} }, 4, "port", runtime.Fatal},
		{"port of ours", nil, func(_ *runtime.Cluster, n *runtime.Node) {
			n.Facts.Listening, n.State.UID = []int{6443}, "u"
		}, 0, "", ""},
		{"registry's port", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Listening = []int{5000} }, 2, "port", runtime.Fatal},
		{"spegel's port", map[string]string{"EMBEDDED_REGISTRY": "true"}, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Listening = []int{5001} }, 4, "port", runtime.Fatal},
		{"swap", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Swap = 1 }, 4, "swap", runtime.Fatal},
		{"swap allowed", map[string]string{"SWAP": "allow"}, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Swap = 1 }, 4, "", ""},
		{"little memory", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Memory = 1 << 30 }, 0, "memory", runtime.Warning},
		{"too little memory", nil, func(_ *runtime.Cluster, n *runtime.Node) { n.Facts.Memory = 1 << 20 }, 0, "memory", runtime.Fatal},
		{"one family", map[string]string{"POD_CIDR": "10.42.0.0/16,2001:db8:42::/56", "SERVICE_CIDR": "10.43.0.0/16,2001:db8:43::/112"}, func(_ *runtime.Cluster, n *runtime.Node) {
			n.Facts.Addresses = []string{n.IP, "fe80::1", "2001:db8:42::7"}
		}, 4, "dual-stack", runtime.Fatal},
		{"no pause", nil, func(c *runtime.Cluster, _ *runtime.Node) { c.Image.Index.Embedded = c.Image.Index.Embedded[1:] }, 0, "images", runtime.Fatal},
		{"no traefik", nil, func(c *runtime.Cluster, _ *runtime.Node) { c.Image.Index.Embedded = c.Image.Index.Embedded[:2] }, 0, "images", runtime.Warning},
		{"backend", map[string]string{"FLANNEL_BACKEND": "vlan"}, nil, 0, "env", runtime.Fatal},
		{"pods", map[string]string{"MAX_PODS": "many"}, nil, 0, "env", runtime.Fatal},
		{"DNS", map[string]string{"CLUSTER_DNS": "10.99.0.10"}, nil, 0, "env", runtime.Fatal},
		{"families", map[string]string{"POD_CIDR": "2001:db8:42::/56"}, nil, 0, "env", runtime.Fatal},
		{"disable", map[string]string{"K3S_DISABLE": "traefik]"}, nil, 0, "env", runtime.Fatal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := scene(runtime.Settings{Env: tt.env})
			n := c.Nodes[tt.at]
			for _, n := range c.Nodes {
				n.Facts.CPUs, n.Facts.Memory = 4, 8<<30
			}
			if tt.change != nil {
				tt.change(c, n)
			}
			found := Driver{}.Preflight(c, n)
			if tt.id == "" {
				if len(found) > 0 {
					t.Errorf("found %v", found)
				}
				return
			}
			if !slices.ContainsFunc(found, func(f runtime.Finding) bool { return f.ID == tt.id && f.Severity == tt.want && f.Cure != "" }) {
				t.Errorf("found %v, want %s %s", found, tt.want, tt.id)
			}
		})
	}
}
