package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func none(string) string { return "" }

func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		if err := write(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.yaml")
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, command string
		files         map[string]string
		args          []string
		env           map[string]string
		want          settings
		err           string
	}{
		{
			name: "files in order, plus appends, unknown keys are skipped", command: "server",
			files: map[string]string{
				"config.yaml": "node-name: a\ntls-san: [a.test, b.test]\ncluster-init: true\ntypo-key: 1\netcd-snapshot-retention: 5\n", "config.yaml.d/10.yaml": "tls-san+: [c.test]\nnode-name: b\n",
				"config.yaml.d/20.yml": "kubelet-arg+: [max-pods=110]\n", "config.yaml.d/30.txt": "node-name: c\n",
			},
			want: settings{"node-name": {"b"}, "tls-san": {"a.test", "b.test", "c.test"}, "cluster-init": {"true"}, "kubelet-arg": {"max-pods=110"}, "etcd-snapshot-retention": {"5"}},
		},
		{
			name: "arguments replace lists and win over the environment", command: "server",
			files: map[string]string{"config.yaml": "node-label: [a=b]\ntoken: file\n"}, args: []string{"--node-label", "c=d", "--node-label=e=f", "-t", "argument"}, env: map[string]string{"K3S_TOKEN": "environment"},
			want: settings{"node-label": {"c=d", "e=f"}, "token": {"argument"}},
		},
		{name: "environment over files", command: "agent", files: map[string]string{"config.yaml": "server: https://a:6443\n"}, env: map[string]string{"K3S_URL": "https://b:6443"}, want: settings{"server": {"https://b:6443"}}},
		{name: "an agent skips keys of servers", command: "agent", files: map[string]string{"config.yaml": "cluster-init: true\nnode-name: a\n"}, want: settings{"node-name": {"a"}}},
		{name: "unknown flag", command: "server", args: []string{"--no-such"}, err: "flag provided but not defined: -no-such"},
		{name: "flag of servers for an agent", command: "agent", args: []string{"--cluster-init"}, err: "flag provided but not defined: -cluster-init"},
		{name: "bad boolean", command: "server", files: map[string]string{"config.yaml": "cluster-init: perhaps\n"}, err: "invalid boolean value"},
		{name: "bad number", command: "server", files: map[string]string{"config.yaml": "https-listen-port: many\n"}, err: "invalid value"},
		{name: "a map", command: "server", files: map[string]string{"config.yaml": "node-label: {a: b}\n"}, err: "a map is no value"},
		{name: "no YAML", command: "server", files: map[string]string{"config.yaml": "a: [\n"}, err: "config.yaml"},
		{name: "what the stand-in cannot do", command: "server", args: []string{"--docker"}, err: "stand-in: --docker is not supported"},
		{name: "switched off it is fine", command: "server", args: []string{"--docker=false"}, want: settings{"docker": {"false"}}},
		{name: "unknown backend", command: "server", args: []string{"--flannel-backend=ipsec"}, err: "invalid value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.files == nil {
				test.files = map[string]string{"config.yaml": ""}
			}
			got, rest, err := parse(test.command, append(test.args, "--config="+files(t, test.files)), func(name string) string { return test.env[name] })
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || len(rest) > 0 {
				t.Fatal(err, rest)
			}
			delete(got, "config")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, _, err := parse("server", []string{"--config=/no/such/file"}, none); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that was asked for is not there: %v", err)
	}
}

func TestParseToken(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	for _, test := range []struct {
		text string
		want token
		bad  bool
	}{
		{text: "password", want: token{password: "password"}},
		{text: "K10" + hash + "::server:pass:word", want: token{caHash: hash, user: "server", password: "pass:word"}},
		{text: "K10" + hash + "::node:x", want: token{caHash: hash, user: "node", password: "x"}},
		{text: "abcdef.0123456789abcdef", want: token{bootstrap: "abcdef.0123456789abcdef"}},
		{text: "K10" + hash + "::abcdef.0123456789abcdef", want: token{caHash: hash, bootstrap: "abcdef.0123456789abcdef"}},
		{text: "K10" + hash[1:] + "::server:x", bad: true},
		{text: "K10" + hash + ":server:x", bad: true},
		{text: "K10" + hash + "::server:", bad: true},
		{text: "K10" + hash + "::", bad: true},
		{text: "two words", bad: true},
	} {
		got, err := parseToken(test.text)
		if (err != nil) != test.bad || got != test.want {
			t.Errorf("%s: %+v, %v", test.text, got, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("K10" + strings.Repeat("0", 64) + "::server:x")
	f.Add("abcdef.0123456789abcdef")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseToken(text)
		if err == nil && got.empty() && text != "" {
			t.Errorf("%q is a token without content", text)
		}
		if err == nil && got.caHash != "" && !strings.Contains(text, got.caHash) {
			t.Errorf("%q: hash %q", text, got.caHash)
		}
	})
}

func TestEncryption(t *testing.T) {
	sealed, err := encrypt("one", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := decrypt("one", sealed); err != nil || string(plain) != "secret" {
		t.Errorf("%q %v", plain, err)
	}
	if _, err := decrypt("other", sealed); !errors.Is(err, errOtherToken) {
		t.Errorf("another token: %v", err)
	}
}

func TestRegistries(t *testing.T) {
	dir := t.TempDir()
	text := `mirrors:
  "*": {endpoint: ["https://r.test:5000", "http://10.0.0.1:5000/v2/cache"]}
  docker.io: {endpoint: ["https://r.test:5000"]}
configs:
  "r.test:5000": {tls: {ca_file: /ca.crt}, auth: {username: u, password: p}}
`
	file := filepath.Join(dir, "registries.yaml")
	if err := write(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &config{dataDir: dir, settings: settings{"private-registry": {file}}}
	certs := c.agentFile("etc/containerd/certs.d")
	for name, content := range map[string]string{"gone.test": generatedHeader + "\n", "mine.test": "server = \"x\"\n"} {
		if err := write(filepath.Join(certs, name, "hosts.toml"), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	extra, err := c.writeRegistries()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(extra, `registry.configs."r.test:5000".auth`) {
		t.Errorf("credentials: %s", extra)
	}
	data, err := os.ReadFile(filepath.Join(certs, "_default", "hosts.toml"))
	want := generatedHeader + `

[host."https://r.test:5000/v2"]
  capabilities = ["pull", "resolve"]
  ca = ["/ca.crt"]

[host."http://10.0.0.1:5000/v2/cache"]
  capabilities = ["pull", "resolve"]
  override_path = true
`
	if err != nil || string(data) != want {
		t.Errorf("%v\n%s", err, cmp.Diff(want, string(data)))
	}
	if exists(filepath.Join(certs, "gone.test")) || !exists(filepath.Join(certs, "mine.test", "hosts.toml")) || !exists(filepath.Join(certs, "docker.io", "hosts.toml")) {
		t.Error("the wrong directories are there")
	}
	if err := write(file, "mirors: {}\n", 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.writeRegistries(); err == nil {
		t.Error("an unknown key is fine")
	}
}
