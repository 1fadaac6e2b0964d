package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

var clusterName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// check judges what was asked for, before anything is reached. The error is a *PreflightError.
func (c *Cluster) check() error {
	var list []Finding
	add := func(host, id, text, cure string) {
		list = append(list, Finding{Host: host, ID: id, Severity: Fatal, Text: text, Cure: cure})
	}
	if !clusterName.MatchString(c.Name) {
		add("", "cluster-name", fmt.Sprintf("%q is no name for a cluster", c.Name), "use small letters, digits and hyphens, 63 at most")
	}
	switch masters := len(c.ByRole(Master)); {
	case masters == 0:
		add("", "masters", "there is no control plane", "name one host with --masters")
	case masters%2 == 0:
		list = append(list, Finding{
			ID: "masters", Severity: Warning,
			Text: fmt.Sprintf("%d control planes bear no more failures than %d: etcd needs a majority", masters, masters-1),
			Cure: "use an odd number of --masters",
		})
	}
	if c.Options.Endpoint != "" {
		host, port, err := net.SplitHostPort(c.Options.Endpoint)
		number, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || number == 0 || !isHost(host) {
			add("", "endpoint", fmt.Sprintf("%q is no endpoint", c.Options.Endpoint), "give host:port, such as api.example.com:6443")
		}
	}
	if c.Options.VIP != "" {
		list = append(list, c.checkVIP()...)
	}
	list = append(list, checkSANs(c.Options.SANs)...)
	if c.Driver != nil {
		list = append(list, c.Driver.CheckRequest(c)...)
	}
	role := map[string]Role{}
	for _, n := range c.Nodes {
		host := n.Address.Host
		if host != "" && !parseAddr(host).IsValid() {
			add(n.Address.String(), "address", fmt.Sprintf("%q is no IP address", host), "give the host's IP address")
			continue
		}
		key := host
		if host != "" {
			key = parseAddr(host).String()
		}
		switch before, ok := role[key]; {
		case ok && before != n.Role:
			add("", "two-roles", fmt.Sprintf("%s is named as a master and as a node", n.Address), "take it out of one of the lists")
		case ok:
			add("", "duplicate-host", fmt.Sprintf("%s is named twice", n.Address), "name it once")
		}
		role[key] = n.Role
	}
	if _, local := role[""]; local && len(c.Nodes) > 1 {
		add("", "local", "this machine has no address that other hosts could reach it by", "give its IP address with --masters")
	}
	if c.Image != nil && len(c.Image.Platforms) == 0 {
		add("", "image", "the image has no rootfs", "build it with keg build, or name another")
	}
	for _, f := range list {
		if f.Severity == Warning {
			c.findings = append(c.findings, f)
		}
	}
	return judge(list)
}

// checkVIP judges the virtual address as far as that goes without asking hosts.
func (c *Cluster) checkVIP() []Finding {
	addr := parseAddr(c.Options.VIP)
	add := func(text string) []Finding {
		return []Finding{{ID: "vip", Severity: Fatal, Text: text, Cure: "give a free address of the hosts' own network"}}
	}
	switch {
	case !addr.IsValid():
		return add(fmt.Sprintf("%q is no IP address", c.Options.VIP))
	case !addr.IsGlobalUnicast():
		return add(fmt.Sprintf("%s is no address that a host can be reached by", addr))
	}
	for _, n := range c.Nodes {
		if n.Address.Host != "" && parseAddr(n.Address.Host) == addr {
			return add(fmt.Sprintf("%s is the address of a host already", addr))
		}
	}
	return nil
}

func checkSANs(sans []string) []Finding {
	var list []Finding
	for _, san := range sans {
		if !isHost(strings.TrimPrefix(san, "*.")) {
			list = append(list, Finding{
				ID: "san", Severity: Fatal, Text: fmt.Sprintf("%q is neither a name nor an IP address", san),
				Cure: "give one such as api.example.com",
			})
		}
	}
	return list
}

// isHost says whether s is an address, or a name that kubeadm takes into a certificate (RFC 1123, in small letters).
func isHost(s string) bool {
	return parseAddr(s).IsValid() || len(s) <= 253 && hostName123.MatchString(s)
}

