//go:build linux

package client

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/internal/labtest"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run())
	}
	labtest.Main(m, 3)
}

// TestLabUndo does to a real host what a cluster's runtime does, and looks whether undo leaves it as it was.
func TestLabUndo(t *testing.T) {
	lab := labtest.Open(t)
	h := lab.Hosts[0]
	lab.Verb(t, "wipe", h.Name) // other tests leave units that have ended, and the power loss takes those away
	before := lookAround(t, lab, h.Name)

	ssh, c := connect(t, lab, h)
	binary := buildAgent(t)
	ensure := func() {
		t.Helper()
		if err := c.Ensure(t.Context(), func(string) (Binary, error) { return binary, nil }); err != nil {
			t.Fatal(err)
		}
	}
	ensure()
	ensure() // the second time it is there
	release, err := c.Lock(t.Context(), node.LockRequest{Owner: "test"})
	if err != nil {
		t.Fatal(err)
	}
	facts, err := c.Facts(t.Context(), node.FactsRequest{Paths: []string{"/etc/ssh", "/etc/kubernetes"}})
	if err != nil {
		t.Fatal(err)
	}
	if facts.Init != "systemd" || facts.Hostname != h.Name || !slices.Contains(facts.Listening, 22) || !facts.DefaultRoute ||
		!slices.Contains(facts.Addresses, h.Addr) || !slices.Equal(facts.Existing, []string{"/etc/ssh"}) {
		t.Errorf("facts: %+v", facts)
	}
	work(t, c)
	if out := lab.Exec(t, h.Name, "sh", "-c", "cat /tmp/hook; systemctl is-active labrt.service; pgrep -c labshim"); out != "in rootfs: yes\nactive\n3\n" {
		t.Fatalf("the host is not as the test wants it:\n%s", out)
	}
	if err := c.Forget(t.Context()); !errors.Is(err, &node.Error{Kind: node.KindNotUndone}) {
		t.Errorf("forgetting too early: %v", err)
	}
	if r, err := c.Residue(t.Context()); err != nil || len(r.Residue) < 10 {
		t.Errorf("residue before undoing: %v, %v", r, err)
	}
	r, err := c.Undo(t.Context())
	if err != nil || len(r.Residue) > 0 {
		t.Fatalf("undo: %+v, %v", r, err)
	}
	t.Logf("undo put %d things back", r.Restored)
	if err := c.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	_ = ssh.Close()
	lab.Exec(t, h.Name, "rm", "-f", "/tmp/hook") // the hook's own; hooks are not recorded
	if d := cmp.Diff(before, lookAround(t, lab, h.Name)); d != "" {
		t.Errorf("the host before (-) and after (+):\n%s", d)
	}

	// Once more, with the power lost when everything runs.
	ssh, c = connect(t, lab, h)
	ensure()
	work(t, c)
	_ = ssh.Close()
	lab.Verb(t, "kill", h.Name)
	lab.Verb(t, "start", h.Name)
	ssh, c = connect(t, lab, h)
	defer ssh.Close()
	if r, err := c.Undo(t.Context()); err != nil || len(r.Residue) > 0 {
		t.Fatalf("undo after a power loss: %+v, %v", r, err)
	}
	if err := c.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	lab.Exec(t, h.Name, "rm", "-f", "/tmp/hook")
	if d := cmp.Diff(before, lookAround(t, lab, h.Name)); d != "" {
		t.Errorf("the host before (-) and after a power loss (+):\n%s", d)
	}
}

func connect(t *testing.T, lab *labtest.Lab, h labtest.Host) (*remote.SSH, *Client) {
	t.Helper()
	ssh, err := remote.Dial(t.Context(), remote.SSHConfig{Host: h.Addr, Keys: []string{lab.Key}, HostKeyPolicy: remote.Insecure})
	if err != nil {
		t.Fatal(err)
	}
	return ssh, &Client{Runner: ssh, Log: testLog{t}}
}

// testLog shows what keg-node writes for people.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("host: %s", bytes.TrimSpace(p))
	return len(p), nil
}

