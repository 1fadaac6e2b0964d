// Package clusterimage is the format of a cluster image: how one OCI image index holds a rootfs image
// per platform, the container images embedded beside it, and what the cluster runs. It is pure data:
// no I/O. docs/format.md describes the same in prose.
package clusterimage

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ArtifactType marks an OCI image index as a cluster image (image-spec v1.1, image index, artifactType).
const ArtifactType = "application/vnd.clusterimage.v1"

// RefsArtifactType marks the manifest that carries original index documents as blobs.
const RefsArtifactType = "application/vnd.clusterimage.refs.v1"

// Annotations of the index's entries.
const (
	// AnnotationRole tells embedded entries from rootfs images, which have none.
	AnnotationRole = "io.clusterimage.role"
	// AnnotationPlatform is the platform an embedded image was chosen for, such as "linux/amd64".
	// The entry's own platform is unknown/unknown, so that no tool takes it for the rootfs.
	AnnotationPlatform = "io.clusterimage.platform"
	// AnnotationName is the full name of an embedded image, such as "docker.io/library/nginx:1.27",
	// or "docker.io/library/nginx@sha256:..." where it was named by digest alone.
	AnnotationName = "io.containerd.image.name"
	// AnnotationIndex is the digest of the index by which an embedded image was named, if it was by one.
	AnnotationIndex = "io.clusterimage.index"
)

// AnnotationFormat stands on the index itself, with the value Format: the mark that is left when a tool
// older than image-spec v1.1, such as Debian 12's skopeo, loses the artifact type in copying.
const (
	AnnotationFormat = "io.clusterimage.format"
	Format           = "1"
)

// Values of AnnotationRole.
const (
	RoleImage = "image"
	RoleRefs  = "refs"
)

// Labels of the rootfs image's config.
const (
	LabelRuntime     = "io.clusterimage.runtime"      // kubernetes, k3s or k0s
	LabelKubeVersion = "io.clusterimage.kube-version" // such as v1.37.2
	LabelSpec        = "io.clusterimage.spec"         // JSON of Spec
	LabelType        = "io.clusterimage.type"         // TypeCluster or TypeApp
	// LabelDocker is "only" on images of trees that have docker and no other container runtime.
	LabelDocker = "io.clusterimage.docker"
)

// Values of LabelType.
const (
	TypeCluster = "cluster" // has a runtime: makes a cluster of bare hosts
	TypeApp     = "app"     // has none: runs on a cluster that is there
)

// Spec is what a cluster image runs, and with which defaults. It is inherited through FROM: a child
// adds to it or replaces parts by name.
type Spec struct {
	Apps []App `json:"apps,omitempty"`
	// Launch names the apps to start, in order.
	Launch []string `json:"launch,omitempty"`
	// Cmds are run by "sh -c" in the rootfs directory on the first control plane, in order, after the apps.
	Cmds []string `json:"cmds,omitempty"`
	// Env are defaults for templates, hooks and commands at run time; "KEY" to value.
	Env map[string]string `json:"env,omitempty"`
	// KubeVersion is the range of Kubernetes versions the image needs, such as ">=1.30, <1.38"; "" is any.
	KubeVersion string `json:"kubeVersion,omitempty"`
}

// App is one application in application/apps/NAME/ of the rootfs.
type App struct {
	Name string `json:"name"`
	// Type is one of AppHelm and its like, or "" where only Cmds can start it.
	Type string `json:"type,omitempty"`
	// Role is RoleCNI or RoleCSI for a plugin that is started before everything else, else "".
	Role string `json:"role,omitempty"`
	// Files are the app's entry points in order, relative to application/apps/NAME/: the YAML files
	// of a kube app, the scripts of a shell app, "." for a chart or a kustomization.
	Files []string `json:"files,omitempty"`
	// Env are values for the app's templates and commands.
	Env map[string]string `json:"env,omitempty"`
	// Cmds replace the way the type is started; each element is one command for "sh -c".
	Cmds []string `json:"cmds,omitempty"`
}

// Values of App.Type.
const (
	AppHelm      = "helm"      // a chart
	AppKustomize = "kustomize" // a kustomization
	AppKube      = "kube"      // YAML or JSON for kubectl apply
	AppShell     = "shell"     // scripts
)

// Values of App.Role.
const (
	RoleCNI = "cni"
	RoleCSI = "csi"
)

// App returns the app of that name.
func (s Spec) App(name string) (App, bool) {
	i := slices.IndexFunc(s.Apps, func(a App) bool { return a.Name == name })
	if i < 0 {
		return App{}, false
	}
	return s.Apps[i], true
}

