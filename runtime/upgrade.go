package runtime

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/runtime/node"
)

// UpgradeOptions say how a cluster gets another image.
type UpgradeOptions struct {
	// Workers is how many workers are upgraded at the same time; 0 is a tenth of them, and one at least.
	Workers int
	// Backup, if it is not nil, takes a backup of the state before anything is changed.
	Backup func(ctx context.Context, c *Cluster) error
}

// UpgradePhases bring the cluster from the image it has to c.Image: all hosts are looked at and get
// what they need first; then control planes one by one, then workers in batches. It stops at the first
// failure and leaves the rest as it is; the same upgrade again goes on.
func UpgradePhases(o UpgradeOptions) []Phase {
	u := &upgrade{options: o, versions: map[string]string{}}
	return []Phase{
		&phase{title: "check request", limit: 1, batches: u.check},
		&phase{title: "connect", limit: 30, batches: connect},
		&phase{title: "send keg-node", limit: 10, batches: sendAgent},
		&phase{title: "lock", limit: 30, batches: lock},
		&phase{title: "gather facts", limit: 30, batches: gatherFacts},
		&phase{title: "validate", limit: 1, batches: u.validate},
		&phase{title: "preflight", limit: 30, batches: preflight},
		&phase{title: "back up", limit: 1, batches: u.backup},
		&phase{title: "distribute", limit: uploads, batches: distribute},
		&phase{title: "unpack", limit: 10, batches: unpack},
		&phase{title: "registry", limit: 10, batches: u.registry},
		&phase{title: "upgrade control planes", limit: 1, batches: u.masters},
		&phase{title: "upgrade workers", limit: 1000, batches: u.workers},
		&phase{title: "network and storage", limit: 10, batches: network},
		&phase{title: "wait for nodes", limit: 10, batches: ready},
		&phase{title: "apps", limit: 1, batches: apps},
		&phase{title: "kubeconfig", limit: 1, batches: kubeconfig, skip: noKubeconfig},
		&phase{title: "remove what the old image needed", limit: 10, batches: u.finish},
		&phase{title: "record", limit: 1, batches: recordEnd},
	}
}

// upgrade is one upgrade under way.
type upgrade struct {
	options UpgradeOptions
	// versions are those of kubelets before, by node name.
	versions map[string]string
	// old are the images that hosts had when this began.
	old []digest.Digest
}

func (u *upgrade) check(c *Cluster) []Batch {
	return []Batch{{{Text: "check what is asked for", Do: func(context.Context, io.Writer) error { return c.check() }}}}
}

// validate refuses before anything is touched: hosts of other clusters, versions that are no step
// forward of one minor, a cluster that is not well.
func (u *upgrade) validate(c *Cluster) []Batch {
	return []Batch{{{Text: "judge the way from the old version to the new", Do: func(ctx context.Context, _ io.Writer) error {
		c.settleAlive(ctx)
		if err := judge(c.belonging()); err != nil {
			return err
		}
		if err := c.recallSettings(ctx); err != nil {
			return err
		}
		c.findings = append(c.findings, c.architectures()...)
		// Where an upgrade was cut off, a control plane may just be coming up again, and its node with it.
		var nodes []NodeStatus
		err := Wait(ctx, comingUp, "the API and the nodes", func(ctx context.Context) error {
			list, err := c.APINodes(ctx)
			if err != nil {
				return err
			}
			nodes = list
			for _, s := range list {
				if !s.Ready && !u.begun(c) {
					return fmt.Errorf("node %s is not ready: %s", s.Name, s.Reason)
				}
			}
			return nil
		})
		if nodes == nil || ctx.Err() != nil {
			return err
		}
		c.findings = append(c.findings, u.judgeNodes(c, nodes)...)
		if len(u.old) > 0 && !u.begun(c) { // where it is half done, a control plane may be down until this goes on
			if err := Wait(ctx, comingUp, "the control planes", c.wellOnce); err != nil {
				c.findings = append(c.findings, Finding{ID: "not-well", Severity: Fatal, Text: err.Error(), Cure: "mend that first; keg status shows more"})
			}
		}
		return nil
	}}}}
}

// comingUp is how long a control plane may take that is just being started.
const comingUp = 2 * time.Minute

// belonging finds hosts that are not of this cluster, or were never made part of it.
func (c *Cluster) belonging() []Finding {
	var list []Finding
	add := func(n *Node, text, cure string) {
		list = append(list, Finding{Host: n.Address.String(), ID: "other-cluster", Severity: Fatal, Text: text, Cure: cure})
	}
	first := c.First()
	if first == nil || !first.Made() {
		return []Finding{{ID: "no-cluster", Severity: Fatal, Text: fmt.Sprintf("no control plane of cluster %q answers", c.Name), Cure: "make it with keg run, or bring one back"}}
	}
	for _, n := range c.staying() {
		switch {
		case n.failed != nil: // it was to be left out
		case n.State.UID == "" || !n.Done(DoneInit) && !n.Done(DoneJoin):
			add(n, "it is not part of the cluster", "make it so with keg run, or take it out with keg delete")
		case n.State.Cluster != c.Name || n.State.UID != first.State.UID:
			add(n, fmt.Sprintf("it belongs to cluster %q (UID %s)", n.State.Cluster, n.State.UID), "take it out of this one with keg delete --force")
		}
	}
	c.UID = first.State.UID
	return list
}

