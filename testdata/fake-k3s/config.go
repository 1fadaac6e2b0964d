package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/internal/standin"
)

const defaultDataDir = "/var/lib/rancher/k3s"

// settings are what flags, files and the environment say: every key has at least one value.
type settings map[string][]string

func (s settings) get(name string) string {
	if v := s[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func (s settings) or(name, standard string) string {
	if v := s.get(name); v != "" {
		return v
	}
	return standard
}

func (s settings) bool(name string) bool { return s.get(name) == "true" }

// list splits at commas too, as k3s does.
func (s settings) list(name string) []string {
	var all []string
	for _, v := range s[name] {
		for part := range strings.SplitSeq(v, ",") {
			if part != "" {
				all = append(all, part)
			}
		}
	}
	return all
}

// parse reads args, then config.yaml and its drop-ins, and the environment: arguments win, then the
// environment, then files. rest are arguments that are no flags.
func parse(command string, args []string, getenv func(string) string) (s settings, rest []string, err error) {
	flags := flagsOf(command)
	given, rest, err := parseArgs(flags, args)
	if err != nil {
		return nil, nil, err
	}
	file, explicit := given.get("config"), true
	if file == "" {
		file = getenv("K3S_CONFIG_FILE")
	}
	if file == "" {
		file, explicit = "/etc/rancher/k3s/config.yaml", false
	}
	s, err = readFiles(flags, file, explicit)
	if err != nil {
		return nil, nil, err
	}
	for name, f := range flags {
		if f.env != "" && getenv(f.env) != "" {
			s[name] = []string{getenv(f.env)}
		}
	}
	maps.Copy(s, given)
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if err := check(name, flags[name], s[name]); err != nil {
			return nil, nil, err
		}
	}
	return s, rest, nil
}

func parseArgs(flags map[string]flag, args []string) (settings, []string, error) {
	s, rest := settings{}, []string(nil)
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "-") {
			rest = append(rest, arg)
			continue
		}
		name, value, has := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		f, ok := flags[name]
		if !ok {
			for long, other := range flags {
				if other.short != "" && other.short == name {
					name, f, ok = long, other, true
				}
			}
		}
		if !ok {
			return nil, nil, usageError("flag provided but not defined: -" + name)
		}
		if !has {
			if f.kind == boolean {
				value = "true"
			} else {
				if len(args) == 0 {
					return nil, nil, usageError("flag needs an argument: -" + name)
				}
				value, args = args[0], args[1:]
			}
		}
		if f.kind == list {
			s[name] = append(s[name], value)
		} else {
			s[name] = []string{value}
		}
	}
	return s, rest, nil
}

// readFiles reads config.yaml and config.yaml.d/*.yaml in the order of their names. The last word on a key wins, and
// a key with a plus sign appends. What is not a flag of the command is skipped with a warning: the real one does
// no more about a typing error.
func readFiles(flags map[string]flag, file string, explicit bool) (settings, error) {
	files := []string{file}
	more, err := os.ReadDir(file + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range more { // sorted by name
		if ext := filepath.Ext(e.Name()); ext == ".yaml" || ext == ".yml" {
			files = append(files, filepath.Join(file+".d", e.Name()))
		}
	}
	s := settings{}
	for i, name := range files {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) && i == 0 && !explicit {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := s.merge(data); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if _, ok := flags[key]; !ok {
			logf("warning", "Unknown flag --%s found in config.yaml, skipping\n", key)
			delete(s, key)
		}
	}
	return s, nil
}

func (s settings) merge(data []byte) error {
	var content map[string]any
	if err := yaml.Unmarshal(data, &content); err != nil {
		return err
	}
	// Plain keys come before those that append in one file, whatever their order: a file is a map.
	for _, key := range slices.Sorted(maps.Keys(content)) {
		values, err := valuesOf(content[key])
		if err != nil {
			return fmt.Errorf("key %s: %w", key, err)
		}
		if name, plus := strings.CutSuffix(key, "+"); plus {
			s[name] = append(slices.Clone(s[name]), values...)
		} else {
			s[key] = values
		}
	}
	return nil
}

func valuesOf(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return []string{""}, nil
	case []any:
		var all []string
		for _, item := range v {
			one, err := valuesOf(item)
			if err != nil {
				return nil, err
			}
			all = append(all, one...)
		}
		return all, nil
	case map[string]any:
		return nil, errors.New("a map is no value of a flag")
	case float64:
		return []string{strconv.FormatFloat(v, 'f', -1, 64)}, nil
	default:
		return []string{fmt.Sprint(v)}, nil
	}
}

