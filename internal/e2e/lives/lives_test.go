// Package lives has the real programs live the lives of runtime/runtimetest/life, each runtime its own,
// on hosts of the lab.
package lives

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterimage/keg/internal/e2e"
	"github.com/clusterimage/keg/internal/labtest"
	"github.com/clusterimage/keg/runtime/runtimetest/life"
)

func TestMain(m *testing.M) {
	hosts := 5 // 3 control planes and 2 workers
	if os.Getenv("KEG_E2E_SMALL") != "" {
		hosts = 2
	}
	labtest.Main(m, hosts)
}

// operator is a machine with keg and a store.
type operator struct {
	*testing.T
	keg, home, bin string
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	if os.Getenv("KEG_E2E_BIN") == "" {
		t.Skip("SKIP e2e: make e2e runs this with real Kubernetes binaries")
	}
	labtest.Open(t)
	home, err := os.MkdirTemp("/var/tmp", "keg-life-") // images are large, and /tmp may be small
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	return &operator{T: t, keg: os.Getenv("KEG_E2E_KEG"), home: home, bin: os.Getenv("KEG_E2E_BIN")}
}

func (o *operator) build(name, dir string, more ...string) {
	o.Helper()
	cmd := exec.CommandContext(o.Context(), o.keg, append([]string{"build", "-t", name, dir}, more...)...)
	cmd.Env = []string{"HOME=" + o.home, "KEG_ROOT=" + filepath.Join(o.home, "store"), "PATH=" + os.Getenv("PATH")}
	if out, err := cmd.CombinedOutput(); err != nil {
		o.Fatalf("keg build %s: %v\n%s", name, err, out)
	}
	if err := os.RemoveAll(dir); err != nil {
		o.Fatal(err)
	}
}

// images builds the base image of a version, out of the context that prepare makes, and the app on top
// of it. It returns the name of that.
func (o *operator) images(version string, prepare func(ctx context.Context, dir string, p e2e.Programs) error) string {
	o.Helper()
	base, app := "registry.keg.test/base:"+tag(version), "registry.keg.test/shop:"+tag(version)
	dir := filepath.Join(o.home, "base")
	if err := prepare(o.Context(), dir, e2e.NewPrograms(o.bin, version)); err != nil {
		o.Fatal(err)
	}
	o.build(base, dir, "--build-arg", "SOURCE=local")
	dir = filepath.Join(o.home, "app")
	if err := e2e.LifeContext(o.Context(), dir, o.bin, base); err != nil {
		o.Fatal(err)
	}
	o.build(app, dir)
	return app
}

func tag(version string) string { return strings.ReplaceAll(version, "+", "-") }

// far is an image that says it is two minor versions ahead. It is never run.
func (o *operator) far(runtime string) string {
	o.Helper()
	dir := filepath.Join(o.home, "far")
	metadata, err := json.Marshal(map[string]string{"version": "v1.38.0", "arch": "amd64", "ClusterRuntime": runtime})
	if err != nil {
		o.Fatal(err)
	}
	for name, text := range map[string]string{"Kubefile": "FROM scratch\nCOPY Metadata /Metadata\n", "Metadata": string(metadata)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			o.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			o.Fatal(err)
		}
	}
	const name = "registry.keg.test/far:v1.38.0"
	o.build(name, dir)
	return name
}

// apps builds the app images of a life.
func (o *operator) apps() (app, tooNew string) {
	o.Helper()
	for name, versions := range map[string]string{"registry.keg.test/more:v1": ">=1.30, <1.40", "registry.keg.test/more:v2": ">=1.40"} {
		dir := filepath.Join(o.home, "more")
		if err := e2e.LaterContext(o.Context(), dir, o.bin, versions); err != nil {
			o.Fatal(err)
		}
		o.build(name, dir)
	}
	return "registry.keg.test/more:v1", "registry.keg.test/more:v2"
}

// live lets a runtime live, with what all have in common.
func (o *operator) live(s life.Subject) {
	o.Helper()
	s.Keg, s.Home, s.Kubectl = o.keg, o.home, filepath.Join(o.bin, "kubectl")
	s.App, s.TooNew = o.apps()
	s.AppImage = e2e.LaterImage
	record(o.T, s, life.Live(o.T, s))
}

func TestKubernetes(t *testing.T) {
	o := newOperator(t)
	o.live(life.Subject{
		Runtime: "kubernetes", Against: "real: kubeadm " + e2e.KubeVersionBefore + " to " + e2e.KubeVersion,
		Old:        o.images(e2e.KubeVersionBefore, e2e.KubernetesContext),
		New:        o.images(e2e.KubeVersion, e2e.KubernetesContext),
		Far:        o.far("kubernetes"),
		OldVersion: e2e.KubeVersionBefore, NewVersion: e2e.KubeVersion,
		Env:       []string{"KUBE_DNS=disabled", "KUBE_PROXY=disabled"},
		BadConfig: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking:\n  podSubnett: 10.1.0.0/16\n",
		BadKey:    "podSubnett", Foreign: "/etc/kubernetes/kubelet.conf",
	})
}
