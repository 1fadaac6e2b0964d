package discover

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/clusterimage/keg/basefs"
)

// Lists of images that the makers of k3s and k0s publish with each version, at the root of the tree or in images/.
const (
	ListK3s = "k3s-images.txt"
	ListK0s = "k0s-images.txt"
)

// Conventions of sealos.
const (
	sealosLists    = "images/shim/"
	sealosArchives = "images/skopeo/tar.txt"
	sealosIgnore   = ".sealignore"
)

// isList says whether a file of the tree is a list of images, one a line.
func isList(name string) bool {
	base := strings.ToLower(path.Base(name))
	return slices.Contains(basefs.ImageLists(), name) || name == ListK3s || name == ListK0s || strings.HasPrefix(name, sealosLists) ||
		path.Dir(name) == "images" && strings.HasSuffix(base, ".txt") && (strings.Contains(base, "images") || strings.Contains(base, "image-list"))
}

// list finds the images of a list.
func (f *findings) list(data []byte) {
	lines, err := basefs.ParseImageList(f.file, bytes.NewReader(unquote(data)))
	if err != nil {
		var wrong *basefs.LineError
		if errors.As(err, &wrong) {
			err = &FileError{File: f.file, Line: wrong.LineNo, Err: fmt.Errorf("%q is %w", wrong.Text, wrong.Err)}
		}
		f.fail(err)
		return
	}
	for _, l := range lines {
		f.add(l.Ref, Declared, Certain, "", Where{File: f.file, Line: l.LineNo})
	}
}

// unquote takes quotes off the lines of a list, as sealos does.
func unquote(data []byte) []byte {
	if !bytes.ContainsAny(data, `"'`) {
		return data
	}
	lines := bytes.Split(data, []byte("\n"))
	for i, l := range lines {
		t := bytes.TrimSpace(l)
		if len(t) > 1 && (t[0] == '"' || t[0] == '\'') && t[len(t)-1] == t[0] {
			lines[i] = t[1 : len(t)-1]
		}
	}
	return bytes.Join(lines, []byte("\n"))
}

// system finds the images that the cluster itself consists of.
func (f *findings) system() {
	s := f.search
	meta := s.opts.Metadata
	version := meta.KubernetesVersion()
	where := Where{File: basefs.MetadataFile, Field: "version"}
	declared := func(name string) bool {
		return slices.ContainsFunc(s.files, func(n string) bool {
			return isList(n) && (n == name || path.Base(n) == name || slices.Contains(basefs.ImageLists(), n))
		})
	}
	switch meta.Runtime {
	case "kubernetes":
		list, exact := Kubeadm(version)
		for _, ref := range list {
			f.add(ref, Declared, Certain, "", where)
		}
		if !exact {
			f.skip(where, fmt.Sprintf("keg does not know which etcd, CoreDNS and pause kubeadm %s wants: put what `kubeadm config images list` prints into imageList", version))
		}
	case "k3s":
		if !declared(ListK3s) {
			f.skip(where, "the images of k3s itself are not known: put "+ListK3s+" of its release into images/, or its archive of images")
		}
	case "k0s":
		if !declared(ListK0s) {
			f.skip(where, "the images of k0s itself are not known: put what `k0s airgap list-images` prints into images/"+ListK0s+", or its archive of images")
		}
	}
}

// companions are what kubeadm wants beside the images that have Kubernetes' own version.
type companions struct{ etcd, coredns, pause string }

// kubeadms are the companions by version, from cmd/kubeadm/app/constants/constants.go at the version's tag. They change
// within a minor version, so that only versions that were looked up are here.
var kubeadms = map[string]companions{
	"v1.36.3": {"3.6.8-0", "v1.14.2", "3.10.2"},
	"v1.37.2": {"3.7.0-0", "v1.14.6", "3.10.2"},
}

// Kubeadm lists the images that kubeadm wants for a version of Kubernetes, as `kubeadm config images list` does. If exact is
// false, keg knows only those that have Kubernetes' own version.
func Kubeadm(version string) (list []string, exact bool) {
	if _, err := semver.NewVersion(version); err != nil || !strings.HasPrefix(version, "v") {
		return nil, false
	}
	const registry = "registry.k8s.io/"
	for _, p := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		list = append(list, registry+p+":"+strings.ReplaceAll(version, "+", "_"))
	}
	c, exact := kubeadms[version]
	if exact {
		list = append(list, registry+"coredns/coredns:"+c.coredns, registry+"pause:"+c.pause, registry+"etcd:"+c.etcd)
	}
	return list, exact
}
