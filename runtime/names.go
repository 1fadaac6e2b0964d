package runtime

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/clusterimage/keg/runtime/node"
)

// apiPort is that of the API on every control plane.
const apiPort = "6443"

// endpoint is the load balancer that is there already; "" and apiPort if there is none.
func (c *Cluster) endpoint() (host, port string) {
	host, port, err := net.SplitHostPort(c.Options.Endpoint)
	if err != nil {
		return "", apiPort
	}
	return host, port
}

// APIEndpoint is "host:port" under which every host of the cluster reaches the API: the load balancer
// that was there already, or else APIServerName, which is the host itself on a control plane, and on a
// worker its own balancer.
func (c *Cluster) APIEndpoint() string {
	if c.Options.Endpoint != "" {
		return c.Options.Endpoint
	}
	return net.JoinHostPort(APIServerName, apiPort)
}

// nearAPI is the address of the API as a host sees it.
func (c *Cluster) nearAPI(n *Node) string {
	switch {
	case n.Role == Worker:
		return "127.0.0.1"
	case n == c.First() || n.Made():
		return n.IP
	}
	return c.First().IP // until it has joined
}

// nearRegistry is the address of the registry as a host sees it.
func (c *Cluster) nearRegistry(n *Node) string {
	if n.Role == Worker {
		return "127.0.0.1"
	}
	return n.IP
}

// names tells a host the addresses of API and registry.
func (c *Cluster) names(ctx context.Context, n *Node) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", c.nearAPI(n), APIServerName)
	fmt.Fprintf(&b, "%s %s\n", c.nearRegistry(n), c.Registry().Name)
	return n.Host.Block(ctx, node.BlockRequest{Path: "/etc/hosts", Marker: "keg", Text: b.String()})
}
