package k0s

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// startLimit is how long k0s may take from its start to an API that answers, or to a node.
const startLimit = 10 * time.Minute

// restarts is how often k0s may end by itself, after ten seconds each, before nobody waits any longer.
const restarts = 5

// whyNot ends the waiting if k0s does not stay up, with what it said last.
func whyNot(ctx context.Context, n *runtime.Node, err error) error {
	return n.UnitStaysDown(ctx, unitOf(n), restarts, `level=(fatal|error)|panic:|^Error:`, err)
}

// answers wants the k0s at work to be the one that is installed, in the role of the host.
func answers(ctx context.Context, n *runtime.Node) error {
	out, err := remote.Output(ctx, n.Runner, program, "status", "-o", "json")
	if err != nil {
		return err
	}
	var status struct{ Role, Version string }
	if err := json.Unmarshal(out, &status); err != nil {
		return fmt.Errorf("reading k0s' status: %w", err)
	}
	if role := subcommand(n); !strings.HasPrefix(status.Role, role) {
		return fmt.Errorf("%w: k0s runs there as %s, not as %s; take the host out with keg delete, and name it again", runtime.ErrAbort, status.Role, role)
	}
	want, err := remote.Output(ctx, n.Runner, program, "version")
	if err != nil {
		return err
	}
	if v := strings.TrimSpace(string(want)); status.Version != v {
		return fmt.Errorf("k0s %s is still running, not %s", status.Version, v)
	}
	return nil
}

// Alive asks the API on n, which its own kubeconfig names.
func (d Driver) Alive(ctx context.Context, _ *runtime.Cluster, n *runtime.Node) error {
	return n.Runner.Run(ctx, remote.Cmd{Args: append(d.Kubectl(), "get", "--raw", "/readyz", "--request-timeout=15s")})
}

// waitController waits until the API on a control plane answers.
func waitController(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	err := runtime.Wait(ctx, startLimit, "k0s on "+n.Name, func(ctx context.Context) error {
		err := answers(ctx, n)
		if err == nil {
			err = (Driver{}).Alive(ctx, c, n)
		}
		if err != nil {
			return whyNot(ctx, n, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fresh(ctx, n)
}

// waitWorker waits until k0s on a worker runs and the API knows its node.
func waitWorker(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	err := runtime.Wait(ctx, startLimit, "k0s on "+n.Name, func(ctx context.Context) error {
		if err := answers(ctx, n); err != nil {
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
	return fresh(ctx, n)
}

func waitAny(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	if n.Role == runtime.Worker {
		return waitWorker(ctx, c, n)
	}
	return waitController(ctx, c, n)
}

// waitFor waits for k0s on a host of either role.
func waitFor(c *runtime.Cluster, n *runtime.Node) runtime.Step {
	return n.On("wait for k0s", func(ctx context.Context, _ writer) error { return waitAny(ctx, c, n) })
}
