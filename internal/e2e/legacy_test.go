package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLegacy: a tree in sealer's layout is built and run as it is. Its scripts and plugins write down the order in
// which they ran, and what they were told.
func TestLegacy(t *testing.T) {
	b := open(t)
	dir := filepath.Join(b.lab.Scratch(), "legacy")
	if err := LegacyContext(b.Context(), dir, NewPrograms(b.bin, KubeVersion)); err != nil {
		t.Fatal(err)
	}
	before := b.snapshots()
	host := b.lab.Hosts[0]
	const name = "registry.keg.test/legacy:v1"
	b.store = filepath.Join(b.lab.Scratch(), "legacy-store")
	b.run("build", "-t", name, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	b.run("run", name, "--name", "e2e", "--masters", host.Addr, "--pk", b.lab.Key, "--host-key-policy", "accept-new",
		"--env", "KUBE_DNS=disabled", "--env", "KUBE_PROXY=disabled", "--env", "SvcCIDR=172.20.0.0/16")
	b.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "node/"+host.Name)
	if cidr := b.kubectl("get", "node", host.Name, "-o", "jsonpath={.spec.podCIDR}"); !strings.HasPrefix(cidr, "100.64.") {
		t.Errorf("pods are in %s, not in the image's PodCIDR", cidr)
	}
	if ip := b.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"); ip != "172.20.0.1" {
		t.Errorf("the API's service is %s", ip)
	}
	b.run("reset", "--name", "e2e", "--yes")

	told := " on " + host.Addr + ", registry.cluster.local:5000 100.64.0.0/16 172.20.0.10\n"
	want := "pre-configure plugin before [] in rootfs" + told +
		"init containerd.sh [] in scripts" + told +
		"init init-kube.sh [] in scripts" + told + "pods: 100.64.0.0/16\ndns: 172.20.0.10\n" +
		"pre-apps plugin after [] in rootfs" + told + "node/" + host.Name + "\n" +
		"clean plugin leaving [] in rootfs" + told + "ok\n" +
		"post-clean uninstall-containerd.sh [] in scripts" + told +
		"post-clean clean-kube.sh [] in scripts" + told +
		"post-clean clean.sh [] in scripts" + told +
		"post-clean plugin gone [] in rootfs" + told
	if d := cmp.Diff(want, b.lab.Exec(t, host.Name, "cat", LegacyLog)); d != "" {
		t.Errorf("what ran (-want +got):\n%s", d)
	}
	b.lab.Exec(t, host.Name, "rm", LegacyLog) // a script of the image made it, and none takes it away
	b.compare(before, b.snapshots())
	if err := os.RemoveAll(b.store); err != nil {
		t.Error(err)
	}
}

// TestLegacyK0s: sealer's own tree for k0s, which has no k0s.yaml, runs by the driver for k0s.
func TestLegacyK0s(t *testing.T) {
	b := open(t)
	dir := filepath.Join(b.lab.Scratch(), "legacy-k0s")
	if err := LegacyK0sContext(b.Context(), dir, NewPrograms(b.bin, KubeVersion)); err != nil {
		t.Fatal(err)
	}
	before := b.snapshots()
	host := b.lab.Hosts[0]
	const name, prefix = "registry.keg.test/legacy-k0s:v1", "/var/tmp/legacy-bin"
	b.lab.Exec(t, host.Name, "mkdir", prefix)
	b.store = filepath.Join(b.lab.Scratch(), "legacy-store")
	b.run("build", "-t", name, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	_, said := b.code(0, "run", name, "--name", "e2e", "--masters", host.Addr, "--pk", b.lab.Key, "--host-key-policy", "accept-new",
		"--env", "PREFIX="+prefix, "--env", "K0S_DISABLE=autopilot,update-prober,coredns,konnectivity-server,kube-proxy,metrics-server")
	var at int
	for _, want := range []string{
		"scripts/containerd.sh does not run: k0s brings a container runtime of its own",
		"scripts/init-registry.sh does not run: keg serves",
		"plugin on " + host.Addr + " in rootfs",
		"init.sh [/var/lib/docker] [registry.cluster.local] [5000] in scripts for " + host.Addr + " by registry.cluster.local:5000",
		"plugin on " + host.Addr + " in rootfs",
		host.Name + " ", // kubectl get nodes, of the plugin
		"the network of " + host.Addr,
	} {
		i := strings.Index(said[at:], want)
		if i < 0 {
			t.Fatalf("keg run does not say %q, or not in its turn", want)
		}
		at += i + len(want)
	}
	b.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "node/"+host.Name)
	if cidr := b.kubectl("get", "node", host.Name, "-o", "jsonpath={.spec.podCIDR}"); !strings.HasPrefix(cidr, "100.64.") {
		t.Errorf("pods are in %s, not in the image's PodCIDR", cidr)
	}
	if _, said := b.code(0, "reset", "--name", "e2e", "--yes"); !strings.Contains(said, "clean.sh in scripts") {
		t.Errorf("clean.sh did not run:\n%s", said)
	}
	b.lab.Exec(t, host.Name, "rm", "-r", prefix) // init.sh filled it, and the tree's clean.sh does not empty it
	b.compare(before, b.snapshots())
	if err := os.RemoveAll(b.store); err != nil {
		t.Error(err)
	}
}
