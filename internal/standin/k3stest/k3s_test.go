// Package k3stest holds no code: its test runs testdata/fake-k3s with the real programs of the end-to-end tests on
// hosts of the lab, installed by hand as k3s' documentation says, with no keg involved. What it shows is that the
// stand-in is good enough to test keg against.
package k3stest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/labtest"
	"github.com/clusterimage/keg/internal/standin"
)

const (
	oldVersion = "v1.36.3"
	newVersion = "v1.37.2"
	webImage   = "only.inside.the.archive.test/web:v1"
)

func TestMain(m *testing.M) {
	if os.Getenv("KEG_E2E_BIN") == "" {
		os.Exit(m.Run()) // the test says why it skips; hosts would be for nothing
	}
	labtest.Main(m, 4)
}

type bench struct {
	*testing.T
	lab *labtest.Lab
	bin string
}

// sh runs a script in a host; a failure fails the test.
func (b *bench) sh(host, script string) string {
	b.Helper()
	out, err := b.trySh(b.Context(), host, script)
	if err != nil {
		log, _ := b.trySh(b.Context(), host, "journalctl -u k3s -u k3s-agent -o cat --no-pager | tail -40")
		b.Fatalf("%s: %s: %v\n%s\n%s", host, script, err, out, log)
	}
	return out
}

func (b *bench) trySh(ctx context.Context, host, script string) (string, error) {
	return b.lab.TryExec(ctx, host, "sh", "-c", script)
}

// put gives a host a file.
func (b *bench) put(host, path, content string, mode os.FileMode) {
	b.Helper()
	file := filepath.Join(b.lab.Scratch(), "hosts", host, "root", path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), mode)); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) eventually(what string, limit time.Duration, f func(context.Context) error) {
	b.Helper()
	ctx, cancel := context.WithTimeoutCause(b.Context(), limit, errors.New("time is up"))
	defer cancel()
	if err := standin.Until(ctx, 500*time.Millisecond, f); err != nil {
		b.Fatalf("waiting for %s: %v", what, err)
	}
	b.Logf("%s: %s", time.Now().Format(time.TimeOnly), what)
}

// wants waits until a script's output on host has a text.
func (b *bench) wants(host, script, text string, limit time.Duration) {
	b.Helper()
	b.eventually(text+" of "+script, limit, func(ctx context.Context) error {
		out, err := b.trySh(ctx, host, script)
		if err != nil || !strings.Contains(out, text) {
			return fmt.Errorf("%q, %w", out, err)
		}
		return nil
	})
}

func (b *bench) build() {
	b.Helper()
	root := moduleRoot(b)
	runc, err := exec.LookPath("runc")
	if err != nil {
		b.Fatal(err)
	}
	for name, v := range map[string]string{"k3s-old": oldVersion, "k3s-new": newVersion} {
		exe, file := filepath.Join(b.TempDir(), name), filepath.Join(b.lab.Scratch(), name)
		if _, err := os.Stat(file); err == nil {
			continue
		}
		build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+v+"+k3s1", "-o", exe, "./testdata/fake-k3s")
		build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		programs, err := standin.Programs(b.bin, v == oldVersion, runc)
		if err != nil {
			b.Fatal(err)
		}
		if err := standin.AppendPayload(b.Context(), file, exe, programs); err != nil {
			b.Fatal(err)
		}
	}
}

