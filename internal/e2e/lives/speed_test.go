package lives

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/e2e"
	"github.com/clusterimage/keg/internal/labtest"
)

// TestSpeed compares keg run, from bare hosts to all nodes Ready, with the commands of kubeadm typed by a
// hand that knows them: programs and images pushed over SSH, init, control planes one by one, workers all
// at once. It asserts nothing: KEG_E2E_SPEED=1 prints the ratio, for docs/benchmarks.md.
func TestSpeed(t *testing.T) {
	if os.Getenv("KEG_E2E_SPEED") == "" {
		t.Skip("SKIP speed: KEG_E2E_SPEED=1 compares keg run with kubeadm by hand, on a quiet machine")
	}
	o := newOperator(t)
	lab := labtest.Open(t)
	programs := e2e.NewPrograms(o.bin, e2e.KubeVersion)
	tree := filepath.Join(o.home, "hand")
	if err := e2e.KubernetesContext(t.Context(), tree, programs); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(o.home, "base")
	if err := e2e.KubernetesContext(t.Context(), dir, programs); err != nil {
		t.Fatal(err)
	}
	const image = "registry.keg.test/base:speed"
	o.build(image, dir, "--build-arg", "SOURCE=local")
	for _, size := range []struct{ masters, workers int }{{1, 1}, {3, 2}} {
		if size.masters+size.workers > len(lab.Hosts) {
			t.Logf("SKIP %d+%d: the lab has %d hosts", size.masters, size.workers, len(lab.Hosts))
			continue
		}
		masters, workers := lab.Hosts[:size.masters], lab.Hosts[size.masters:size.masters+size.workers]
		var took [2]time.Duration
		for i, build := range []func(masters, workers []labtest.Host){
			func(m, w []labtest.Host) { o.byKeg(lab, image, m, w) },
			func(m, w []labtest.Host) { (&hand{operator: o, lab: lab, context: tree}).make(m, w) },
		} {
			for _, h := range lab.Hosts {
				lab.Verb(t, "wipe", h.Name)
			}
			began := time.Now()
			build(masters, workers)
			took[i] = time.Since(began)
		}
		t.Logf("%d+%d: keg run %.1f s, by hand %.1f s: %.2f", size.masters, size.workers, took[0].Seconds(), took[1].Seconds(), took[0].Seconds()/took[1].Seconds())
	}
}

func list(hosts []labtest.Host) string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.Addr)
	}
	return strings.Join(all, ",")
}

