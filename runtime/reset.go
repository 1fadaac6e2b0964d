package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/clusterimage/keg/runtime/node"
)

// ResetReport says what a reset did on each host.
type ResetReport struct {
	Cluster string      `json:"cluster"`
	Hosts   []ResetHost `json:"hosts"`
}

// ResetHost is one host of a ResetReport.
type ResetHost struct {
	Host string `json:"host"`
	// Restored counts what was put back.
	Restored int `json:"restored"`
	// Residue is what could not be, each with the reason.
	Residue []string `json:"residue,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// ResidueError says that a host is not as it was before keg came.
type ResidueError struct{ Residue []string }

// Error lists what is left.
func (e *ResidueError) Error() string {
	return "putting the host back: left over: " + strings.Join(e.Residue, "; ")
}

// Reset puts every host of the cluster back to what it was before. A host that cannot be reached, or
// where something fails, is in the report and in the error, and does not keep the others from being
// reset. The operator's directory goes once no host is left in the record.
func Reset(ctx context.Context, c *Cluster) (ResetReport, error) {
	report := ResetReport{Cluster: c.Name, Hosts: []ResetHost{}}
	err := Run(ctx, c, ResetPhases())
	errs := []error{err}
	var left []*Node
	for _, n := range c.Nodes {
		h := n.reset
		h.Host = n.Address.String()
		failed := n.failed
		if failed == nil && err != nil {
			failed = errors.New("not finished")
		} else if failed != nil {
			errs = append(errs, failed)
		}
		if failed != nil {
			h.Error = redact(failed.Error())
			left = append(left, n)
		}
		report.Hosts = append(report.Hosts, h)
	}
	errs = append(errs, c.forgetRecord(left, false))
	return report, errors.Join(errs...)
}

// forgetRecord keeps in the record only the hosts that are left, and removes the operator's directory
// if there are none.
func (c *Cluster) forgetRecord(left []*Node, complete bool) error {
	if c.Dir == "" {
		return nil
	}
	if len(left) == 0 {
		if err := os.RemoveAll(c.Dir); err != nil {
			return fmt.Errorf("removing the cluster's directory: %w", err)
		}
		return nil
	}
	r, err := LoadRecord(c.Dir)
	if err != nil || r == nil {
		return err
	}
	r.Complete = r.Complete && complete
	r.Nodes = slices.DeleteFunc(r.Nodes, func(n RecordNode) bool {
		return !slices.ContainsFunc(left, func(l *Node) bool { return l.Address == n.Address })
	})
	return writeRecord(c.Dir, *r)
}

// ownership leaves hosts alone that belong to another cluster.
func ownership(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{n.On("see whose it is", func(context.Context, io.Writer) error {
			if n.State.UID == "" || n.State.Cluster == c.Name {
				return nil
			}
			return judge([]Finding{{
				Host: n.Address.String(), ID: "other-cluster", Severity: Fatal,
				Text: fmt.Sprintf("it belongs to cluster %q, not to %q", n.State.Cluster, c.Name),
				Cure: fmt.Sprintf("`keg reset --name %s` frees it", n.State.Cluster),
			}})
		})}
	})}
}

// clean gives the image's own script the first word.
func clean(c *Cluster) []Batch {
	c.settleLead()
	return []Batch{each(c.Nodes, func(n *Node) []Step { return []Step{c.cleanHook(n, "clean")} })}
}

// afterRuntime gives the image's own script a word once the runtime is off.
func afterRuntime(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step { return []Step{c.cleanHook(n, "post-clean")} })}
}

// cleanHook runs a script of the rootfs on a host that is about to be put back, with the settings of the last run:
// the image and what was given by --env are not here any more.
func (c *Cluster) cleanHook(n *Node, name string) Step {
	return n.On(fmt.Sprintf("run scripts/%s.sh, if there is one", name), func(ctx context.Context, out io.Writer) error {
		if !n.Done(doneUnpack) {
			return ErrAlready
		}
		ran, err := c.runHook(ctx, n, node.HookRequest{Name: name, Kept: true}, out)
		if err == nil && !ran {
			return ErrAlready
		}
		// A script that fails must not keep the host from being put back.
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(out, "scripts of %s failed, going on: %v\n", name, err)
			return nil
		}
		return err
	})
}

// takenOff are the steps that take the runtime off a host, with the image's scripts around them.
func (c *Cluster) takenOff(n *Node) []Step {
	steps := append([]Step{c.cleanHook(n, "clean")}, c.Driver.Reset(c, n)...)
	return append(steps, c.cleanHook(n, "post-clean"))
}

func resetRuntime(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		if c.Driver == nil {
			return nil
		}
		return c.Driver.Reset(c, n)
	})}
}

// undo puts back what the recorder on the host knows of.
func undo(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{n.On("put back what was changed", func(ctx context.Context, _ io.Writer) error { return c.undoHost(ctx, n) })}
	})}
}

func forget(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{n.On("remove keg-node", func(ctx context.Context, _ io.Writer) error { return c.forgetHost(ctx, n) })}
	})}
}