func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// install gives a host the program and the unit, as its name in the lab is at path inside.
func (b *bench) install(host, program, command string) {
	b.Helper()
	inside := filepath.Join(b.lab.Scratch(), "hosts", host, "root", "var", "tmp", "k3s")
	_ = os.Remove(inside)
	if err := os.Link(filepath.Join(b.lab.Scratch(), program), inside); err != nil {
		b.Fatal(err)
	}
	unit := "k3s"
	if command == "agent" {
		unit = "k3s-agent"
	}
	b.put(host, "/etc/systemd/system/"+unit+".service", `[Unit]
Description=Lightweight Kubernetes
Wants=network-online.target
After=network-online.target
[Install]
WantedBy=multi-user.target
[Service]
Type=notify
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/k3s `+command+"\n", 0o644)
	// By rename: the old one may be running.
	b.sh(host, "cp /var/tmp/k3s /usr/local/bin/.k3s.part && chmod 755 /usr/local/bin/.k3s.part && mv -f /usr/local/bin/.k3s.part /usr/local/bin/k3s && rm /var/tmp/k3s && systemctl daemon-reload && systemctl enable -q "+unit)
}

func (b *bench) addr(i int) string { return b.lab.Hosts[i].Addr }

func (b *bench) serverConfig(i int, more string) string {
	return fmt.Sprintf(`node-name: h%d
node-ip: %s
token-file: /etc/rancher/k3s/token
cluster-cidr: 10.42.0.0/16
service-cidr: 10.43.0.0/16
secrets-encryption: true
embedded-registry: true
disable: [traefik, servicelb]
write-kubeconfig-mode: "0600"
`, i+1, b.addr(i)) + more
}

// up waits until the API of a server answers, and its node, or another's, is Ready.
func (b *bench) up(server, node string) {
	b.Helper()
	b.wants(server, "k3s kubectl get --raw /readyz", "ok", time.Minute)
	b.wants(server, "k3s kubectl get node "+node+` -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}'`, "True", 2*time.Minute)
}

func TestCluster(t *testing.T) {
	if os.Getenv("KEG_E2E_BIN") == "" {
		t.Skip("SKIP k3s stand-in on hosts: make e2e runs this with real Kubernetes binaries")
	}
	b := &bench{T: t, lab: labtest.Open(t), bin: os.Getenv("KEG_E2E_BIN")}
	b.build()
	images := b.images()
	var install sync.WaitGroup
	for i, h := range b.lab.Hosts {
		install.Go(func() {
			b.put(h.Name, "/var/lib/rancher/k3s/agent/images/images.tar", images, 0o644)
			b.put(h.Name, "/var/lib/rancher/k3s/agent/images/nameless.tar", digestOnly, 0o644)
			b.install(h.Name, "k3s-old", map[bool]string{true: "agent", false: "server"}[i == 3])
		})
	}
	install.Wait()

	b.put("h1", "/etc/rancher/k3s/token", "a-password\n", 0o600)
	b.put("h1", "/etc/rancher/k3s/agent-token", "another-password\n", 0o600)
	b.put("h1", "/etc/rancher/k3s/config.yaml", b.serverConfig(0, "cluster-init: true\nagent-token-file: /etc/rancher/k3s/agent-token\n"), 0o600)
	b.put("h1", "/etc/rancher/k3s/config.yaml.d/10-more.yaml", "disable+: [metrics-server]\nno-such-key: 1\n", 0o600)
	b.sh("h1", "systemctl start --no-block k3s")
	b.wants("h1", "curl -sk https://127.0.0.1:6443/ping", "pong", time.Minute)
	b.up("h1", "h1")
	b.wants("h1", "journalctl -u k3s -o cat", "Unknown flag --no-such-key found in config.yaml, skipping", 30*time.Second)
	b.wants("h1", "journalctl -u k3s -o cat", "failed to parse tag", 30*time.Second)
	token := strings.TrimSpace(b.sh("h1", "cat /var/lib/rancher/k3s/server/token"))
	agentToken := strings.TrimSpace(b.sh("h1", "cat /var/lib/rancher/k3s/server/agent-token"))
	b.refusals(token, agentToken)

	for _, i := range []int{1, 2} { // one by one
		host := b.lab.Hosts[i].Name
		b.put(host, "/etc/rancher/k3s/token", token+"\n", 0o600)
		b.put(host, "/etc/rancher/k3s/config.yaml", b.serverConfig(i, "server: https://"+b.addr(0)+":6443\n"), 0o600)
		b.sh(host, "systemctl start --no-block k3s")
		b.up(host, host)
		b.wants("h1", `k3s kubectl get node `+host+` -o jsonpath='{.status.conditions[?(@.type=="EtcdIsVoter")].status}'`, "True", time.Minute)
	}

	// The agent joins through h2, with a token that ends.
	b.put("h4", "/etc/rancher/k3s/token", b.sh("h1", "k3s token create --ttl 10m"), 0o600)
	b.put("h4", "/etc/rancher/k3s/config.yaml", "node-name: h4\nnode-ip: "+b.addr(3)+"\nserver: https://"+b.addr(1)+":6443\ntoken-file: /etc/rancher/k3s/token\nnode-label: [a=b]\n", 0o600)
	b.sh("h4", "systemctl start --no-block k3s-agent")
	b.up("h1", "h4")
	b.wants("h4", "systemctl is-active k3s-agent; cat /var/lib/rancher/k3s/agent/etc/k3s-agent-load-balancer.json", b.addr(2)+":6443", 30*time.Second)

	b.put("h1", "/var/lib/rancher/k3s/server/manifests/web.yaml", webPod("web"), 0o600)
	b.answers("web")

	// The server that the agent joined is lost; a new pod still comes to run on the agent.
	b.lab.Verb(t, "kill", "h2")
	b.put("h1", "/var/lib/rancher/k3s/server/manifests/later.yaml", webPod("later"), 0o600)
	b.answers("later")
	b.lab.Verb(t, "start", "h2")
	b.up("h2", "h2")

	b.remove()
	b.restore()
	b.nodePassword()
	b.upgrade()
	if leaks := b.lab.Leaks(t); len(leaks) > 0 {
		t.Errorf("packets left for %v", leaks)
	}
}

