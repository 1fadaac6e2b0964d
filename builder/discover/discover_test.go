package discover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: %q}\n"

func TestErrors(t *testing.T) {
	tree := fstest.MapFS{"a.yaml": {Data: []byte("a: [\n")}, "b.yaml": {Data: []byte("b: [\n")}}
	var fe *FileError
	if r, err := Find(t.Context(), tree, Options{}); r != nil || !errors.As(err, &fe) || fe.File != "a.yaml" || fe.Line == 0 {
		t.Errorf("report %v, error %v", r, err)
	}
	r, err := Find(t.Context(), tree, Options{KeepGoing: true})
	if r == nil || err == nil || !strings.Contains(err.Error(), "a.yaml:") || !strings.Contains(err.Error(), "b.yaml:") {
		t.Errorf("report %v, error %v", r, err)
	}
	var se *StrictError
	r, err = Find(t.Context(), fstest.MapFS{"v.yaml": {Data: []byte("a: 1\n")}}, Options{Strict: true})
	if r == nil || !errors.As(err, &se) || len(se.Skipped) != 1 {
		t.Errorf("report %v, error %v", r, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := Find(ctx, tree, Options{}); !errors.Is(err, gone) {
		t.Errorf("a cancelled search ended with %v", err)
	}
	if r, err := Find(t.Context(), fstest.MapFS{}, Options{Roots: []string{"not-there"}}); err != nil || len(r.Images) != 0 {
		t.Errorf("an empty tree: %v, %v", r, err)
	}
}

func TestWhy(t *testing.T) {
	tree := fstest.MapFS{
		"a.yaml": {Data: fmt.Appendf(nil, pod, "nginx")},
		"b.yaml": {Data: fmt.Appendf(nil, pod, "docker.io/library/nginx:latest")},
		"c.yaml": {Data: fmt.Appendf(nil, pod, "x.example.com/c:1@sha256:"+strings.Repeat("a", 64))},
	}
	r, err := Find(t.Context(), tree, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r = Merge(r.Under("deploy"), &Report{})
	for _, name := range []string{"nginx", "nginx:latest", "docker.io/library/nginx"} {
		f, ok := r.Why(name)
		var got []string
		for _, w := range f.Where {
			got = append(got, w.String())
		}
		want := []string{"deploy/a.yaml:6: Pod p: spec.containers[0].image", "deploy/b.yaml:6: Pod p: spec.containers[0].image"}
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("why %s: %v\n%s", name, ok, diff)
		}
	}
	if _, ok := r.Why("x.example.com/c:1"); !ok {
		t.Error("an image with a digest is not found by its tag")
	}
	for _, name := range []string{"nginx:2", "UPPER", ""} {
		if f, ok := r.Why(name); ok {
			t.Errorf("why %q: %v", name, f)
		}
	}
}

// TestOperators reads the table of operators.
func TestOperators(t *testing.T) {
	for _, op := range operators {
		for _, p := range op.paths {
			if _, err := parsePath(p); err != nil {
				t.Errorf("%s: %v", op.group, err)
			}
		}
		if len(op.paths) == 0 && op.elsewhere == "" || !strings.HasPrefix(op.source, "https://") || builtinGroups[op.group] {
			t.Errorf("%s %v is incomplete", op.group, op.kinds)
		}
	}
}

func TestPaths(t *testing.T) {
	for in, want := range map[string]string{
		"": "an empty path", ".": "a name is missing", ".a[": "not closed", ".a[-1]": "none of", "a..": "a name is missing", ".a]b": "", "$.a['b.c'][0][*].*": "", "{..image}": "",
	} {
		_, err := parsePath(in)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("parsePath(%q): %v, want %q", in, err, want)
		}
	}
}

func TestWanted(t *testing.T) {
	for name, want := range map[string]bool{
		"manifests/a.bin": true, "charts/x/templates/_h.tpl": true, "application/apps/a/b": true, "imageList": true, "images/k3s-images.txt": true,
		"images/shim/list": true, "images/a.tar": false, "images/README.txt": false, "top.yaml": true, "etc/x.yaml.tmpl": true, "usr/share/x.yaml": false,
		"bin/kubeadm": false, "opt/k/Kustomization": true, "manifestsx/a": false, "registry.tar.gz": false, "discover.yaml": true,
	} {
		if got := Wanted(name, 0); got != want {
			t.Errorf("Wanted(%s) = %v", name, got)
		}
	}
	if Wanted("top.yaml", maxElsewhere+1) || Wanted("manifests/a.yaml", maxFile+1) {
		t.Error("files of any size are wanted")
	}
}

// BenchmarkManifests searches 1,000 files of two objects each.
func BenchmarkManifests(b *testing.B) {
	tree := fstest.MapFS{}
	for i := range 1000 {
		text := fmt.Sprintf("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d%d, namespace: shop}\nspec:\n  replicas: 3\n  selector: {matchLabels: {app: shop}}\n  template:\n    metadata: {labels: {app: shop}}\n    spec:\n      containers:\n      - name: web\n        image: example.com/web%d:1\n        args: [--listen=:8080, --log=debug]\n        env:\n        - {name: A, value: b}\n        resources: {limits: {cpu: 1, memory: 1Gi}}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d}\nspec: {ports: [{port: 80}]}\n", i, i%50, i)
		tree[fmt.Sprintf("manifests/%03d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	for b.Loop() {
		r, err := Find(b.Context(), tree, Options{})
		if err != nil || len(r.Images) != 50 {
			b.Fatal(r, err)
		}
	}
}