func check(name string, f flag, values []string) error {
	for _, v := range values {
		switch f.kind {
		case boolean:
			if _, err := strconv.ParseBool(v); err != nil {
				return usageError(fmt.Sprintf("invalid boolean value %q for -%s: parse error", v, name))
			}
		case number:
			if _, err := strconv.Atoi(v); err != nil {
				return usageError(fmt.Sprintf("invalid value %q for flag -%s: parse error", v, name))
			}
		}
		if len(f.allowed) > 0 && v != "" && !slices.Contains(f.allowed, v) {
			return fmt.Errorf("invalid value %q for --%s: the stand-in knows %s", v, name, strings.Join(f.allowed, ", "))
		}
	}
	if f.unsupported != "" && len(values) > 0 && values[len(values)-1] != "" && values[len(values)-1] != "false" {
		return fmt.Errorf("stand-in: --%s is not supported: %s", name, f.unsupported)
	}
	return nil
}

// config is what a node runs with.
type config struct {
	settings
	server         bool // or an agent
	dataDir        string
	nodeName       string
	nodeIP         []string
	serverURL      string
	token          token
	agentToken     token
	clusterCIDR    string
	serviceCIDR    string
	clusterDNS     []string
	clusterDomain  string
	flannelBackend string
	pause          string
	port           int
	bin            string // of the payload; empty in the light mode
}

func (c *config) path(parts ...string) string {
	return filepath.Join(append([]string{c.dataDir}, parts...)...)
}

func (c *config) tls(name string) string { return c.path("server", "tls", name) }

func (c *config) agentFile(name string) string { return c.path("agent", name) }

func (c *config) address() string {
	if len(c.nodeIP) > 0 {
		return c.nodeIP[0]
	}
	return "127.0.0.1"
}

func (c *config) advertise() string { return c.or("advertise-address", c.address()) }

func dataDirOf(s settings) string {
	if s.get("data-dir") != "" {
		return s.get("data-dir")
	}
	if dir := os.Getenv("K3S_DATA_DIR"); dir != "" {
		return dir
	}
	return defaultDataDir
}

func newConfig(ctx context.Context, command string, args []string) (*config, error) {
	s, rest, err := parse(command, args, os.Getenv)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, usageError("unexpected arguments: " + strings.Join(rest, " "))
	}
	c := &config{settings: s, server: command == "server", dataDir: dataDirOf(s), serverURL: s.get("server"), nodeName: s.get("node-name")}
	if os.Getuid() != 0 && os.Getenv("FAKE_K3S_UNPRIVILEGED") == "" {
		return nil, errors.New("must run as root unless --disable-agent is specified")
	}
	if c.nodeName == "" {
		if c.nodeName, err = os.Hostname(); err != nil {
			return nil, err
		}
		c.nodeName = strings.ToLower(c.nodeName)
	}
	if c.nodeName != strings.ToLower(c.nodeName) || strings.ContainsAny(c.nodeName, "_ ") || c.nodeName == "localhost" {
		return nil, fmt.Errorf("node name %q is not usable: lower case RFC 1123, not localhost", c.nodeName)
	}
	if c.nodeIP = s.list("node-ip"); len(c.nodeIP) == 0 {
		ip, err := defaultAddress(ctx)
		if err != nil {
			return nil, err
		}
		c.nodeIP = []string{ip}
	}
	for _, ip := range append(slices.Clone(c.nodeIP), s.list("advertise-address")...) {
		if net.ParseIP(ip) == nil {
			return nil, fmt.Errorf("invalid address %q", ip)
		}
	}
	c.clusterCIDR = strings.Join(cmpOr(s.list("cluster-cidr"), "10.42.0.0/16"), ",")
	c.serviceCIDR = strings.Join(cmpOr(s.list("service-cidr"), "10.43.0.0/16"), ",")
	c.clusterDNS = cmpOr(s.list("cluster-dns"), "")
	c.clusterDomain = s.or("cluster-domain", "cluster.local")
	c.flannelBackend = s.or("flannel-backend", "vxlan")
	c.pause = s.or("pause-image", "rancher/mirrored-pause:3.6")
	if c.port, err = strconv.Atoi(s.or("https-listen-port", "6443")); err != nil {
		return nil, err
	}
	if c.server {
		if err := c.checkNetworks(); err != nil {
			return nil, err
		}
	}
	if c.token, err = readToken(s, "token"); err != nil {
		return nil, err
	}
	if c.agentToken, err = readToken(s, "agent-token"); err != nil {
		return nil, err
	}
	if c.serverURL != "" && !strings.HasPrefix(c.serverURL, "https://") {
		return nil, fmt.Errorf("invalid server url, failed to parse: %s: only https:// URLs are supported", c.serverURL)
	}
	c.bin, err = unpack(ctx, c.dataDir)
	return c, err
}