// checkRequest refuses what makes no sense before any host is reached.
func checkRequest(c *Cluster) []Batch {
	return []Batch{{{Text: "check what is asked for", Do: func(context.Context, io.Writer) error {
		if err := c.check(); err != nil {
			return err
		}
		return c.checkRecord()
	}}}}
}

// checkRecord refuses a name that the operator already uses for other hosts.
func (c *Cluster) checkRecord() error {
	r, err := LoadRecord(c.Dir)
	if err != nil || r == nil {
		return err
	}
	i := slices.IndexFunc(r.Nodes, func(n RecordNode) bool { return n.Role == Master })
	if i < 0 || slices.ContainsFunc(r.Nodes, func(n RecordNode) bool {
		return n.Role == Master && slices.ContainsFunc(c.ByRole(Master), func(m *Node) bool { return m.Address == n.Address })
	}) {
		return nil
	}
	return judge([]Finding{{
		ID: "cluster-name", Severity: Fatal,
		Text: fmt.Sprintf("cluster %q has its control plane on %s, not on %s", c.Name, r.Nodes[i].Address, c.First().Address),
		Cure: fmt.Sprintf("choose another --name, or remove that cluster with `keg reset --name %s`", c.Name),
	}})
}

// validate compares hosts with each other and settles the cluster's UID. It collects findings.
func validate(c *Cluster) []Batch {
	return []Batch{{{Text: "compare hosts", Do: func(ctx context.Context, _ io.Writer) error {
		c.settleAlive(ctx)
		if err := c.recallSettings(ctx); err != nil {
			return err
		}
		c.findings = append(c.findings, c.foreign()...)
		c.findings = append(c.findings, c.duplicates()...)
		c.findings = append(c.findings, c.clocks()...)
		c.findings = append(c.findings, c.architectures()...)
		c.findings = append(c.findings, c.networks()...)
		return nil
	}}}}
}

// foreign finds hosts that belong to another cluster, or to this one in another way than asked for,
// and takes the UID from those that belong to this one.
func (c *Cluster) foreign() []Finding {
	var list []Finding
	add := func(n *Node, id, text, cure string) {
		list = append(list, Finding{Host: n.Address.String(), ID: id, Severity: Fatal, Text: text, Cure: cure})
	}
	reset := func(name string) string { return fmt.Sprintf("`keg reset --name %s` frees it", name) }
	made := len(c.madeMasters()) > 0
	for _, n := range c.Nodes {
		s := n.State
		switch {
		case s.UID == "":
			continue
		case s.Cluster != c.Name:
			add(n, "other-cluster", fmt.Sprintf("it belongs to cluster %q", s.Cluster), reset(s.Cluster))
			continue
		case c.UID == "":
			c.UID = s.UID
		case c.UID != s.UID:
			add(n, "other-cluster", fmt.Sprintf("it belongs to an earlier cluster of the name %q (UID %s, the others %s)", s.Cluster, s.UID, c.UID), reset(s.Cluster)+" with the other hosts of that name")
			continue
		}
		if s.Role != string(n.Role) {
			add(n, "other-role", fmt.Sprintf("it is a %s of this cluster, not a %s", s.Role, n.Role), fmt.Sprintf("roles do not change: name it as it is, or take it off first with `keg delete --name %s --%ss %s`", c.Name, flagOf(s.Role), n.Address))
		}
		if s.Image != c.Image.Target.Digest && made {
			add(n, "other-image", fmt.Sprintf("it runs %s (%s)", s.Name, s.Image), fmt.Sprintf("run that image, or change it with `keg upgrade --name %s`", c.Name))
		}
	}
	if c.UID == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		c.UID = hex.EncodeToString(b[:])
	}
	return list
}

// flagOf is the flag, without its plural, that names hosts of a role.
func flagOf(role string) string {
	if role == string(Master) {
		return "master"
	}
	return "node"
}