// begun says whether an earlier upgrade to this image stopped on the way.
func (u *upgrade) begun(c *Cluster) bool {
	return slices.ContainsFunc(c.staying(), func(n *Node) bool { return n.State.Image == c.Image.Target.Digest })
}

func (u *upgrade) judgeNodes(c *Cluster, nodes []NodeStatus) []Finding {
	var list []Finding
	add := func(n *Node, id, text, cure string) {
		list = append(list, Finding{Host: n.Address.String(), ID: id, Severity: Fatal, Text: text, Cure: cure})
	}
	want := c.KubeVersion()
	for _, n := range c.staying() {
		if n.State.Image != c.Image.Target.Digest && !slices.Contains(u.old, n.State.Image) {
			u.old = append(u.old, n.State.Image)
		}
		if n.State.Runtime != c.Driver.Name() {
			add(n, "runtime", fmt.Sprintf("it runs %s, the image is for %s", n.State.Runtime, c.Driver.Name()), "use an image for the same runtime")
		}
		i := slices.IndexFunc(nodes, func(s NodeStatus) bool { return s.Name == n.Name })
		if i < 0 {
			add(n, "no-node", fmt.Sprintf("the API has no node %q", n.Name), "see keg status; take the host out with keg delete")
			continue
		}
		s := nodes[i]
		u.versions[n.Name] = s.Version
		if !s.Ready && n.State.Image != c.Image.Target.Digest && !u.begun(c) {
			add(n, "not-ready", fmt.Sprintf("node %s is not ready: %s", n.Name, s.Reason), "mend it first, or take the host out with keg delete --force")
		}
		if sameVersion(s.Version, want) {
			continue
		}
		judgeVersion := upgradePath
		if n.Role == Worker { // it may be further behind, as long as the new API bears it
			judgeVersion = kubeletSkew
		}
		if err := judgeVersion(s.Version, want); err != nil {
			add(n, "version", err.Error(), "upgrade through every minor version, and never back; to go back there is keg restore")
		}
	}
	return list
}

func (u *upgrade) backup(c *Cluster) []Batch {
	if u.options.Backup == nil {
		return nil
	}
	return []Batch{{{Text: "back up the cluster's state", Do: func(ctx context.Context, _ io.Writer) error {
		if u.begun(c) {
			return ErrAlready // the one that counts was made before it began
		}
		return u.options.Backup(ctx, c)
	}}}}
}

// registry serves both images until all hosts have the new one.
func (u *upgrade) registry(c *Cluster) []Batch {
	return []Batch{
		{c.First().On("find the registry's authority", func(ctx context.Context, _ io.Writer) error { return c.findAuthority(ctx) })},
		each(c.ByRole(Master), func(n *Node) []Step {
			return []Step{n.On("serve the containers of both images", func(ctx context.Context, _ io.Writer) error {
				return c.registryServe(ctx, n, append([]digest.Digest{c.Image.Target.Digest}, u.old...)...)
			})}
		}),
		each(c.ByRole(Worker), c.balancerSteps),
	}
}

func (u *upgrade) masters(c *Cluster) []Batch {
	masters := c.ByRole(Master)
	slices.SortStableFunc(masters, func(a, b *Node) int { // the one that is asked first
		switch {
		case a == c.First():
			return -1
		case b == c.First():
			return 1
		}
		return 0
	})
	var all []Batch
	for _, n := range masters {
		b := Batch(u.before(c, n))
		b = append(b, u.unlessSame(n, c.Driver.UpgradeControlPlane(c, n))...)
		b = append(b, u.swap(c, n)...)
		b = append(b, n.On("wait until all control planes are well", func(ctx context.Context, _ io.Writer) error { return c.Gate(ctx) }), u.noted(c, n))
		all = append(all, u.unlessDone(c, n, b))
	}
	return all
}

// workers go in batches: a failure in one stops before the next.
func (u *upgrade) workers(c *Cluster) []Batch {
	workers := c.ByRole(Worker)
	size := u.options.Workers
	if size <= 0 {
		size = max(1, (len(workers)+9)/10)
	}
	var all []Batch
	for part := range slices.Chunk(workers, size) {
		all = append(all, each(part, func(n *Node) []Step {
			steps := append(u.before(c, n), u.swap(c, n)...)
			return u.unlessDone(c, n, append(steps, u.noted(c, n)))
		}))
	}
	return all
}

// upgrading is done on a host from before it is drained until it has the new image: a host where that was
// cut off may be drained, or run what was there before, whatever its files say.
const upgrading = "upgrading"