// refusals: a server that may not join leaves nothing behind, and says why.
func (b *bench) refusals(token, agentToken string) {
	b.Helper()
	other := token[:3] + strings.Repeat("0", 64) + token[67:]
	for _, step := range []struct{ name, token, more, want string }{
		{"wrong password", token + "x", "", "401 Unauthorized"},
		{"agent token", agentToken, "", "401 Unauthorized"},
		{"CA of another cluster", other, "", "token CA hash does not match"},
		{"other services", token, "service-cidr: 10.44.0.0/16\n", "critical configuration value mismatch"},
		{"servicelb", token, "disable: [traefik]\n", "critical configuration value mismatch"},
		{"no encryption", token, "secrets-encryption: false\n", "critical configuration value mismatch"},
	} {
		b.put("h3", "/etc/rancher/k3s/token", step.token+"\n", 0o600)
		b.put("h3", "/etc/rancher/k3s/config.yaml", b.serverConfig(2, "server: https://"+b.addr(0)+":6443\n"), 0o600)
		b.put("h3", "/etc/rancher/k3s/config.yaml.d/50.yaml", step.more, 0o600)
		out, err := b.trySh(b.Context(), "h3", "timeout 60 k3s server")
		if err == nil || !strings.Contains(out, step.want) {
			b.Errorf("%s: %v, want %q\n%s", step.name, err, step.want, out)
		}
		if strings.Contains(out, token) {
			b.Errorf("%s: the token is in the log", step.name)
		}
	}
	b.sh("h3", "rm -rf /etc/rancher/k3s/config.yaml.d; ! test -e /var/lib/rancher/k3s/server/tls/server-ca.key")
}