func cmpOr(values []string, standard string) []string {
	if len(values) == 0 && standard != "" {
		return []string{standard}
	}
	return values
}

// checkNetworks also finds the standard address of the cluster's DNS.
func (c *config) checkNetworks() error {
	_, services, err := net.ParseCIDR(strings.Split(c.serviceCIDR, ",")[0])
	if err != nil {
		return fmt.Errorf("invalid service-cidr %s: %w", c.serviceCIDR, err)
	}
	_, pods, err := net.ParseCIDR(strings.Split(c.clusterCIDR, ",")[0])
	if err != nil {
		return fmt.Errorf("invalid cluster-cidr %s: %w", c.clusterCIDR, err)
	}
	v4 := func(ip net.IP) bool { return ip.To4() != nil }
	if v4(pods.IP) != v4(services.IP) {
		return fmt.Errorf("cluster-cidr: %s and service-cidr: %s, must share the same IP version (IPv4, IPv6 or dual-stack)", c.clusterCIDR, c.serviceCIDR)
	}
	if v4(pods.IP) != v4(net.ParseIP(c.nodeIP[0])) || strings.Count(c.clusterCIDR, ",") != len(c.nodeIP)-1 && strings.Count(c.clusterCIDR, ",") > 0 {
		return fmt.Errorf("cluster-cidr: %s and node-ip: %s, must share the same IP version (IPv4, IPv6 or dual-stack)", c.clusterCIDR, strings.Join(c.nodeIP, ","))
	}
	if len(c.clusterDNS) == 0 {
		c.clusterDNS = []string{nth(services, 10)}
	}
	for _, ip := range c.clusterDNS {
		if parsed := net.ParseIP(ip); parsed == nil || !services.Contains(parsed) && strings.Count(c.serviceCIDR, ",") == 0 {
			return fmt.Errorf("cluster-dns %s is not in service-cidr %s", ip, c.serviceCIDR)
		}
	}
	return nil
}

// nth is the n-th address of a network, n < 256.
func nth(network *net.IPNet, n byte) string {
	ip := slices.Clone(network.IP)
	ip[len(ip)-1] += n
	return ip.String()
}

// defaultAddress is where the default route leaves from: without one k3s does not start.
func defaultAddress(ctx context.Context) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", "192.0.2.1:9")
	if err != nil {
		return "", fmt.Errorf("no default routes found in \"/proc/net/route\" or \"/proc/net/ipv6_route\": %w", err)
	}
	defer func() { _ = conn.Close() }()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}

// unpack unpacks the payload to data/HASH and returns its bin directory, or nothing where there is no payload.
func unpack(ctx context.Context, dataDir string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	payload, err := standin.OpenPayload(exe)
	if errors.Is(err, standin.ErrNoPayload) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	data := filepath.Join(dataDir, "data")
	bin, err := payload.Unpack(ctx, data)
	if err != nil {
		return "", err
	}
	// data/current names the version at work, data/previous the one before it.
	current := filepath.Join(data, "current")
	if old, err := os.Readlink(current); err != nil || old != payload.Hash {
		if err == nil {
			_ = os.Remove(filepath.Join(data, "previous"))
			_ = os.Symlink(old, filepath.Join(data, "previous"))
		}
		_ = os.Remove(current)
		if err := os.Symlink(payload.Hash, current); err != nil {
			return "", err
		}
	}
	return bin, nil
}
