package k0s

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// template is the tree's k0s.yaml, as rendered on each host.
const template = "etc/k0s/k0s.yaml"

// config is k0s.yaml of a control plane: what the image says, then keg's keys, then the user's word. All
// control planes have the same, but for their addresses.
func config(c *runtime.Cluster, n *runtime.Node, rendered []byte) (map[string]any, error) {
	var doc map[string]any
	if err := yaml.UnmarshalStrict(rendered, &doc); err != nil {
		return nil, fmt.Errorf("reading etc/k0s/k0s.yaml of the image: %w", err)
	}
	for _, p := range checkKeys("", doc) { // k0s itself passes over some that it does not know
		if !p.own {
			return nil, fmt.Errorf("reading etc/k0s/k0s.yaml of the image: %s; %s", p.text, p.cure)
		}
	}
	ours := map[string]any{"spec": map[string]any{
		"api": map[string]any{
			"address": n.IP, "sans": listOf(c.OwnSANs(n)), "externalAddress": external(c),
		},
		"storage":   map[string]any{"type": "etcd", "etcd": map[string]any{"peerAddress": n.IP}},
		"telemetry": map[string]any{"enabled": false},
	}}
	doc = runtime.Merge(doc, ours)
	for _, d := range c.Options.Config {
		doc = runtime.Merge(doc, d.Value)
	}
	if c.Env(n)["FAIL_CGROUP_V1"] == "false" {
		acceptCgroupV1(doc)
	}
	return doc, nil
}

// acceptCgroupV1 is for profiles of the user's too: k0s itself refuses those that say nothing about it.
func acceptCgroupV1(doc map[string]any) {
	profiles, _ := within(doc, "spec")["workerProfiles"].([]any)
	for i, p := range profiles {
		object, _ := p.(map[string]any)
		if _, said := within(object, "values")["failCgroupV1"]; !said {
			profiles[i] = runtime.Merge(object, map[string]any{"values": map[string]any{"failCgroupV1": false}})
		}
	}
}

// listOf is a list as YAML has it.
func listOf(words []string) []any {
	var all []any
	for _, w := range words {
		all = append(all, w)
	}
	return all
}

// external is the load balancer that was there already, in k0s' words; nil if there is none.
func external(c *runtime.Cluster) any {
	host, port, err := net.SplitHostPort(c.Options.Endpoint)
	switch {
	case err != nil:
		return nil
	case port == "6443":
		return host
	}
	return c.Options.Endpoint
}

// within is a mapping below others; nil if one of them is not there.
func within(m map[string]any, path ...string) map[string]any {
	for _, name := range path {
		m, _ = m[name].(map[string]any)
	}
	return m
}

// lasting are the keys that a cluster keeps for its life.
var lasting = []string{
	"spec.network.provider", "spec.network.podCIDR", "spec.network.serviceCIDR", "spec.network.clusterDomain",
	"spec.network.dualStack.enabled", "spec.network.dualStack.IPv6podCIDR", "spec.network.dualStack.IPv6serviceCIDR",
	"spec.network.primaryAddressFamily",
}

// sameLasting compares a new configuration with the one at work.
func sameLasting(doc map[string]any, working []byte) error {
	var old map[string]any
	if err := yaml.Unmarshal(working, &old); err != nil {
		return fmt.Errorf("reading %s: %w", configFile, err)
	}
	for _, path := range lasting {
		parts := strings.Split(path, ".")
		last := len(parts) - 1
		was, is := within(old, parts[:last]...)[parts[last]], within(doc, parts[:last]...)[parts[last]]
		if !reflect.DeepEqual(was, is) {
			return fmt.Errorf("comparing the configuration with the cluster's: %s is %v there and cannot become %v; leave it as it is, or make another cluster", path, was, is)
		}
	}
	return nil
}

// rendered is the image's k0s.yaml, or that of the tree in basefs/k0s where the image has none, as trees of sealer.
func rendered(ctx context.Context, c *runtime.Cluster, n *runtime.Node) ([]byte, error) {
	text, err := n.Read(ctx, node.Rootfs+"/"+template)
	if err != nil || text != nil {
		return text, err
	}
	tree, err := basefs.Recipe("k0s")
	if err != nil {
		return nil, err
	}
	const name = template + ".tmpl"
	if text, err = fs.ReadFile(tree, name); err != nil {
		return nil, fmt.Errorf("reading keg's own k0s.yaml: %w", err)
	}
	return basefs.RenderText(name, string(text), c.Env(n))
}

// configText is k0s.yaml for a control plane. The program of the image has judged it.
func configText(ctx context.Context, c *runtime.Cluster, n *runtime.Node) ([]byte, error) {
	text, err := rendered(ctx, c, n)
	if err != nil {
		return nil, err
	}
	doc, err := config(c, n, text)
	if err != nil {
		return nil, err
	}
	if first := c.First(); first.Made() {
		working, err := first.Read(ctx, configFile)
		if err != nil {
			return nil, err
		}
		if working != nil {
			if err := sameLasting(doc, working); err != nil {
				return nil, err
			}
		}
	}
	out, err := yaml.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing k0s' configuration: %w", err)
	}
	out = append([]byte("# Written by keg. Settings are given with --env and --config.\n"), out...)
	if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{node.Rootfs + "/bin/k0s", "config", "validate", "--config", "-"}, Stdin: bytes.NewReader(out)}); err != nil {
		return nil, fmt.Errorf("having k0s judge its configuration: %w", err)
	}
	return out, nil
}
