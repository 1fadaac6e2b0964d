// Package vip holds a virtual address on one control plane of a cluster at a time. It is `keg-node vip`,
// for clients outside the cluster; inside, the balancer does better. The control planes agree by a Lease
// that each writes through its own API server: one whose API server is not ready cannot hold the
// address, and one that cannot write cannot keep it.
package vip

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/clusterimage/keg/runtime/node"
)

// Options are where things are found and told.
type Options struct {
	// Path is where a file of the host lies; nil is the host itself.
	Path func(name string) string
	// Ready is told once, with nil, when it stands for election; nil tells nobody.
	Ready func(net.Addr)
	// Logf is told what happens; nil tells nobody.
	Logf func(format string, args ...any)
}

func (o Options) path(name string) string {
	if o.Path == nil {
		return name
	}
	return o.Path(name)
}

// Run stands for election until ctx ends, and then takes the address away and gives the Lease back. An
// address that an earlier run left behind goes first. It fails if the configuration makes no sense,
// or if the host has the address for itself.
func Run(ctx context.Context, o Options) error {
	if err := Drop(o); err != nil {
		return err
	}
	data, err := os.ReadFile(o.path(node.VIPConfigFile))
	if err != nil {
		return fmt.Errorf("reading the virtual address's configuration: %w", err)
	}
	c, prefix, err := parse(data)
	if err != nil {
		return err
	}
	if c.Identity == "" {
		if c.Identity, err = os.Hostname(); err != nil {
			return fmt.Errorf("asking for the host name: %w", err)
		}
	}
	logf := o.Logf
	if logf == nil {
		logf = func(string, ...any) {}
	}
	a := &address{prefix: prefix, device: c.Interface, mark: o.path(node.VIPHeldFile), logf: logf}
	if err := a.foreign(); err != nil {
		return err
	}
	e := &elector{
		api:     &server{file: c.Kubeconfig, url: c.Server, read: func(name string) ([]byte, error) { return os.ReadFile(o.path(name)) }},
		network: a,
		// Two that are called the same are still two, and an earlier run of this host is over.
		id:   c.Identity + "_" + strings.ToLower(rand.Text()[:8]),
		logf: logf,
	}
	if o.Ready != nil {
		o.Ready(nil)
	}
	e.run(ctx)
	if e.address {
		return fmt.Errorf("the address %s is left behind", prefix)
	}
	return nil
}

// Drop takes away what a run that did not end in order left behind.
func Drop(o Options) error {
	mark := o.path(node.VIPHeldFile)
	data, err := os.ReadFile(mark)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading which address was left behind: %w", err)
	}
	var h held
	if err := json.Unmarshal(data, &h); err != nil || !h.Address.IsValid() {
		return fmt.Errorf("reading which address was left behind: %s is damaged", mark)
	}
	return (&address{prefix: h.Address, mark: mark, on: h.Interface}).drop()
}

// parse reads the configuration strictly.
func parse(data []byte) (c node.VIPConfig, prefix netip.Prefix, err error) {
	wrong := func(format string, args ...any) (node.VIPConfig, netip.Prefix, error) {
		return c, prefix, node.Errorf(node.KindRequest, "%s: %s", node.VIPConfigFile, fmt.Sprintf(format, args...))
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return wrong("%v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return wrong("something stands after the configuration")
	}
	prefix, err = netip.ParsePrefix(c.Address)
	if err != nil {
		addr, err := netip.ParseAddr(c.Address)
		if err != nil {
			return wrong("%q is no address", c.Address)
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	switch a := prefix.Addr(); {
	case a.Is4In6() || a.Zone() != "":
		return wrong("%q is no plain address", c.Address)
	case !a.IsGlobalUnicast() || prefix.Bits() == 0:
		return wrong("%q is no address that a host can have for others", c.Address)
	case len(c.Interface) > 15 || strings.ContainsAny(c.Interface, "/ \t\n"):
		return wrong("%q is no name of a network device", c.Interface)
	case !filepath.IsAbs(c.Kubeconfig):
		return wrong("kubeconfig %q is not absolute", c.Kubeconfig)
	}
	if c.Server != "" {
		u, err := url.Parse(c.Server)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return wrong("server %q is not https://HOST:PORT", c.Server)
		}
		if h, err := netip.ParseAddr(u.Hostname()); err == nil && h == prefix.Addr() {
			return wrong("server %q is the virtual address itself", c.Server)
		}
	}
	return c, prefix, nil
}
