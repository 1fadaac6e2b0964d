package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/clusterimage/keg/runtime/node"
)

// balancerSteps give a worker its balancer before all control planes, for API and registry alike: so no
// worker depends on any one of them, and none has to be touched when one goes.
func (c *Cluster) balancerSteps(n *Node) []Step {
	return []Step{n.On("balance between the control planes", func(ctx context.Context, _ io.Writer) error {
		return c.balance(ctx, n)
	})}
}

func (c *Cluster) balance(ctx context.Context, n *Node) error {
	listener := func(port string, check node.BalancerCheck) node.BalancerListener {
		l := node.BalancerListener{Listen: net.JoinHostPort("127.0.0.1", port), Check: check}
		for _, m := range c.ByRole(Master) {
			l.Backends = append(l.Backends, net.JoinHostPort(m.IP, port))
		}
		return l
	}
	config, err := json.MarshalIndent(node.BalancerConfig{Listeners: []node.BalancerListener{
		listener(apiPort, node.BalancerCheck{Kind: node.CheckHTTPS, Path: "/readyz"}),
		listener(strconv.Itoa(c.Registry().Port), node.BalancerCheck{Kind: node.CheckTLS}),
	}}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the balancer's configuration: %w", err)
	}
	r, err := n.Host.Put(ctx, []File{
		{Path: node.BalancerConfigFile, Mode: 0o600, Data: append(config, '\n')}, // it is looked at every second
		{Path: "/etc/systemd/system/" + node.BalancerUnitName, Mode: 0o644, Data: []byte(node.BalancerUnit)},
	})
	if err != nil {
		return err
	}
	if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{node.BalancerUnitName}}); err != nil {
		return err
	}
	if len(r.Changed) == 0 {
		return ErrAlready
	}
	return nil
}