func buildAgent(t *testing.T) Binary {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keg-node")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/clusterimage/keg/cmd/keg-node")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building keg-node: %v\n%s", err, out)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := digest.FromReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return Binary{Digest: d, Open: func() (io.ReadCloser, error) { return os.Open(path) }}
}

// lookAround lists what undo must bring back: files, mounts, links, units, processes, the packet filter,
// control groups, settings. The times of directories do not count, nor what changes by itself.
func lookAround(t *testing.T, lab *labtest.Lab, host string) map[string]bool {
	t.Helper()
	out := lab.Exec(t, host, "sh", "-c", `
		find / /usr/local /run /sys/fs/cgroup -xdev \( -path /proc -o -path /sys/fs/cgroup/systemd -o -path /run/systemd -o -path /var/log -o -path /run/log -o -path /run/user -o -path /var/tmp \
			-o -path /tmp -o -path '/var/lib/systemd' -o -path /run/dbus -o -path /run/host -o -path '/sys/fs/cgroup/*/user.slice*' -o -path '/sys/fs/cgroup/*/system.slice*' \
			-o -path /run/motd.dynamic -o -path /run/sshd.pid -o -path /run/utmp -o -path /etc/.pwd.lock -o -path /run/mount -o -path /root/.cache -o -path /run/ssh* -o -path /etc/ssh \) -prune \
			-o -type d -printf 'dir %p %m %U %G\n' -o -path '/sys/*' -o -type f -printf 'file %p %m %U %G %s %T@\n' -o -printf 'other %p %y %l\n'
		cut -d' ' -f2 /proc/mounts | grep -v '^/run/user' | sort | uniq -c | sed 's/^/mount /'
		ls /sys/class/net | sed 's/^/link /'
		systemctl list-units --all --plain --no-legend | awk '{print "unit", $1, $2, $3}' | grep -v -e session- -e user -e systemd-tmpfiles -e ssh@ -e '^unit .*\.\(device\|mount\|scope\|timer\) ' -e init.scope -e not-found -e hostnamed -e timedated
		systemctl list-unit-files --plain --no-legend | grep -v '^session-' | sed 's/^/unitfile /'
		iptables-save | grep '^:[A-Z]*-' | sed 's/^/chain /'
		sysctl net.ipv4.ip_forward kernel.panic | sed 's/^/setting /'
		pgrep -l lab | sed 's/^[0-9]* /process /'
		cat /etc/hosts | sed 's/^/hosts /'`)
	all := map[string]bool{}
	for line := range strings.Lines(out) {
		all[strings.TrimSpace(line)] = true
	}
	return all
}

const unitText = `[Unit]
Description=stands in for containerd
[Service]
Type=forking
KillMode=process
ExecStart=/usr/local/bin/labrt
[Install]
WantedBy=multi-user.target
`

// labrt makes what a container runtime makes: pods in control groups, shims that outlive it, mounts, network
// namespaces, links, chains.
const labrt = `#!/bin/sh
set -e
mkdir -p /var/lib/labrt/pods/1/vol /var/lib/labrt/pods/1/bind /run/netns /run/labrt
mount -t tmpfs tmpfs /var/lib/labrt/pods/1/vol
mkdir /var/lib/labrt/pods/1/vol/deep
mount -t tmpfs tmpfs /var/lib/labrt/pods/1/vol/deep
mount --bind /srv /var/lib/labrt/pods/1/bind
echo x > /var/lib/labrt/pods/1/vol/deep/file
touch /run/netns/cni-1
mount --bind /proc/self/ns/net /run/netns/cni-1
ip link add cni9 type bridge
ip link add calitest type veth peer name calipeer
iptables -t nat -N KUBE-SVC-X
iptables -t nat -N CNI-abc
iptables -t nat -A CNI-abc -j KUBE-SVC-X
iptables -t nat -A PREROUTING -m comment --comment "kube \"service\" portals" -j KUBE-SVC-X
iptables -t nat -A POSTROUTING -s 10.1.0.0/16 -j CNI-abc
iptables -N KUBE-FIREWALL
iptables -I INPUT -j KUBE-FIREWALL
setsid /usr/local/bin/labshim 10000 </dev/null >/dev/null 2>&1 &
for g in memory pids; do
	mkdir -p /sys/fs/cgroup/$g/kubepods.slice/besteffort/pod1
	/usr/local/bin/labshim 10001 </dev/null >/dev/null 2>&1 &
	echo $! > /sys/fs/cgroup/$g/kubepods.slice/besteffort/pod1/cgroup.procs
done
sysctl -q -w kernel.panic=10
`