// before sees what there is to do on a host. An image with other apps and the same programs disturbs
// nobody.
func (u *upgrade) before(c *Cluster, n *Node) []Step {
	return []Step{
		n.On("see what changes", func(ctx context.Context, _ io.Writer) error {
			r, err := n.Host.Install(ctx, node.InstallRequest{Items: c.Driver.Items(c, n), OnlyLook: true})
			n.same = len(r.Changed) == 0 && sameVersion(u.versions[n.Name], c.KubeVersion()) && !n.Done(upgrading)
			return err
		}),
		c.hook(n, "pre-upgrade"),
	}
}

// unlessSame skips the steps on a host where nothing changes.
func (u *upgrade) unlessSame(n *Node, steps []Step) []Step {
	return unless(func() bool { return n.same }, steps)
}

// unless wraps steps so that they are not done where done says so when they come.
func unless(done func() bool, steps []Step) []Step {
	var list []Step
	for _, s := range steps {
		do := s.Do
		s.Do = func(ctx context.Context, out io.Writer) error {
			if done() {
				return ErrAlready
			}
			return do(ctx, out)
		}
		list = append(list, s)
	}
	return list
}

// swap takes the pods off the host, exchanges what runs there, and lets pods on again only when it is
// well: a node that is broken stays cordoned for a person to see.
func (u *upgrade) swap(c *Cluster, n *Node) []Step {
	steps := []Step{
		n.On("drain", func(ctx context.Context, out io.Writer) error {
			if err := n.Mark(ctx, upgrading); err != nil {
				return err
			}
			if len(c.staying()) == 1 { // there is nowhere to go
				return ErrAlready
			}
			return c.drain(ctx, n, out)
		}),
		n.On("install programs and their configuration", func(ctx context.Context, _ io.Writer) error {
			r, err := n.Host.Install(ctx, node.InstallRequest{Items: c.Driver.Items(c, n)})
			n.changed = append(n.changed, r.Changed...)
			return err
		}),
		n.On("set kernel settings and load modules", func(ctx context.Context, _ io.Writer) error { return c.kernel(ctx, n) }),
		n.On("pull all images from "+c.Registry().Endpoint(), func(ctx context.Context, _ io.Writer) error {
			r, err := n.Host.Put(ctx, c.Driver.Mirror(c.Registry()))
			n.changed = append(n.changed, r.Changed...)
			return err
		}),
	}
	steps = append(steps, c.Driver.Restart(c, n)...)
	return append(u.unlessSame(n, append(steps,
		n.On("wait until the node is ready with "+c.KubeVersion(), func(ctx context.Context, _ io.Writer) error {
			return c.waitNode(ctx, n, c.KubeVersion())
		}),
		n.On("let pods on again", func(ctx context.Context, _ io.Writer) error { return c.uncordon(ctx, n) }))),
		c.hook(n, "post-upgrade"))
}

// unlessDone skips the steps on a host that has the new image already.
func (u *upgrade) unlessDone(c *Cluster, n *Node, steps []Step) Batch {
	return unless(func() bool { return n.State.Image == c.Image.Target.Digest }, steps)
}

// noted writes on the host which image it has now. Steps of the image before are forgotten there.
func (u *upgrade) noted(c *Cluster, n *Node) Step {
	return n.On("note the new image", func(ctx context.Context, _ io.Writer) error {
		s := n.State
		s.Image, s.Name = c.Image.Target.Digest, c.Image.Name
		s.Done = slices.DeleteFunc(slices.Clone(s.Done), func(step string) bool {
			return step == upgrading || slices.ContainsFunc(u.old, func(d digest.Digest) bool { return d != "" && strings.Contains(step, d.String()) })
		})
		return n.setState(ctx, s)
	})
}

// finish serves the new image alone, and frees what only the old one needed.
func (u *upgrade) finish(c *Cluster) []Batch {
	return []Batch{
		each(c.ByRole(Master), func(n *Node) []Step {
			return []Step{n.On("serve the new image's containers", func(ctx context.Context, _ io.Writer) error {
				return c.registryServe(ctx, n, c.Image.Target.Digest)
			})}
		}),
		keepSettings(c)[0],
		each(c.staying(), func(n *Node) []Step {
			return []Step{n.On("remove blobs that nothing needs any more", func(ctx context.Context, _ io.Writer) error {
				_, err := n.Host.Prune(ctx, node.PruneRequest{Roots: c.roots(n)})
				return err
			})}
		}),
	}
}

// roots are what a host keeps: its rootfs, and on a control plane the images that it serves.
func (c *Cluster) roots(n *Node) []ocispec.Descriptor {
	var list []ocispec.Descriptor
	if r, ok := c.Image.rootfs(n.Facts.Arch); ok {
		list = append(list, r.Descriptor)
	}
	if n.Role == Master {
		list = append(list, c.Image.Target)
		for d := range n.State.Apps {
			list = append(list, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d})
		}
	}
	return list
}
