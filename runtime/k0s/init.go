package k0s

import (
	"context"
	"errors"
	"fmt"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// traces are what k0s makes on a control plane, from its first change on.
var traces = []string{dataDir + "/bin", pkiDir, caCert, etcdDir, etcdData}

// errLost says that a control plane was made and its data is not there.
var errLost = errors.New("it was part of the cluster, and its data is gone: take it out with keg delete --force, and name it again")

// Init makes the first control plane.
func (d Driver) Init(c *runtime.Cluster) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{
		checkHost(c, first),
		nameTools(first),
		checkImages(c, first),
		first.On("make the control plane with k0s", func(ctx context.Context, out writer) error {
			found, err := first.Existing(ctx, traces...)
			if err != nil {
				return err
			}
			switch {
			case first.Made() && found[etcdData]:
				return keepRunning(ctx, c, first)
			case first.Made() && c.OtherMaster(first) != nil:
				return errLost
			case len(found) > 0:
				fmt.Fprintln(out, "taking back what an earlier run began")
				if err := wipe(ctx, first); err != nil {
					return err
				}
			}
			// What ran on a cluster that was there before runs on this one again.
			if err := c.Restart(ctx); err != nil {
				return err
			}
			stale, err := write(ctx, c, first, true)
			if err != nil {
				return err
			}
			return start(ctx, first, stale)
		}),
		first.On("wait for the API", func(ctx context.Context, _ writer) error {
			if err := waitController(ctx, c, first); err != nil {
				return err
			}
			if first.Made() {
				return nil
			}
			return first.Mark(ctx, runtime.DoneInit)
		}),
	}}
}

// wipe takes the data of a host that never became part of the cluster, or that was part of one that is no
// more. Configuration and service stay, they are written anew.
func wipe(ctx context.Context, n *runtime.Node) error {
	if err := stopAll(ctx, n); err != nil {
		return err
	}
	return n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", wipeData, "sh", dataDir, runDir}})
}

// wipeData leaves the directories, which may be file systems of their own.
const wipeData = `for d; do [ ! -d "$d" ] || find "$d" -mindepth 1 -maxdepth 1 -exec rm -rf {} + || exit; done`

// stopAll ends what runs on a host, of either role: the units first, which would start it again.
func stopAll(ctx context.Context, n *runtime.Node) error {
	if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", dropLinks}}); err != nil {
		return err
	}
	err := n.Host.Units(ctx, node.UnitRequest{Units: []string{"k0scontroller.service", "k0sworker.service"}, Stop: true, Kill: true})
	if err != nil {
		return err
	}
	return n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", stopEverything}})
}
