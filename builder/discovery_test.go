package builder

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/internal/registrytest"
)

// TestDiscovery builds a base and a child: what files name is embedded once, and what the base decided stays so.
func TestDiscovery(t *testing.T) {
	p := publish(t, registrytest.Start(t))
	pod := func(image string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: \"" + image + "\"}]}\n"
	}
	base := &testBuild{
		tag: "example.com/base:v1",
		files: files{
			"manifests/a.yaml.tmpl": pod(p.addr + "/multi/app:{{ .TAG }}"), "manifests/gone.yaml": pod("example.invalid/gone:1"),
			"manifests/lost.yaml": pod("example.invalid/lost:1"), "other/bad.yaml": "a: [", "kubefile.ignored": "",
		},
		kubefile: "FROM scratch\nENV TAG=1\nCOPY . /\nIMAGES --ignore example.invalid/gone:1 example.invalid/lost:1\n",
	}
	res := base.must(t)
	multi := fmt.Sprintf("%s/multi/app:1 linux/amd64 %s %s", p.addr, p.amd.Digest, p.multi.Digest)
	if diff := cmp.Diff([]string{multi}, embedded(res)); diff != "" {
		t.Error(diff)
	}
	if s := res.Platforms[0].Discovered.Skipped; len(s) != 1 || !strings.HasPrefix(s[0].String(), "other/bad.yaml:") {
		t.Errorf("skipped %v", s)
	}
	if again := base.must(t); again.Target.Digest != res.Target.Digest {
		t.Error("the second build differs")
	}

	// The child replaces one file, adds a chart and a value that changes a template of the base.
	child := &testBuild{
		store: base.store, tag: "example.com/child:v1",
		files: files{
			"lost.yaml": pod("example.invalid/lost:1"), "chart/Chart.yaml": "apiVersion: v2\nname: web\nversion: 1.0.0\n",
			"chart/templates/p.yaml": pod("{{ .Values.image }}"), "chart/values.yaml.tmpl": "image: {{ .IMAGE }}\n",
		},
		kubefile: "FROM example.com/base:v1\nAPP web chart\nAPPENV web IMAGE=" + p.addr + "/single/app:1\nLAUNCH web\n",
	}
	res = child.must(t)
	want := []string{multi, fmt.Sprintf("%s/single/app:1 linux/amd64 %s", p.addr, p.single.Digest)}
	if diff := cmp.Diff(want, embedded(res)); diff != "" {
		t.Error(diff)
	}
	child.kubefile += "ENV TAG=2\n" // now a file of the base names another image, which there is not
	if _, err := child.run(t); err == nil || !strings.Contains(err.Error(), "/multi/app:2") {
		t.Errorf("got %v", err)
	}
	child.request = func(r *Request) { r.Discovery.Off = true }
	if diff := cmp.Diff([]string{multi}, embedded(child.must(t))); diff != "" {
		t.Error(diff)
	}

	// The instruction that brought a file is to blame for it.
	broken := &testBuild{kubefile: "FROM scratch\nENV A=b\nCOPY x manifests/\n", files: files{"x/y.yaml": "a: [\n"}}
	if _, err := broken.run(t); err == nil || !strings.Contains(err.Error(), "Kubefile:3:1: manifests/y.yaml:") {
		t.Errorf("got %v", err)
	}
	// A base that was built without looking leaves out what it names; the child says so.
	base.request = func(r *Request) { r.Discovery.Off = true }
	base.must(t)
	child.request, child.kubefile = nil, "FROM example.com/base:v1\nCOPY lost.yaml other/\nIMAGES --ignore example.invalid/lost:1\n"
	res = child.must(t)
	var skipped []string
	for _, s := range res.Platforms[0].Discovered.Skipped {
		if strings.Contains(s.Reason, "does not embed it") {
			skipped = append(skipped, s.File)
		}
	}
	if diff := cmp.Diff([]string{"manifests/a.yaml", "manifests/gone.yaml"}, skipped); diff != "" {
		t.Error(diff)
	}
}
