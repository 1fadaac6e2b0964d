package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/clusterimage/keg/internal/labtest"
	"github.com/clusterimage/keg/internal/standin"
)

func TestMain(m *testing.M) {
	if os.Getenv("KEG_E2E_BIN") == "" {
		os.Exit(m.Run()) //nolint:forbidigo // no lab is needed
	}
	labtest.Main(m, 3)
}

// TestLabLife is a life by k0s' own commands, with the real programs: two controllers and a worker of 1.36.3, a pod whose
// image is in a bundle, an upgrade to 1.37.2, a backup, a controller that leaves, and the restore. KEG_E2E_BIN is the directory that
// testdata/e2e/binaries prints, with the program pause in it.
func TestLabLife(t *testing.T) {
	bin := os.Getenv("KEG_E2E_BIN")
	if bin == "" {
		t.Skip("SKIP lab: KEG_E2E_BIN names no directory of real Kubernetes programs")
	}
	lab := &labLife{Lab: labtest.Open(t), T: t, bin: bin}
	before, now := lab.build("v1.36.3+k0s.0", true), lab.build("v1.37.2+k0s.0", false)
	h1, h2, h3 := lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]
	bundle := lab.bundle(map[string]string{"quay.io/k0sproject/pause:3.10.2-0": "pause", "only.inside.test/app:v1": "pause"})
	for _, h := range lab.Hosts {
		lab.sh(h, "mkdir -p /etc/k0s /var/lib/k0s/images")
		lab.push(before, h, "/usr/local/bin/k0s")
		lab.push(bundle, h, "/var/lib/k0s/images/bundle.tar")
		lab.push(lab.config(h), h, "/etc/k0s/k0s.yaml")
	}
	const flags = " -c /etc/k0s/k0s.yaml --ignore-pre-flight-checks --force 2>/dev/null"
	lab.sh(h1, "k0s install controller --enable-worker --no-taints"+flags+"; k0s start")
	lab.ready(h1)
	lab.token(h1, "worker", h3)
	lab.sh(h3, "k0s install worker --token-file /etc/k0s/k0stoken --ignore-pre-flight-checks; k0s start")
	lab.token(h1, "controller", h2)
	lab.sh(h2, "k0s install controller --token-file /etc/k0s/k0stoken"+flags+"; k0s start")
	lab.ready(h2)
	lab.until(h1, "True", `k0s kubectl get etcdmember h2 -o 'jsonpath={.status.conditions[?(@.type=="Joined")].status}'`)
	lab.until(h1, "h3", "k0s kubectl get nodes -o name")
	lab.sh(h1, "k0s kubectl wait --for=condition=Ready node/h1 node/h3 --timeout=120s")
	lab.sh(h1, "k0s kubectl run app --image=only.inside.test/app:v1 --image-pull-policy=Never --overrides='"+
		`{"spec":{"nodeName":"h3","automountServiceAccountToken":false}}`+"' && k0s kubectl wait --for=condition=Ready pod/app --timeout=90s")

	for _, h := range []labtest.Host{h1, h2, h3} {
		lab.push(now, h, "/usr/local/bin/k0s.new")
		lab.sh(h, "k0s stop; mv /usr/local/bin/k0s.new /usr/local/bin/k0s; k0s start")
		if h != h3 {
			lab.ready(h)
		}
	}
	lab.until(h1, "v1.37.2 v1.37.2", "k0s kubectl get nodes -o 'jsonpath={.items[*].status.nodeInfo.kubeletVersion}'")
	if restarts := lab.sh(h1, "k0s kubectl get pod app -o 'jsonpath={.status.containerStatuses[0].restartCount}'"); restarts != "0" {
		t.Errorf("the pod was restarted %s times by the upgrade", restarts)
	}

	lab.sh(h1, "mkdir -m 700 /root/backup && k0s backup --save-path=/root/backup")
	lab.sh(h1, `k0s kubectl patch etcdmember h2 --type merge -p '{"spec":{"leave":true}}' && k0s kubectl wait etcdmember h2 --for condition=Joined=False --timeout=60s`)
	if list := lab.sh(h1, "k0s etcd member-list"); strings.Contains(list, "h2") {
		t.Error(list)
	}
	lab.sh(h2, "k0s stop; k0s reset; ! ls -d /var/lib/k0s /run/k0s /etc/systemd/system/k0s*")

	lab.sh(h1, "k0s kubectl create configmap later && ! k0s reset && k0s stop && ! k0s restore /root/backup/*.gz && k0s reset")
	lab.sh(h1, "k0s restore --config-out=/root/k0s.yaml /root/backup/*.gz && k0s install controller --enable-worker --no-taints"+flags+"; k0s start")
	lab.ready(h1)
	lab.sh(h1, "! k0s kubectl get configmap later && k0s kubectl get pod app")
	lab.until(h1, "True True", `k0s kubectl get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'`)
	if leaks := lab.Leaks(t); len(leaks) > 0 {
		t.Errorf("packets went to %v", leaks)
	}
}

