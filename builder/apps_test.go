package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// tarball makes a tar of headers with content in Linkname's place for files.
func tarOf(t *testing.T, members ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range members {
		content := ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gz(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestApps(t *testing.T) {
	chart := string(gz(t, tarOf(t, tar.Header{Name: "web/Chart.yaml", Linkname: "name: web", Uid: 5}, tar.Header{Name: "web/templates/x.yaml", Linkname: "{{}}"})))
	ctx := files{
		"chart/Chart.yaml": "c", "chart/values.yaml": "v", "chart/templates/d.yaml": "t", "web-1.0.tgz": chart,
		"kust/kustomization.yaml": "k", "kust/base.yaml": "b", "m/b.yaml": "b", "m/a.yml": "a", "one.json": "{}", "t.yaml.tmpl": "t",
		"c.sh": "0755 c", "d.sh": "d", "readme.md": "r", "data.tgz": string(gz(t, tarOf(t, tar.Header{Name: "x", Linkname: "x"}))),
	}
	tests := []struct {
		name, kubefile string
		want           clusterimage.App
		files          []string
	}{
		{
			"helm directory", "APP web chart", clusterimage.App{Name: "web", Type: "helm", Files: []string{"."}},
			[]string{"Chart.yaml", "templates/", "templates/d.yaml", "values.yaml"},
		},
		{
			"helm archive", "APP web local://web-1.0.tgz", clusterimage.App{Name: "web", Type: "helm", Files: []string{"."}},
			[]string{"Chart.yaml", "templates/", "templates/x.yaml"},
		},
		{"kustomize", "APP web kust", clusterimage.App{Name: "web", Type: "kustomize", Files: []string{"."}}, []string{"base.yaml", "kustomization.yaml"}},
		{
			"kube in the order of the sources", "APP web t.yaml.tmpl m one.json",
			clusterimage.App{Name: "web", Type: "kube", Files: []string{"t.yaml", "a.yml", "b.yaml", "one.json"}},
			[]string{"a.yml", "b.yaml", "one.json", "t.yaml.tmpl"},
		},
		{"all scripts", "APP web d.sh local://c.sh", clusterimage.App{Name: "web", Type: "shell", Files: []string{"d.sh", "c.sh"}}, []string{"c.sh", "d.sh"}},
		{
			"mixed with commands", "APP web d.sh readme.md data.tgz\nAPPCMDS web [\"one a\", \"two\"]",
			clusterimage.App{Name: "web", Cmds: []string{"one a", "two"}}, []string{"d.sh", "data.tgz", "readme.md"},
		},
		{
			"plugin with values", "APPENV web A=\"x y\" B=2\nCNI web m/b.yaml\nAPPENV web B=3",
			clusterimage.App{Name: "web", Type: "kube", Role: "cni", Files: []string{"b.yaml"}, Env: map[string]string{"A": "x y", "B": "3"}}, []string{"b.yaml"},
		},
		{"storage plugin", "CSI web m/b.yaml", clusterimage.App{Name: "web", Type: "kube", Role: "csi", Files: []string{"b.yaml"}}, []string{"b.yaml"}},
		{"glob", "APP web *.sh", clusterimage.App{Name: "web", Type: "shell", Files: []string{"c.sh", "d.sh"}}, []string{"c.sh", "d.sh"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tb := &testBuild{kubefile: "FROM scratch\n" + tt.kubefile + "\nLAUNCH web\n", files: ctx,
				request: func(r *Request) { r.Discovery.Off = true }} // these are no charts but in name
			res := tb.must(t)
			want := clusterimage.Spec{Apps: []clusterimage.App{tt.want}, Launch: []string{"web"}}
			if diff := cmp.Diff(want, res.Platforms[0].Spec); diff != "" {
				t.Error(diff)
			}
			var got []string
			for _, l := range tb.layers(t, res)[0] {
				name := strings.Fields(l)[2]
				if rel, ok := strings.CutPrefix(name, "application/apps/web/"); ok && rel != "" {
					got = append(got, rel)
				}
				if !strings.Contains(l, " 0:0 ") {
					t.Errorf("owner of %s", l)
				}
			}
			if diff := cmp.Diff(tt.files, got); diff != "" {
				t.Error(diff)
			}
			spec, err := clusterimage.ParseSpec(res.Platforms[0].Labels)
			if err != nil || cmp.Diff(want, spec) != "" {
				t.Errorf("label: %v, %v", spec, err)
			}
		})
	}
}

func TestAppErrors(t *testing.T) {
	ctx := files{"a.yaml": "a", "x/a.yaml": "b", "empty/": ""}
	for _, tt := range []struct {
		kubefile, want string
		is             error
	}{
		{"APP web a.yaml x/a.yaml", "another source of this app", nil},
		{"APP web empty", "hold no file", ErrSource},
		{"APP web https://127.0.0.1:1/x#md5=1", "sha256=HEX", nil},
		{"APP web https://127.0.0.1:1/x#sha256=12", "64 hexadecimal digits", nil},
	} {
		tb := &testBuild{kubefile: "FROM scratch\n" + tt.kubefile, files: ctx}
		_, err := tb.run(t)
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: got %v", tt.kubefile, err)
		}
	}
}

func TestInheritance(t *testing.T) {
	base := &testBuild{tag: "example.com/base:v1", files: files{
		"Metadata": `{"version":"v1.37.2","arch":"amd64","ClusterRuntime":"kubernetes"}`, "etc/passwd": "0644 nginx:x:101:102::/:/bin/sh\n",
		"etc/secret/": "0700 ", "etc/secret/k": "k", "lib": "-> usr/lib", "usr/lib/x": "x", "cni/old.yaml": "old", "dns.yaml": "dns", ".dockerignore": "cni\ndns.yaml\n.dockerignore\n!cni/old.yaml",
	}, kubefile: `FROM scratch
ENV A=1 B=2
LABEL keep=yes
COPY --exclude=cni . /
CNI net cni
APP dns dns.yaml
APPENV dns X=1
LAUNCH net dns
CMDS ["base"]
KUBEVERSION >=1.30
`}
	base.files[".dockerignore"] = ".dockerignore\n"
	first := base.must(t)
	if l := first.Platforms[0].Labels; l[clusterimage.LabelRuntime] != "kubernetes" || l[clusterimage.LabelKubeVersion] != "v1.37.2" || l[clusterimage.LabelType] != "cluster" {
		t.Errorf("labels %v", l)
	}
	child := &testBuild{store: base.store, files: files{"new.yaml": "new", "f": "f"}, kubefile: `FROM example.com/base:v1
ENV B=3 C=$A
COPY f /etc/secret/
COPY --chown=nginx f /lib/
COPY --chown=nginx:root f /etc
CNI net new.yaml
APPENV dns X=2
`}
	res := child.must(t)
	spec := res.Platforms[0].Spec
	want := clusterimage.Spec{
		Apps: []clusterimage.App{
			{Name: "net", Type: "kube", Role: "cni", Files: []string{"new.yaml"}},
			{Name: "dns", Type: "kube", Files: []string{"dns.yaml"}, Env: map[string]string{"X": "2"}},
		},
		Launch: []string{"net", "dns"}, Cmds: []string{"base"}, Env: map[string]string{"A": "1", "B": "3", "C": "1"}, KubeVersion: ">=1.30",
	}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Error(diff)
	}
	got := child.layers(t, res)
	if len(got) != 3+4 {
		t.Fatalf("%d layers: %q", len(got), got)
	}
	wantNew := [][]string{
		{"0755 0:0 etc/", "0700 0:0 etc/secret/", "0644 0:0 etc/secret/f f"},
		{"0755 0:0 usr/", "0755 0:0 usr/lib/", "0644 101:102 usr/lib/f f"},
		{"0755 0:0 etc/", "0644 101:0 etc/f f"},
		{"0755 0:0 application/", "0755 0:0 application/apps/", "0755 0:0 application/apps/net/", "0000 0:0 application/apps/net/.wh..wh..opq", "0644 0:0 application/apps/net/new.yaml new"},
	}
	if diff := cmp.Diff(wantNew, got[3:]); diff != "" {
		t.Error(diff)
	}
	m, config := child.config(t, res)
	if n := len(config["rootfs"].(map[string]any)["diff_ids"].([]any)); n != len(m.Layers) {
		t.Errorf("%d diff IDs", n)
	}
	if env := config["config"].(map[string]any)["Env"]; cmp.Diff(env, []any{"A=1", "B=3", "C=1"}) != "" {
		t.Errorf("env %v", env)
	}
	if l := res.Platforms[0].Labels; l[clusterimage.LabelRuntime] != "kubernetes" || l["keep"] != "yes" || l[clusterimage.LabelType] != "cluster" {
		t.Errorf("labels %v", l)
	}
	if n := len(config["history"].([]any)); n != 9+7-1 {
		t.Errorf("%d entries of history: %v", n, config["history"])
	}

	replaced := &testBuild{store: base.store, kubefile: "FROM example.com/base:v1\nLAUNCH dns\nCMDS [\"mine\"]\nCMD more\nKUBEVERSION >=1.35\n"}
	spec = replaced.must(t).Platforms[0].Spec
	if !slices.Equal(spec.Launch, []string{"dns"}) || !slices.Equal(spec.Cmds, []string{"mine", "more"}) || spec.KubeVersion != ">=1.35" || len(spec.Apps) != 2 {
		t.Errorf("spec %+v", spec)
	}

	for _, tt := range []struct{ kubefile, want string }{
		{"FROM example.com/base:v1\nLAUNCH dnss", "it has net, dns"},
		{"FROM example.com/base:v1\nAPPENV x A=1", "it has net, dns"},
		{"FROM example.com/base:v1\nCOPY --chown=apache f /", "apache"},
	} {
		tb := &testBuild{store: base.store, kubefile: tt.kubefile, files: files{"f": "f"}}
		if _, err := tb.run(t); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "Kubefile:2") {
			t.Errorf("got %v", err)
		}
	}
	other := &testBuild{store: base.store, kubefile: "FROM example.com/base:v1\n", request: func(r *Request) { r.Platforms = []string{"linux/arm64"} }}
	if _, err := other.run(t); err == nil || !strings.Contains(err.Error(), "linux/amd64") {
		t.Errorf("got %v", err)
	}
}