// answers waits until the pod runs on h4 and answers on h1.
func (b *bench) answers(pod string) {
	b.Helper()
	var ip string
	b.eventually("pod "+pod, time.Minute, func(ctx context.Context) error {
		out, err := b.trySh(ctx, "h1", "k3s kubectl get pod "+pod+" -o jsonpath='{.status.phase} {.spec.nodeName} {.status.podIP}'")
		f := strings.Fields(out)
		if err != nil || len(f) != 3 || f[0] != "Running" || f[1] != "h4" {
			events, _ := b.trySh(ctx, "h1", "k3s kubectl describe pod "+pod+" | tail -30")
			return fmt.Errorf("%q, %w\n%s", out, err, events)
		}
		ip = f[2]
		return nil
	})
	b.wants("h1", "curl -sS --max-time 3 http://"+ip+":8080/", "hello from "+pod, 30*time.Second)
}

// remove takes h3 off: drain, annotation, stop, delete, as documented.
func (b *bench) remove() {
	b.Helper()
	b.sh("h1", "k3s kubectl drain h3 --ignore-daemonsets --delete-emptydir-data --force --timeout=60s")
	b.sh("h1", "k3s kubectl annotate node h3 etcd.k3s.cattle.io/remove=true --overwrite")
	b.wants("h1", `k3s kubectl get node h3 -o jsonpath='{.metadata.annotations.etcd\.k3s\.cattle\.io/removed-node-name}'`, "h3-", time.Minute)
	b.sh("h3", "systemctl stop k3s")
	b.wants("h3", "journalctl -u k3s -o cat", "This node has been removed from the cluster", 30*time.Second)
	b.sh("h1", "k3s kubectl delete node h3")
	b.wants("h1", "k3s kubectl get secret -n kube-system h3.node-password.k3s --ignore-not-found -o name; echo done", "done\n", time.Minute)
	// Without --server it does not come back by itself.
	b.put("h3", "/etc/rancher/k3s/config.yaml", b.serverConfig(2, "cluster-init: true\n"), 0o600)
	if out, err := b.trySh(b.Context(), "h3", "timeout 30 k3s server"); err == nil || !strings.Contains(out, "tombstone file has been detected but --server is empty") {
		b.Errorf("a removed server: %v\n%s", err, out)
	}
}

// restore: a snapshot has what was before it and lacks what came after.
func (b *bench) restore() {
	b.Helper()
	b.sh("h1", "k3s kubectl create configmap before && k3s etcd-snapshot save --name test && k3s kubectl create configmap after && mv /var/lib/rancher/k3s/server/manifests/*.yaml /root/")
	file := strings.TrimSpace(b.sh("h1", "ls /var/lib/rancher/k3s/server/db/snapshots/test-h1-*"))
	b.sh("h1", "k3s etcd-snapshot ls | grep -q test-h1-")
	b.sh("h2", "systemctl stop k3s")
	b.sh("h1", "systemctl stop k3s; echo other > /root/other-token")
	if out, err := b.trySh(b.Context(), "h1", "mkdir /root/copy; ln -s /var/lib/rancher/k3s/data /root/copy/data; k3s server -d /root/copy --cluster-reset --cluster-reset-restore-path="+file+" --token-file=/root/other-token; rc=$?; rm -rf /root/copy; exit $rc"); err == nil || !strings.Contains(out, "encrypted with different token") {
		b.Errorf("a snapshot with another token: %v\n%s", err, out)
	}
	out := b.sh("h1", "k3s server --cluster-reset --cluster-reset-restore-path="+file+" 2>&1")
	if !strings.Contains(out, "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now.") {
		b.Errorf("cluster-reset: %s", out)
	}
	if out, err := b.trySh(b.Context(), "h1", "k3s server --cluster-reset"); err == nil || !strings.Contains(out, "previously reset") {
		b.Errorf("a second cluster-reset: %v\n%s", err, out)
	}
	b.sh("h1", "systemctl start --no-block k3s")
	b.up("h1", "h1")
	if out := b.sh("h1", "k3s kubectl get configmap -o name"); !strings.Contains(out, "configmap/before") || strings.Contains(out, "configmap/after") {
		b.Errorf("after the restore: %s", out)
	}
	b.sh("h2", "rm -rf /var/lib/rancher/k3s/server/db && systemctl start --no-block k3s")
	b.up("h2", "h2")
	b.up("h1", "h4")
	b.answers("web")
}

