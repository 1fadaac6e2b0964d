package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

const (
	conflist   = "etc/cni/net.d/10-keg-bridge.conflist"
	routesUnit = "keg-routes.service"
)

// Mirror makes containerd ask the cluster's registry for every image and nobody else: `server` is what
// it would fall back to, and containerd reads the file anew for each pull.
func (Driver) Mirror(r runtime.Registry) []runtime.File {
	const dir = "/etc/containerd/certs.d/_default"
	hosts := fmt.Sprintf(`server = %[1]q
ca = %[2]q

[host.%[1]q]
  capabilities = ["pull", "resolve"]
  ca = %[2]q
`, r.URL(), dir+"/ca.crt")
	return []runtime.File{
		{Path: dir + "/ca.crt", Mode: 0o644, Data: r.CA},
		{Path: dir + "/hosts.toml", Mode: 0o644, Data: []byte(hosts)},
	}
}

// Network sets up the bridge network, unless CNI says that an app does it: each node's part of POD_CIDR
// is the one that Kubernetes gave it, and a unit of ours keeps routes to the parts of the others.
func (d Driver) Network(c *runtime.Cluster) []runtime.Batch {
	var near runtime.Batch
	if masters := c.ByRole(runtime.Master); len(masters) > 1 {
		for _, n := range masters {
			near = append(near, n.On("let pods on the host's network ask its own API", func(ctx context.Context, _ writer) error {
				out, err := remote.Output(ctx, n.Runner, "/bin/sh", "-c", restartStale, "sh", n.IP)
				if err == nil && len(out) == 0 {
					return runtime.ErrAlready
				}
				return err
			}))
		}
	}
	all := d.bridge(c)
	if near != nil {
		all = append(all, near)
	}
	return all
}

// restartStale restarts containers of pods on the host's network that started while the host was joining:
// kubelet gave them a copy of /etc/hosts in which the API was another control plane, which may go. Pods
// of kubelet itself, which have no hyphens in their UIDs, are none of those.
const restartStale = `
for f in /var/lib/kubelet/pods/*-*-*-*-*/etc-hosts; do
  [ -f "$f" ] || continue
  grep -q '[[:space:]]` + runtime.APIServerName + `' "$f" || continue
  ! grep -q "^$1[[:space:]].*` + runtime.APIServerName + `" "$f" || continue
  uid=${f#/var/lib/kubelet/pods/} uid=${uid%/etc-hosts}
  for id in $(ctr -n k8s.io containers ls -q "labels.\"io.kubernetes.pod.uid\"==$uid,labels.\"io.cri-containerd.kind\"==container" 2>/dev/null); do
    ctr -n k8s.io tasks kill -s SIGTERM "$id" 2>/dev/null && echo "$id"
  done
done
exit 0
`

// bridge configures the bridge network and routes.
func (Driver) bridge(c *runtime.Cluster) []runtime.Batch {
	if c.Env(c.First())["CNI"] != "bridge" {
		return nil
	}
	parts := map[string]runtime.NodeStatus{}
	batch := runtime.Batch{}
	for _, n := range c.Nodes {
		batch = append(batch, n.On("configure the pod network", func(ctx context.Context, _ writer) error {
			env := c.Env(n)
			env["NODE_POD_CIDR"] = strings.Join(podCIDRs(parts[n.Name]), ",")
			if err := n.Host.Render(ctx, node.RenderRequest{Env: env, Apps: c.AppEnv()}); err != nil {
				return err
			}
			r, err := n.Host.Install(ctx, node.InstallRequest{Items: []node.InstallItem{{From: conflist, To: "/" + conflist, Mode: 0o644}}})
			if err == nil && len(r.Changed) == 0 {
				return runtime.ErrAlready
			}
			return err
		}))
		if len(c.Nodes) > 1 {
			batch = append(batch, n.On("route to the pods of the other hosts", func(ctx context.Context, _ writer) error {
				r, err := n.Host.Put(ctx, []runtime.File{{Path: "/etc/systemd/system/" + routesUnit, Mode: 0o644, Data: routes(n.Name, parts)}})
				if err != nil {
					return err
				}
				return n.Host.Units(ctx, node.UnitRequest{Units: []string{routesUnit}, Restart: len(r.Changed) > 0})
			}))
		}
	}
	return []runtime.Batch{
		{c.First().On("learn each node's pod network", func(ctx context.Context, _ writer) error {
			return runtime.Wait(ctx, runtime.NodeReadyLimit, "the nodes' pod networks", func(ctx context.Context) error {
				list, err := c.APINodes(ctx)
				if err != nil {
					return err
				}
				clear(parts)
				for _, s := range list {
					if _, err := netip.ParsePrefix(s.PodCIDR); err == nil && s.Address != "" {
						parts[s.Name] = s
					}
				}
				for _, n := range c.Nodes {
					if _, ok := parts[n.Name]; !ok {
						return fmt.Errorf("node %s has none yet", n.Name)
					}
				}
				return nil
			})
		})},
		batch,
	}
}

func podCIDRs(s runtime.NodeStatus) []string {
	if len(s.PodCIDRs) > 0 {
		return s.PodCIDRs
	}
	return []string{s.PodCIDR}
}

// addressFor is the node's address of the family of a range.
func addressFor(s runtime.NodeStatus, cidr string) (address string, ok bool) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "", false
	}
	for _, a := range append([]string{s.Address}, s.Addresses...) {
		if addr, err := netip.ParseAddr(a); err == nil && addr.Unmap().Is4() == p.Addr().Is4() {
			return a, true
		}
	}
	return "", false
}

// routes is the unit that routes from one node to the pods of all others.
func routes(from string, parts map[string]runtime.NodeStatus) []byte {
	var start, stop strings.Builder
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if name == from {
			continue
		}
		for _, cidr := range podCIDRs(parts[name]) {
			via, ok := addressFor(parts[name], cidr)
			if !ok {
				continue
			}
			fmt.Fprintf(&start, "ExecStart=/usr/bin/env ip route replace %s via %s\n", cidr, via)
			fmt.Fprintf(&stop, "ExecStop=-/usr/bin/env ip route del %s via %s\n", cidr, via)
		}
	}
	return []byte(`[Unit]
Description=Routes to the pods of other hosts (keg)
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin
` + start.String() + stop.String() + `
[Install]
WantedBy=multi-user.target
`)
}
