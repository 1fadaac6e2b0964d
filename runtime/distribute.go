package runtime

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime/node"
)

// Steps that HostState.Done knows.
const (
	doneUnpack = "unpack"
	// DoneInit is marked by drivers on the control plane that made the cluster, once it is made. From then
	// on only an upgrade exchanges the image.
	DoneInit = "init"
	// DoneJoin is marked by drivers on every other host, once it is part of the cluster.
	DoneJoin = "join"
)

// claim writes down whose the hosts are, before anything of theirs changes, and what is going to
// appear there, so that whatever happens from here on can be undone.
func claim(c *Cluster) []Batch {
	return []Batch{
		{{Text: "record the cluster", Do: func(context.Context, io.Writer) error { return c.record(false) }}},
		each(c.Nodes, func(n *Node) []Step {
			return []Step{n.On("claim the host", func(ctx context.Context, _ io.Writer) error {
				s := node.HostState{
					Cluster: c.Name, UID: c.UID, Role: string(n.Role), Node: n.Name, Address: n.IP,
					Image: c.Image.Target.Digest, Name: c.Image.Name, Runtime: c.Driver.Name(),
				}
				s.Apps = n.State.Apps
				if n.State.UID == c.UID && n.State.Image == s.Image {
					s.Done = n.State.Done
				}
				if err := n.setState(ctx, s); err != nil {
					return err
				}
				claim := c.Driver.Claim(n)
				if pods := c.Env(n)["POD_CIDR"]; pods != "" {
					claim.Routes = strings.Split(pods, ",")
				}
				return n.Host.Claim(ctx, claim)
			})}
		}),
	}
}

// uploads is how many hosts are sent to at the same time: the operator's line is one.
const uploads = 5

// distribute sends what hosts do not have yet: the rootfs to all, the embedded images to the control
// planes, where the registries are.
func distribute(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		blobs := c.blobsFor(n)
		text := "send the rootfs"
		if n.Role == Master {
			if images := len(c.embedded()); images > 0 {
				text += " and " + count(images, "image", "images")
			}
		}
		if total := size(blobs); total > 0 {
			text += fmt.Sprintf(" (%s, less what is there)", megabytes(total))
		}
		return []Step{n.On(text, func(ctx context.Context, out io.Writer) error { return send(ctx, n, c.Content, blobs, out) })}
	})}
}

// send gives a host those of the blobs that it does not have.
func send(ctx context.Context, n *Node, from Content, blobs []ocispec.Descriptor, out io.Writer) error {
	all := make([]digest.Digest, 0, len(blobs))
	for _, b := range blobs {
		all = append(all, b.Digest)
	}
	missing, err := n.Host.Missing(ctx, all)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return ErrAlready
	}
	var total, done int64
	var list []Blob
	for _, b := range blobs {
		if slices.Contains(missing, b.Digest) {
			total += b.Size
		}
	}
	o, _ := out.(*stepOutput)
	for _, b := range blobs {
		if !slices.Contains(missing, b.Digest) {
			continue
		}
		list = append(list, Blob{Digest: b.Digest, Size: b.Size, Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, err := from.Open(ctx, b.Digest)
			if err != nil || o == nil {
				return r, err
			}
			// One goroutine sends the blobs in turn, so done needs no lock.
			return &countingReader{ReadCloser: r, count: func(n int) { done += int64(n); o.amount(done, total) }}, nil
		}})
	}
	return n.Host.Receive(ctx, list)
}

// countingReader tells how much was read, every half megabyte and at the end.
type countingReader struct {
	io.ReadCloser
	count   func(n int)
	pending int
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.pending += n
	if r.pending >= 512<<10 || err != nil {
		r.count(r.pending)
		r.pending = 0
	}
	return n, err
}

// embedded are the embedded images that some host of the cluster may run.
func (c *Cluster) embedded() []clusterimage.Embedded {
	platforms := map[string]bool{}
	for _, n := range c.Nodes {
		if n.Facts.Arch == "" { // a dry run: those of all platforms of the image
			for p := range c.Image.Platforms {
				platforms[p] = true
			}
			continue
		}
		platforms["linux/"+n.Facts.Arch] = true
	}
	var list []clusterimage.Embedded
	for _, e := range c.Image.Index.Embedded {
		if e.Platform == "" || platforms[e.Platform] {
			list = append(list, e)
		}
	}
	return list
}

// blobsFor lists what a host needs of the image, each blob once.
func (c *Cluster) blobsFor(n *Node) []ocispec.Descriptor {
	var list []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	add := func(descs ...ocispec.Descriptor) {
		for _, d := range descs {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				list = append(list, d)
			}
		}
	}
	image := func(d ocispec.Descriptor, m ocispec.Manifest) {
		add(m.Config)
		add(m.Layers...)
		add(d) // last: a manifest on a host says that its blobs are there
	}
	if r, ok := c.Image.rootfs(n.Facts.Arch); ok {
		image(r.Descriptor, r.Manifest)
	}
	if n.Role != Master {
		return list
	}
	for _, e := range c.embedded() {
		image(e.Manifest, c.Image.Documents[e.Manifest.Digest])
	}
	for _, r := range c.Image.Index.Refs {
		image(r, c.Image.Documents[r.Digest])
	}
	add(c.Image.Target)
	return slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == "" })
}

func size(descs []ocispec.Descriptor) int64 {
	var total int64
	for _, d := range descs {
		total += d.Size
	}
	return total
}

// unpack makes the rootfs out of its layers on every host, and renders its templates with the host's env.
func unpack(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{
			n.On("unpack the rootfs", func(ctx context.Context, _ io.Writer) error {
				r, ok := c.Image.rootfs(n.Facts.Arch)
				if !ok {
					return fmt.Errorf("finding a rootfs for linux/%s: the image has none", n.Facts.Arch)
				}
				if err := n.Host.Unpack(ctx, node.UnpackRequest{Manifest: r.Descriptor}); err != nil {
					return err
				}
				return n.Mark(ctx, doneUnpack)
			}),
			n.On("render its templates", func(ctx context.Context, _ io.Writer) error {
				return n.Host.Render(ctx, node.RenderRequest{Env: c.Env(n), Apps: c.AppEnv()})
			}),
		}
	})}
}
