package k3s

import (
	"context"
	"errors"
	"fmt"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// traces are what k3s makes on a server, from its first change on.
var traces = []string{etcdMember, sqlite, serverCA, fullToken, serverDir + "/cred"}

// errLost says that a control plane was made and its data is not there.
var errLost = errors.New("it was part of the cluster, and its data is gone: take it out with keg delete --force, and name it again")

// Init makes the first control plane.
func (d Driver) Init(c *runtime.Cluster) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{
		checkVersion(c, first),
		first.On("name kubectl, crictl and ctr, where there are none", func(ctx context.Context, _ writer) error { return nameTools(ctx, first) }),
		first.On("make the control plane with k3s", func(ctx context.Context, out writer) error {
			found, err := first.Existing(ctx, traces...)
			if err != nil {
				return err
			}
			switch {
			case first.Made() && len(found) > 0:
				return d.keepRunning(ctx, c, first)
			case first.Made() && c.OtherMaster(first) != nil:
				return errLost
			case len(found) > 0:
				fmt.Fprintln(out, "taking back what an earlier run began")
				if err := wipe(ctx, first); err != nil {
					return err
				}
			}
			return d.create(ctx, c)
		}),
		first.On("wait for the API", func(ctx context.Context, _ writer) error {
			if err := waitServer(ctx, c, first); err != nil {
				return err
			}
			if first.Made() {
				return nil
			}
			return first.Mark(ctx, runtime.DoneInit)
		}),
	}}
}

// create starts a server that makes a cluster. What ran on a cluster that was there before runs on this
// one again.
func (d Driver) create(ctx context.Context, c *runtime.Cluster) error {
	first := c.First()
	if err := c.Restart(ctx); err != nil {
		return err
	}
	s, err := keptSecrets(ctx, first)
	if err != nil {
		return err
	}
	if s.server == "" {
		s.server = newPassword()
	}
	if s.agent == "" {
		s.agent = newPassword()
	}
	stale, err := d.write(ctx, c, first, true, s.files()...)
	if err != nil {
		return err
	}
	return start(ctx, first, stale)
}

// write brings unit, configuration and other files to a host.
func (Driver) write(ctx context.Context, c *runtime.Cluster, n *runtime.Node, creator bool, files ...runtime.File) (stale bool, err error) {
	text, err := configText(ctx, c, n, creator)
	if err != nil {
		return false, err
	}
	stale, err = put(ctx, n, append(files, runtime.File{Path: configFile, Mode: 0o600, Data: text}, unitFile(n)))
	return stale || n.Changed(program, registriesFile, registryCAFile), err
}

// keepRunning is for a host that is part of the cluster: it is as it should be, or restarted to be so.
// Its tokens stay.
func (d Driver) keepRunning(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	stale, err := d.write(ctx, c, n, n.Done(runtime.DoneInit))
	if err != nil {
		return err
	}
	if err := start(ctx, n, stale); err != nil {
		return err
	}
	if !stale {
		return runtime.ErrAlready
	}
	return nil
}

// wipe takes the data of a server that never became one, or its membership in a cluster that is no more.
// Tokens and configuration stay, they are written anew.
func wipe(ctx context.Context, n *runtime.Node) error {
	if err := stopAll(ctx, n); err != nil {
		return err
	}
	return n.Remove(ctx, serverDir, dataDir+"/agent", nodePassword)
}

// stopAll ends what runs on a host, of either role: the units first, which would start it again.
func stopAll(ctx context.Context, n *runtime.Node) error {
	if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", dropLinks}}); err != nil {
		return err
	}
	err := n.Host.Units(ctx, node.UnitRequest{Units: []string{serverUnit, agentUnit}, Stop: true, Kill: true})
	if err != nil {
		return err
	}
	return n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", stopEverything}})
}
