// Package e2e makes a real Kubernetes cluster out of a cluster image on hosts of the lab. The programs
// are built from their Go modules beforehand (testdata/e2e/binaries); here they become container
// images and build contexts. Test inputs only.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/runtime/runtimetest/life"
)

// Versions of Kubernetes that testdata/e2e/binaries builds.
const (
	KubeVersion = "v1.37.2"
	// KubeVersionBefore is the minor version before it. Its programs are in the directory "before".
	KubeVersionBefore = "v1.36.3"
)

// Programs are the real programs of one version of Kubernetes, and what it needs.
type Programs struct{ dir, version string }

// NewPrograms are those of a version, in the directory that testdata/e2e/binaries prints.
func NewPrograms(dir, version string) Programs { return Programs{dir: dir, version: version} }

// Path is the file of a program, such as "kubelet".
func (p Programs) Path(name string) string {
	if p.version == KubeVersionBefore {
		if path := filepath.Join(p.dir, "before", name); exists(path) {
			return path
		}
	}
	return filepath.Join(p.dir, name)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Container images that are nowhere but in the cluster image. The second is named by an index.
const (
	webImage   = "only.inside.the.image.test/web:v1"
	laterImage = "only.inside.the.image.test/later:v1"
)

// KubernetesContext prepares the build context of a kubernetes base image in dir: the tree in
// basefs/kubernetes, programs, and the control plane's images as an archive.
func KubernetesContext(ctx context.Context, dir string, p Programs) error {
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(moduleRoot(), "basefs", "kubernetes"))); err != nil {
		return fmt.Errorf("copying the tree: %w", err)
	}
	if err := evictLate(filepath.Join(dir, "etc", "kubeadm.yaml.tmpl")); err != nil {
		return err
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fmt.Errorf("finding Debian's runc: %w", err)
	}
	programs := map[string]string{"runc": runc}
	for _, name := range []string{"kubeadm", "kubelet", "kubectl", "containerd", "containerd-shim-runc-v2", "ctr"} {
		programs[name] = p.Path(name)
	}
	for name, path := range programs {
		if err := link(path, filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"bridge", "host-local", "loopback", "portmap"} {
		if err := link(p.Path(name), filepath.Join(dir, "opt", "cni", "bin", name)); err != nil {
			return err
		}
	}
	metadata, err := json.Marshal(map[string]string{"version": p.version, "arch": goruntime.GOARCH, "ClusterRuntime": "kubernetes"})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Metadata"), metadata, 0o644); err != nil {
		return err
	}
	list := exec.CommandContext(ctx, p.Path("kubeadm"), "config", "images", "list", "--config", "/dev/stdin")
	// An address is given, since kubeadm fails to find one where the only route is "unreachable".
	list.Stdin = strings.NewReader(`{"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "InitConfiguration", "localAPIEndpoint": {"advertiseAddress": "192.0.2.1"}}
---
{"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "kubernetesVersion": "` + p.version + `"}
`)
	names, err := list.Output()
	if err != nil {
		return fmt.Errorf("listing kubeadm's images: %w", err)
	}
	var images []image
	for _, ref := range strings.Fields(string(names)) {
		program := ref[strings.LastIndex(ref, "/")+1 : strings.LastIndex(ref, ":")]
		if !exists(p.Path(program)) {
			continue // coredns and kube-proxy are not built; the test switches them off
		}
		i := image{ref: ref, programs: []string{p.Path(program)}}
		if program == "etcd" { // the real one has its tools, too
			i.programs = append(i.programs, p.Path("etcdctl"), p.Path("etcdutl"))
		}
		images = append(images, i)
	}
	return writeImages(ctx, filepath.Join(dir, "images", "control-plane.tar"), images)
}

// evictLate lets pods stay on a host whose disk is nearly full: hosts of the lab share that of the machine.
func evictLate(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	const driver = "cgroupDriver: systemd\n"
	const eviction = `evictionHard: {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"}` + "\n"
	return os.WriteFile(file, bytes.Replace(text, []byte(driver), []byte(driver+eviction), 1), 0o644)
}