func (o *operator) byKeg(lab *labtest.Lab, image string, masters, workers []labtest.Host) {
	o.Helper()
	cmd := exec.CommandContext(o.Context(), o.keg, "run", image, "--name", "speed", "--masters", list(masters), "--nodes", list(workers),
		"--pk", lab.Key, "--host-key-policy", "insecure", "--env", "KUBE_DNS=disabled", "--env", "KUBE_PROXY=disabled")
	cmd.Env = []string{"HOME=" + o.home, "KEG_ROOT=" + filepath.Join(o.home, "store"), "PATH=" + os.Getenv("PATH")}
	if out, err := cmd.CombinedOutput(); err != nil {
		o.Fatalf("keg run: %v\n%s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(o.home, "store", "clusters")); err != nil {
		o.Fatal(err)
	}
}

// hand makes a cluster as a person does who has the programs, the images and a shell on each host.
type hand struct {
	*operator
	lab     *labtest.Lab
	context string
}

func (h *hand) ssh(host labtest.Host, stdin []byte, script string) string {
	h.Helper()
	cmd := exec.CommandContext(h.Context(), "ssh", "-i", h.lab.Key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@"+host.Addr, script)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.Errorf("by hand on %s: %v\n%s\n%s", host.Name, err, script, out)
	}
	return string(out)
}

// each does the same on hosts at once.
func (h *hand) each(hosts []labtest.Host, do func(host labtest.Host)) {
	h.Helper()
	var wg sync.WaitGroup
	for _, host := range hosts {
		wg.Go(func() { do(host) })
	}
	wg.Wait()
	if h.Failed() {
		h.FailNow()
	}
}

// push sends files of the context and installs them.
func (h *hand) push(ctx context.Context, host labtest.Host, images string) {
	tar := exec.CommandContext(ctx, "tar", "-C", h.context, "-c", "bin", "opt", "etc/systemd", images)
	ssh := exec.CommandContext(ctx, "ssh", "-i", h.lab.Key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@"+host.Addr,
		"mkdir -p /var/lib/hand && tar -C /var/lib/hand -x && cp -r /var/lib/hand/bin/. /usr/local/bin/ && cp -r /var/lib/hand/opt /var/lib/hand/etc / && mkdir -p /etc/containerd /etc/cni/net.d")
	pipe, err := tar.StdoutPipe()
	if err != nil {
		h.Error(err)
		return
	}
	ssh.Stdin = pipe
	if err := tar.Start(); err != nil {
		h.Error(err)
		return
	}
	if out, err := ssh.CombinedOutput(); err != nil {
		h.Errorf("pushing to %s: %v\n%s", host.Name, err, out)
	}
	if err := tar.Wait(); err != nil {
		h.Error(err)
	}
}

const handContainerd = `version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10.2"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = true
`

func (h *hand) make(masters, workers []labtest.Host) {
	h.Helper()
	first := masters[0]
	all := append(append([]labtest.Host{}, masters...), workers...)
	h.each(all, func(host labtest.Host) {
		h.push(h.Context(), host, "images/control-plane.tar")
		h.ssh(host, []byte(handContainerd), `set -e
cat >/etc/containerd/config.toml
sysctl -qw net.ipv4.ip_forward=1
grep -q apiserver.cluster.local /etc/hosts || echo "`+first.Addr+` apiserver.cluster.local" >>/etc/hosts
systemctl daemon-reload
systemctl enable -q --now containerd
systemctl enable -q kubelet
until /usr/local/bin/ctr version >/dev/null 2>&1; do sleep 0.2; done
/usr/local/bin/ctr -n k8s.io images import /var/lib/hand/images/control-plane.tar >/dev/null`)
		h.ssh(host, []byte(handConflist(host)), "cat >/etc/cni/net.d/10-hand.conflist")
	})
	h.ssh(first, []byte(handInit(first)), "cat >/root/init.yaml && /usr/local/bin/kubeadm init --config /root/init.yaml --skip-token-print")
	hash := strings.TrimSpace(h.ssh(first, nil, `openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform der | sha256sum | cut -d' ' -f1`))
	for _, m := range masters[1:] {
		pki := h.ssh(first, nil, "tar -C /etc/kubernetes/pki -c ca.crt ca.key sa.key sa.pub front-proxy-ca.crt front-proxy-ca.key etcd/ca.crt etcd/ca.key | base64 -w0")
		h.ssh(m, []byte(pki), "mkdir -p /etc/kubernetes/pki && base64 -d | tar -C /etc/kubernetes/pki -x")
		h.ssh(m, []byte(handJoin(m, hash, true)), "cat >/root/join.yaml && /usr/local/bin/kubeadm join --config /root/join.yaml && sed -i 's/.* apiserver.cluster.local/"+m.Addr+" apiserver.cluster.local/' /etc/hosts")
	}
	h.each(workers, func(w labtest.Host) {
		h.ssh(w, []byte(handJoin(w, hash, false)), "cat >/root/join.yaml && /usr/local/bin/kubeadm join --config /root/join.yaml")
	})
	h.ssh(first, nil, fmt.Sprintf(`for i in $(seq 600); do
  [ "$(/usr/local/bin/kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes 2>/dev/null | grep -cw Ready)" = %d ] && exit
  sleep 0.5
done
exit 1`, len(all)))
	if h.Failed() {
		h.FailNow()
	}
}

func handConflist(host labtest.Host) string {
	return `{"cniVersion": "1.0.0", "name": "hand", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.` + strings.TrimPrefix(host.Name, "h") + `.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`
}

const handToken = "abcdef.0123456789abcdef" // of a cluster that lives for a minute

func handRegistration(host labtest.Host) string {
	return `nodeRegistration:
  name: ` + host.Name + `
  criSocket: unix:///run/containerd/containerd.sock
  imagePullPolicy: Never
  ignorePreflightErrors: [SystemVerification]
  kubeletExtraArgs: [{name: node-ip, value: ` + host.Addr + `}]
`
}

func handInit(host labtest.Host) string {
	return `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: ` + host.Addr + `}
bootstrapTokens: [{token: ` + handToken + `}]
` + handRegistration(host) + `---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: ` + e2e.KubeVersion + `
controlPlaneEndpoint: apiserver.cluster.local:6443
networking: {podSubnet: 10.244.0.0/16}
dns: {disabled: true}
proxy: {disabled: true}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: systemd
failCgroupV1: false
`
}

func handJoin(host labtest.Host, hash string, master bool) string {
	text := `apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken: {token: ` + handToken + `, apiServerEndpoint: "apiserver.cluster.local:6443", caCertHashes: ["sha256:` + hash + `"]}
` + handRegistration(host)
	if master {
		text += "controlPlane:\n  localAPIEndpoint: {advertiseAddress: " + host.Addr + "}\n"
	}
	return text
}
