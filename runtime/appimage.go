package runtime

import (
	"context"
	"fmt"
	"io"
	"maps"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime/node"
)

// AppPhases bring an app image, c.Image, to a cluster that is there, whatever its runtime: what it embeds
// goes to the cluster's registries first, then its apps and commands are started as those of the cluster
// image are, each once for an image.
func AppPhases() []Phase {
	service := servicePhases(allMasters)
	return append(append([]Phase{&phase{title: "check request", limit: 1, batches: beginApp}}, service...),
		&phase{title: "check the app", limit: 1, batches: checkApp},
		&phase{title: "distribute", limit: uploads, batches: distributeApp},
		&phase{title: "registry", limit: 10, batches: serveApp},
		&phase{title: "unpack", limit: 1, batches: unpackApp},
		&phase{title: "network and storage", limit: 1, batches: pluginApps},
		&phase{title: "apps", limit: 1, batches: apps},
	)
}

func beginApp(c *Cluster) []Batch {
	c.later = true
	return nil
}

// checkApp refuses an app that the cluster's version of Kubernetes, or its hosts, are not for.
func checkApp(c *Cluster) []Batch {
	return []Batch{{{Text: "compare app and cluster", Do: func(ctx context.Context, _ io.Writer) error {
		version, err := c.apiVersion(ctx)
		if err != nil {
			return err
		}
		list := c.masterArchitectures()
		if err := CheckKubeVersion(c.Image.Spec.KubeVersion, version); err != nil {
			list = append(list, Finding{
				ID: "kube-version", Severity: Fatal, Text: fmt.Sprintf("%s: %v", c.Image.Name, err),
				Cure: "use a version of the app for this cluster, or upgrade the cluster",
			})
		}
		return judge(list)
	}}}}
}

// masterArchitectures finds control planes that the app image is not built for.
func (c *Cluster) masterArchitectures() []Finding {
	workers := c.Nodes
	defer func() { c.Nodes = workers }()
	c.Nodes = c.ByRole(Master)
	return c.architectures()
}

// CheckKubeVersion judges a cluster's version of Kubernetes by the range that an image wants; "" is any.
func CheckKubeVersion(want, version string) error {
	if want == "" {
		return nil
	}
	allowed, err := semver.NewConstraint(want)
	if err != nil {
		return fmt.Errorf("reading KUBEVERSION %q: %w", want, err)
	}
	v, err := semver.NewVersion(version)
	if err != nil {
		return fmt.Errorf("reading version %q: %w", version, err)
	}
	// A build of a version, such as v1.37.2+k3s1, or one before it, v1.38.0-rc.1, is judged as that version.
	core, err := semver.NewVersion(fmt.Sprintf("%d.%d.%d", v.Major(), v.Minor(), v.Patch()))
	if err != nil {
		return fmt.Errorf("reading version %q: %w", version, err)
	}
	if !allowed.Check(core) {
		return fmt.Errorf("it wants Kubernetes %s, the cluster has %s", want, version)
	}
	return nil
}

func distributeApp(c *Cluster) []Batch {
	return []Batch{each(c.ByRole(Master), func(n *Node) []Step {
		blobs := c.blobsFor(n)
		text := fmt.Sprintf("send the app with %s (%s, less what is there)", count(len(c.embedded()), "image", "images"), megabytes(size(blobs)))
		return []Step{n.On(text, func(ctx context.Context, out io.Writer) error { return send(ctx, n, c.Content, blobs, out) })}
	})}
}

// serveApp notes the app on every control plane, so that whatever comes later keeps serving it.
func serveApp(c *Cluster) []Batch {
	return []Batch{each(c.ByRole(Master), func(n *Node) []Step {
		return []Step{n.On("serve the app's containers", func(ctx context.Context, _ io.Writer) error {
			if err := n.noteApp(ctx, c.Image.Target.Digest, c.Image.Name); err != nil {
				return err
			}
			return c.registryServe(ctx, n, n.State.Image)
		})}
	})}
}

// noteApp writes down that a control plane has what an app image embeds.
func (n *Node) noteApp(ctx context.Context, app digest.Digest, name string) error {
	if n.State.Apps[app] == name {
		return nil
	}
	s := n.State
	s.Apps = maps.Clone(s.Apps)
	if s.Apps == nil {
		s.Apps = map[digest.Digest]string{}
	}
	s.Apps[app] = name
	return n.setState(ctx, s)
}

func unpackApp(c *Cluster) []Batch {
	first := c.First()
	return []Batch{{first.On("unpack the app and render its templates", func(ctx context.Context, _ io.Writer) error {
		r, ok := c.Image.rootfs(first.Facts.Arch)
		if !ok {
			return fmt.Errorf("finding a rootfs for linux/%s: the image has none", first.Facts.Arch)
		}
		app := c.Image.Target.Digest
		if err := first.Host.Unpack(ctx, node.UnpackRequest{Manifest: r.Descriptor, App: app}); err != nil {
			return err
		}
		return first.Host.Render(ctx, node.RenderRequest{Env: c.Env(first), Apps: c.AppEnv(), App: app})
	})}}
}