// shopContext prepares the context of an image on top of base: a pod, and its image as an archive.
func shopContext(ctx context.Context, dir, bin, base string) error {
	const ref = webImage
	images := []image{{ref: ref, programs: []string{filepath.Join(bin, "web")}}, {ref: laterImage, programs: []string{filepath.Join(bin, "web")}, index: true}}
	if err := writeImages(ctx, filepath.Join(dir, "images", "web.tar"), images); err != nil {
		return err
	}
	files := map[string]string{
		"Kubefile": "FROM " + base + "\nCOPY images images\nAPP web local://web.yaml\nLAUNCH web\nCMDS [\"kubectl wait --for=condition=Ready --timeout=120s pod/web\"]\n",
		"web.yaml": `apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  hostname: web
  automountServiceAccountToken: false
  containers:
  - name: web
    image: ` + ref + `
    ports: [{containerPort: 8080}]
`,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// LifeContext prepares the context of the app image of a life (package life) on top of base.
func LifeContext(ctx context.Context, dir, bin, base string) error {
	if err := writeImages(ctx, filepath.Join(dir, "images", "web.tar"), []image{{ref: webImage, programs: []string{filepath.Join(bin, "web")}}}); err != nil {
		return err
	}
	for name, text := range life.AppFiles(base, webImage) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// LaterImage is the container image that LaterContext embeds.
const LaterImage = laterImage

// LaterContext prepares the context of the app image that a life brings to its cluster.
func LaterContext(ctx context.Context, dir, bin, versions string) error {
	if err := writeImages(ctx, filepath.Join(dir, "images", "later.tar"), []image{{ref: laterImage, programs: []string{filepath.Join(bin, "web")}, index: true}}); err != nil {
		return err
	}
	for name, text := range life.AppImageFiles(laterImage, versions) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// image is a container image of static programs, found through PATH; the first is what it runs. With
// index, what is tagged is an index, as it is for images of several platforms.
type image struct {
	ref      string
	programs []string
	index    bool
}

// writeImages packs images with keg's own library and saves them as one OCI archive.
func writeImages(ctx context.Context, file string, images []image) error {
	tmp, err := os.MkdirTemp("", "keg-e2e-images")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	store, err := imagestore.Open(tmp)
	if err != nil {
		return err
	}
	var tagged []imagestore.Tagged
	for _, i := range images {
		target, err := writeImage(ctx, store, i)
		if err != nil {
			return fmt.Errorf("making image %s: %w", i.ref, err)
		}
		tagged = append(tagged, imagestore.Tagged{Name: i.ref, Target: target})
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := archive.Save(ctx, f, store, tagged); err != nil {
		return err
	}
	return f.Close()
}

func writeImage(ctx context.Context, store *imagestore.Store, i image) (ocispec.Descriptor, error) {
	entries := []pack.Entry{{Name: "tmp", Type: '5', Mode: 0o1777}}
	for _, program := range i.programs {
		fi, err := os.Stat(program)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		entries = append(entries, pack.Entry{
			Name: "usr/local/bin/" + filepath.Base(program), Type: '0', Mode: 0o755, Size: fi.Size(),
			Open: func() (io.ReadCloser, error) { return os.Open(program) },
		})
	}
	w, err := store.Writer(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Close()
	layer, err := pack.Write(ctx, w, entries, pack.Options{Compression: pack.Gzip})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := w.Commit(layer.Descriptor.Digest, layer.Descriptor.Size); err != nil {
		return ocispec.Descriptor{}, err
	}
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: goruntime.GOARCH},
		Config:   ocispec.ImageConfig{Env: []string{"PATH=/usr/local/bin"}, Entrypoint: []string{"/usr/local/bin/" + filepath.Base(i.programs[0])}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.DiffID}},
	}
	configDesc, err := store.PutJSON(ctx, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest, err := store.PutJSON(ctx, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    []ocispec.Descriptor{layer.Descriptor},
	})
	if err != nil || !i.index {
		return manifest, err
	}
	manifest.Platform = &config.Platform
	return store.PutJSON(ctx, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{manifest},
	})
}

// link gives the file at from a second name, or a copy where the file systems differ.
func link(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// moduleRoot is the directory of keg's go.mod.
func moduleRoot() string {
	_, file, _, _ := goruntime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// LegacyLog is the file on hosts in which the scripts of LegacyContext write down that they ran.
const LegacyLog = "/var/tmp/legacy.log"

// LegacyContext prepares the build context of a tree in sealer's layout in dir, with real programs: a rootfs that
// every architecture has, one for this one, and scripts and plugins by sealer's names. containerd comes by a
// script of its own.
func LegacyContext(ctx context.Context, dir string, p Programs) error {
	plain := filepath.Join(dir, "plain")
	if err := KubernetesContext(ctx, plain, p); err != nil {
		return err
	}
	arch, rootfs := filepath.Join(dir, goruntime.GOARCH), filepath.Join(dir, "rootfs")
	for _, d := range []string{arch, rootfs, filepath.Join(rootfs, "scripts"), filepath.Join(rootfs, "plugins"), filepath.Join(arch, "cri")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"bin", "opt", "images"} {
		if err := os.Rename(filepath.Join(plain, name), filepath.Join(arch, name)); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(plain, "etc"), filepath.Join(rootfs, "etc")); err != nil {
		return err
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc", "ctr"} {
		if err := os.Rename(filepath.Join(arch, "bin", name), filepath.Join(arch, "cri", name)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(plain); err != nil {
		return err
	}
	const note = `printf '%s %s [%s] in %s on %s, %s %s %s\n' "$KEG_HOOK" "$what" "$*" "${PWD##*/}" "$HostIP" "$RegistryURL" "$PodCIDR" "$DNSSvcIP" >>` + LegacyLog + "\n"
	script := func(more string) string { return "#!/bin/bash\nset -e\nwhat=${0##*/}\n" + note + more }
	plugin := func(name, action, scope, more string) string {
		data := "what='plugin " + name + "'\n" + note + more
		return "apiVersion: sealer.io/v1\nkind: Plugin\nmetadata:\n  name: " + name + "\nspec:\n  type: SHELL\n  action: " + action + "\n  scope: " + scope +
			"\n  data: |\n    " + strings.ReplaceAll(strings.TrimSpace(data), "\n", "\n    ") + "\n---\n"
	}
	files := map[string]string{
		"Kubefile": "FROM scratch\nCOPY rootfs .\nCOPY $ARCH .\nCOPY imageList manifests\n" +
			`LABEL "cluster.alpha.sealer.io/cluster-runtime-version"="` + p.version + "\"\n" +
			`LABEL "cluster.alpha.sealer.io/cluster-runtime-type"="kubernetes"` + "\n" +
			`LABEL "cluster.alpha.sealer.io/container-runtime-type"="containerd"` + "\n" +
			"ENV PodCIDR=100.64.0.0/16\n",
		"imageList":                              "# none\n",
		goruntime.GOARCH + "/Metadata":           `{"version": "` + p.version + `", "arch": "` + goruntime.GOARCH + `"}`,
		"rootfs/etc/settings.yaml.tmpl":          "pods: {{ .PodCIDR }}\ndns: {{ .DNSSvcIP }}\n",
		"rootfs/scripts/containerd.sh":           script("install -m 755 ../cri/* /usr/local/bin/\n"),
		"rootfs/scripts/init-registry.sh":        script("exit 1\n"),
		"rootfs/scripts/init-kube.sh":            script("cat ../etc/settings.yaml >>" + LegacyLog + "\n"),
		"rootfs/scripts/init.sh":                 script("exit 1\n"),
		"rootfs/scripts/uninstall-containerd.sh": script("systemctl stop containerd\ncd ../cri\nfor p in *; do rm -f \"/usr/local/bin/$p\"; done\n"),
		"rootfs/scripts/clean-kube.sh":           script(""),
		"rootfs/scripts/clean.sh":                script(""),
		"rootfs/plugins/all.yaml": plugin("before", "pre-init-host", "master|node", "") + plugin("after", "post-install", "master", "kubectl get nodes -o name >>"+LegacyLog+"\n") +
			plugin("leaving", "pre-clean-host", "master", "kubectl get --raw /readyz >>"+LegacyLog+"\necho >>"+LegacyLog+"\n") + plugin("gone", "post-uninstall", "master", ""),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// LegacyK0sContext prepares the build context of sealer's tree for k0s in dir: that of basefs/testdata, with a k0s.
func LegacyK0sContext(ctx context.Context, dir string, p Programs) error {
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(moduleRoot(), "basefs", "testdata", "sealer-k0s"))); err != nil {
		return err
	}
	plain, arch := filepath.Join(dir, "plain"), filepath.Join(dir, goruntime.GOARCH)
	if err := K0sContext(ctx, plain, p); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(plain, "Metadata"))
	if err != nil {
		return err
	}
	var md map[string]string
	if err := json.Unmarshal(text, &md); err != nil {
		return err
	}
	delete(md, "ClusterRuntime") // the label says it
	if text, err = json.Marshal(md); err != nil {
		return err
	}
	// Its network does nothing: k0s' own takes its place, whose images the stand-in does not need.
	kubefile, err := os.ReadFile(filepath.Join(dir, "Kubefile"))
	if err != nil {
		return err
	}
	kubefile = bytes.Replace(kubefile, []byte("CNI net local://net.sh\n"), []byte("APP net local://net.sh\n"), 1)
	return errors.Join(
		os.MkdirAll(arch, 0o755),
		os.WriteFile(filepath.Join(arch, "Metadata"), text, 0o644),
		os.WriteFile(filepath.Join(dir, "Kubefile"), kubefile, 0o644),
		os.Rename(filepath.Join(plain, "bin"), filepath.Join(arch, "bin")),
		os.Rename(filepath.Join(plain, "images"), filepath.Join(arch, "images")),
		os.RemoveAll(plain),
	)
}
