package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// connect reaches every host and sees that commands run there as root.
func connect(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{n.On("connect", func(ctx context.Context, _ io.Writer) error {
			if n.Runner == nil {
				r, err := c.Connect(ctx, n.Address)
				if err != nil {
					return err
				}
				n.Runner = r
				if closer, ok := r.(io.Closer); ok {
					c.Defer(func(context.Context) error { n.Runner = nil; _ = closer.Close(); return nil })
				}
			}
			return n.Runner.Run(ctx, remote.Cmd{Args: []string{"true"}})
		})}
	})}
}

// sendAgent makes sure that keg-node of this build is on every host.
func sendAgent(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{n.On("send keg-node", func(ctx context.Context, _ io.Writer) (err error) {
			if n.Host, err = c.Agent(ctx, n.Runner); err == nil {
				c.Defer(func(ctx context.Context) error { return c.leave(ctx, n) })
			}
			return err
		})}
	})}
}

// leave takes keg-node off a host that it was sent to for nothing: another host has failed before this
// one was looked at. It does not if somebody else is at work there, or anything is known of a cluster.
func (c *Cluster) leave(ctx context.Context, n *Node) error {
	if n.known || n.forgotten {
		return nil
	}
	release, err := n.Host.Lock(ctx, c.lockRequest(0))
	if err != nil {
		return nil //nolint:nilerr // then it is not ours to tidy up
	}
	if f, factsErr := n.Host.Facts(ctx, node.FactsRequest{}); factsErr == nil && f.State == nil {
		err = n.Host.Forget(ctx)
	}
	return errors.Join(err, release())
}

// lockWait lets the connection of a keg that was just killed fall apart. One that has lost a host notices
// after 45 seconds at the earliest, and node.LockSilence is over before this is.
const lockWait = 35 * time.Second

func (c *Cluster) lockRequest(wait time.Duration) node.LockRequest {
	return node.LockRequest{Owner: fmt.Sprintf("keg, working on cluster %q", c.Name), WaitSeconds: int(wait / time.Second)}
}

// lock keeps others off the hosts until the run ends.
func lock(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{n.On("take the lock", func(ctx context.Context, _ io.Writer) error {
			release, err := n.Host.Lock(ctx, c.lockRequest(lockWait))
			for tries := 0; tries < 3 && errors.Is(err, &node.Error{Kind: node.KindForgotten}); tries++ {
				if n.Host, err = c.Agent(ctx, n.Runner); err == nil {
					release, err = n.Host.Lock(ctx, c.lockRequest(lockWait))
				}
			}
			if err != nil {
				return err
			}
			c.Defer(func(ctx context.Context) error {
				// A host that was looked at and not touched keeps nothing of keg.
				var err error
				if n.known && n.State.UID == "" && !n.forgotten {
					err = n.Host.Forget(ctx)
				}
				// That of release says that the lock was lost on the way: somebody else may have worked there.
				return errors.Join(err, release())
			})
			return nil
		})}
	})}
}

// gatherFacts only reads.
func gatherFacts(c *Cluster) []Batch {
	return []Batch{each(c.Nodes, func(n *Node) []Step {
		return []Step{n.On("gather facts", func(ctx context.Context, _ io.Writer) error { return c.facts(ctx, n) })}
	})}
}

func (c *Cluster) facts(ctx context.Context, n *Node) error {
	var signs []string
	if c.Driver != nil {
		signs = c.Driver.Signs()
	}
	before := time.Now()
	f, err := n.Host.Facts(ctx, node.FactsRequest{Paths: signs})
	if err != nil {
		return err
	}
	// The host read its clock somewhere between the two readings here.
	took := time.Since(before)
	n.skew = time.Unix(0, f.UnixNano).Sub(before.Add(took / 2))
	n.skewError = took / 2
	n.Facts, n.known = f, true
	if f.State != nil {
		n.State = *f.State
	}
	n.Name = strings.ToLower(f.Hostname)
	n.IP = n.Address.Host
	if n.IP == "" {
		n.IP, err = localAddress(ctx, n)
	}
	return err
}

// localAddress chooses the address of a host that was named by none: the one it had before, or that of
// the default route, or else the first.
func localAddress(ctx context.Context, n *Node) (string, error) {
	if n.State.Address != "" {
		return n.State.Address, nil
	}
	// 192.0.2.1 is nobody's (RFC 5737); nothing is sent.
	if out, err := remote.Output(ctx, n.Runner, "ip", "-4", "route", "get", "192.0.2.1"); err == nil {
		words := strings.Fields(string(out))
		for i, w := range words {
			if w == "src" && i+1 < len(words) {
				return words[i+1], nil
			}
		}
	}
	for _, a := range n.Facts.Addresses {
		if addr, err := netip.ParseAddr(a); err == nil && addr.Is4() && addr.IsGlobalUnicast() {
			return a, nil
		}
	}
	return "", errors.New("choosing this machine's address: it has none but the loopback one")
}
