package basefs

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
)

//go:embed all:kubernetes all:k3s all:k0s
var recipes embed.FS

// Recipe is the build context of the official base image for a runtime: the tree, without programs, and the
// Kubefile that downloads them. The error is a *RuntimeError.
func Recipe(runtime string) (fs.FS, error) {
	if !slices.Contains(Runtimes(), runtime) {
		return nil, &RuntimeError{Name: runtime, Known: Runtimes()}
	}
	return fs.Sub(recipes, runtime)
}

// Release is what a recipe downloads: a version of a runtime for one architecture.
type Release struct {
	// Runtime is one of Runtimes.
	Runtime string
	// Version is that of the release, such as "v1.37.2", "v1.37.2+k3s1", "v1.37.2+k0s.0".
	Version string
	// Arch is amd64 or arm64.
	Arch string
	// Set are the versions of parts that are not the recipe's own choice, such as CONTAINERD: "2.4.2".
	Set map[string]string
}

// part is something that a recipe downloads beside what has the release's own version.
type part struct{ name, version string }

// download is one file of a recipe, and the file in which its site publishes the checksum. {V} is the release's
// version as a URL has it, {v} that of the part, {a} the architecture.
type download struct {
	variable  string
	part      string // "" is the release itself
	dir, file string
	sums      string
}

// parts are the versions that the recipe for kubernetes takes where nobody chose others. Those of crictl are
// made for a minor version of Kubernetes each.
func parts(r Release) []part {
	if r.Runtime != "kubernetes" {
		return nil
	}
	minor := releaseVersion.FindStringSubmatch(r.Version)
	return []part{
		{"CONTAINERD", "2.4.2"}, {"RUNC", "1.5.2"}, {"CNI_PLUGINS", "1.9.1"}, {"CRICTL", minor[1] + "." + minor[2] + ".0"},
		{"ETCD", "3.7.3"}, {"HELM", "4.3.1"},
	}
}

const github = "github.com/"

var downloads = map[string][]download{
	"kubernetes": {
		{"KUBEADM_SHA256", "", "dl.k8s.io/release/{V}/bin/linux/{a}/", "kubeadm", "kubeadm.sha256"},
		{"KUBELET_SHA256", "", "dl.k8s.io/release/{V}/bin/linux/{a}/", "kubelet", "kubelet.sha256"},
		{"KUBECTL_SHA256", "", "dl.k8s.io/release/{V}/bin/linux/{a}/", "kubectl", "kubectl.sha256"},
		{"CONTAINERD_SHA256", "CONTAINERD", github + "containerd/containerd/releases/download/v{v}/", "containerd-{v}-linux-{a}.tar.gz", "containerd-{v}-linux-{a}.tar.gz.sha256sum"},
		{"RUNC_SHA256", "RUNC", github + "opencontainers/runc/releases/download/v{v}/", "runc.{a}", "runc.sha256sum"},
		{"CNI_PLUGINS_SHA256", "CNI_PLUGINS", github + "containernetworking/plugins/releases/download/v{v}/", "cni-plugins-linux-{a}-v{v}.tgz", "cni-plugins-linux-{a}-v{v}.tgz.sha256"},
		{"CRICTL_SHA256", "CRICTL", github + "kubernetes-sigs/cri-tools/releases/download/v{v}/", "crictl-v{v}-linux-{a}.tar.gz", "crictl-v{v}-linux-{a}.tar.gz.sha256"},
		{"ETCD_SHA256", "ETCD", github + "etcd-io/etcd/releases/download/v{v}/", "etcd-v{v}-linux-{a}.tar.gz", "SHA256SUMS"},
		{"HELM_SHA256", "HELM", "get.helm.sh/", "helm-v{v}-linux-{a}.tar.gz", "helm-v{v}-linux-{a}.tar.gz.sha256sum"},
	},
	"k3s": {
		{"K3S_SHA256", "", github + "k3s-io/k3s/releases/download/{V}/", "k3s{-a}", "sha256sum-{a}.txt"},
		{"IMAGES_SHA256", "", github + "k3s-io/k3s/releases/download/{V}/", "k3s-airgap-images-{a}.tar.zst", "sha256sum-{a}.txt"},
	},
	"k0s": {
		{"K0S_SHA256", "", github + "k0sproject/k0s/releases/download/{V}/", "k0s-{V}-{a}", "sha256sums.txt"},
		{"IMAGES_SHA256", "", github + "k0sproject/k0s/releases/download/{V}/", "k0s-airgap-bundle-{V}-{a}", "sha256sums.txt"},
	},
}