// ParseSpec reads LabelSpec. An absent label is an empty Spec.
func ParseSpec(labels map[string]string) (Spec, error) {
	text := labels[LabelSpec]
	if text == "" {
		return Spec{}, nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	var s Spec
	if err := d.Decode(&s); err != nil {
		return Spec{}, fmt.Errorf("reading label %s: %w", LabelSpec, err)
	}
	return s, nil
}

// Image is an index read as a cluster image.
type Image struct {
	// Rootfs holds the descriptors of the rootfs images, one per platform.
	Rootfs []ocispec.Descriptor
	// Embedded holds the container images, in the order of the index.
	Embedded []Embedded
	// Refs holds the manifests (RefsArtifactType) whose layers are original index documents.
	Refs []ocispec.Descriptor
}

// Embedded is one container image inside a cluster image.
type Embedded struct {
	// Name is the full name with registry: "docker.io/library/nginx:1.27".
	Name string
	// Platform is "os/arch" or "os/arch/variant".
	Platform string
	// Index is the digest of the index it was named by, or "".
	Index digest.Digest
	// Manifest is the image's own manifest, as its registry gave it.
	Manifest ocispec.Descriptor
}

// ErrNotClusterImage says that an index or manifest is some other kind of image.
var ErrNotClusterImage = errors.New("not a cluster image")

// Parse sorts the entries of a cluster image's index by role.
// It fails with ErrNotClusterImage where the artifact type is another. One that is missing is no
// proof: tools older than image-spec v1.1 lose it when they copy an index, and keep the annotations.
func Parse(idx ocispec.Index) (Image, error) {
	marked := idx.Annotations[AnnotationFormat] != "" || slices.ContainsFunc(idx.Manifests, hasRole)
	if idx.ArtifactType != ArtifactType && (idx.ArtifactType != "" || !marked) {
		return Image{}, fmt.Errorf("reading index with artifact type %q: %w", idx.ArtifactType, ErrNotClusterImage)
	}
	var img Image
	for i, d := range idx.Manifests {
		switch role := d.Annotations[AnnotationRole]; role {
		case "":
			if d.Platform == nil {
				return Image{}, fmt.Errorf("reading index: entry %d (%s) has no role and no platform", i, d.Digest)
			}
			img.Rootfs = append(img.Rootfs, d)
		case RoleRefs:
			img.Refs = append(img.Refs, d)
		case RoleImage:
			name := d.Annotations[AnnotationName]
			if name == "" {
				return Image{}, fmt.Errorf("reading index: embedded image %s has no annotation %s", d.Digest, AnnotationName)
			}
			img.Embedded = append(img.Embedded, Embedded{
				Name:     name,
				Platform: d.Annotations[AnnotationPlatform],
				Index:    digest.Digest(d.Annotations[AnnotationIndex]),
				Manifest: d,
			})
		default:
			return Image{}, fmt.Errorf("reading index: entry %d (%s) has unknown role %q: this image needs a newer keg", i, d.Digest, role)
		}
	}
	if len(img.Rootfs) == 0 {
		return Image{}, errors.New("reading index: it has no rootfs image")
	}
	return img, nil
}

func hasRole(d ocispec.Descriptor) bool { return d.Annotations[AnnotationRole] != "" }

// Index is the inverse of Parse: rootfs images first, sorted by platform, then embedded images sorted
// by name and platform, then refs. Equal images give equal indexes.
func (img Image) Index() ocispec.Index {
	idx := ocispec.Index{
		MediaType:    ocispec.MediaTypeImageIndex,
		ArtifactType: ArtifactType,
		Annotations:  map[string]string{AnnotationFormat: Format},
	}
	idx.SchemaVersion = 2
	byPlatform := func(a, b ocispec.Descriptor) int {
		return strings.Compare(PlatformString(a.Platform), PlatformString(b.Platform))
	}
	idx.Manifests = append(idx.Manifests, slices.SortedStableFunc(slices.Values(img.Rootfs), byPlatform)...)
	embedded := slices.Clone(img.Embedded)
	SortEmbedded(embedded)
	for _, e := range embedded {
		d := e.Manifest
		d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
		d.Annotations = map[string]string{
			AnnotationRole:     RoleImage,
			AnnotationName:     e.Name,
			AnnotationPlatform: e.Platform,
		}
		if e.Index != "" {
			d.Annotations[AnnotationIndex] = e.Index.String()
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	for _, d := range img.Refs {
		d.ArtifactType = RefsArtifactType
		d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
		d.Annotations = map[string]string{AnnotationRole: RoleRefs}
		idx.Manifests = append(idx.Manifests, d)
	}
	return idx
}

// SortEmbedded sorts by name and platform, as Index does.
func SortEmbedded(list []Embedded) {
	slices.SortStableFunc(list, func(a, b Embedded) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Platform, b.Platform))
	})
}

// RootfsFor returns the rootfs image of a platform such as "linux/arm64".
func (img Image) RootfsFor(platform string) (ocispec.Descriptor, bool) {
	i := slices.IndexFunc(img.Rootfs, func(d ocispec.Descriptor) bool { return PlatformString(d.Platform) == platform })
	if i < 0 {
		return ocispec.Descriptor{}, false
	}
	return img.Rootfs[i], true
}

// ParsePlatform reads "os/arch" or "os/arch/variant".
func ParsePlatform(s string) (ocispec.Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return ocispec.Platform{}, fmt.Errorf("reading platform %q: it is not OS/ARCH or OS/ARCH/VARIANT, such as linux/amd64", s)
	}
	p := ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// PlatformString is "os/arch" or "os/arch/variant"; "" for nil. The variant v8 of arm64 is left out,
// since there is no other.
func PlatformString(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" && (p.Architecture != "arm64" || p.Variant != "v8") {
		s += "/" + p.Variant
	}
	return s
}
