package runtime

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseNodes(t *testing.T) {
	got, err := parseNodes([]byte(`{"items":[
		{"metadata":{"name":"h1","labels":{"node-role.kubernetes.io/control-plane":"","x":"y"}},"spec":{"podCIDR":"10.244.0.0/24"},
		 "status":{"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"Hostname","address":"h1"},{"type":"InternalIP","address":"192.0.2.11"}],
		 "nodeInfo":{"kubeletVersion":"v1.37.2","containerRuntimeVersion":"containerd://2.4.2"}}},
		{"metadata":{"name":"h2"},"status":{"conditions":[{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"no network"}]}},
		{"metadata":{"name":"h3"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []NodeStatus{
		{Name: "h1", Ready: true, Roles: []string{"control-plane"}, Version: "v1.37.2", Engine: "containerd://2.4.2", Address: "192.0.2.11", PodCIDR: "10.244.0.0/24"},
		{Name: "h2", Reason: "KubeletNotReady: no network"},
		{Name: "h3", Reason: "its kubelet has not reported yet"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := parseNodes([]byte("{")); err == nil {
		t.Error("half a document was read")
	}
}

func TestExternalKubeconfig(t *testing.T) {
	const in = `apiVersion: v1
kind: Config
clusters: [{name: default, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: Q0E=}}]
users: [{name: default, user: {client-key-data: S0VZ}}]
contexts: [{name: default, context: {cluster: default, user: default}}]
current-context: default
`
	got, err := externalKubeconfig([]byte(in), "shop", "https://192.0.2.11:6443")
	want := `apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://192.0.2.11:6443
  name: shop
contexts:
- context:
    cluster: shop
    user: shop-admin
  name: shop
current-context: shop
kind: Config
users:
- name: shop-admin
  user:
    client-key-data: S0VZ
`
	if d := cmp.Diff(want, string(got)); d != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, d)
	}
	for _, bad := range []string{"", "clusters: 1", "a: [", "clusters: []", "clusters: [{name: a}]"} {
		if _, err := externalKubeconfig([]byte(bad), "shop", "x"); err == nil {
			t.Errorf("%q was taken for a kubeconfig", bad)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, tt := range []struct {
		from, to      string
		upgrade, skew bool // allowed
	}{
		{"v1.36.3", "v1.37.2", true, true},
		{"v1.37.2", "v1.37.2", true, true},
		{"v1.37.2+k3s1", "v1.37.2+k3s2", true, true},
		{"v1.37.1", "v1.37.2", true, true},
		{"v1.37.2", "v1.37.1", false, true},
		{"v1.35.9", "v1.37.2", false, true},
		{"v1.34.0", "v1.37.2", false, true},
		{"v1.33.0", "v1.37.2", false, false},
		{"v1.37.2", "v1.36.3", false, false},
		{"v1.37.2", "v2.0.0", false, false},
		{"nonsense", "v1.37.2", false, false},
		{"v1.37.2", "", false, false},
	} {
		if err := upgradePath(tt.from, tt.to); (err == nil) != tt.upgrade {
			t.Errorf("upgrade from %s to %s: %v", tt.from, tt.to, err)
		}
		if err := kubeletSkew(tt.from, tt.to); (err == nil) != tt.skew {
			t.Errorf("kubelet %s beside API %s: %v", tt.from, tt.to, err)
		}
	}
	if !sameVersion("v1.37.2", "v1.37.2+k3s1") || sameVersion("v1.37.2+k3s1", "v1.37.2+k3s2") || sameVersion("v1.36.3", "v1.37.2+k3s1") ||
		!sameVersion("v1.37.2+k0s", "v1.37.2+k0s.1") || sameVersion("v1.37.1+k0s", "v1.37.2+k0s.1") {
		t.Error("versions are compared wrong")
	}
}

func TestQuorum(t *testing.T) {
	member := func(id string, healthy bool) Member { return Member{ID: id, Name: id, Healthy: healthy} }
	learner := member("l", true)
	learner.Learner = true
	for _, tt := range []struct {
		name    string
		members []Member
		leaving string
		ok      bool
	}{
		{"one of three", []Member{member("a", true), member("b", true), member("c", true)}, "a", true},
		{"one of two", []Member{member("a", true), member("b", true)}, "a", true},
		{"the last", []Member{member("a", true)}, "a", false},
		{"a healthy one beside a dead one", []Member{member("a", true), member("b", false), member("c", true)}, "a", false},
		{"the dead one", []Member{member("a", true), member("b", false), member("c", true)}, "b", true},
		{"the dead one with a healthy one", []Member{member("a", true), member("b", false), member("c", true)}, "bc", true},
		{"a dead one beside another", []Member{member("a", true), member("b", false), member("c", false)}, "b", false},
		{"two of five", []Member{member("a", true), member("b", true), member("c", true), member("d", true), member("e", true)}, "ab", true},
		{"a learner does not count", []Member{member("a", true), learner}, "a", false},
		{"the learner itself", []Member{member("a", true), learner}, "l", true},
	} {
		err := checkQuorum(tt.members, func(m Member) bool {
			for _, r := range tt.leaving {
				if string(r) == m.ID {
					return true
				}
			}
			return false
		})
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestDocuments(t *testing.T) {
	const text = "# mine\nkind: A\nx: {y: 1}\n---\n# empty\n---\n\nkind: B\nlist: [1]\n"
	docs, err := ParseDocuments("my.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range docs {
		got = append(got, d.Kind()+" "+d.Source)
	}
	if d := cmp.Diff([]string{"A my.yaml:2", "B my.yaml:8"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, bad := range []string{"- a\n", "a: 1\na: 2\n", "a: [", "word"} {
		if _, err := ParseDocuments("f", []byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestMerge(t *testing.T) {
	docs, err := ParseDocuments("f", []byte(`
a: {b: 1, c: 2, gone: 3}
args: [{name: v, value: "1"}, {name: w, value: "2"}]
sans: [x, y]
---
a: {b: 9, gone: null, d: {e: 5}}
args: [{name: w, value: "3"}, {name: z, value: "4"}]
sans: [y, z]
---
a: {b: 9, c: 2, d: {e: 5}}
args: [{name: v, value: "1"}, {name: w, value: "3"}, {name: z, value: "4"}]
sans: [x, y, z]
`))
	if err != nil {
		t.Fatal(err)
	}
	before := Merge(docs[0].Value, nil)
	if d := cmp.Diff(docs[2].Value, Merge(docs[0].Value, docs[1].Value)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff(before, docs[0].Value); d != "" {
		t.Errorf("the base was changed:\n%s", d)
	}
}