// work is a small `keg run`.
func work(t *testing.T, c *Client) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.SetState(ctx, node.HostState{Cluster: "lab", UID: "u1"}))
	sleep, err := os.ReadFile("/bin/sleep")
	must(err)
	manifest, blobs := rootfsImage(t, map[string]string{
		"Metadata": `{"ClusterRuntime":"kubernetes"}`, "bin/labrt": labrt, "bin/labshim": string(sleep),
		"etc/labrt/config.toml.tmpl": "name = {{ .NAME }}\n", "etc/hostname.d/x": "x",
		"scripts/pre-init.sh": "#!/bin/sh\n[ \"$PWD\" = \"$ROOTFS\" ] && echo in rootfs: $YES > /tmp/hook; echo said\n",
		"scripts/fails.sh":    "echo why it fails >&2; exit 3\n",
	})
	missing, err := c.Missing(ctx, digests(blobs))
	must(err)
	if len(missing) != len(blobs) {
		t.Errorf("missing %v of a fresh host", missing)
	}
	must(c.Receive(ctx, blobs))
	must(c.Unpack(ctx, node.UnpackRequest{Manifest: manifest}))
	must(c.Render(ctx, node.RenderRequest{Env: map[string]string{"NAME": "m1"}}))
	r, err := c.Hook(ctx, node.HookRequest{Name: "pre-init", Env: map[string]string{"YES": "yes"}}, nil)
	must(err)
	if !r.Ran {
		t.Error("the hook was not found")
	}
	if r, err := c.Hook(ctx, node.HookRequest{Name: "absent"}, nil); err != nil || r.Ran {
		t.Errorf("a hook that is not there: %v, %v", r, err)
	}
	var out bytes.Buffer
	if _, err := c.Hook(ctx, node.HookRequest{Name: "fails"}, &out); !errors.Is(err, &node.Error{Kind: node.KindHook}) && !strings.Contains(err.Error(), "why it fails") {
		t.Errorf("a hook that fails: %v", err)
	}
	_, err = c.Install(ctx, node.InstallRequest{Items: []node.InstallItem{{From: "bin", To: "/usr/local/bin", Mode: 0o755}, {From: "etc", To: "/etc"}}})
	must(err)
	must(c.Sysctl(ctx, node.SysctlRequest{Settings: map[string]string{"net.ipv4.ip_forward": "1"}, Modules: []string{"overlay"}, Remember: []string{"kernel.panic", "no.such.setting"}}))
	must(c.Block(ctx, node.BlockRequest{Path: "/etc/hosts", Marker: "keg", Text: "10.0.0.1 apiserver.cluster.local\n"}))
	must(c.Claim(ctx, node.ClaimRequest{Paths: []string{"/var/lib/labrt", "/run/labrt", "/etc/ssh"}, Links: []string{"cni9", "cali*"}}))
	_, err = c.Put(ctx, []node.File{
		{Path: "/etc/systemd/system/labrt.service", Mode: 0o644, Data: []byte(unitText)},
		{Path: "/etc/motd", Mode: 0o644, Data: []byte("changed")},
	})
	must(err)
	must(c.Units(ctx, node.UnitRequest{Units: []string{"labrt.service"}}))
}

// rootfsImage is an image of one uncompressed layer, with its blobs.
func rootfsImage(t *testing.T, files map[string]string) (ocispec.Descriptor, []node.Blob) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Size: int64(len(files[n])), Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, files[n])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var blobs []node.Blob
	add := func(data []byte, mediaType string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		blobs = append(blobs, node.Blob{Digest: d.Digest, Size: d.Size, Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}})
		return d
	}
	l := add(layer.Bytes(), ocispec.MediaTypeImageLayer)
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	config := add(encode(ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.Digest}}}), ocispec.MediaTypeImageConfig)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{l}}
	m.SchemaVersion = 2
	return add(encode(m), ocispec.MediaTypeImageManifest), blobs
}
