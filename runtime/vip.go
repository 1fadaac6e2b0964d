package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"github.com/clusterimage/keg/runtime/node"
)

// virtualAddress lets one control plane at a time have the VIP, for clients outside of the cluster. Its
// hosts do not need it.
func virtualAddress(c *Cluster) []Batch {
	return []Batch{each(c.ByRole(Master), func(n *Node) []Step {
		return []Step{n.On("share the address "+c.Options.VIP, func(ctx context.Context, _ io.Writer) error {
			config, err := json.MarshalIndent(node.VIPConfig{
				Address: c.Options.VIP, Identity: n.Name,
				Kubeconfig: c.Driver.CommandEnv()["KUBECONFIG"],
				Server:     "https://" + net.JoinHostPort(n.IP, apiPort),
			}, "", "  ")
			if err != nil {
				return fmt.Errorf("encoding the virtual address: %w", err)
			}
			r, err := n.Host.Put(ctx, []File{
				{Path: node.VIPConfigFile, Mode: 0o600, Data: append(config, '\n')},
				{Path: "/etc/systemd/system/" + node.VIPUnitName, Mode: 0o644, Data: []byte(node.VIPUnit)},
			})
			if err != nil {
				return err
			}
			if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{node.VIPUnitName}, Restart: len(r.Changed) > 0}); err != nil {
				return err
			}
			if len(r.Changed) == 0 {
				return ErrAlready
			}
			return nil
		})}
	})}
}

func noVIP(c *Cluster) bool { return c.Options.VIP == "" }
