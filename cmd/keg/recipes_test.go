package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/compression"
)

// mirror is a server with the layout of the sites that the recipes download from, and small programs.
type mirror struct {
	files map[string][]byte // by path, as files lie on a disk
	mu    sync.Mutex
	asked []string
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, r.URL.EscapedPath())
	data, ok := m.files[r.URL.Path]
	// GitHub's own links have %2B.
	if !ok || strings.Contains(r.URL.EscapedPath(), "+") {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(data)
}

func sum(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// program is the beginning of an ELF file, and a name that tells programs apart.
func program(arch, name string) []byte {
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(head[18:], map[string]uint16{"amd64": 62, "arm64": 183}[arch])
	return append(head, arch+" "+name...)
}

func targz(t *testing.T, arch string, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for _, n := range names {
		data := program(arch, path.Base(n))
		if err := tw.WriteHeader(&tar.Header{Name: n, Mode: 0o755, Uid: 1001, Gid: 121, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func image(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// dockerArchive is what docker save writes.
func dockerArchive(t *testing.T, arch, ref string) []byte {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := tarball.Write(tag, image(t, arch), &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{files: map[string][]byte{}}
	k0sSums, runcSums, etcdSums := "", "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n", ""
	for _, arch := range []string{"amd64", "arm64"} {
		for _, p := range []string{"kubeadm", "kubelet", "kubectl"} {
			file := "/dl.k8s.io/release/v1.99.1/bin/linux/" + arch + "/" + p
			m.files[file] = program(arch, p)
			m.files[file+".sha256"] = []byte(sum(m.files[file])) // without a name or a newline
		}
		put := func(dir, file string, data []byte) string {
			m.files[dir+file] = data
			return sum(data) + "  " + file + "\n"
		}
		const hub = "/github.com/"
		beside := func(dir, file, end string, data []byte) { m.files[dir+file+end] = []byte(put(dir, file, data)) }
		beside(hub+"containerd/containerd/releases/download/v2.4.2/", "containerd-2.4.2-linux-"+arch+".tar.gz", ".sha256sum",
			targz(t, arch, "bin/containerd", "bin/containerd-shim-runc-v2", "bin/containerd-stress", "bin/ctr"))
		beside(hub+"containernetworking/plugins/releases/download/v1.9.1/", "cni-plugins-linux-"+arch+"-v1.9.1.tgz", ".sha256",
			targz(t, arch, "./LICENSE", "./README.md", "./bridge", "./host-local", "./loopback", "./portmap"))
		beside(hub+"kubernetes-sigs/cri-tools/releases/download/v1.99.0/", "crictl-v1.99.0-linux-"+arch+".tar.gz", ".sha256", targz(t, arch, "crictl"))
		beside("/get.helm.sh/", "helm-v4.3.1-linux-"+arch+".tar.gz", ".sha256sum", targz(t, arch, "linux-"+arch+"/LICENSE", "linux-"+arch+"/helm"))
		runcSums += put(hub+"opencontainers/runc/releases/download/v1.5.2/", "runc."+arch, program(arch, "runc"))
		etcd := "etcd-v3.7.3-linux-" + arch
		etcdSums += put(hub+"etcd-io/etcd/releases/download/v3.7.3/", etcd+".tar.gz", targz(t, arch, etcd+"/etcd", etcd+"/etcdctl", etcd+"/etcdutl"))

		k3s := hub + "k3s-io/k3s/releases/download/v1.99.1+k3s1/"
		zw, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		m.files[k3s+"sha256sum-"+arch+".txt"] = []byte(
			put(k3s, "k3s-airgap-images-"+arch+".tar.zst", zw.EncodeAll(dockerArchive(t, arch, "docker.io/rancher/mirrored-pause:3.6"), nil)) +
				put(k3s, "k3s"+strings.TrimSuffix("-"+arch, "-amd64"), program(arch, "k3s")))
		k0s := hub + "k0sproject/k0s/releases/download/v1.99.1+k0s.0/"
		for file, data := range map[string][]byte{
			"k0s-v1.99.1+k0s.0-": program(arch, "k0s"), "k0s-airgap-bundle-v1.99.1+k0s.0-": dockerArchive(t, arch, "quay.io/k0sproject/pause:3.10"),
		} {
			k0sSums += strings.Replace(put(k0s, file+arch, data), "  ", " *", 1)
		}
	}
	m.files["/github.com/opencontainers/runc/releases/download/v1.5.2/runc.sha256sum"] = []byte(runcSums + "-----BEGIN PGP SIGNATURE-----\n\nxyz\n")
	m.files["/github.com/etcd-io/etcd/releases/download/v3.7.3/SHA256SUMS"] = []byte(etcdSums)
	m.files["/github.com/k0sproject/k0s/releases/download/v1.99.1+k0s.0/sha256sums.txt"] = []byte(k0sSums)
	return m
}

// kegIn runs keg with a store.
func kegIn(t *testing.T, root string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := map[string]string{"KEG_ROOT": root, "HOME": t.TempDir(), "CI": "1"}
	code = run(args, strings.NewReader(""), &out, &errs, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	return code, out.String(), errs.String()
}

func mustKeg(t *testing.T, root string, args ...string) string {
	t.Helper()
	code, out, errs := kegIn(t, root, args...)
	if code != 0 {
		t.Fatalf("keg %q: %d\n%s", args, code, errs)
	}
	return out
}

// rootfs lists the files of an image for a platform: "mode uid name content".
func rootfs(t *testing.T, root, ref, platform string) map[string]string {
	t.Helper()
	s, err := imagestore.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	full, err := imagestore.ParseName(ref)
	if err != nil {
		t.Fatal(err)
	}
	tagged, err := s.Resolve(imagestore.FullName(full))
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.ClusterImage(t.Context(), tagged.Target)
	if err != nil {
		t.Fatal(err)
	}
	desc, ok := img.RootfsFor(platform)
	if !ok {
		t.Fatalf("nothing for %s", platform)
	}
	var m ocispec.Manifest
	if err := s.ReadJSON(desc.Digest, &m); err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for _, l := range m.Layers {
		blob, err := s.Open(l.Digest)
		if err != nil {
			t.Fatal(err)
		}
		defer blob.Close()
		r, err := compression.NewReader(blob)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Typeflag != tar.TypeReg {
				continue
			}
			data, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			list[h.Name] = fmt.Sprintf("%04o %d:%d %s", h.Mode, h.Uid, h.Gid, data)
		}
	}
	return list
}

// TestRecipes makes the official base images from a mirror with the layout of the real sites.
func TestRecipes(t *testing.T) {
	m := newMirror(t)
	server := httptest.NewServer(m)
	defer server.Close()
	reg := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer reg.Close()
	apiserver := strings.TrimPrefix(reg.URL, "http://") + "/kube-apiserver:v1.99.1"
	ref, err := name.ParseReference(apiserver)
	if err != nil {
		t.Fatal(err)
	}
	var idx v1.ImageIndex = empty.Index
	for _, arch := range []string{"amd64", "arm64"} {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: image(t, arch), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	if err := remote.WriteIndex(ref, idx); err != nil {
		t.Fatal(err)
	}

	for runtime, tt := range map[string]struct {
		version string
		bin     []string
		images  []string
	}{
		"kubernetes": {"v1.99.1", []string{
			"bin/containerd", "bin/containerd-shim-runc-v2", "bin/crictl", "bin/ctr", "bin/etcdctl", "bin/etcdutl", "bin/helm", "bin/kubeadm",
			"bin/kubectl", "bin/kubelet", "bin/runc", "opt/cni/bin/bridge", "opt/cni/bin/host-local", "opt/cni/bin/loopback", "opt/cni/bin/portmap",
		}, []string{apiserver}},
		"k3s": {"v1.99.1+k3s1", []string{"bin/k3s"}, []string{"docker.io/rancher/mirrored-pause:3.6"}},
		"k0s": {"v1.99.1+k0s.0", []string{"bin/k0s"}, []string{"quay.io/k0sproject/pause:3.10"}},
	} {
		t.Run(runtime, func(t *testing.T) {
			root, dir := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "base")
			mustKeg(t, root, "basefs", "init", "--runtime", runtime, dir)
			build := []string{
				"build", "-t", "example.com/base:v1", "--build-arg", "VERSION=" + tt.version, "--build-arg", "MIRROR=" + server.URL,
				"--platform", "linux/amd64,linux/arm64", dir,
			}

			missing := "versions/" + tt.version + ".amd64.env"
			code, _, errs := kegIn(t, root, build...)
			if code != 1 || !strings.Contains(errs, "Kubefile:") || !strings.Contains(errs, missing) || !strings.Contains(errs, "hint: keg basefs checksums") {
				t.Fatalf("%d: %s", code, errs)
			}

			before := len(m.asked)
			mustKeg(t, root, "basefs", "checksums", "--runtime", runtime, "--version", tt.version, "--mirror", server.URL, dir)
			for _, asked := range m.asked[before:] {
				if !strings.Contains(asked, "sha256") && !strings.HasSuffix(asked, "SHA256SUMS") {
					t.Errorf("checksums asked for %s", asked)
				}
			}
			if runtime == "kubernetes" {
				if err := os.WriteFile(filepath.Join(dir, "versions", tt.version+".images"), []byte(apiserver+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			mustKeg(t, root, build...)
			for _, arch := range []string{"amd64", "arm64"} {
				files := rootfs(t, root, "example.com/base:v1", "linux/"+arch)
				var bin []string
				for n, content := range files {
					if !strings.HasPrefix(n, "bin/") && !strings.HasPrefix(n, "opt/") {
						continue
					}
					bin = append(bin, n)
					if want := fmt.Sprintf("0755 0:0 %s", program(arch, path.Base(n))); content != want {
						t.Errorf("%s for %s is %q", n, arch, content)
					}
				}
				slices.Sort(bin)
				if diff := cmp.Diff(tt.bin, bin); diff != "" {
					t.Error(diff)
				}
				for n := range files {
					top, _, _ := strings.Cut(n, "/")
					if !slices.Contains([]string{"bin", "opt", "etc", "Metadata"}, top) {
						t.Errorf("%s is in the image", n)
					}
				}
				_, text, _ := strings.Cut(files["Metadata"], "0:0 ")
				md, err := basefs.ParseMetadata([]byte(text))
				if err != nil || md.Runtime != runtime || md.Arch != arch || md.Version != tt.version {
					t.Errorf("%v %+v", err, md)
				}
			}
			var got struct {
				Runtime, KubeVersion string
				Platforms            []string
				Images               []struct{ Name, Platform string }
			}
			if err := json.Unmarshal([]byte(mustKeg(t, root, "inspect", "-o", "json", "example.com/base:v1")), &got); err != nil {
				t.Fatal(err)
			}
			var images []string
			for _, i := range got.Images {
				images = append(images, i.Name)
			}
			slices.Sort(images)
			if got.Runtime != runtime || len(got.Platforms) != 2 || !slices.Equal(slices.Compact(images), tt.images) {
				t.Errorf("%+v", got)
			}

			// A file that is not the one of the checksum.
			for file := range m.files {
				if strings.Contains(file, "/"+path.Base(tt.bin[len(tt.bin)-1])) || strings.HasSuffix(file, "/kubelet") || strings.Contains(file, "/k3s-arm64") {
					data := m.files[file]
					m.files[file] = append(slices.Clone(data), '!')
					defer func() { m.files[file] = data }()
				}
			}
			code, _, errs = kegIn(t, filepath.Join(t.TempDir(), "other"), build...)
			line := 0
			kubefile, err := os.ReadFile(filepath.Join(dir, "Kubefile"))
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range strings.Split(string(kubefile), "\n") {
				if strings.HasPrefix(l, "ADD --chmod=0755") && (runtime != "kubernetes" || strings.Contains(l, "/kubelet")) {
					line = i + 1
					break
				}
			}
			if code != 1 || !strings.Contains(errs, fmt.Sprintf("Kubefile:%d:1:", line)) || !strings.Contains(errs, "does not have the given checksum") {
				t.Errorf("%d, line %d: %s", code, line, errs)
			}
		})
	}
}

// TestRecipeOfLocalFiles takes programs and images from files beside the Kubefile.
func TestRecipeOfLocalFiles(t *testing.T) {
	root, dir := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "base")
	mustKeg(t, root, "basefs", "init", "--runtime", "k3s", dir)
	for name, data := range map[string][]byte{
		"bin/k3s": program("amd64", "k3s"), "images/all.tar": dockerArchive(t, "amd64", "docker.io/rancher/mirrored-pause:3.6"),
		"Metadata": []byte(`{"version": "v1.99.1+k3s1", "arch": "amd64", "ClusterRuntime": "k3s"}`), "README.md": []byte("x"),
	} {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	mustKeg(t, root, "--offline", "build", "-t", "base:v1", "--build-arg", "SOURCE=local", "--platform", "linux/amd64", dir)
	files := rootfs(t, root, "base:v1", "linux/amd64")
	if files["bin/k3s"] != fmt.Sprintf("0755 0:0 %s", program("amd64", "k3s")) || files["Metadata"] == "" || files["README.md"] != "" || files["images/all.tar"] != "" {
		t.Errorf("%q", files)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		for name, data := range map[string][]byte{
			"bin/k3s": program(arch, "k3s"), "Metadata": []byte(`{"version": "v1.99.1+k3s1", "arch": "` + arch + `", "ClusterRuntime": "k3s"}`),
		} {
			name = filepath.Join(dir, arch, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustKeg(t, root, "--offline", "build", "-t", "both:v1", "--build-arg", "SOURCE=local-arch", "--platform", "linux/amd64,linux/arm64", dir)
	for _, arch := range []string{"amd64", "arm64"} {
		files := rootfs(t, root, "both:v1", "linux/"+arch)
		if files["bin/k3s"] != fmt.Sprintf("0755 0:0 %s", program(arch, "k3s")) || !strings.Contains(files["Metadata"], arch) {
			t.Errorf("%q", files)
		}
	}
	if code, _, errs := kegIn(t, root, "basefs", "init", "--runtime", "k3s", dir); code != 1 || !strings.Contains(errs, "is not empty") {
		t.Errorf("%d %s", code, errs)
	}
}

func TestChecksumsUsage(t *testing.T) {
	for _, args := range [][]string{
		{"init", "x"}, {"init", "--runtime", "nomad", "x"}, {"checksums", "--runtime", "k3s"}, {"checksums", "--runtime", "k3s", "--version", "v1.37.2"},
		{"checksums", "--runtime", "k0s", "--version", "1.37"}, {"checksums", "--runtime", "kubernetes", "--version", "v1.37.2+k3s1"},
		{"checksums", "--runtime", "k3s", "--version", "v1.37.2+k3s1", "--mirror", "http://mirror.example.com"},
		{"checksums", "--runtime", "k3s", "--version", "v1.37.2+k3s1", "--set", "RUNC=1"},
		{"checksums", "--runtime", "kubernetes", "--version", "v1.37.2", "--set", "RUNK=1"},
		{"checksums", "--runtime", "kubernetes", "--version", "v1.37.2", "--set", "RUNC=../x"},
		{"checksums", "--runtime", "k3s", "--version", "v1.37.2+k3s1", "--arch", "s390x"},
		{"checksums", "--runtime", "k3s", "--version", "v1.37.2+k3s1", "--arch", "amd64,arm64"},
	} {
		if code, _, errs := kegIn(t, t.TempDir(), append([]string{"basefs"}, args...)...); code != 2 || errs == "" {
			t.Errorf("%q: %d %s", args, code, errs)
		}
	}
}

// TestNetworkExamples builds the app images of docs/examples from manifests with a checksum.
func TestNetworkExamples(t *testing.T) {
	manifest := []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: net}\n")
	m := &mirror{files: map[string][]byte{
		"/github.com/flannel-io/flannel/releases/download/v0.99.1/kube-flannel.yml":     manifest,
		"/raw.githubusercontent.com/projectcalico/calico/v0.99.1/manifests/calico.yaml": manifest,
	}}
	server := httptest.NewServer(m)
	defer server.Close()
	for _, app := range []string{"flannel", "calico"} {
		root := t.TempDir()
		build := func(sum string) (int, string, string) {
			return kegIn(t, root, "build", "-q", "-t", app+":v1", "--build-arg", "MIRROR="+server.URL, "--build-arg", "VERSION=v0.99.1",
				"--build-arg", "SHA256="+sum, filepath.Join("../../docs/examples", app))
		}
		if code, _, errs := build(sum([]byte("other"))); code != 1 || !strings.Contains(errs, "Kubefile:") || !strings.Contains(errs, "does not have the given checksum") {
			t.Errorf("%d %s", code, errs)
		}
		if code, _, errs := build(""); code != 1 || !strings.Contains(errs, "give --build-arg SHA256") {
			t.Errorf("%d %s", code, errs)
		}
		if code, _, errs := build(sum(manifest)); code != 0 {
			t.Fatalf("%d %s", code, errs)
		}
		if out := mustKeg(t, root, "inspect", "-o", "json", app+":v1"); !strings.Contains(out, `"role": "cni"`) || !strings.Contains(out, `"type": "app"`) {
			t.Error(out)
		}
	}
}

// TestTreeOfSealer builds the tree that sealer has for k0s, with its own Kubefile, scripts and plugins.
func TestTreeOfSealer(t *testing.T) {
	reg := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer reg.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(reg.URL, "http://") + "/k0sproject/pause:3.10")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image(t, "amd64")); err != nil {
		t.Fatal(err)
	}
	root, dir := t.TempDir(), filepath.Join(t.TempDir(), "tree")
	if err := os.CopyFS(dir, os.DirFS("../../basefs/testdata/sealer-k0s")); err != nil {
		t.Fatal(err)
	}
	var images bytes.Buffer
	zw := gzip.NewWriter(&images)
	if _, err := zw.Write(dockerArchive(t, "amd64", "registry:2.7.1")); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string][]byte{
		"amd64/bin/k0s": program("amd64", "k0s"), "amd64/images/registry.tar.gz": images.Bytes(), "imageList": []byte(ref.String() + "\n"),
	} {
		file = filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	mustKeg(t, root, "build", "-t", "k0s:v1", "--platform", "linux/amd64", dir)
	var got struct {
		Runtime, KubeVersion string
		Launch               []string
		Env                  map[string]string
		Images               []struct{ Name string }
		Apps                 []struct{ Name, Type, Role string }
	}
	if err := json.Unmarshal([]byte(mustKeg(t, root, "inspect", "-o", "json", "k0s:v1")), &got); err != nil {
		t.Fatal(err)
	}
	if got.Runtime != "k0s" || got.KubeVersion != "v1.24.2+k0s.0" || !slices.Equal(got.Launch, []string{"net"}) || got.Env["PodCIDR"] != "100.64.0.0/10" ||
		len(got.Apps) != 1 || got.Apps[0].Role != "cni" || got.Apps[0].Type != "shell" {
		t.Errorf("%+v", got)
	}
	var names []string
	for _, i := range got.Images {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{ref.String(), "docker.io/library/registry:2.7.1"}, names); diff != "" {
		t.Error(diff)
	}
	files := rootfs(t, root, "k0s:v1", "linux/amd64")
	for _, want := range []string{"bin/k0s", "Metadata", "etc/settings.yaml.tmpl", "scripts/init.sh", "plugins/hosts.yaml", "application/apps/net/net.sh"} {
		if files[want] == "" {
			t.Errorf("%s is missing", want)
		}
	}
	for _, f := range []string{"check"} {
		flat := filepath.Join(t.TempDir(), "flat")
		for _, part := range []string{"rootfs", "amd64"} {
			if err := os.CopyFS(flat, os.DirFS(filepath.Join(dir, part))); err != nil {
				t.Fatal(err)
			}
		}
		mustKeg(t, root, "basefs", f, flat)
	}
}
