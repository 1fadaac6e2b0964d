package standin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/atomicfile"
)

// routeProtocol marks the routes of Network in the host's table, so that only those are taken back.
const routeProtocol = "77"

// Network is the pods' network of one node: a bridge with the addresses of the Node's podCIDR, and a route by way
// of each other node to its pods. It stands in for flannel and kube-router where all nodes are in one subnet.
type Network struct {
	NodeName string
	// ConfList is the CNI configuration that is written once the Node has a podCIDR; the node is not Ready before.
	ConfList string
	Bridge   string // cni0, kube-bridge
}

// Run follows the Nodes until ctx ends. client must be allowed to list them. What goes wrong is written to log and
// tried again.
func (n Network) Run(ctx context.Context, client *Client, log io.Writer) {
	last, lastError := "", ""
	for {
		nodes, err := client.Nodes(ctx)
		if err == nil {
			// Only a change of what was asked for is worth the work; every minute anyway, since a cable that was
			// pulled takes routes along.
			key := fmt.Sprint(n.wanted(nodes), time.Now().Unix()/15)
			if key != last {
				if err = n.apply(ctx, nodes); err == nil {
					last = key
				}
			}
		}
		text := ""
		if err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != "" && text != lastError {
			fmt.Fprintf(log, "network: %v\n", err)
		}
		lastError = text
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// wanted maps each other node's podCIDR to its address; "" is this node's own podCIDR.
func (n Network) wanted(nodes []Node) map[string]string {
	routes := map[string]string{}
	for _, node := range nodes {
		for _, cidr := range cidrs(node) {
			switch {
			case node.Metadata.Name == n.NodeName:
				routes[""] += cidr + " "
			case node.Address() != "":
				routes[cidr] = node.Address()
			}
		}
	}
	return routes
}

func cidrs(n Node) []string {
	var valid []string
	for _, c := range n.Spec.PodCIDRs {
		if _, err := netip.ParsePrefix(c); err == nil {
			valid = append(valid, c)
		}
	}
	return valid
}

func (n Network) apply(ctx context.Context, nodes []Node) error {
	for _, node := range nodes {
		if node.Metadata.Name == n.NodeName && len(cidrs(node)) > 0 {
			if err := n.writeConfList(cidrs(node)); err != nil {
				return err
			}
		}
	}
	routes := n.wanted(nodes)
	out, err := ip(ctx, "-4", "route", "show", "proto", routeProtocol)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 && routes[f[0]] == "" {
			if _, err := ip(ctx, "route", "del", f[0], "proto", routeProtocol); err != nil {
				return err
			}
		}
	}
	for cidr, via := range routes {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil || !prefix.Addr().Is4() {
			continue // routes of IPv6 are not made
		}
		if _, err := ip(ctx, "route", "replace", cidr, "via", via, "proto", routeProtocol); err != nil {
			return err
		}
	}
	return nil
}

func (n Network) writeConfList(cidrs []string) error {
	var ranges [][]map[string]string
	routes := []map[string]string{}
	for _, c := range cidrs {
		ranges = append(ranges, []map[string]string{{"subnet": c}})
		if prefix, err := netip.ParsePrefix(c); err == nil && prefix.Addr().Is4() {
			routes = append(routes, map[string]string{"dst": "0.0.0.0/0"})
		} else {
			routes = append(routes, map[string]string{"dst": "::/0"})
		}
	}
	text, err := json.MarshalIndent(map[string]any{
		"name": n.Bridge, "cniVersion": "1.0.0",
		"plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": n.Bridge, "isGateway": true, "hairpinMode": true, "forceAddress": true,
				"ipam": map[string]any{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the network's configuration: %w", err)
	}
	if old, err := os.ReadFile(n.ConfList); err == nil && string(old) == string(text) {
		return nil
	}
	for _, setting := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/forwarding"} {
		if err := os.WriteFile(setting, []byte("1"), 0o644); err != nil { //nolint:gosec // the kernel's file
			return fmt.Errorf("switching forwarding on: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(n.ConfList), 0o755); err != nil {
		return fmt.Errorf("writing the network's configuration: %w", err)
	}
	if err := atomicfile.Write(n.ConfList, text, 0o644); err != nil {
		return fmt.Errorf("writing the network's configuration: %w", err)
	}
	return nil
}

// ip runs iproute2's ip of the host.
func ip(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
