package k3s

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// startLimit is how long k3s may take from its start to an API that answers, or to a node.
const startLimit = 10 * time.Minute

// restarts is how often k3s may end by itself before nobody waits any longer: every five seconds once. A
// server that joins may end some times, until the others have taken it in.
const restarts = 6

// whyNot ends the waiting if k3s does not stay up, with what it said last.
func whyNot(ctx context.Context, n *runtime.Node, err error) error {
	return n.UnitStaysDown(ctx, unitOf(n), restarts, `level=(fatal|error)|panic:|Error:`, err)
}

// waitServer waits until the API on a server answers and the init system knows that k3s has started.
func waitServer(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	err := runtime.Wait(ctx, startLimit, "k3s on "+n.Name, func(ctx context.Context) error {
		if err := (Driver{}).Alive(ctx, c, n); err != nil {
			return whyNot(ctx, n, err)
		}
		return active(ctx, n)
	})
	if err != nil {
		return err
	}
	return started(ctx, n)
}

func active(ctx context.Context, n *runtime.Node) error {
	s, err := n.Host.Unit(ctx, node.UnitQuery{Unit: unitOf(n)})
	if err == nil && s.Active != "active" {
		err = fmt.Errorf("%s is %s", unitOf(n), s.Active)
	}
	return err
}

// waitAgent waits until k3s on a worker runs and the API knows its node.
func waitAgent(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	err := runtime.Wait(ctx, startLimit, "k3s on "+n.Name, func(ctx context.Context) error {
		if err := active(ctx, n); err != nil {
			return whyNot(ctx, n, err)
		}
		list, err := c.APINodes(ctx)
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.Name == n.Name {
				return nil
			}
		}
		return whyNot(ctx, n, fmt.Errorf("the API has no node %q yet", n.Name))
	})
	if err != nil {
		return err
	}
	return started(ctx, n)
}

// skippedKey is how the k3s at work says that it skips a key: another version than the one whose documentation
// keg knows may not have it.
var skippedKey = regexp.MustCompile(`Unknown flag --([A-Za-z0-9-]+) found`)

var errSkipped = errors.New("k3s of this version does not know some keys of its configuration, and skipped them")

// started is the end of every start: k3s has read all that was written for it.
func started(ctx context.Context, n *runtime.Node) error {
	s, err := n.Host.Unit(ctx, node.UnitQuery{Unit: unitOf(n), Lines: 100, Match: skippedKey.String(), SinceStart: true})
	if err != nil {
		return err
	}
	var names []string
	for _, line := range s.Said {
		names = append(names, skippedKey.FindStringSubmatch(line)[1])
	}
	if len(names) > 0 {
		slices.Sort(names)
		return fmt.Errorf("starting k3s: %w: %s", errSkipped, strings.Join(slices.Compact(names), ", "))
	}
	return fresh(ctx, n)
}

// Alive asks the API on n, which its own kubeconfig names.
func (d Driver) Alive(ctx context.Context, _ *runtime.Cluster, n *runtime.Node) error {
	return n.Runner.Run(ctx, remote.Cmd{Args: append(d.Kubectl(), "get", "--raw", "/readyz", "--request-timeout=15s")})
}
