package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// k0s runs a command in this process and returns what it prints.
func k0s(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var out, diagnosis bytes.Buffer
	root := newRoot()
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&diagnosis)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestConfigIsStrict(t *testing.T) {
	head := "apiVersion: k0s.k0sproject.io/v1beta1\nkind: ClusterConfig\nspec:\n"
	tests := []struct{ name, config, want string }{
		{"nothing", "", ""},
		{"the documented one", head + `  api: {address: 10.0.0.11, sans: [10.0.0.11, api.example.local], ca: {expiresAfter: 87600h, certificatesExpireAfter: 8760h}}
  storage: {type: etcd, etcd: {peerAddress: 10.0.0.11}}
  network:
    provider: kuberouter
    podCIDR: 10.244.0.0/16
    serviceCIDR: 10.96.0.0/12
    nodeLocalLoadBalancing: {enabled: true, type: EnvoyProxy}
    controlPlaneLoadBalancing: {enabled: true, type: Keepalived, keepalived: {vrrpInstances: [{virtualIPs: ["10.0.0.10/24"], authPass: "8 chars"}]}}
    kubeProxy: {mode: iptables}
  images: {default_pull_policy: IfNotPresent}
  telemetry: {enabled: false}
  workerProfiles: [{name: default, values: {failCgroupV1: false}}]
`, ""},
		{"unknown at the top", "foo: 1\n", `unknown field "foo"`},
		{"unknown in spec", head + "  foo: 1\n", `unknown field "foo"`},
		{"unknown in metadata", "metadata: {foo: 1}\n", `unknown field "foo"`},
		{"unknown in telemetry", head + "  telemetry: {enable: false}\n", `unknown field "enable"`},
		{"unknown in api, which k0s lets pass", head + "  api: {adress: 10.0.0.1}\n", `unknown field "adress"`},
		{"unknown in network, which k0s lets pass", head + "  network: {podCidr2: x}\n", `unknown field "podCidr2"`},
		{"unknown in images, which k0s lets pass", head + "  images: {default_pull: x}\n", `unknown field "default_pull"`},
		{"twice", head + "  api: {}\n  api: {}\n", "already set"},
		{"forgiven", head + "  podSecurityPolicy: x\n", ""},
		{"no address", head + "  api: {address: nowhere}\n", "invalid IP address"},
		{"any address", head + "  api: {address: 0.0.0.0}\n", "invalid INADDR_ANY"},
		{"bad SAN", head + "  api: {sans: [a_b!]}\n", "sans[0]"},
		{"bad port", head + "  api: {port: 99999}\n", "must be between 1 and 65535"},
		{"NLLB with an external address", head + "  api: {externalAddress: lb.test}\n  network: {nodeLocalLoadBalancing: {enabled: true}}\n", "cannot be used in conjunction with an external"},
		{"provider", head + "  network: {provider: flannel}\n", "Unsupported value"},
		{"storage", head + "  storage: {type: sqlite}\n", "Unsupported value"},
		{"pull policy", head + "  images: {default_pull_policy: Sometimes}\n", "Unsupported value"},
		{"lifetime", head + "  api: {ca: {expiresAfter: 10}}\n", "cannot unmarshal number"},
		{"CPLB password", head + "  network: {controlPlaneLoadBalancing: {enabled: true, keepalived: {vrrpInstances: [{virtualIPs: [10.0.0.1/24], authPass: \"123456789\"}]}}}\n", "8 characters or less"},
		{"reserved kubelet field", head + "  workerProfiles: [{name: a, values: {failCgroupV1: false, clusterDNS: [1.2.3.4]}}]\n", "may not be used in k0s worker profiles"},
		{"profile name", head + "  workerProfiles: [{name: A, values: {failCgroupV1: false}}]\n", "RFC 1123"},
		{"no YAML", "malformed yaml", "cannot unmarshal"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := k0s(t, test.config, "config", "validate", "--config", "-")
			switch {
			case test.want == "" && err != nil:
				t.Fatal(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Fatalf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestDefaultConfigIsValid(t *testing.T) {
	for _, flags := range [][]string{nil, {"--include-images"}} {
		text, err := k0s(t, "", append([]string{"config", "create"}, flags...)...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k0s(t, text, "config", "validate", "-c", "-"); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
}

func TestFlags(t *testing.T) {
	t.Setenv(rootEnv, t.TempDir())
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"etcd", "leave", "--datadir", "/x"}, "unknown flag: --datadir"},
		{[]string{"reset", "--datadir", "/x"}, "unknown flag: --datadir"},
		{[]string{"install", "controller", "--token", "x"}, "unknown flag: --token"},
		{[]string{"install", "worker", "--enable-worker"}, "unknown flag: --enable-worker"},
		{[]string{"install", "worker", "--config", "x"}, "unknown flag: --config"},
		{[]string{"etcd", "leave", "10.0.0.1"}, "unknown command"},
		{[]string{"etcd", "leave", "--peer-address", "a/b"}, "neither an IP address nor a DNS name"},
		{[]string{"token", "list"}, `unsupported role ""`},
		{[]string{"token", "create", "--role", "server"}, `unsupported role "server"`},
		{[]string{"controller", "--disable-components=flannel"}, "unknown component flannel"},
		{[]string{"worker", "--taints=a=b:Never"}, "unsupported taint effect"},
		{[]string{"worker", "x", "--token-file=y"}, "only pass one token source"},
		{[]string{"controller", "--cri-socket=remote:x"}, "not in this stand-in"},
		{[]string{"sysinfo", "-o", "xml"}, "unknown output format"},
		{[]string{"status"}, "status: can't get"},
		{[]string{"start"}, "has not been installed"},
		{[]string{"stop"}, "has not been installed"},
		{[]string{"kubeconfig", "admin"}, "check if the control plane is initialized"},
		{[]string{"etcd", "member-list"}, "can't list etcd cluster members"},
		{[]string{"kubectl", "get", "nodes"}, "is the server running?"},
		{[]string{"backup"}, "the save-path directory () does not exist"},
		{[]string{"restore", "/nonexistent"}, "given file /nonexistent does not exist"},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			if _, err := k0s(t, "", test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestInstallWritesTheUnit(t *testing.T) {
	root := t.TempDir()
	t.Setenv(rootEnv, root)
	config := filepath.Join(t.TempDir(), "k0s.yaml")
	if err := os.WriteFile(config, []byte("spec: {telemetry: {enabled: false}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"install", "controller", "-c", config, "--enable-worker", "--no-taints", "--token-file", "/etc/k0s/k0stoken", "--labels", "c=d,a=b", "--disable-components=update-prober,helm", "--kubelet-extra-args=--node-ip=10.0.0.1 --v=2"}
	if _, err := k0s(t, "", args...); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "etc/systemd/system/k0scontroller.service")
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want := `[Unit]
Description=k0s - Zero Friction Kubernetes
Documentation=https://docs.k0sproject.io
ConditionFileIsExecutable=` + program + `

After=network-online.target 
Wants=network-online.target 

[Service]
StartLimitInterval=5
StartLimitBurst=10
ExecStart=` + program + ` controller --config=` + config + ` --disable-components=update-prober,helm --enable-worker=true --kubelet-extra-args=--node-ip=10.0.0.1\x20--v=2 --labels=a=b,c=d --no-taints=true --token-file=/etc/k0s/k0stoken

RestartSec=10
Delegate=yes
KillMode=process
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
LimitNOFILE=999999
Restart=always

[Install]
WantedBy=multi-user.target
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Fatal(diff)
	}
	if _, err := k0s(t, "", args...); err == nil || !strings.Contains(err.Error(), "Init already exists") {
		t.Fatalf("a second install without --force: %v", err)
	}
	if _, err := k0s(t, "", append(args, "--force")...); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("spec: {foo: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k0s(t, "", append(args, "--force")...); err == nil {
		t.Fatal("a configuration with an unknown field was installed")
	}
}

func TestToken(t *testing.T) {
	for role, server := range map[string]string{roleWorker: "https://10.0.0.11:6443", roleController: "https://10.0.0.11:9443"} {
		token := &joinToken{role: role, server: server, id: "abcdef", secret: "0123456789abcdef", ca: []byte("the authority")}
		text, err := token.encode()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text, "H4sI") || strings.ContainsAny(text, "\n ") {
			t.Fatalf("not one line of base64 of gzip: %s", text)
		}
		got, err := decodeToken(text, role)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(token, got, cmp.AllowUnexported(joinToken{})); diff != "" {
			t.Fatal(diff)
		}
		packed, _ := base64.StdEncoding.DecodeString(text)
		r, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		var plain bytes.Buffer
		if _, err := plain.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		var k kubeconfig
		if err := yaml.UnmarshalStrict(plain.Bytes(), &k); err != nil {
			t.Fatal(err)
		}
		if k.Users[0].Name != userOf[role] || k.Clusters[0].Cluster.Server != server {
			t.Fatalf("wrong kubeconfig: %s", plain.String())
		}
		other := roleWorker
		if role == roleWorker {
			other = roleController
		}
		if _, err := decodeToken(text, other); err == nil || !strings.Contains(err.Error(), "wrong token type") {
			t.Fatalf("a token of a %s was taken for one of a %s: %v", role, other, err)
		}
	}
	for _, bad := range []string{"x", "H4sI", base64.StdEncoding.EncodeToString([]byte("no gzip"))} {
		if _, err := decodeToken(bad, roleWorker); err == nil {
			t.Fatalf("token %q was taken", bad)
		}
	}
}

func TestTokenExpires(t *testing.T) {
	s := secret{Data: map[string][]byte{"token-secret": []byte("s")}}
	if !s.valid("s") || s.valid("t") {
		t.Fatal("a token without expiry is valid, with the right secret only")
	}
	s.Data["expiration"] = []byte(time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	if !s.valid("s") {
		t.Fatal("not expired yet")
	}
	s.Data["expiration"] = []byte(time.Now().Add(-time.Second).UTC().Format(time.RFC3339))
	if s.valid("s") {
		t.Fatal("an expired token is valid")
	}
	s.Data["expiration"] = []byte("tomorrow")
	if s.valid("s") {
		t.Fatal("an expiry that nobody can read is no expiry")
	}
}

func TestBundleNames(t *testing.T) {
	index := func(key, name string) []byte {
		data, err := json.Marshal(map[string]any{"manifests": []any{map[string]any{"annotations": map[string]string{key: name}}}})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	archive := func(name string, data []byte) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(archive("index.json", index("io.containerd.image.name", "a.test/b:c")))
	_ = w.Close()
	tests := []struct {
		name string
		data []byte
		want []string
		fail bool
	}{
		{"OCI layout", archive("index.json", index("io.containerd.image.name", "a.test/b:c")), []string{"a.test/b:c"}, false},
		{"reference name", archive("index.json", index("org.opencontainers.image.ref.name", "a.test/b:c")), []string{"a.test/b:c"}, false},
		{"a tag is no name", archive("index.json", index("org.opencontainers.image.ref.name", "latest")), nil, false},
		{"docker archive", archive("manifest.json", []byte(`[{"RepoTags":["a.test/b:c"]}]`)), []string{"a.test/b:c"}, false},
		{"gzip", packed.Bytes(), nil, true},
		{"empty", nil, nil, true},
		{"a text", []byte(strings.Repeat("no tar ", 100)), nil, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bundle")
			if err := os.WriteFile(file, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := bundleNames(file)
			if (err != nil) != test.fail {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Fatal(diff)
			}
		})
	}
	if _, err := bundleNames(t.TempDir()); err == nil {
		t.Fatal("a directory is no bundle")
	}
}

func TestDropIns(t *testing.T) {
	for text, want := range map[string]string{
		"":              "",
		"version = 3\n": "",
		"[plugins.\"io.containerd.cri.v1.images\".registry]\n  config_path = \"/x\"\n": "",
		"version = 2\n": "expected 3, got 2",
		"[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/x\"\n": "containerd v1 CRI",
		"x = [[\n": "failed to parse TOML",
	} {
		err := checkDropIn([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestAirgapListsImages(t *testing.T) {
	t.Setenv(rootEnv, t.TempDir())
	plain, err := k0s(t, "", "airgap", "list-images")
	if err != nil {
		t.Fatal(err)
	}
	with, err := k0s(t, "spec: {network: {provider: custom, nodeLocalLoadBalancing: {enabled: true}}, images: {repository: r.test/x}}", "airgap", "list-images", "-c", "-")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain, "envoy") || !strings.Contains(plain, "quay.io/k0sproject/kube-router:") || !strings.Contains(plain, "kube-proxy:"+kubernetesVersion()) {
		t.Errorf("without load balancing:\n%s", plain)
	}
	if !strings.Contains(with, "envoy") || strings.Contains(with, "kube-router") || !strings.Contains(with, "r.test/x/k0sproject/pause:") {
		t.Errorf("with load balancing and a repository:\n%s", with)
	}
}

func TestJSONPath(t *testing.T) {
	data := []byte(`{"status":{"conditions":[{"type":"A","status":"x"},{"type":"Joined","status":"True"}],"n":1}}`)
	for path, want := range map[string]string{
		`{.status.conditions[?(@.type=="Joined")].status}`: "True", `{.status.n}`: "1", `{.status.conditions[*].type}`: "A Joined", `{.none}`: "", `a{.status.n}b`: "a1b", `{.status.conditions[0].type}`: "A",
	} {
		got, err := jsonPath(data, path)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
}