// duplicates finds two hosts that are one for Kubernetes.
func (c *Cluster) duplicates() []Finding {
	var list []Finding
	names, machines := map[string]*Node{}, map[string]*Node{}
	for _, n := range c.Nodes {
		if other := names[n.Name]; other != nil {
			list = append(list, Finding{
				Host: n.Address.String(), ID: "hostname", Severity: Fatal,
				Text: fmt.Sprintf("its host name %q is also that of %s", n.Name, other.Address),
				Cure: "give it another: hostnamectl set-hostname NAME",
			})
		}
		names[n.Name] = n
		id := n.Facts.MachineID
		if other := machines[id]; id != "" && other != nil {
			list = append(list, Finding{
				Host: n.Address.String(), ID: "machine-id", Severity: Fatal,
				Text: fmt.Sprintf("its machine-id is also that of %s: one is a copy of the other, or both addresses are one host", other.Address),
				Cure: "rm /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; reboot",
			})
		}
		machines[id] = n
	}
	return list
}

// maxSkew is how far clocks may be apart. Certificates and leases bear some minutes and some seconds.
const maxSkew = 30 * time.Second

// clocks measures every host against the median, so that the one that is wrong is named.
func (c *Cluster) clocks() []Finding {
	skews := make([]time.Duration, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		skews = append(skews, n.skew)
	}
	if len(skews) == 0 {
		return nil
	}
	slices.Sort(skews)
	median := skews[(len(skews)-1)/2]
	var list []Finding
	for _, n := range c.Nodes {
		if off := n.skew - median; off.Abs() > maxSkew+n.skewError {
			list = append(list, Finding{
				Host: n.Address.String(), ID: "clock", Severity: Fatal,
				Text: fmt.Sprintf("its clock is %s off the other hosts'", off.Round(time.Second)),
				Cure: "set it: timedatectl set-time TIME, or run a time service on all hosts",
			})
		}
	}
	if median.Abs() > maxSkew {
		list = append(list, Finding{
			ID: "clock", Severity: Warning,
			Text: fmt.Sprintf("the hosts' clocks are %s off this machine's", median.Round(time.Second)),
			Cure: "see which is right: certificates are valid from five minutes ago by this machine's clock",
		})
	}
	return list
}

// docker finds trees that were made for the docker of former times.
func (c *Cluster) docker() []Finding {
	var list []Finding
	for _, name := range c.Image.platforms() {
		if c.Image.Platforms[name].Labels[clusterimage.LabelDocker] != "" {
			list = append(list, Finding{
				ID: "docker", Severity: Fatal,
				Text: fmt.Sprintf("the image for %s brings docker (scripts/docker.sh) and no containerd, and a kubelet of today cannot use docker", name),
				Cure: "add containerd, containerd-shim-runc-v2 and runc to bin/, or a scripts/containerd.sh that installs them, and build it again",
			})
		}
	}
	return list
}

func (c *Cluster) architectures() []Finding {
	var list []Finding
	for _, n := range c.Nodes {
		if _, ok := c.Image.rootfs(n.Facts.Arch); !ok {
			list = append(list, Finding{
				Host: n.Address.String(), ID: "arch", Severity: Fatal,
				Text: fmt.Sprintf("it is linux/%s, the image is for %s", n.Facts.Arch, strings.Join(c.Image.platforms(), ", ")),
				Cure: fmt.Sprintf("build the image with --platform linux/%s as well", n.Facts.Arch),
			})
		}
	}
	return list
}

