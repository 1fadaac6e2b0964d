package host

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime/node"
)

// legacyEnv is what keg gives, as far as the trees of these tests look at it.
var legacyEnv = map[string]string{"HostIP": "192.0.2.1", "RegistryDomain": "registry.cluster.local", "RegistryPort": "5000", "RegistryURL": "registry.cluster.local:5000"}

// legacyHost is a pretended host with a tree of sealer's as rootfs, and real programs.
func legacyHost(t *testing.T, files map[string]string) (*Host, *bytes.Buffer) {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("SKIP: no bash")
	}
	inside := map[string]string{}
	for name, text := range files {
		inside[node.Rootfs+"/"+name] = text
	}
	h, _ := newHost(t, inside)
	var out bytes.Buffer
	h.Programs, h.Log = System{}, &out
	return h, &out
}

// hooked runs a hook and returns what was written.
func hooked(t *testing.T, h *Host, out *bytes.Buffer, req node.HookRequest) string {
	t.Helper()
	out.Reset()
	if req.Env == nil {
		req.Env = legacyEnv
	}
	r, err := h.Hook(t.Context(), req)
	if err != nil {
		t.Errorf("hook %s: %v", req.Name, err)
	}
	if r.Ran != (out.Len() > 0) && !strings.Contains(out.String(), "does not run") {
		t.Errorf("hook %s: %+v with output %q", req.Name, r, out.String())
	}
	return out.String()
}

// TestLegacyK0s runs the hooks of sealer's tree for k0s on a first control plane, in the order of a run and a reset.
func TestLegacyK0s(t *testing.T) {
	h, out := legacyHost(t, nil)
	if err := os.CopyFS(h.path(node.Rootfs), os.DirFS("../../../basefs/testdata/sealer-k0s/rootfs")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(h.path(node.Rootfs+"/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	prefix := t.TempDir()
	env := maps.Clone(legacyEnv)
	env["PREFIX"] = prefix
	if err := os.WriteFile(h.path(node.Rootfs+"/bin/k0s"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, name := range []string{"pre-configure", "init", "post-configure", "pre-registry", "post-registry", "pre-init", "post-init", "clean", "post-clean"} {
		text := hooked(t, h, out, node.HookRequest{Name: name, Runtime: "k0s", Master: true, First: true, Env: env})
		for line := range strings.Lines(text) {
			got.WriteString(name + ": " + line)
		}
	}
	want := `pre-configure: scripts/containerd.sh does not run: k0s brings a container runtime of its own
pre-configure: scripts/init-registry.sh does not run: keg serves the embedded images itself, at the same name and port, and without a container engine
pre-configure: plugin on 192.0.2.1 in rootfs
init: init.sh [/var/lib/docker] [registry.cluster.local] [5000] in scripts for 192.0.2.1 by registry.cluster.local:5000
post-init: plugin on 192.0.2.1 in rootfs
post-clean: clean.sh in scripts
`
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := os.Stat(filepath.Join(prefix, "k0s")); err != nil {
		t.Error(err)
	}
	// A worker is no control plane, and what was taken back is not taken back twice.
	for _, name := range []string{"pre-configure", "post-join"} {
		if text := hooked(t, h, out, node.HookRequest{Name: name, Runtime: "k0s"}); text != "" {
			t.Errorf("%s on a worker: %s", name, text)
		}
	}
	if text := hooked(t, h, out, node.HookRequest{Name: "post-clean", Runtime: "k0s"}); !strings.Contains(text, "clean.sh does not run") {
		t.Errorf("a second time: %s", text)
	}
}

// TestLegacyKubernetes: where the tree installs its own containerd, and hooks by keg's names are not taken for more.
func TestLegacyKubernetes(t *testing.T) {
	say := `echo "$(basename "$0") $KEG_HOOK [$*] in ${PWD##*/}"` + "\n"
	h, out := legacyHost(t, map[string]string{
		"scripts/containerd.sh": say, "scripts/init-registry.sh": say, "scripts/init-kube.sh": say, "scripts/init.sh": say, "scripts/clean.sh": say,
		"scripts/uninstall-containerd.sh": say, "scripts/clean-kube.sh": say, "scripts/pre-init.sh": say,
		"plugins/p.yaml": "kind: Plugin\nmetadata: {name: p}\nspec: {type: SHELL, action: pre-clean-host, scope: node, data: 'echo plugin of a worker'}\n",
	})
	hook := func(name string, first bool) string {
		return hooked(t, h, out, node.HookRequest{Name: name, Runtime: "kubernetes", Master: first, First: first})
	}
	// Killed before init: nothing of the tree has touched the host, and nothing may take away what is there.
	if text := hook("post-clean", false); strings.Contains(text, "[") {
		t.Errorf("before init: %s", text)
	}
	if got, want := hook("init", false), "containerd.sh init [] in scripts\ninit-kube.sh init [] in scripts\n"; got != want {
		t.Errorf("init: %q", got)
	}
	if got := hook("pre-init", true); got != "" {
		t.Errorf("pre-init: %q", got)
	}
	if got := hook("clean", true); got != "" {
		t.Errorf("clean on the control plane: %q", got)
	}
	if got := hook("clean", false); got != "plugin of a worker\n" {
		t.Errorf("clean on a worker: %q", got)
	}
	want := "uninstall-containerd.sh post-clean [] in scripts\nclean-kube.sh post-clean [] in scripts\nclean.sh post-clean [] in scripts\n"
	if got := hook("post-clean", false); got != want {
		t.Errorf("post-clean: %q", got)
	}
}

// TestLegacyFails: the script that fails is named, and those after it do not run.
func TestLegacyFails(t *testing.T) {
	h, out := legacyHost(t, map[string]string{"scripts/containerd.sh": "echo no disk; exit 3", "scripts/init-kube.sh": "echo must not run"})
	req := node.HookRequest{Name: "init", Runtime: "kubernetes"}
	_, err := h.Hook(t.Context(), req)
	if kind(err) != node.KindHook || !strings.Contains(err.Error(), "scripts/containerd.sh: exit status 3: no disk") || strings.Contains(out.String(), "must not") {
		t.Errorf("error %v, output %q", err, out.String())
	}
	if _, err := os.Stat(h.path(node.Begun)); err != nil {
		t.Errorf("it was not noted that the host was touched: %v", err)
	}
	req.Env = map[string]string{"not-a-name": ""}
	if _, err := h.Hook(t.Context(), req); kind(err) != node.KindRequest {
		t.Errorf("error %v", err)
	}
}

// TestPluginsOfOwnTree: a tree of keg's with plugins of sealer has both; a plugin that cannot be read is an error.
func TestPluginsOfOwnTree(t *testing.T) {
	h, out := legacyHost(t, map[string]string{
		"scripts/pre-configure.sh": "echo script",
		"plugins/p.yaml":           "kind: Plugin\nmetadata: {name: p}\nspec: {type: SHELL, action: pre-install, data: 'echo plugin'}\n",
	})
	if got := hooked(t, h, out, node.HookRequest{Name: "pre-configure", Master: true, First: true}); got != "script\nplugin\n" {
		t.Errorf("%q", got)
	}
	if got := hooked(t, h, out, node.HookRequest{Name: "pre-configure", Master: true}); got != "script\n" {
		t.Errorf("on another: %q", got)
	}
	if err := os.WriteFile(h.path(node.Rootfs+"/plugins/p.yaml"), []byte("kind: ["), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hook(t.Context(), node.HookRequest{Name: "init"}); kind(err) != node.KindHook || !strings.Contains(err.Error(), "plugins/p.yaml") {
		t.Errorf("error %v", err)
	}
}
