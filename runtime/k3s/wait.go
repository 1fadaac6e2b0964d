package k3s

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// startLimit is how long k3s may take from its start to an API that answers, or to a node.
const startLimit = 10 * time.Minute

// restarts is how often k3s may end by itself before nobody waits any longer: every five seconds once. A
// server that joins may end some times, until the others have taken it in.
const restarts = 6

// unitState is what the init system says of k3s.
type unitState struct {
	active   string // ActiveState
	restarts int    // since somebody started it
}

func askUnit(ctx context.Context, n *runtime.Node) (unitState, error) {
	out, err := remote.Output(ctx, n.Runner, "systemctl", "show", "-p", "ActiveState", "-p", "NRestarts", unitOf(n))
	if err != nil {
		return unitState{}, err
	}
	var s unitState
	for line := range strings.Lines(string(out)) {
		switch k, v, _ := strings.Cut(strings.TrimSpace(line), "="); k {
		case "ActiveState":
			s.active = v
		case "NRestarts":
			s.restarts, _ = strconv.Atoi(v)
		}
	}
	return s, nil
}

// whyNot ends the waiting if k3s does not stay up, with what it said last.
func whyNot(ctx context.Context, n *runtime.Node, err error) error {
	s, stateErr := askUnit(ctx, n)
	if stateErr != nil || s.active != "failed" && s.restarts < restarts {
		return err
	}
	said, _ := remote.Output(ctx, n.Runner, "/bin/sh", "-c", `journalctl -q --no-pager -o cat -n 300 -u "$1" | grep -E 'level=(fatal|error)|panic:|Error:' | tail -n 5`, "sh", unitOf(n))
	return fmt.Errorf("%w: k3s does not stay up (%s, started again %d times): %s", runtime.ErrAbort, s.active, s.restarts, strings.TrimSpace(string(said)))
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
	s, err := askUnit(ctx, n)
	if err == nil && s.active != "active" {
		err = fmt.Errorf("%s is %s", unitOf(n), s.active)
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

// skippedKeys are those that the k3s at work said it skips: another version than the one whose
// documentation keg knows may not have them.
const skippedKeys = `
id=$(systemctl show -p InvocationID "$1") || exit 0
journalctl -q --no-pager -o cat "_SYSTEMD_INVOCATION_ID=${id#InvocationID=}" 2>/dev/null |
  sed -n 's/.*Unknown flag --\([A-Za-z0-9-]*\) found.*/\1/p' | sort -u
`

var errSkipped = errors.New("k3s of this version does not know some keys of its configuration, and skipped them")

// started is the end of every start: k3s has read all that was written for it.
func started(ctx context.Context, n *runtime.Node) error {
	out, err := remote.Output(ctx, n.Runner, "/bin/sh", "-c", skippedKeys, "sh", unitOf(n))
	if err != nil {
		return err
	}
	if names := strings.Fields(string(out)); len(names) > 0 {
		return fmt.Errorf("starting k3s: %w: %s", errSkipped, strings.Join(names, ", "))
	}
	return fresh(ctx, n)
}

// Alive asks the API on n, which its own kubeconfig names.
func (d Driver) Alive(ctx context.Context, _ *runtime.Cluster, n *runtime.Node) error {
	return n.Runner.Run(ctx, remote.Cmd{Args: append(d.Kubectl(), "get", "--raw", "/readyz", "--request-timeout=15s")})
}
