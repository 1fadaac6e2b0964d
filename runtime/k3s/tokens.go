package k3s

import (
	"context"
	"fmt"
	"io"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// RotateTokens has k3s choose a new server token, since a chosen one would stand in its command line, and
// makes a new agent token. First writes its own file last: until then it differs from the token that is
// valid, by which a run after a kill knows that it must go on and not begin again.
func (d Driver) RotateTokens(c *runtime.Cluster) []runtime.Batch {
	first := c.First()
	r := &rotation{}
	all := []runtime.Batch{{first.On("have k3s choose a new token", func(ctx context.Context, _ writer) error { return r.begin(ctx, c) })}}
	servers := runtime.Batch{}
	for _, n := range c.ByRole(runtime.Master) {
		if n != first {
			servers = append(servers, n.On("write the new tokens", func(ctx context.Context, _ writer) error { return r.write(ctx, n) }))
		}
	}
	if len(servers) > 0 {
		all = append(all, servers)
	}
	all = append(all, runtime.Batch{first.On("write the new tokens", func(ctx context.Context, _ writer) error { return r.write(ctx, first) })})
	for _, n := range c.ByRole(runtime.Master) {
		all = append(all, runtime.Batch{
			n.On("restart k3s", func(ctx context.Context, _ writer) error { return restart(ctx, c, n) }),
			n.On("wait until all control planes are well", func(ctx context.Context, _ writer) error { return c.Gate(ctx) }),
		})
	}
	agents := runtime.Batch{}
	for _, n := range c.ByRole(runtime.Worker) {
		agents = append(agents, n.On("write the new token and restart k3s", func(ctx context.Context, _ writer) error {
			if _, err := put(ctx, n, []runtime.File{{Path: tokenFile, Mode: 0o600, Data: r.agentToken()}}); err != nil {
				return err
			}
			return restart(ctx, c, n)
		}))
	}
	if len(agents) > 0 {
		all = append(all, agents)
	}
	return all
}

const rotateToken = `K3S_TOKEN=$(cat "$1") && export K3S_TOKEN && exec /usr/local/bin/k3s token rotate`

// rotation is one rotation under way.
type rotation struct{ secrets }

// begin makes new secrets, or finds those of a rotation that was cut off.
func (r *rotation) begin(ctx context.Context, c *runtime.Cluster) error {
	first := c.First()
	kept, err := keptSecrets(ctx, first)
	if err != nil {
		return err
	}
	if kept.server == "" || kept.agent == "" {
		return errNoSecrets
	}
	valid, hash, err := validToken(ctx, first)
	if err != nil {
		return err
	}
	if valid == kept.server {
		// The old token is in no command line, and nobody needs to see what it prints.
		if err := first.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", rotateToken, "sh", fullToken}, Stdout: io.Discard}); err != nil {
			return err
		}
		if valid, hash, err = validToken(ctx, first); err != nil {
			return err
		}
		if valid == kept.server {
			return fmt.Errorf("rotating the token: k3s says that it did, and %s is as it was", fullToken)
		}
	}
	r.secrets = secrets{server: valid, agent: newPassword(), hash: hash}
	return nil
}

// validToken is the server token that is valid, as k3s keeps it.
func validToken(ctx context.Context, n *runtime.Node) (valid, hash string, err error) {
	full, err := n.Read(ctx, fullToken)
	if err != nil {
		return "", "", err
	}
	if valid, hash = password(full); hash == "" {
		return "", "", fmt.Errorf("reading %s: it is no token with the hash of a CA", fullToken)
	}
	return valid, hash, nil
}

func (r *rotation) write(ctx context.Context, n *runtime.Node) error {
	_, err := put(ctx, n, r.files())
	return err
}
