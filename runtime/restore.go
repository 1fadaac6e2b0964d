package runtime

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// RestorePhases make the cluster anew on its hosts, or on others, with the state of a backup: whatever
// of it runs there is taken off first, the first control plane comes up with the state, and all others
// join it. It is also how a cluster goes back to an older version: with the backup from before and
// the image from before.
func RestorePhases(a *Archive) []Phase {
	run := RunPhases()
	begin := slices.IndexFunc(run, func(p Phase) bool { return p.Title() == "validate across hosts" })
	claims := slices.IndexFunc(run, func(p Phase) bool { return p.Title() == "claim" })
	joins := slices.IndexFunc(run, func(p Phase) bool { return p.Title() == "join control planes" })
	request := slices.IndexFunc(run, func(p Phase) bool { return p.Title() == "check request" })
	phases := []Phase{&phase{title: "check backup", limit: 1, batches: a.check}, &phase{title: "check request", limit: 1, batches: a.checkRequest}}
	phases = append(phases, run[request+1:begin]...)
	phases = append(phases, &phase{title: "validate across hosts", limit: 1, batches: a.validate})
	phases = append(phases, run[begin+1:claims]...)
	phases = append(phases,
		&phase{title: "take off what is there", limit: 10, batches: takeOff},
		&phase{title: "put back what was changed", limit: 10, batches: undoAll},
	)
	phases = append(phases, run[claims:joins]...)
	phases = append(phases, &phase{title: "forget hosts of the old cluster", limit: 1, batches: a.forgetNodes})
	return append(phases, run[joins:]...)
}

// check refuses a backup that is of something else, before any host is reached.
func (a *Archive) check(c *Cluster) []Batch {
	return []Batch{{{Text: "compare backup and image", Do: func(context.Context, io.Writer) error { return a.Prepare(c) }}}}
}

// Prepare gives a cluster the settings of the backup, where it has no others of its own, and refuses one of another
// name, runtime or version. RestorePhases begin with it; a plan of them wants it beforehand. The error is a
// *PreflightError.
func (a *Archive) Prepare(c *Cluster) error {
	var list []Finding
	add := func(id, text, cure string) {
		list = append(list, Finding{ID: id, Severity: Fatal, Text: text, Cure: cure})
	}
	h := a.Header
	if h.Runtime != c.Driver.Name() {
		add("backup-runtime", fmt.Sprintf("the backup is of a cluster of %s, the image is for %s", h.Runtime, c.Driver.Name()), "restore with the image that the backup names: "+h.Image)
	}
	if !sameVersion(h.KubeVersion, c.KubeVersion()) {
		add("backup-version", fmt.Sprintf("the backup is of Kubernetes %s, the image has %s", h.KubeVersion, c.KubeVersion()), "restore with the image that the backup names, "+h.Image+", and upgrade then")
	}
	if h.Cluster != c.Name {
		add("backup-cluster", fmt.Sprintf("the backup is of cluster %q, not of %q", h.Cluster, c.Name), "give the backup of that cluster")
	}
	c.backup = a
	c.Options.Settings = a.Settings.with(c.Options.Settings)
	return judge(list)
}

// checkRequest is that of a run, but that the cluster may have been on other hosts, which are gone: that they are
// in the operator's record is no reason against it. A later cluster of the same name is.
func (a *Archive) checkRequest(c *Cluster) []Batch {
	return []Batch{{{Text: "check what is asked for", Do: func(context.Context, io.Writer) error {
		if err := c.check(); err != nil {
			return err
		}
		r, err := LoadRecord(c.Dir)
		if err != nil || r == nil || r.UID == a.Header.UID {
			return err
		}
		return c.checkRecord()
	}}}}
}

// validate refuses hosts of any other cluster, also an earlier or later one of the same name.
func (a *Archive) validate(c *Cluster) []Batch {
	return []Batch{{{Text: "compare hosts", Do: func(context.Context, io.Writer) error {
		c.lead = nil
		for _, n := range c.Nodes {
			if n.State.UID != "" && n.State.UID != a.Header.UID {
				c.findings = append(c.findings, Finding{
					Host: n.Address.String(), ID: "other-cluster", Severity: Fatal,
					Text: fmt.Sprintf("it belongs to cluster %q with UID %s, the backup is of UID %s", n.State.Cluster, n.State.UID, a.Header.UID),
					Cure: fmt.Sprintf("`keg reset --name %s` frees it; its data is lost with that", n.State.Cluster),
				})
			}
		}
		c.UID = a.Header.UID
		c.findings = append(c.findings, c.duplicates()...)
		c.findings = append(c.findings, c.clocks()...)
		c.findings = append(c.findings, c.architectures()...)
		c.findings = append(c.findings, c.networks()...)
		return nil
	}}}}
}

// takeOff ends whatever of the cluster runs on its hosts.
func takeOff(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		if n.known && n.State.UID == "" {
			return nil
		}
		return c.takenOff(n)
	})}
}

// undoAll leaves hosts as they were before the cluster came, but for keg-node and its blobs.
func undoAll(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		if n.known && n.State.UID == "" {
			return nil
		}
		return []Step{
			n.On("put back what was changed", func(ctx context.Context, _ io.Writer) error { return c.undoHost(ctx, n) }),
			n.On("forget what was done", func(ctx context.Context, _ io.Writer) error {
				return n.Unmark(ctx, func(string) bool { return true })
			}),
		}
	})}
}

// forgetNodes deletes the nodes of the backup that are not this first control plane: those that are here
// join anew. What the cluster has done stays done.
func (a *Archive) forgetNodes(c *Cluster) []Batch {
	first := c.First()
	return []Batch{{
		first.On("delete the nodes that were", func(ctx context.Context, _ io.Writer) error {
			list, err := c.APINodes(ctx)
			if err != nil {
				return err
			}
			for _, s := range list {
				if s.Name == first.Name {
					continue
				}
				if err := c.deleteNode(ctx, &Node{Name: s.Name}); err != nil {
					return err
				}
			}
			return nil
		}),
		first.On("note what the cluster has done", func(ctx context.Context, _ io.Writer) error {
			for _, step := range a.Header.Steps {
				if err := c.mark(ctx, step); err != nil {
					return err
				}
			}
			return nil
		}),
	}}
}
