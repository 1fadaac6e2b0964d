package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pod makes a pod of an image, which is pulled anew, and waits until it runs.
func (b *bench) pod(name, image string) {
	b.Helper()
	b.kubectl("run", name, "--image="+image, "--image-pull-policy=Always", "--restart=Never", `--overrides={"spec": {"automountServiceAccountToken": false}}`)
	b.kubectl("wait", "--for=condition=Ready", "--timeout=90s", "pod/"+name)
}

// TestSudo: a cluster of one host, reached by a user who has sudo. It refuses what would break it, and
// comes back after a reboot with its registry.
func TestSudo(t *testing.T) {
	b := open(t)
	file := b.file()
	before := b.snapshots()
	host, other := b.lab.Hosts[0], b.lab.Hosts[1]
	login := []string{"--user", "ops", "--pk", b.lab.Key, "--host-key-policy", "accept-new", "--env", "KUBE_DNS=disabled", "--env", "KUBE_PROXY=disabled"}
	args := append([]string{"--name", "e2e", "--masters", host.Addr}, login...)
	args = append([]string{"run", file}, args...)
	b.stop(stop{"make the control plane", 3 * time.Second, syscall.SIGINT}, args...)
	b.run(args...)
	b.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/web")

	for _, tc := range []struct {
		args []string
		text string
	}{
		{append([]string{appName, "--name", "another", "--masters", host.Addr}, login...), `belongs to cluster "e2e"`},
		{append([]string{appName, "--name", "another", "--masters", other.Addr, "--nodes", host.Addr}, login...), `belongs to cluster "e2e"`},
		{append([]string{appName, "--name", "e2e", "--masters", other.Addr, "--nodes", host.Addr}, login...), "choose another --name"},
		{append([]string{b.otherImage()}, args[2:]...), "run that image"},
	} {
		if _, stderr := b.code(3, append([]string{"run"}, tc.args...)...); !strings.Contains(stderr, tc.text) {
			t.Errorf("keg run %s does not say %q:\n%s", strings.Join(tc.args, " "), tc.text, stderr)
		}
	}
	b.run("status", "--name", "e2e")

	// The operator goes on from another machine, which knows the cluster from the host alone.
	if err := os.RemoveAll(b.store); err != nil {
		t.Fatal(err)
	}
	uid := b.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	b.run(args...)
	if again := b.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"); again != uid {
		t.Error("a run from another machine made another cluster")
	}

	b.lab.Verb(t, "stop", host.Name)
	b.lab.Verb(t, "start", host.Name)
	b.eventually("the pod after a reboot", 3*time.Minute, func(ctx context.Context) error {
		ip, err := b.tryKubectl(ctx, "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
		if err != nil {
			return fmt.Errorf("%w: %s", err, ip)
		}
		// Not before there is a pod network: the packet would be taken for one that left.
		out, err := b.lab.TryExec(ctx, host.Name, "curl", "--interface", "cni0", "-sS", "--max-time", "3", "http://"+ip+":8080/")
		if err != nil || strings.TrimSpace(out) != "hello from web" {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	b.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/web", "node/"+host.Name)
	b.run("status", "--name", "e2e")
	if forward := b.lab.Exec(t, host.Name, "sysctl", "-n", "net.ipv4.ip_forward"); strings.TrimSpace(forward) != "1" {
		t.Errorf("net.ipv4.ip_forward is %s after a reboot", forward)
	}
	// An index that was named by digest stays reachable by that.
	head := b.lab.Exec(t, host.Name, "curl", "-sS", "--cacert", "/etc/containerd/certs.d/_default/ca.crt", "-I",
		"-H", "Accept: application/vnd.oci.image.index.v1+json", "https://registry.cluster.local:5000/v2/later/manifests/v1?ns=only.inside.the.image.test")
	var index string
	for line := range strings.Lines(head) {
		if key, value, _ := strings.Cut(line, ":"); strings.EqualFold(key, "Docker-Content-Digest") {
			index = strings.TrimSpace(value)
		}
	}
	if !strings.Contains(head, "image.index") || index == "" {
		t.Errorf("the registry does not give the index of %s: %s", laterImage, head)
	}
	b.pod("tagged", laterImage)
	b.pod("pinned", strings.TrimSuffix(laterImage, ":v1")+"@"+index)
	images := b.lab.Exec(t, host.Name, "ctr", "-n", "k8s.io", "images", "ls", "-q")
	if !strings.Contains(images, "@"+index) {
		t.Errorf("containerd does not know the index: %s", images)
	}
	if leaks := b.lab.Leaks(t); len(leaks) > 0 {
		t.Errorf("packets left for %v", leaks)
	}
	b.run("reset", "--name", "e2e", "--yes")
	b.compare(before, b.snapshots())
}

// otherImage builds an image on top of the application's.
func (b *bench) otherImage() string {
	b.Helper()
	const name = "registry.keg.test/shop:v2"
	dir := filepath.Join(b.home, "v2")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Kubefile"), []byte("FROM "+appName+"\nENV SHOP=v2\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	b.run("build", "-t", name, dir)
	return name
}

// TestLocal: keg and the file are carried to a host and run there, as root, without SSH.
func TestLocal(t *testing.T) {
	b := open(t)
	file := b.file()
	before := b.snapshots()
	host := b.lab.Hosts[0]
	const dir = "/srv/operator"
	b.send(host.Addr, dir, b.keg, file)
	shell := func(script string, args ...string) string {
		t.Helper()
		return b.lab.Exec(t, host.Name, append([]string{"env", "-i", "HOME=" + dir, "KEG_ROOT=" + dir + "/store", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", script, "sh"}, args...)...)
	}
	keg := func(args ...string) string {
		t.Helper()
		began := time.Now()
		out := shell(`cd "$HOME" && exec ./keg "$@" 2>&1`, args...)
		t.Logf("keg %s (%.1fs)\n%s", strings.Join(args, " "), time.Since(began).Seconds(), out)
		return out
	}
	script := `cd "$HOME" && timeout --preserve-status -s INT 8 ./keg run "$@" 2>&1; echo "code $?"`
	run := []string{filepath.Base(file), "--env", "KUBE_DNS=disabled", "--env", "KUBE_PROXY=disabled"}
	if out := shell(script, run...); !strings.HasSuffix(out, "code 130\n") {
		t.Errorf("keg run after Ctrl-C: %s", out)
	}
	b.left()
	args := append([]string{"run"}, run...)
	keg(args...)
	phase := b.lab.Exec(t, host.Name, "kubectl", "--kubeconfig", dir+"/.kube/keg-default.config", "get", "pod", "web", "-o", "jsonpath={.status.phase}")
	if phase != "Running" {
		t.Errorf("the pod is %q", phase)
	}
	if out := keg("status"); !strings.Contains(out, "localhost") {
		t.Errorf("keg status: %s", out)
	}
	keg(args...) // again
	keg("reset", "--yes")
	b.lab.Exec(t, host.Name, "rm", "-rf", dir)
	b.compare(before, b.snapshots())
}

// send copies files into a directory of a host, over SSH.
func (b *bench) send(addr, dir string, files ...string) {
	b.Helper()
	pack := exec.CommandContext(b.Context(), "tar", "-c", "--transform=s|.*/||", "-P", "-f", "-")
	pack.Args = append(pack.Args, files...)
	unpack := exec.CommandContext(b.Context(), "ssh", "-i", b.lab.Key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"root@"+addr, "mkdir -p "+dir+" && tar -x -C "+dir)
	pipe, err := pack.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	unpack.Stdin = pipe
	if err := pack.Start(); err != nil {
		b.Fatal(err)
	}
	out, err := unpack.CombinedOutput()
	if err != nil {
		b.Fatalf("copying to %s: %v\n%s", addr, err, out)
	}
	if err := pack.Wait(); err != nil {
		b.Fatal(err)
	}
}