// networks finds ranges of pods and services that overlap each other or hold hosts. Each is one range, or
// one of each family, separated by a comma.
func (c *Cluster) networks() []Finding {
	first := c.First()
	if first == nil {
		return nil
	}
	env := c.Env(first)
	var list []Finding
	add := func(text, cure string) {
		list = append(list, Finding{ID: "cidr", Severity: Fatal, Text: text, Cure: cure})
	}
	ranges := map[string][]netip.Prefix{}
	for _, key := range []string{"POD_CIDR", "SERVICE_CIDR"} {
		if env[key] == "" {
			continue
		}
		for part := range strings.SplitSeq(env[key], ",") {
			p, err := netip.ParsePrefix(strings.TrimSpace(part))
			if err != nil {
				add(fmt.Sprintf("%s %q is no address range", key, env[key]), fmt.Sprintf("give one such as --env %s=10.244.0.0/16", key))
				continue
			}
			ranges[key] = append(ranges[key], p)
			for _, n := range c.Nodes {
				if p.Contains(parseAddr(n.IP)) {
					add(fmt.Sprintf("%s %s holds the address of %s", key, p, n.Address), fmt.Sprintf("choose another range with --env %s=", key))
				}
			}
		}
	}
	for _, pods := range ranges["POD_CIDR"] {
		for _, services := range ranges["SERVICE_CIDR"] {
			if pods.Overlaps(services) {
				add(fmt.Sprintf("POD_CIDR %s and SERVICE_CIDR %s overlap", pods, services), "choose ranges apart with --env POD_CIDR= and SERVICE_CIDR=")
			}
		}
	}
	return list
}

// inspector is a Driver that has to ask a host for more than its facts before it can judge it. It only reads.
type inspector interface {
	Inspect(ctx context.Context, c *Cluster, n *Node) ([]Finding, error)
}

// preflight judges every host by itself and then stops the run if anything was found to be wrong on
// any: the user mends all of it in one go.
func preflight(c *Cluster) []Batch {
	return []Batch{
		each(c.Nodes, func(n *Node) []Step {
			return []Step{n.On("check", func(ctx context.Context, _ io.Writer) error {
				n.findings = c.hostFindings(n)
				if d, ok := c.Driver.(inspector); ok {
					more, err := d.Inspect(ctx, c, n)
					n.findings = append(n.findings, more...)
					return err
				}
				return nil
			})}
		}),
		{{Text: "judge what was found", Do: func(_ context.Context, out io.Writer) error {
			for _, n := range c.Nodes {
				c.findings = append(c.findings, n.findings...)
			}
			c.findings = append(c.findings, c.docker()...)
			if err := judge(c.findings); err != nil {
				return err
			}
			for _, f := range c.findings {
				fmt.Fprintln(out, f)
			}
			return nil
		}}},
	}
}

var hostName123 = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// hostFindings are those that concern a host with any runtime, and those of the driver.
func (c *Cluster) hostFindings(n *Node) []Finding {
	var list []Finding
	add := func(id, text, cure string) {
		list = append(list, Finding{Host: n.Address.String(), ID: id, Severity: Fatal, Text: text, Cure: cure})
	}
	f := n.Facts
	if f.Init != "systemd" {
		add("init", "its init system is not systemd", "use a host that runs systemd")
	}
	switch {
	case !hostName123.MatchString(n.Name) || len(n.Name) > 63:
		add("hostname", fmt.Sprintf("its host name %q is none that Kubernetes can use", f.Hostname), "hostnamectl set-hostname NAME, of letters, digits and hyphens, 63 at most")
	case n.Name == "localhost" || strings.HasPrefix(n.Name, "localhost."):
		add("hostname", "its host name is localhost", "hostnamectl set-hostname NAME")
	}
	if !slices.Contains(f.Addresses, n.IP) {
		add("address", fmt.Sprintf("it does not have the address %s itself (it has %s)", n.IP, strings.Join(f.Addresses, ", ")), "name it by an address of one of its network cards")
	}
	if !f.DefaultRoute {
		add("default-route", "it has no default route; kubelet cannot choose an address", "add one, even one that leads nowhere: ip link add dummy0 type dummy; ip addr add 203.0.113.254/31 dev dummy0; ip link set dummy0 up; ip route add default via 203.0.113.255 dev dummy0 metric 1000")
	}
	total := size(c.blobsFor(n))
	// The blobs, the unpacked rootfs of three times their size, and the images once more in the engine. A
	// host that was claimed for this image had the room, and has filled some of it since.
	if need := 5*total + 1<<30; f.DiskFree < need && n.State.Image != c.Image.Target.Digest {
		add("disk", fmt.Sprintf("%s free, %s needed", megabytes(f.DiskFree), megabytes(need)), "make room on the file system of /var/lib")
	}
	return append(list, c.Driver.Preflight(c, n)...)
}
