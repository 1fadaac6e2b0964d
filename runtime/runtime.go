// Package runtime makes Kubernetes clusters of bare hosts: phases that anybody can read in order, run
// over hosts, with a driver for each kind of cluster. The standard library's package of that name is
// imported as goruntime.
package runtime

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/runtime/remote"
)

// Role is what a node does. The words are those of the flags --masters and --nodes.
type Role string

// The roles.
const (
	Master Role = "master" // control plane
	Worker Role = "worker"
)

// Content is where the blobs of a cluster image come from.
type Content interface {
	// Open opens a blob whose content is known to be right.
	Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
}

// Image is a cluster image, resolved.
type Image struct {
	// Name is the full name it was asked for, or the name inside the file it came from.
	Name string
	// Target is its index.
	Target ocispec.Descriptor
	// Index is the index read.
	Index clusterimage.Image
	// Platforms are the rootfs images by platform, such as "linux/amd64".
	Platforms map[string]Rootfs
	// Spec is that of the platform of the first master.
	Spec clusterimage.Spec
	// Documents are manifests of embedded images and refs, by digest, read for their layers.
	Documents map[digest.Digest]ocispec.Manifest
}

// Rootfs is the rootfs image of one platform.
type Rootfs struct {
	Descriptor ocispec.Descriptor
	Manifest   ocispec.Manifest
	Labels     map[string]string
	Metadata   basefs.Metadata
}

// Address is how to reach a host and under which address the cluster knows it.
type Address struct {
	// Host is an IP address; "" is the machine keg runs on.
	Host string
	Port int
}

// Node is one host of a cluster.
type Node struct {
	Address Address
	Role    Role
	// Runner runs commands there as root.
	Runner remote.Runner
}

// Options are what a run may be told.
type Options struct {
	// Progress hears of phases and steps.
	Progress progress.Func
	// Env overrides the image's defaults.
	Env map[string]string
}
