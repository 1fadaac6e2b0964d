package k3s

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// Templates of the tree, as rendered on each host.
const (
	serverTemplate = "etc/rancher/k3s/config.yaml"
	agentTemplate  = "etc/rancher/k3s/agent.yaml"
)

// template is the one for a role.
func template(n *runtime.Node) string {
	if n.Role == runtime.Worker {
		return agentTemplate
	}
	return serverTemplate
}

// config is config.yaml of a host: what the image says, then keg's keys, then the user's word. creator
// says that the host has made the cluster and did not join it.
func config(c *runtime.Cluster, n *runtime.Node, rendered []byte, creator bool) (map[string]any, error) {
	base, err := parseConfig(rendered, n)
	if err != nil {
		return nil, err
	}
	doc := merge(base, own(c, n, creator))
	for _, d := range c.Options.Config {
		doc = merge(doc, userKeys(d, n.Role))
	}
	return doc, nil
}

// parseConfig reads what the image's template says. A key that k3s does not know is an error here as in a
// document of the user's.
func parseConfig(rendered []byte, n *runtime.Node) (map[string]any, error) {
	var doc map[string]any
	if err := yaml.UnmarshalStrict(rendered, &doc); err != nil {
		return nil, fmt.Errorf("reading %s of the image: %w", template(n), err)
	}
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		plain := strings.TrimSuffix(name, "+")
		k, ok := keys[plain]
		switch {
		case !ok || n.Role == runtime.Worker && !k.agent:
			err := fmt.Errorf("reading %s of the image: k3s has no key %q", template(n), name)
			if near := nearest(plain); near != "" {
				err = fmt.Errorf("%w; did its author mean %q?", err, near)
			}
			return nil, err
		case k.own != "":
			return nil, fmt.Errorf("reading %s of the image: key %q: %s", template(n), name, k.own)
		}
		if err := checkValue(k.kind, doc[name]); err != nil {
			return nil, fmt.Errorf("reading %s of the image: key %q: %w", template(n), name, err)
		}
		if doc[name] != nil {
			out[plain] = value(k, doc[name])
		}
	}
	return out, nil
}

// own are the keys that are each host's, and those that make the cluster keg's.
func own(c *runtime.Cluster, n *runtime.Node, creator bool) map[string]any {
	env := c.Env(n)
	ips, _ := nodeIPs(env, n)
	doc := map[string]any{
		"node-name": n.Name, "node-ip": strings.Join(ips, ","), "token-file": tokenFile,
		"disable-default-registry-endpoint": true,
	}
	if pause := env["PAUSE_IMAGE"]; pause != "" {
		doc["pause-image"] = pause
	}
	if n.Role == runtime.Worker || !creator {
		// A host that joins knows First by that name, one that has joined itself, and an agent its balancer:
		// none depends on any one control plane.
		doc["server"] = "https://" + runtime.APIServerName + ":6443"
	}
	if n.Role == runtime.Worker {
		return doc
	}
	doc["agent-token-file"], doc["advertise-address"] = agentTokenFile, n.IP
	doc["tls-san"] = listOf(c.OwnSANs(n))
	if creator {
		doc["cluster-init"] = true
	}
	return doc
}

// listOf is a list as YAML has it.
func listOf(words []string) []any {
	var all []any
	for _, w := range words {
		all = append(all, w)
	}
	return all
}

// userKeys are those keys of a user's document that are for hosts of a role.
func userKeys(d runtime.Document, role runtime.Role) map[string]any {
	out := map[string]any{}
	kind := d.Kind()
	if kind == kindAgent && role != runtime.Worker || kind == kindServer && role == runtime.Worker {
		return out
	}
	for name, v := range d.Value {
		plain := strings.TrimSuffix(name, "+")
		k, ok := keys[plain]
		if !ok || k.own != "" || role == runtime.Worker && !k.agent {
			continue
		}
		out[plain] = value(k, v)
	}
	return out
}

// value makes a list of a single value where the key takes a list, so that lists are joined.
func value(k key, v any) any {
	if _, ok := v.([]any); k.kind == list && v != nil && !ok {
		return []any{v}
	}
	return v
}

// merge is runtime.Merge, and of two arguments for the same setting of a component only the later stays.
func merge(base, over map[string]any) map[string]any {
	base = maps.Clone(base)
	for name, v := range over {
		mine, _ := v.([]any)
		theirs, _ := base[name].([]any)
		if strings.HasSuffix(name, "-arg") && len(mine) > 0 {
			base[name] = slices.DeleteFunc(slices.Clone(theirs), func(old any) bool {
				return slices.ContainsFunc(mine, func(now any) bool { return argument(old) == argument(now) })
			})
		}
	}
	return runtime.Merge(base, over)
}

// argument is the name in "name=value".
func argument(v any) string {
	name, _, _ := strings.Cut(plainText(v), "=")
	return strings.TrimLeft(name, "-")
}

// critical are the keys that servers must have alike, as text.
func critical(doc map[string]any) map[string]string {
	out := map[string]string{}
	for name, k := range keys {
		if v, ok := doc[name]; ok && k.critical {
			out[name] = plainText(v)
		}
	}
	// Of what is disabled, one is critical, and so it is in k3s.
	const loadBalancer = "servicelb"
	if disabled, ok := doc["disable"].([]any); ok && slices.Contains(disabled, any(loadBalancer)) {
		out["disable"] = loadBalancer
	}
	return out
}

// DifferenceError says that a server would be configured otherwise than the cluster was made.
type DifferenceError struct {
	Key, Want, Have string // "" is k3s' own default
}

// Error names the key and both values.
func (e *DifferenceError) Error() string {
	return fmt.Sprintf("configuring k3s: %s would be %q, and the cluster was made with %q; that cannot change", e.Key, e.Want, e.Have)
}

// sameCritical compares with the configuration of a server that is at work.
func sameCritical(want map[string]any, working []byte) error {
	var doc map[string]any
	if err := yaml.Unmarshal(working, &doc); err != nil {
		return fmt.Errorf("reading %s: %w", configFile, err)
	}
	w, h := critical(want), critical(doc)
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		if w[name] != h[name] && !(keys[name].kind == boolean && isFalse(w[name]) && isFalse(h[name])) {
			return &DifferenceError{Key: name, Want: w[name], Have: h[name]}
		}
	}
	return nil
}

func isFalse(s string) bool { return s == "" || s == "false" }

// rendered reads the image's template for the host, as keg-node rendered it there.
func rendered(ctx context.Context, n *runtime.Node) ([]byte, error) {
	return remote.Output(ctx, n.Runner, "cat", node.Rootfs+"/"+template(n))
}

// configText is config.yaml for a host. Those of servers are compared with that of First.
func configText(ctx context.Context, c *runtime.Cluster, n *runtime.Node, creator bool) ([]byte, error) {
	text, err := rendered(ctx, n)
	if err != nil {
		return nil, err
	}
	doc, err := config(c, n, text, creator)
	if err != nil {
		return nil, err
	}
	if first := c.First(); n.Role == runtime.Master && first.Made() {
		working, err := first.Read(ctx, configFile)
		if err != nil {
			return nil, err
		}
		if working != nil {
			if err := sameCritical(doc, working); err != nil {
				return nil, err
			}
		}
	}
	out, err := yaml.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing k3s' configuration: %w", err)
	}
	return append([]byte("# Written by keg. Settings are given with --env and --config.\n"), out...), nil
}
