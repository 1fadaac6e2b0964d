package e2e

import (
	"strings"
	"testing"

	"github.com/clusterimage/keg/internal/labtest"
)

// theirContainerd is the configuration of somebody who runs containerd for other things too.
const theirContainerd = `version = 3
# by hand
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10.2"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = true
`

const theirUnit = `[Unit]
Description=containerd by hand
[Service]
ExecStart=/usr/bin/containerd
Delegate=yes
KillMode=process
Type=notify
[Install]
WantedBy=multi-user.target
`

// TestExistingContainerd: a host has its own containerd with its own images. keg refuses it unless it is asked to use it
// and it is fit for that, and a reset leaves it running as it was.
func TestExistingContainerd(t *testing.T) {
	b := open(t)
	file := b.file()
	host := b.lab.Hosts[0]
	b.lab.Verb(t, "wipe", host.Name)
	programs := NewPrograms(b.bin, KubeVersion)
	b.send(host.Addr, "/usr/bin", programs.Path("containerd"), programs.Path("containerd-shim-runc-v2"), programs.Path("ctr"), "/usr/sbin/runc")
	shell := func(script string, args ...string) string {
		t.Helper()
		return b.lab.Exec(t, host.Name, append([]string{"sh", "-ec", script, "sh"}, args...)...)
	}
	defer b.lab.Verb(t, "wipe", host.Name)
	shell(`mkdir -p /etc/containerd /srv/theirs
printf %s "$1" >/etc/containerd/config.toml
printf %s "$2" >/etc/systemd/system/containerd.service
systemctl daemon-reload
systemctl enable -q --now containerd
ctr -n theirs content ls >/dev/null
ctr -n theirs namespaces create theirs`, strings.Replace(theirContainerd, "true\n", "false\n", 2), theirUnit)

	args := []string{"run", file, "--name", "e2e", "--masters", host.Addr, "--pk", b.lab.Key, "--host-key-policy", "accept-new", "--env", "KUBE_DNS=disabled", "--env", "KUBE_PROXY=disabled"}
	if _, stderr := b.code(3, args...); !strings.Contains(stderr, "containerd") {
		t.Errorf("a foreign containerd is not named:\n%s", stderr)
	}
	args = append(args, "--env", "CONTAINERD=existing")
	if _, stderr := b.code(3, args...); !strings.Contains(stderr, "SystemdCgroup = false") {
		t.Errorf("what is wrong with it is not named:\n%s", stderr)
	}
	shell(`printf %s "$1" >/etc/containerd/config.toml; systemctl restart containerd`, theirContainerd)
	before := theirs(b.lab.Snapshot(t, host.Name))
	b.run(args...)
	b.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/web", "node/"+host.Name)
	b.pod("later", laterImage)
	b.run(args...)
	b.run("status", "--name", "e2e")
	b.run("reset", "--name", "e2e", "--yes")
	if left := before.Diff(theirs(b.lab.Snapshot(t, host.Name))); len(left) > 0 {
		t.Errorf("%s is not as it was before:\n%s", host.Name, strings.Join(left, "\n"))
	}
	if out := shell("systemctl is-active containerd; ctr namespaces ls -q; pgrep -c containerd-shim || true"); !strings.HasPrefix(out, "active\n") || !strings.Contains(out, "theirs\n") || !strings.HasSuffix(out, "\n0\n") {
		t.Errorf("their containerd is not as it was: %s", out)
	}
	if leaks := b.lab.Leaks(t); len(leaks) > 0 {
		t.Errorf("packets left for %v", leaks)
	}
}

// theirs leaves out what a containerd keeps of images and of what it once ran.
func theirs(s labtest.Snapshot) labtest.Snapshot {
	var list labtest.Snapshot
	for _, line := range s {
		if !strings.Contains(line, "/var/lib/containerd") && !strings.HasPrefix(line, "/run/containerd/") {
			list = append(list, line)
		}
	}
	return list
}
