package basefs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/basefs"
)

// hooks lists what runs as "phase hosts source args", and what does not in brackets.
func hooks(t *testing.T, tree fs.FS, runtime string) []string {
	t.Helper()
	list, err := basefs.LegacyHooks(tree, runtime)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, h := range list {
		line := strings.TrimSpace(fmt.Sprintf("%s %s %s %s", h.Phase, h.On, h.Source, strings.Join(h.Args, " ")))
		if h.Skipped != "" {
			line = "[" + line + "]"
		}
		out = append(out, line)
	}
	return out
}

func k0sTree() fs.FS { return os.DirFS("testdata/sealer-k0s/rootfs") }

func TestLegacyHooksOfK0s(t *testing.T) {
	want := []string{
		"pre-configure masters plugins/hosts.yaml: b-hosts",
		"[init all scripts/containerd.sh]",
		"[registry masters scripts/init-registry.sh $RegistryPort $ROOTFS/registry $RegistryDomain]",
		"init all scripts/init.sh /var/lib/docker $RegistryDomain $RegistryPort",
		"post-init first plugins/hosts.yaml: b-hosts",
		"post-join masters plugins/hosts.yaml: b-hosts",
		"pre-apps first plugins/hosts.yaml: a-cluster",
		"post-clean all scripts/clean.sh",
	}
	if diff := cmp.Diff(want, hooks(t, k0sTree(), "k0s")); diff != "" {
		t.Error(diff)
	}
	if !basefs.IsLegacy(k0sTree()) {
		t.Error("not taken for sealer's")
	}
}

