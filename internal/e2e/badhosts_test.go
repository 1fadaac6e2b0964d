package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
)

// openHosts is open for tests that need hosts and keg, but no Kubernetes.
func openHosts(t *testing.T) *bench {
	t.Helper()
	keg := os.Getenv("KEG_E2E_KEG")
	if keg == "" {
		keg = filepath.Join(moduleRoot(), "bin", "keg")
	}
	if _, err := os.Stat(keg); err != nil {
		t.Skip("SKIP hosts: no bin/keg; make build makes it")
	}
	return newBench(t, keg)
}

// fails runs keg run, which must exit with code and say all of texts.
func (b *bench) fails(code int, env []string, args []string, texts ...string) {
	b.Helper()
	cmd := b.command(b.Context(), append([]string{"run"}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		b.Errorf("keg run %s: %v, want exit code %d\n%s", strings.Join(args, " "), err, code, stderr.String())
	}
	for _, text := range texts {
		if !strings.Contains(stderr.String(), text) {
			b.Errorf("keg run %s does not say %q:\n%s", strings.Join(args, " "), text, stderr.String())
		}
	}
}

// TestRefusals: what is wrong with hosts or logins is one clear error, and the hosts stay as they were.
func TestRefusals(t *testing.T) {
	b := openHosts(t)
	sample := filepath.Join(moduleRoot(), "testdata", "sample")
	b.run("build", "-t", "sample:v1", "--platform", "linux/amd64", sample)
	const h1 = 0
	host, other := b.lab.Hosts[h1], b.lab.Hosts[1]
	b.lab.Exec(t, host.Name, "sh", "-c", "echo ops:right-password | chpasswd")
	before := b.snapshots()

	known := filepath.Join(b.home, "known_hosts")
	key := b.lab.Exec(t, host.Name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
	otherKey := b.lab.Exec(t, other.Name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(known, []byte(strings.Join(lines, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	login := func(flags ...string) []string {
		return append([]string{"sample:v1", "--name", "bad", "--masters", host.Addr, "--known-hosts", known}, flags...)
	}
	withKey := func(flags ...string) []string { return login(append([]string{"--pk", b.lab.Key}, flags...)...) }

	write()
	b.fails(1, nil, withKey(), "unknown host key", host.Addr, "hint:", "accept-new")
	write(host.Addr + " " + otherKey)
	b.fails(1, nil, withKey("--host-key-policy", "accept-new"), "host key changed", known+":1", "hint:")
	write(host.Addr + " " + key)

	unreachable := strings.TrimSuffix(host.Addr, ".11") + ".250"
	b.fails(1, nil, []string{"sample:v1", "--name", "bad", "--masters", unreachable, "--pk", b.lab.Key}, "unreachable", unreachable, "hint:")
	b.fails(1, []string{"KEG_SSH_PASSWORD=wrong-password"}, login("--user", "ops"), "login as ops refused", "password", "hint:")
	b.fails(1, nil, withKey("--user", "nobody-here"), "login as nobody-here refused")
	b.fails(1, []string{"KEG_SSH_PASSWORD=wrong-password"}, withKey("--user", "plain"), "sudo refused", "plain", "hint:")
	if strings.Contains(b.lab.Exec(t, host.Name, "sh", "-c", "journalctl --no-pager; cat /var/log/* 2>/dev/null || true"), "wrong-password") {
		t.Error("a password stands in a log of the host")
	}

	b.lab.Exec(t, host.Name, "sh", "-c", "mkdir /var/lib/keg-node && mount -t tmpfs -o size=24m tmpfs /var/lib/keg-node")
	b.fails(3, nil, withKey(), "disk", "free", "needed", "make room")
	b.lab.Exec(t, host.Name, "sh", "-c", "umount /var/lib/keg-node && rmdir /var/lib/keg-node")

	b.lab.Exec(t, host.Name, "sh", "-c", "mkdir /var/lib/keg-node && mount -t tmpfs -o size=4m tmpfs /var/lib/keg-node")
	b.fails(1, nil, withKey(), host.Addr+": send keg-node", "No space left on device")
	b.lab.Exec(t, host.Name, "mount", "-o", "remount,size=100m,noexec", "/var/lib/keg-node")
	b.fails(1, nil, withKey(), host.Addr+": send keg-node", "noexec")
	if left := b.lab.Exec(t, host.Name, "ls", "-A", "/var/lib/keg-node"); left != "" {
		t.Errorf("left in /var/lib/keg-node: %s", left)
	}
	b.lab.Exec(t, host.Name, "sh", "-c", "umount /var/lib/keg-node && rmdir /var/lib/keg-node")

	b.run("build", "-t", "sample:arm64", "--platform", "linux/arm64", b.arm64())
	b.fails(3, nil, []string{"sample:arm64", "--name", "bad", "--masters", host.Addr, "--pk", b.lab.Key, "--known-hosts", known},
		"it is linux/amd64, the image is for linux/arm64", "--platform linux/amd64")

	b.lab.Exec(t, other.Name, "hostname", host.Name)
	b.fails(3, nil, withKey("--nodes", other.Addr, "--host-key-policy", "accept-new"), `host name "`+host.Name+`" is also that of `+host.Addr, "hostnamectl")
	b.lab.Exec(t, other.Name, "hostname", other.Name)

	b.fails(3, nil, withKey("--nodes", host.Addr), "named as a master and as a node")
	b.compare(before, b.snapshots())
	if entries, _ := os.ReadDir(filepath.Join(b.store, "clusters")); len(entries) > 0 {
		t.Errorf("a refused run left something: %v", entries)
	}
}

// arm64 is the context of a base image for hosts of another architecture than the lab's.
func (b *bench) arm64() string {
	b.Helper()
	dir := filepath.Join(b.home, "arm64")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for name, text := range map[string]string{
		"Kubefile": "FROM scratch\nCOPY Metadata /\n",
		"Metadata": `{"version": "` + KubeVersion + `", "arch": "arm64", "ClusterRuntime": "kubernetes"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// hollow is the context of a base image that has everything but programs.
func (b *bench) hollow() string {
	b.Helper()
	dir := filepath.Join(b.home, "hollow")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(moduleRoot(), "basefs", "kubernetes"))); err != nil {
		b.Fatal(err)
	}
	program := filepath.Join(b.home, "program")
	files := map[string]string{
		program:                                   "#!/bin/sh\nexit 1\n",
		filepath.Join(dir, "Metadata"):            `{"version": "` + KubeVersion + `", "arch": "` + goruntime.GOARCH + `", "ClusterRuntime": "kubernetes"}`,
		filepath.Join(dir, "Kubefile"):            "FROM scratch\nENV COLOUR=blue\nCOPY . /\n",
		filepath.Join(dir, "bin", "kubelet"):      "not a program",
		filepath.Join(dir, "scripts", "clean.sh"): `echo "cleaning $NODE_NAME of $CLUSTER_NAME $KUBE_VERSION: $COLOUR $SHAPE"`,
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	var images []image
	for _, name := range []string{"pause:3.10.2", "etcd:3.7.0-0", "kube-apiserver:" + KubeVersion, "kube-controller-manager:" + KubeVersion, "kube-scheduler:" + KubeVersion} {
		images = append(images, image{ref: "registry.k8s.io/" + name, programs: []string{program}})
	}
	if err := writeImages(b.Context(), filepath.Join(dir, "images", "control-plane.tar"), images); err != nil {
		b.Fatal(err)
	}
	return dir
}

// TestHalfWay: the image has no programs, so a run fails when the first should start. A reset takes
// away what was there by then, on a host reached by a user with a password and sudo.
func TestHalfWay(t *testing.T) {
	b := openHosts(t)
	b.run("build", "-t", "sample:v1", b.hollow())
	host := b.lab.Hosts[0]
	b.lab.Exec(t, host.Name, "sh", "-c", "echo ops:right-password | chpasswd")
	before := b.snapshots()
	password := filepath.Join(b.home, "password")
	if err := os.WriteFile(password, []byte("right-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"sample:v1", "--name", "half", "--masters", host.Addr, "--user", "ops", "--passwd-file", password, "--host-key-policy", "accept-new",
		"--env", "KUBE_DNS=disabled", "--env", "KUBE_PROXY=disabled", "--env", "SHAPE=round"}

	// The store's file system is too small, and then has room but for a few files only.
	const store = "/var/lib/keg-node/store"
	for options, text := range map[string]string{
		"size=64m":               "are needed, ",
		"size=300m,nr_inodes=14": "no room for more files",
	} {
		b.lab.Exec(t, host.Name, "sh", "-c", "mkdir -p "+store+" && chmod 700 /var/lib/keg-node && mount -t tmpfs -o "+options+" tmpfs "+store)
		b.fails(1, nil, args, "distribute: "+host.Addr, "no room in "+store, text, "hint: make room")
		b.lab.Exec(t, host.Name, "umount", store)
	}
	for range 2 { // the second run goes on where the first failed, and fails there as well
		b.fails(1, nil, args, "make the control plane", "containerd")
	}
	b.fails(3, nil, append(slices.Clone(args), "--name", "other"), `it belongs to cluster "half"`, "keg reset --name half")
	extra := filepath.Join(b.home, "extra")
	if err := writeImages(t.Context(), filepath.Join(extra, "images", "extra.tar"), []image{{ref: "extra.test/extra:v1", programs: []string{filepath.Join(b.home, "program")}}}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(extra, "Kubefile"), []byte("FROM sample:v1\nCOPY images images\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Another image before there is a cluster: the registry serves that.
	b.run("build", "-t", "sample:v2", extra)
	args[0] = "sample:v2"
	b.fails(1, nil, args, "make the control plane", "containerd")
	b.lab.Exec(t, host.Name, "curl", "-fsS", "--cacert", "/etc/containerd/certs.d/_default/ca.crt", "https://registry.cluster.local:5000/v2/extra/manifests/v1?ns=extra.test")

	if state := b.lab.Exec(t, host.Name, "stat", "-c", "%a", "/var/lib/keg-node"); strings.TrimSpace(state) != "700" {
		t.Errorf("mode of /var/lib/keg-node is %s", state)
	}
	_, stderr := b.code(0, "reset", "--name", "half", "--yes")
	if want := "cleaning " + host.Name + " of half " + KubeVersion + ": blue round"; !strings.Contains(stderr, want) {
		t.Errorf("scripts/clean.sh does not say %q:\n%s", want, stderr)
	}
	b.compare(before, b.snapshots())
	if entries, _ := os.ReadDir(filepath.Join(b.store, "clusters")); len(entries) > 0 {
		t.Errorf("the record of the cluster is still there: %v", fmt.Sprint(entries))
	}
}
