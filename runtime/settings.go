package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/runtime/node"
)

// settingsFile is where each control plane keeps the cluster's Settings. Env may hold secrets.
const settingsFile = node.Dir + "/settings.json"

// recallSettings makes the settings of the cluster that is there those of this run; what was given now wins.
func (c *Cluster) recallSettings(ctx context.Context) error {
	first := c.First()
	if first == nil || !first.Made() || first.Runner == nil {
		return nil
	}
	data, err := readFile(ctx, first.Runner, settingsFile)
	if err != nil || data == nil {
		return err
	}
	var kept Settings
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&kept); err != nil {
		return fmt.Errorf("reading %s on %s: %w", settingsFile, first.Address, err)
	}
	now := kept.with(c.Options.Settings)
	c.Options.Settings = kept
	before := c.SANs()
	c.Options.Settings = now
	c.newNames = slices.DeleteFunc(c.SANs(), func(s string) bool { return slices.Contains(before, s) })
	return nil
}

// with are settings that were changed by others: Env by key, SANs joined, the rest if it is given.
func (s Settings) with(now Settings) Settings {
	env := basefs.FromLegacyEnv(s.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, basefs.FromLegacyEnv(now.Env))
	s.Env = env
	if now.Config != nil {
		s.Config = now.Config
	}
	if now.Endpoint != "" {
		s.Endpoint = now.Endpoint
	}
	if now.VIP != "" {
		s.VIP = now.VIP
	}
	s.SANs = slices.Clone(s.SANs)
	for _, san := range now.SANs {
		if !slices.Contains(s.SANs, san) {
			s.SANs = append(s.SANs, san)
		}
	}
	return s
}

// applyNames makes the API's certificates valid for what --endpoint, --vip and --san name that a cluster that is there
// was not made with: clients who reach it by that would be refused otherwise. It comes before the settings are
// kept, so that a run that is cut off here does it again.
func applyNames(c *Cluster) []Batch {
	var all []Batch
	for _, n := range c.ByRole(Master) {
		steps := Batch(c.Driver.ApplySANs(c, n))
		all = append(all, append(steps, n.On("wait until all control planes are well", func(ctx context.Context, _ io.Writer) error { return c.Gate(ctx) })))
	}
	return all
}

func noNames(c *Cluster) bool { return len(c.newNames) == 0 }

// keepSettings writes the settings on every control plane.
func keepSettings(c *Cluster) []Batch {
	return []Batch{each(c.ByRole(Master), func(n *Node) []Step {
		return []Step{n.On("keep the cluster's settings", func(ctx context.Context, _ io.Writer) error { return c.writeSettings(ctx, n) })}
	})}
}

func (c *Cluster) writeSettings(ctx context.Context, n *Node) error {
	data, err := json.MarshalIndent(c.Options.Settings, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding settings: %w", err)
	}
	r, err := n.Host.Put(ctx, []File{{Path: settingsFile, Mode: 0o600, Data: append(data, '\n')}})
	if err == nil && len(r.Changed) == 0 {
		return ErrAlready
	}
	return err
}

// SANs are all names and addresses that the API's certificate is to be valid for, but for those that a
// runtime adds by itself: names inside the cluster, the addresses of all control planes, the load
// balancer, the VIP, and what the user wants.
func (c *Cluster) SANs() []string {
	var list []string
	add := func(s string) {
		if s != "" && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	add("127.0.0.1")
	add(APIServerName)
	for _, n := range c.ByRole(Master) {
		add(n.IP)
	}
	host, _ := c.endpoint()
	add(host)
	add(c.Options.VIP)
	for _, s := range c.Options.SANs {
		add(s)
	}
	return list
}

// OwnSANs are those of SANs and CERT_SANS that concern a control plane. Addresses of other control planes are
// not among them: nobody reaches this one by those, and none has to be restarted when another comes or goes.
func (c *Cluster) OwnSANs(n *Node) []string {
	var list []string
	for _, s := range append(c.SANs(), strings.Split(c.Env(n)["CERT_SANS"], ",")...) {
		s = strings.TrimSpace(s)
		other := slices.ContainsFunc(c.ByRole(Master), func(m *Node) bool { return m != n && m.IP == s })
		if s != "" && !other && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}