// TestLegacyHooks has trees of other forms.
func TestLegacyHooks(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	plugins := func(text string) fstest.MapFS {
		return fstest.MapFS{"plugins/x.yml": file(text), "plugins/readme": file("{")}
	}
	doc := func(name, kind, action, scope string) string {
		return fmt.Sprintf("kind: Plugin\nmetadata: {name: %s}\nspec: {type: %s, action: %q, scope: %q, data: x}\n---\n", name, kind, action, scope)
	}
	for name, tt := range map[string]struct {
		tree    fstest.MapFS
		runtime string
		want    []string
	}{
		"keg's own": {fstest.MapFS{"scripts/init.sh": file(""), "scripts/clean.sh": file("")}, "kubernetes", nil},
		"kubernetes with an archive of containerd": {fstest.MapFS{
			"scripts/containerd.sh": file(""), "scripts/init-registry.sh": file(""), "scripts/init-kube.sh": file("cp ../bin/* /usr/bin"), "scripts/init.sh": file(""),
			"scripts/uninstall-containerd.sh": file(""), "scripts/clean-kube.sh": file(""), "scripts/kubelet-pre-start.sh": file(""),
		}, "kubernetes", []string{
			"init all scripts/containerd.sh", "[registry masters scripts/init-registry.sh $RegistryPort $ROOTFS/registry $RegistryDomain]",
			"init all scripts/init-kube.sh", "[init all scripts/init.sh /var/lib/docker $RegistryDomain $RegistryPort]",
			"post-clean all scripts/uninstall-containerd.sh", "post-clean all scripts/clean-kube.sh",
		}},
		"kubernetes with containerd": {fstest.MapFS{
			"bin/containerd": file(""), "scripts/containerd.sh": file(""), "scripts/uninstall-containerd.sh": file(""), "scripts/init-kube.sh": file("# containerd.sh\n"),
		}, "kubernetes", []string{"[init all scripts/containerd.sh]", "init all scripts/init-kube.sh", "[post-clean all scripts/uninstall-containerd.sh]"}},
		"docker": {fstest.MapFS{"scripts/docker.sh": file(""), "scripts/uninstall-docker.sh": file("")}, "kubernetes", []string{
			"[init all scripts/docker.sh]", "[post-clean all scripts/uninstall-docker.sh]",
		}},
		"a script that calls what is not run": {fstest.MapFS{
			"scripts/containerd.sh": file(""), "scripts/init.sh": file("/bin/bash containerd.sh \"$2\" \"$3\"\n"), "scripts/clean.sh": file(""),
		}, "k0s", []string{"[init all scripts/containerd.sh]", "[init all scripts/init.sh /var/lib/docker $RegistryDomain $RegistryPort]", "[post-clean all scripts/clean.sh]"}},
		"plugins": {plugins("# none\n---\n" + doc("z", "SHELL", "pre-install|pre-uninstall", "") + doc("b", "SHELL", "pre-clean-host|post-clean-host", "node") +
			doc("c", "LABEL", "pre-install", "master") + doc("d", "SHELL", "PreInit", "master") + doc("e", "SHELL", "pre-init-host", "") +
			doc("f", "SHELL", "post-init-host", "node") + doc("g", "SHELL", "upgrade|upgrade-host|rollback|post-uninstall|pre-scaleup", "master|node")), "k3s", []string{
			"[pre-configure first plugins/x.yml: c]", "pre-configure first plugins/x.yml: z", "[pre-configure  plugins/x.yml: e]",
			"post-join workers plugins/x.yml: f", "pre-scaleup first plugins/x.yml: g", "pre-upgrade all plugins/x.yml: g", "post-upgrade first plugins/x.yml: g",
			"[first plugins/x.yml: g]", "clean first plugins/x.yml: z", "clean workers plugins/x.yml: b",
			"post-clean workers plugins/x.yml: b", "post-clean first plugins/x.yml: g", "[plugins/x.yml: d]",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := hooks(t, tt.tree, tt.runtime)
			for i := range got {
				got[i] = strings.ReplaceAll(strings.ReplaceAll(got[i], "[ first", "[first"), "[  plugins", "[plugins")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, text := range []string{"kind: Config\n", "kind: [\n", "a: b\n"} {
		_, err := basefs.LegacyHooks(plugins(text), "k3s")
		var wrong *basefs.PluginError
		if !errors.As(err, &wrong) || wrong.File != "plugins/x.yml" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestLegacyCommands runs what would run on a host.
func TestLegacyCommands(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash")
	}
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	if err := os.CopyFS(rootfs, k0sTree()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(rootfs+"/bin", 0o755), os.WriteFile(rootfs+"/bin/k0s", nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	prefix := t.TempDir()
	env := map[string]string{
		"RegistryDomain": "registry.cluster.local", "RegistryPort": "5000", "RegistryURL": "registry.cluster.local:5000", "HostIP": "192.0.2.1", "PREFIX": prefix,
	}
	list, err := basefs.LegacyHooks(os.DirFS(rootfs), "k0s")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, h := range list {
		if h.Skipped != "" || h.Phase == "pre-apps" {
			continue
		}
		argv, dir := h.Command(rootfs, env)
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH")}
		for k, v := range env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", h.Source, err, out)
		}
		got.Write(out)
	}
	want := `plugin on 192.0.2.1 in rootfs
init.sh [/var/lib/docker] [registry.cluster.local] [5000] in scripts for 192.0.2.1 by registry.cluster.local:5000
plugin on 192.0.2.1 in rootfs
plugin on 192.0.2.1 in rootfs
clean.sh in scripts
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(prefix + "/k0s"); err != nil {
		t.Error(err)
	}
}

func TestFromLegacyEnv(t *testing.T) {
	given := map[string]string{"PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.1.0.0/16", "SERVICE_CIDR": "10.2.0.0/16", "CERT_SANS": "x", "A": "b"}
	want := map[string]string{
		"PodCIDR": "100.64.0.0/10", "POD_CIDR": "100.64.0.0/10", "SvcCIDR": "10.2.0.0/16", "SERVICE_CIDR": "10.2.0.0/16",
		"CertSANs": "x", "CERT_SANS": "x", "A": "b",
	}
	if diff := cmp.Diff(want, basefs.FromLegacyEnv(given)); diff != "" || len(given) != 5 {
		t.Error(diff)
	}
	if got := basefs.FromLegacyEnv(nil); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestDockerOnly(t *testing.T) {
	for names, want := range map[string]bool{
		"scripts/docker.sh": true, "scripts/docker.sh scripts/containerd.sh": false, "scripts/docker.sh bin/containerd": false, "scripts/containerd.sh": false, "": false,
	} {
		if got := basefs.DockerOnly(func(name string) bool { return strings.Contains(names, name) }); got != want {
			t.Errorf("%q: %t", names, got)
		}
	}
}

func TestRunsOn(t *testing.T) {
	for scope, want := range map[basefs.Scope]string{basefs.ScopeFirst: "F", basefs.ScopeMasters: "FM", basefs.ScopeWorkers: "W", basefs.ScopeAll: "FMW", "": ""} {
		got, h := "", basefs.LegacyHook{On: scope}
		if h.RunsOn(true, true) {
			got += "F"
		}
		if h.RunsOn(true, false) {
			got += "M"
		}
		if h.RunsOn(false, false) {
			got += "W"
		}
		if got != want {
			t.Errorf("%q: runs on %s, want %s", scope, got, want)
		}
	}
}

func TestLegacyEnv(t *testing.T) {
	got := basefs.LegacyEnv(map[string]string{
		"POD_CIDR": "10.244.0.0/16", "SERVICE_CIDR": "10.96.0.0/12,fd00:10::/112", "PodCIDR": "100.64.0.0/10", "CERT_SANS": "a.example", "RegistryURL": "r:5000",
	})
	want := map[string]string{
		"POD_CIDR": "10.244.0.0/16", "SERVICE_CIDR": "10.96.0.0/12,fd00:10::/112", "PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.96.0.0/12,fd00:10::/112",
		"KubeSvcIP": "10.96.0.1,fd00:10::1", "DNSSvcIP": "10.96.0.10,fd00:10::a", "CERT_SANS": "a.example", "CertSANs": "a.example", "RegistryURL": "r:5000",
		"ContainerRuntime": "containerd",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := basefs.LegacyEnv(map[string]string{"SERVICE_CIDR": "none"}); got["DNSSvcIP"] != "" {
		t.Errorf("%v", got)
	}
	// The tree's template has what it asks for.
	text, err := os.ReadFile("testdata/sealer-k0s/rootfs/etc/settings.yaml.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := basefs.RenderText("x", string(text), got); err != nil || !strings.Contains(string(out), "pods: 100.64.0.0/10\ndns: 10.96.0.10") {
		t.Errorf("%v %s", err, out)
	}
}

func FuzzLegacyPlugins(f *testing.F) {
	text, err := os.ReadFile("testdata/sealer-k0s/rootfs/plugins/hosts.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("kind: Plugin\nspec: {action: '|', scope: x}\n---\n--- # y\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := basefs.LegacyHooks(fstest.MapFS{"plugins/x.yaml": &fstest.MapFile{Data: text}}, "k0s")
		var wrong *basefs.PluginError
		if err != nil && !errors.As(err, &wrong) {
			t.Error(err)
		}
		for _, h := range list {
			if h.Skipped == "" && (h.Phase == "" || h.On == "") {
				t.Errorf("%+v", h)
			}
		}
	})
}