var (
	releaseVersion = regexp.MustCompile(`^v(\d+)\.(\d+)\.\d+(?:-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
	partVersion    = regexp.MustCompile(`^\d+[0-9A-Za-z.+-]*$`)
	checksumLine   = regexp.MustCompile(`(?m)^([0-9a-f]{64})(?:[ \t]+\*?(\S+))?[ \t]*\r?$`)
)

// ReleaseError says what is wrong with a Release.
type ReleaseError struct{ Text string }

// Error says it.
func (e *ReleaseError) Error() string { return e.Text }

// ErrNoChecksum says that a site's file of checksums does not have the one that is looked for.
var ErrNoChecksum = errors.New("it has no sha256 checksum of that file")

func (r Release) check() error {
	m := releaseVersion.FindStringSubmatch(r.Version)
	want := map[string]string{"kubernetes": "v1.37.2", "k3s": "v1.37.2+k3s1", "k0s": "v1.37.2+k0s.0"}[r.Runtime]
	suffix := map[string]string{"k3s": "+k3s", "k0s": "+k0s"}[r.Runtime]
	switch {
	case want == "":
		return &ReleaseError{fmt.Sprintf("there is no recipe for the runtime %q: use %s", r.Runtime, strings.Join(Runtimes(), ", "))}
	case m == nil || suffix == "" && m[3] != "" || !strings.HasPrefix(m[3], suffix):
		return &ReleaseError{fmt.Sprintf("version %q: releases of %s are called like %s", r.Version, r.Runtime, want)}
	case r.Arch != "amd64" && r.Arch != "arm64":
		return &ReleaseError{fmt.Sprintf("architecture %q: the recipes are for amd64 and arm64", r.Arch)}
	}
	var names []string
	for _, p := range parts(r) {
		names = append(names, p.name)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Set)) {
		switch {
		case len(names) == 0:
			return &ReleaseError{fmt.Sprintf("%s: the recipe for %s has no parts with versions of their own", k, r.Runtime)}
		case !slices.Contains(names, k):
			return &ReleaseError{fmt.Sprintf("%s: the parts of the recipe for %s are %s", k, r.Runtime, strings.Join(names, ", "))}
		case !partVersion.MatchString(r.Set[k]):
			return &ReleaseError{fmt.Sprintf("%s: version %q is not written like 1.2.3", k, r.Set[k])}
		}
	}
	return nil
}

// Checksums is the text of the file versions/VERSION.ARCH.env of a recipe: the versions of its parts, and the
// checksums of what it downloads, as the sites publish them. fetch opens a URL; only the files of checksums
// are asked for. mirror, as in the recipes' MIRROR, is what stands before the name of a site; "" is
// "https:/". The errors of a wrong release are *ReleaseErrors.
func Checksums(ctx context.Context, r Release, mirror string, fetch func(ctx context.Context, url string) (io.ReadCloser, error)) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	site := "https://"
	if mirror != "" && mirror != "https:/" {
		site = strings.TrimRight(mirror, "/") + "/"
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# What the recipe for %s downloads for %s, %s: versions, and checksums as the sites publish them.\n", r.Runtime, r.Version, r.Arch)
	versions := map[string]string{}
	for _, p := range parts(r) {
		versions[p.name] = p.version
		if v := r.Set[p.name]; v != "" {
			versions[p.name] = v
		}
	}
	texts := map[string][]byte{}
	for _, d := range downloads[r.Runtime] {
		fill := strings.NewReplacer(
			"{V}", strings.ReplaceAll(r.Version, "+", "%2B"), "{v}", strings.ReplaceAll(versions[d.part], "+", "%2B"),
			"{a}", r.Arch, "{-a}", strings.TrimSuffix("-"+r.Arch, "-amd64"),
		)
		url := site + fill.Replace(d.dir+d.sums)
		if texts[url] == nil {
			text, err := read(ctx, url, fetch)
			if err != nil {
				return nil, err
			}
			texts[url] = text
		}
		name := strings.ReplaceAll(fill.Replace(d.file), "%2B", "+")
		sum, ok := checksumOf(texts[url], name)
		if !ok {
			return nil, fmt.Errorf("%s: %s: %w", url, name, ErrNoChecksum)
		}
		if d.part != "" {
			fmt.Fprintf(&out, "%s=%s\n", d.part, versions[d.part])
		}
		fmt.Fprintf(&out, "%s=%s\n", d.variable, sum)
	}
	return out.Bytes(), nil
}

// checksumsLimit bounds a file of checksums.
const checksumsLimit = 1 << 20

func read(ctx context.Context, url string, fetch func(ctx context.Context, url string) (io.ReadCloser, error)) ([]byte, error) {
	body, err := fetch(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("reading checksums: %w", err)
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, checksumsLimit+1))
	if err == nil && len(text) > checksumsLimit {
		err = fmt.Errorf("more than %d bytes: that is no file of checksums", checksumsLimit)
	}
	if err != nil {
		return nil, fmt.Errorf("reading checksums: %s: %w", url, err)
	}
	return text, nil
}

// checksumOf finds a file in what sha256sum prints, signed or not; a line without a name speaks for the one file
// that the site publishes it beside, if it is the only one.
func checksumOf(text []byte, name string) (string, bool) {
	lines := checksumLine.FindAllSubmatch(text, -1)
	for _, l := range lines {
		if base := string(l[2][bytes.LastIndexByte(l[2], '/')+1:]); base == name {
			return string(l[1]), true
		}
	}
	if len(lines) == 1 && len(lines[0][2]) == 0 {
		return string(lines[0][1]), true
	}
	return "", false
}