// nodePassword: a host that was installed anew is rejected until its Node is deleted.
func (b *bench) nodePassword() {
	b.Helper()
	b.sh("h4", "rm /etc/rancher/node/password; systemctl restart --no-block k3s-agent")
	b.wants("h4", "journalctl -u k3s-agent -o cat", "Node password rejected", 30*time.Second)
	b.sh("h1", "k3s kubectl delete node h4")
	b.up("h1", "h4")
}

// upgrade replaces the binary: servers first, one by one. Pods live on.
func (b *bench) upgrade() {
	b.Helper()
	b.put("h1", "/var/lib/rancher/k3s/server/manifests/stays.yaml", webPod("stays"), 0o600)
	b.answers("stays")
	for _, step := range []struct{ host, command, unit string }{{"h1", "server", "k3s"}, {"h2", "server", "k3s"}, {"h4", "agent", "k3s-agent"}} {
		b.install(step.host, "k3s-new", step.command)
		b.sh(step.host, "systemctl restart --no-block "+step.unit)
		b.wants("h1", "k3s kubectl get node "+step.host+" -o jsonpath='{.status.nodeInfo.kubeletVersion}'", newVersion, 2*time.Minute)
		b.up("h1", step.host)
	}
	if out := b.sh("h1", "k3s kubectl get pod stays -o jsonpath='{.status.containerStatuses[0].restartCount}'"); out != "0" {
		b.Errorf("the pod was started again %s times", out)
	}
	if out := b.sh("h1", "k3s kubectl get --raw /version"); !strings.Contains(out, newVersion) {
		b.Errorf("version of the API: %s", out)
	}
	b.answers("stays")
}

func webPod(name string) string {
	return `apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, namespace: default}
spec:
  nodeSelector: {a: b}
  automountServiceAccountToken: false
  containers:
  - {name: web, image: "` + webImage + `", imagePullPolicy: Never}
`
}

// images is a Docker archive of what runs in pods.
func (b *bench) images() string {
	b.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(w *tar.Writer, name string, data []byte, mode int64) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: mode, Typeflag: tar.TypeReg}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	hash := func(data []byte) string {
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:])
	}
	var manifest []map[string]any
	for name, ref := range map[string]string{"pause": "rancher/mirrored-pause:3.6", "web": webImage} {
		exe := filepath.Join(b.TempDir(), name)
		build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", exe, "./internal/e2e/"+name)
		build.Dir, build.Env = moduleRoot(b), append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, text)
		}
		program, err := os.ReadFile(exe)
		if err != nil {
			b.Fatal(err)
		}
		var layer bytes.Buffer
		l := tar.NewWriter(&layer)
		add(l, "usr/local/bin/"+name, program, 0o755)
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		config, err := json.Marshal(map[string]any{
			"architecture": "amd64", "os": "linux", "config": map[string]any{"Entrypoint": []string{"/usr/local/bin/" + name}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hash(layer.Bytes())}},
		})
		if err != nil {
			b.Fatal(err)
		}
		add(w, hash(layer.Bytes())+"/layer.tar", layer.Bytes(), 0o644)
		add(w, hash(config)+".json", config, 0o644)
		manifest = append(manifest, map[string]any{"Config": hash(config) + ".json", "RepoTags": []string{ref}, "Layers": []string{hash(layer.Bytes()) + "/layer.tar"}})
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		b.Fatal(err)
	}
	add(w, "manifest.json", data, 0o644)
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return out.String()
}

// digestOnly is an archive whose image has no name.
var digestOnly = func() string {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	text := `{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:` + strings.Repeat("0", 64) + `", "size": 2}]}`
	_ = w.WriteHeader(&tar.Header{Name: "index.json", Size: int64(len(text)), Mode: 0o644, Typeflag: tar.TypeReg})
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return out.String()
}()
