package runtime

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime/node"
)

// plainDriver has no opinion.
type plainDriver struct{ Driver }

func (plainDriver) Name() string { return "plain" }
func (plainDriver) Env(*Cluster, *Node) map[string]string {
	return map[string]string{"POD_CIDR": "10.244.0.0/16", "SERVICE_CIDR": "10.96.0.0/12"}
}
func (plainDriver) Preflight(*Cluster, *Node) []Finding { return nil }
func (plainDriver) CheckRequest(*Cluster) []Finding     { return nil }

func goodCluster() *Cluster {
	c := &Cluster{Name: "shop", Driver: plainDriver{}, Image: &Image{Name: "shop:v1", Platforms: map[string]Rootfs{"linux/amd64": {}}}}
	c.Image.Target.Digest = digest.FromString("v1")
	for i, ip := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		name := "h" + string(rune('1'+i))
		n := &Node{Address: Address{Host: ip}, Role: Worker, IP: ip, Name: name, Facts: node.Facts{
			Hostname: name, MachineID: name, Arch: "amd64", Init: "systemd", Addresses: []string{ip}, DefaultRoute: true, DiskFree: 100 << 30,
		}}
		if i == 0 {
			n.Role = Master
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

// ids are what was found, "host id severity".
func ids(list []Finding) []string {
	var got []string
	for _, f := range list {
		got = append(got, strings.TrimSpace(f.Host+" "+f.ID)+" "+string(f.Severity))
		if f.Text == "" || f.Cure == "" {
			got = append(got, "without text or cure: "+f.ID)
		}
	}
	return got
}

func TestCheckRequest(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(c *Cluster)
		want   []string
	}{
		{"good", func(*Cluster) {}, nil},
		{"no master", func(c *Cluster) { c.Nodes = c.Nodes[1:] }, []string{"masters error"}},
		{"three masters", func(c *Cluster) { c.Nodes[1].Role, c.Nodes[2].Role = Master, Master }, nil},
		{"two masters are warned of", func(c *Cluster) { c.Nodes[1].Role = Master }, nil},
		{"no endpoint", func(c *Cluster) { c.Options.Endpoint = "api.example.com" }, []string{"endpoint error"}},
		{"an endpoint with a scheme", func(c *Cluster) { c.Options.Endpoint = "https://api.example.com:6443" }, []string{"endpoint error"}},
		{"an endpoint with a blank", func(c *Cluster) { c.Options.Endpoint = "api example:6443" }, []string{"endpoint error"}},
		{"an endpoint's port", func(c *Cluster) { c.Options.Endpoint = "api.example.com:99999" }, []string{"endpoint error"}},
		{"an endpoint of IPv6", func(c *Cluster) { c.Options.Endpoint = "[2001:db8::1]:6443" }, nil},
		{"no VIP", func(c *Cluster) { c.Options.VIP = "api" }, []string{"vip error"}},
		{"a VIP of this machine alone", func(c *Cluster) { c.Options.VIP = "127.0.0.1" }, []string{"vip error"}},
		{"any VIP", func(c *Cluster) { c.Options.VIP = "0.0.0.0" }, []string{"vip error"}},
		{"a VIP of many", func(c *Cluster) { c.Options.VIP = "224.0.0.1" }, []string{"vip error"}},
		{"a VIP that a host has", func(c *Cluster) { c.Options.VIP = c.Nodes[1].Address.Host }, []string{"vip error"}},
		{"a good VIP", func(c *Cluster) { c.Options.VIP = "192.0.2.100" }, nil},
		{"SANs", func(c *Cluster) { c.Options.SANs = []string{"api.example.com", "*.example.com", "2001:db8::1"} }, nil},
		{"bad SANs", func(c *Cluster) { c.Options.SANs = []string{"a b", "-x", "", "API.example.com"} }, []string{"san error", "san error", "san error", "san error"}},
		{"a host twice", func(c *Cluster) { c.Nodes[2].Address = c.Nodes[1].Address }, []string{"duplicate-host error"}},
		{"a host in both lists", func(c *Cluster) { c.Nodes[2].Address = c.Nodes[0].Address }, []string{"two-roles error"}},
		{"the same address spelled otherwise", func(c *Cluster) { c.Nodes[2].Address.Host = "::ffff:192.0.2.1" }, []string{"two-roles error"}},
		{"a name for an address", func(c *Cluster) { c.Nodes[2].Address.Host = "host3" }, []string{"host3 address error"}},
		{"this machine among others", func(c *Cluster) { c.Nodes[0].Address.Host = "" }, []string{"local error"}},
		{"bad name", func(c *Cluster) { c.Name = "../shop" }, []string{"cluster-name error"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := goodCluster()
			tt.change(c)
			err := c.check()
			var pre *PreflightError
			if len(tt.want) > 0 != errors.As(err, &pre) {
				t.Fatalf("error %v", err)
			}
			if err == nil {
				return
			}
			if d := cmp.Diff(tt.want, ids(pre.Findings)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if _, err := NewPlan(c, RunPhases()); !errors.As(err, &pre) {
				t.Errorf("a plan was made: %v", err)
			}
		})
	}
}

// TestOtherRoleCure: the cure for one host that has another role does not end the whole cluster.
func TestOtherRoleCure(t *testing.T) {
	c := goodCluster()
	c.Nodes[1].State = node.HostState{Cluster: c.Name, UID: "u", Role: string(Master), Image: c.Image.Target.Digest}
	list := c.foreign()
	if len(list) != 1 || strings.Contains(list[0].Cure, "reset") || !strings.Contains(list[0].Cure, "keg delete --name shop --masters 192.0.2.2") {
		t.Errorf("%+v", list)
	}
}

func TestFindings(t *testing.T) {
	state := func(n *Node, cluster, uid string, role Role) {
		n.State = node.HostState{Cluster: cluster, UID: uid, Role: string(role), Image: digest.FromString("v1"), Name: "shop:v1"}
	}
	for _, tt := range []struct {
		name   string
		change func(c *Cluster)
		want   []string
	}{
		{"good", func(*Cluster) {}, nil},
		{"ours", func(c *Cluster) { state(c.Nodes[0], "shop", "u", Master); state(c.Nodes[1], "shop", "u", Worker) }, nil},
		{"of another cluster", func(c *Cluster) { state(c.Nodes[1], "bank", "b", Worker) }, []string{"192.0.2.2 other-cluster error"}},
		{"of an earlier one of that name", func(c *Cluster) { state(c.Nodes[0], "shop", "u", Master); state(c.Nodes[1], "shop", "old", Worker) }, []string{"192.0.2.2 other-cluster error"}},
		{"other role", func(c *Cluster) { state(c.Nodes[1], "shop", "u", Master) }, []string{"192.0.2.2 other-role error"}},
		{"other image before init", func(c *Cluster) {
			state(c.Nodes[0], "shop", "u", Master)
			c.Image.Target.Digest = digest.FromString("v2")
		}, nil},
		{"other image after init", func(c *Cluster) {
			state(c.Nodes[0], "shop", "u", Master)
			c.Nodes[0].State.Done = []string{DoneInit}
			c.Image.Target.Digest = digest.FromString("v2")
		}, []string{"192.0.2.1 other-image error"}},
		{"duplicate names", func(c *Cluster) { c.Nodes[2].Name = "h1" }, []string{"192.0.2.3 hostname error"}},
		{"cloned machines", func(c *Cluster) { c.Nodes[2].Facts.MachineID = "h1" }, []string{"192.0.2.3 machine-id error"}},
		{"no machine-ids", func(c *Cluster) { c.Nodes[2].Facts.MachineID, c.Nodes[1].Facts.MachineID = "", "" }, nil},
		{"clock", func(c *Cluster) { c.Nodes[1].skew = 40 * time.Second }, []string{"192.0.2.2 clock error"}},
		{"clock, measured badly", func(c *Cluster) { c.Nodes[1].skew, c.Nodes[1].skewError = 40*time.Second, 15*time.Second }, nil},
		{"operator's clock", func(c *Cluster) {
			for _, n := range c.Nodes {
				n.skew = -time.Hour
			}
		}, []string{"clock warning"}},
		{"arch", func(c *Cluster) { c.Nodes[1].Facts.Arch = "arm64" }, []string{"192.0.2.2 arch error"}},
		{"pods where hosts are", func(c *Cluster) { c.Options.Env = map[string]string{"POD_CIDR": "192.0.2.0/24"} }, []string{"cidr error", "cidr error", "cidr error"}},
		{"pods and services", func(c *Cluster) { c.Options.Env = map[string]string{"POD_CIDR": "10.96.0.0/16"} }, []string{"cidr error"}},
		{"no range", func(c *Cluster) { c.Options.Env = map[string]string{"POD_CIDR": "10.96.0.0"} }, []string{"cidr error"}},
		{"no systemd", func(c *Cluster) { c.Nodes[0].Facts.Init = "openrc" }, []string{"192.0.2.1 init error"}},
		{"bad host name", func(c *Cluster) { c.Nodes[0].Name = "web_1" }, []string{"192.0.2.1 hostname error"}},
		{"localhost", func(c *Cluster) { c.Nodes[0].Name = "localhost" }, []string{"192.0.2.1 hostname error"}},
		{"address elsewhere", func(c *Cluster) { c.Nodes[0].Facts.Addresses = []string{"10.1.1.1"} }, []string{"192.0.2.1 address error"}},
		{"no default route", func(c *Cluster) { c.Nodes[0].Facts.DefaultRoute = false }, []string{"192.0.2.1 default-route error"}},
		{"disk", func(c *Cluster) { c.Nodes[0].Facts.DiskFree = 1 << 20 }, []string{"192.0.2.1 disk error"}},
		{"disk filled by an earlier run", func(c *Cluster) {
			c.Nodes[0].Facts.DiskFree = 1 << 20
			c.Nodes[0].State = node.HostState{Cluster: c.Name, UID: "u", Role: "master", Image: c.Image.Target.Digest}
		}, nil},
		{"disk filled by another image", func(c *Cluster) {
			c.Nodes[0].Facts.DiskFree = 1 << 20
			c.Nodes[0].State = node.HostState{Cluster: c.Name, UID: "u", Role: "master", Image: digest.FromString("other"), Done: []string{"unpack"}}
		}, []string{"192.0.2.1 disk error"}},
		{"all of it at once", func(c *Cluster) {
			c.Nodes[0].Facts.DefaultRoute = false
			c.Nodes[1].Facts.Arch = "arm64"
			c.Nodes[2].Facts.Init = ""
		}, []string{"192.0.2.1 default-route error", "192.0.2.2 arch error", "192.0.2.3 init error"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := goodCluster()
			tt.change(c)
			err := Run(t.Context(), c, []Phase{
				&phase{title: "validate", limit: 1, batches: validate},
				&phase{title: "preflight", limit: 3, batches: preflight},
			})
			fatal := slices.ContainsFunc(tt.want, func(s string) bool { return strings.HasSuffix(s, string(Fatal)) })
			var pre *PreflightError
			if fatal != errors.As(err, &pre) {
				t.Fatalf("error %v", err)
			}
			got := ids(c.findings)
			slices.Sort(got)
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if c.UID == "" {
				t.Error("no UID was settled")
			}
			if tt.name == "ours" && c.UID != "u" {
				t.Errorf("UID %s is not that of the hosts", c.UID)
			}
		})
	}
}

func TestCheckRecord(t *testing.T) {
	c := goodCluster()
	c.Dir = t.TempDir()
	if err := c.record(true); err != nil {
		t.Fatal(err)
	}
	if err := c.checkRecord(); err != nil {
		t.Errorf("the same hosts: %v", err)
	}
	c.Nodes = c.Nodes[:2]
	if err := c.record(false); err != nil {
		t.Fatal(err)
	}
	if r, err := LoadRecord(c.Dir); err != nil || len(r.Nodes) != 3 {
		t.Errorf("record %+v, %v: a host was forgotten", r, err)
	}
	c.Nodes[0].Address.Host = "192.0.2.9"
	var pre *PreflightError
	if err := c.checkRecord(); !errors.As(err, &pre) || !strings.Contains(err.Error(), "keg reset --name shop") {
		t.Errorf("another control plane: %v", err)
	}
}

func TestShellCommands(t *testing.T) {
	got := exports(map[string]string{"B": "it's $(x)", "A": "1", "not-a-name": "x"})
	if want := "export A='1'\nexport B='it'\\''s $(x)'\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