type labLife struct {
	*labtest.Lab
	*testing.T
	bin string
}

// build makes the stand-in with a payload.
func (l *labLife) build(version string, before bool) string {
	l.Helper()
	dir := l.TempDir()
	light, full := filepath.Join(dir, "light"), filepath.Join(dir, "k0s")
	if out, err := exec.CommandContext(l.Context(), "go", "build", "-trimpath", "-ldflags", "-X main.version="+version, "-o", light, ".").CombinedOutput(); err != nil {
		l.Fatalf("building: %v\n%s", err, out)
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		l.Skip("SKIP lab: no runc")
	}
	programs, err := standin.Programs(l.bin, before, runc)
	if err != nil {
		l.Skip("SKIP lab: ", err)
	}
	if err := standin.AppendPayload(l.Context(), full, light, programs); err != nil {
		l.Fatal(err)
	}
	return full
}

// bundle is a plain tar of images with one static program each.
func (l *labLife) bundle(programs map[string]string) string {
	l.Helper()
	images := map[name.Tag]v1.Image{}
	for ref, program := range programs {
		data, err := os.ReadFile(filepath.Join(l.bin, program))
		if err != nil {
			l.Skip("SKIP lab: ", err)
		}
		layer, err := layerOf("usr/local/bin/"+program, data)
		if err != nil {
			l.Fatal(err)
		}
		image, err := mutate.AppendLayers(empty.Image, layer)
		if err != nil {
			l.Fatal(err)
		}
		image, err = mutate.ConfigFile(image, &v1.ConfigFile{
			OS: "linux", Architecture: "amd64", Config: v1.Config{Entrypoint: []string{"/usr/local/bin/" + program}, Env: []string{"PATH=/usr/local/bin"}},
			RootFS: rootOf(l.T, image),
		})
		if err != nil {
			l.Fatal(err)
		}
		tag, err := name.NewTag(ref)
		if err != nil {
			l.Fatal(err)
		}
		images[tag] = image
	}
	file := filepath.Join(l.TempDir(), "bundle.tar")
	if err := tarball.MultiWriteToFile(file, images); err != nil {
		l.Fatal(err)
	}
	return file
}

func (l *labLife) config(h labtest.Host) string {
	l.Helper()
	file := filepath.Join(l.TempDir(), "k0s.yaml")
	text := fmt.Sprintf(`spec:
  api: {address: %[1]s, sans: [%[2]s, %[3]s]}
  storage: {type: etcd, etcd: {peerAddress: %[1]s}}
  network: {nodeLocalLoadBalancing: {enabled: true}}
  telemetry: {enabled: false}
  workerProfiles: [{name: default, values: {failCgroupV1: false, evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%}}}]
`, h.Addr, l.Hosts[0].Addr, l.Hosts[1].Addr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		l.Fatal(err)
	}
	return file
}

func (l *labLife) ssh(h labtest.Host, command string) *exec.Cmd {
	return exec.CommandContext(l.Context(), "ssh", "-i", l.Key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@"+h.Addr, command)
}

func (l *labLife) sh(h labtest.Host, command string) string {
	l.Helper()
	began := time.Now()
	out, err := l.ssh(h, command).CombinedOutput()
	l.Logf("%s: %s (%.1fs)", h.Name, command, time.Since(began).Seconds())
	if err != nil {
		l.Fatalf("%s: %s: %v\n%s", h.Name, command, err, out)
	}
	return strings.TrimSpace(string(out))
}

// until repeats a command until it prints want.
func (l *labLife) until(h labtest.Host, want, command string) {
	l.Helper()
	var out []byte
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		var err error
		if out, err = l.ssh(h, command).CombinedOutput(); err == nil && strings.Contains(string(out), want) {
			return
		}
	}
	log, _ := l.ssh(h, "journalctl -u 'k0s*' -o cat -n 60").CombinedOutput()
	l.Fatalf("%s: %s: want %q, got %s\n%s", h.Name, command, want, out, log)
}

// ready waits for what a driver waits for: the status and the API.
func (l *labLife) ready(h labtest.Host) {
	l.Helper()
	l.until(h, "controller", "k0s status -o json")
	l.until(h, "ok", "k0s kubectl get --raw=/readyz")
}

func (l *labLife) push(file string, h labtest.Host, to string) {
	l.Helper()
	f, err := os.Open(file)
	if err != nil {
		l.Fatal(err)
	}
	defer f.Close()
	cmd := l.ssh(h, "umask 077; cat > "+to+" && chmod 700 "+to)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("%s: pushing %s: %v\n%s", h.Name, to, err, out)
	}
}

func (l *labLife) token(from labtest.Host, role string, to labtest.Host) {
	l.Helper()
	file := filepath.Join(l.TempDir(), "token")
	if err := os.WriteFile(file, []byte(l.sh(from, "k0s token create --expiry 10m --role "+role)), 0o600); err != nil {
		l.Fatal(err)
	}
	l.push(file, to, "/etc/k0s/k0stoken")
}
