package basefs_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/basefs"
)

// elf is the beginning of a program.
func elf(machine uint16) []byte {
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(head[18:], machine)
	return head
}

const amd64, arm64 = 62, 183

func program() *fstest.MapFile { return &fstest.MapFile{Data: elf(amd64), Mode: 0o755} }

func script(text string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(text), Mode: 0o755}
}

// kubernetes is a tree without faults.
func kubernetes() fstest.MapFS {
	tree := fstest.MapFS{
		"Metadata":               {Data: []byte(`{"version":"v1.37.2","arch":"amd64","ClusterRuntime":"kubernetes"}`)},
		"etc/kubeadm.yaml.tmpl":  {Data: []byte("{{ .NODE_IP | quote }}")},
		"scripts/init.sh":        script("#!/bin/sh\n"),
		"scripts/helpers.inc":    {Data: []byte("x=1")},
		"imageList":              {Data: []byte("registry.k8s.io/pause:3.10\n")},
		"images/a.tar.gz":        {Data: []byte("\x1f\x8b\x08")},
		"images/b.tar":           {Data: append(append(make([]byte, 257), "ustar"...), make([]byte, 250)...)},
		"opt/cni/bin/bridge":     program(),
		"README.md":              {},
		"application/apps/x/a.y": {},
	}
	for _, name := range []string{"kubeadm", "kubelet", "kubectl", "containerd", "runc", "containerd-shim-runc-v2"} {
		tree["bin/"+name] = program()
	}
	return tree
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		change func(fstest.MapFS)
		want   []string // level path
	}{
		"fine":        {func(fstest.MapFS) {}, nil},
		"no metadata": {func(f fstest.MapFS) { delete(f, "Metadata") }, []string{"error Metadata"}},
		"metadata":    {func(f fstest.MapFS) { f["Metadata"] = script("{\n1}") }, []string{"error Metadata:2"}},
		"runtime": {func(f fstest.MapFS) {
			f["Metadata"] = script(`{"version":"v1.1.1","arch":"amd64","ClusterRuntime":"x"}`)
		}, []string{"error Metadata"}},
		"sparse":  {func(f fstest.MapFS) { f["Metadata"] = script(`{"also": 1}`) }, []string{"warning Metadata", "warning Metadata", "warning Metadata", "warning Metadata"}},
		"arch":    {func(f fstest.MapFS) { f["bin/runc"].Data = elf(arm64) }, []string{"error bin/runc"}},
		"missing": {func(f fstest.MapFS) { delete(f, "bin/kubelet"); delete(f, "etc/kubeadm.yaml.tmpl") }, []string{"error bin/kubelet", "error etc/kubeadm.yaml.tmpl"}},
		"other name": {func(f fstest.MapFS) {
			f["etc/kubeadm.yml"] = f["etc/kubeadm.yaml.tmpl"]
			delete(f, "etc/kubeadm.yaml.tmpl")
		}, nil},
		"k3s": {func(f fstest.MapFS) {
			f["Metadata"] = script(`{"version":"v1.1.1","arch":"amd64","ClusterRuntime":"k3s"}`)
		}, []string{"error bin/k3s"}},
		"not executable": {func(f fstest.MapFS) { f["bin/runc"].Mode = 0o644; f["scripts/init.sh"].Mode = 0o644 }, []string{
			"warning bin/runc", "warning scripts/init.sh"}},
		"scripts": {func(f fstest.MapFS) {
			f["scripts/a.sh"] = script("echo")
			f["scripts/b.sh"] = script("#!/bin/sh\r\necho\r\n")
			f["scripts/c"] = script("#!sh\n")
			f["scripts/d.sh"] = script("\xEF\xBB\xBF#!/bin/sh\n")
		}, []string{"error scripts/b.sh", "error scripts/c", "error scripts/d.sh", "warning scripts/a.sh"}},
		"bin": {func(f fstest.MapFS) {
			f["bin/empty"] = script("")
			f["bin/text"] = script("hello")
			f["bin/ok"] = script("#!/bin/bash\n")
		}, []string{"error bin/empty", "warning bin/text"}},
		"templates": {func(f fstest.MapFS) {
			f["etc/x.tmpl"] = script("\n{{ nofunc }}")
			f["manifests/y.tmpl"] = script("{{ end }}")
		}, []string{"error etc/x.tmpl:2", "error manifests/y.tmpl:1"}},
		"lists": {func(f fstest.MapFS) {
			f["imageList"] = script("a\nB\n")
			f["manifests/imageList"] = script("x y\nok\n:\n")
		}, []string{"error imageList:2", "error manifests/imageList:1", "error manifests/imageList:3"}},
		"a list called manifests": {func(f fstest.MapFS) { f["manifests"] = script("a\nB\n") }, []string{"error manifests:2"}},
		"archives": {func(f fstest.MapFS) {
			f["images/a.tar.gz"] = script("not")
			f["images/list.txt"] = script("not")
			f["images/lz4.tar"] = script("\x04\x22\x4d\x18")
			f["images/x.tar.zstd"] = script("\x28\xb5\x2f\xfd")
			f["registry.tar.gz"] = script("")
			f["registry/x"] = script("")
		}, []string{"error images/a.tar.gz", "error images/lz4.tar", "error registry.tar.gz", "warning images/list.txt", "warning images/x.tar.zstd", "warning registry"}},
		"unknown": {func(f fstest.MapFS) { f["script/x.sh"] = script("") }, []string{"warning script"}},
		"docker": {func(f fstest.MapFS) {
			delete(f, "bin/containerd")
			f["scripts/docker.sh"], f["cri/docker.tar.gz"] = script("#!/bin/bash\n"), script("\x1f\x8b")
		}, []string{"error scripts/docker.sh"}},
		"sealer": {func(f fstest.MapFS) {
			for _, name := range []string{"containerd", "runc", "containerd-shim-runc-v2"} {
				delete(f, "bin/"+name)
			}
			delete(f, "etc/kubeadm.yaml.tmpl")
			f["etc/kubeadm.yml.tmpl"] = script("{{ .RegistryURL }}")
			f["cri/docker.tar.gz"] = script("\x1f\x8b")
			f["bin/conntrack"] = program()
			f["lib/x"], f["applications/a.yaml"], f["statics/audit-policy.yml"] = script(""), script(""), script("")
			f["registry/docker/registry/v2/blobs/sha256/x"] = script("")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tree := kubernetes()
			test.change(tree)
			var got []string
			for _, f := range basefs.Check(tree) {
				got = append(got, fmt.Sprintf("%s %s", f.Level, f.Path))
				if f.Text == "" {
					t.Errorf("%s says nothing", f.Path)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s\n%+v", diff, basefs.Check(tree))
			}
		})
	}
}

func TestCheckLinks(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, kubernetes()); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"bin/crictl": "runc", "bin/gone": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range basefs.Check(os.DirFS(dir)) {
		if f.Path != "bin/gone" && f.Level == basefs.LevelError {
			t.Errorf("%+v", f)
		}
	}
}

// TestOfficialTrees: what keg itself brings has templates that parse.
func TestOfficialTrees(t *testing.T) {
	for _, name := range basefs.Runtimes() {
		if _, err := os.Stat(name); err != nil {
			continue
		}
		for _, f := range basefs.Check(os.DirFS(name)) {
			// Programs and Metadata are added by who builds the image.
			if f.Level == basefs.LevelError && f.Path != "Metadata" && filepath.Dir(f.Path) != "bin" {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}
