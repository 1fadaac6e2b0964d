//go:build linux

package client

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/labtest"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/pki"
)

// leaseServer is as much of an API server as a virtual address needs.
type leaseServer struct {
	mu      sync.Mutex
	lease   map[string]any
	version int
}

func (s *leaseServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Header.Get("Authorization") != "Bearer secret":
		w.WriteHeader(http.StatusUnauthorized)
		return
	case r.URL.Path == "/readyz":
		return
	case r.Method == http.MethodGet && s.lease == nil:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method != http.MethodGet:
		var l map[string]any
		_ = json.NewDecoder(r.Body).Decode(&l)
		meta, _ := l["metadata"].(map[string]any)
		if given, _ := meta["resourceVersion"].(string); s.lease != nil && given != strconv.Itoa(s.version) {
			w.WriteHeader(http.StatusConflict)
			return
		}
		s.version++
		meta["resourceVersion"] = strconv.Itoa(s.version)
		s.lease = l
	}
	_ = json.NewEncoder(w).Encode(s.lease)
}

// serveLease listens at the lab's own address and returns a kubeconfig for it.
func serveLease(t *testing.T, lab *labtest.Lab) []byte {
	t.Helper()
	own := netip.MustParseAddr(lab.Hosts[0].Addr).As4()
	own[3] = 1
	addr := netip.AddrFrom4(own)
	ca, err := pki.NewCA("lab")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Server([]string{"api"}, []netip.Addr{addr})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(&leaseServer{})
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Listener, s.TLS = l, &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return fmt.Appendf(nil, `current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: "https://%s", certificate-authority-data: %s}}]
users: [{name: a, user: {token: secret}}]
`, l.Addr(), base64.StdEncoding.EncodeToString(ca.CertPEM()))
}

// runUnit puts a configuration and a unit on a host and starts it.
func runUnit(t *testing.T, lab *labtest.Lab, h labtest.Host, binary Binary, unit, text string, files []node.File) {
	t.Helper()
	ssh, c := connect(t, lab, h)
	defer ssh.Close()
	if err := c.Ensure(t.Context(), func(string) (Binary, error) { return binary, nil }); err != nil {
		t.Fatal(err)
	}
	files = append(files, node.File{Path: "/etc/systemd/system/" + unit, Mode: 0o644, Data: []byte(text)})
	if _, err := c.Put(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	if err := c.Units(t.Context(), node.UnitRequest{Units: []string{unit}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("on %s: %s", h.Name, lab.Exec(t, h.Name, "systemctl", "is-active", unit))
}

func undo(t *testing.T, lab *labtest.Lab, h labtest.Host) {
	t.Helper()
	ssh, c := connect(t, lab, h)
	defer ssh.Close()
	if r, err := c.Undo(t.Context()); err != nil || len(r.Residue) > 0 {
		t.Errorf("undo on %s: %+v, %v", h.Name, r, err)
	}
	if err := c.Forget(t.Context()); err != nil {
		t.Error(err)
	}
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestLabVIP moves an address between hosts whose cables are cut and whose processes are killed.
func TestLabVIP(t *testing.T) {
	lab := labtest.Open(t)
	binary := buildAgent(t)
	kubeconfig := serveLease(t, lab)
	virtual := lab.Hosts[0].Addr[:strings.LastIndexByte(lab.Hosts[0].Addr, '.')] + ".200"
	for _, h := range lab.Hosts {
		runUnit(t, lab, h, binary, node.VIPUnitName, node.VIPUnit, []node.File{
			{Path: node.Dir + "/vip/kubeconfig", Mode: 0o600, Data: kubeconfig},
			{Path: node.VIPConfigFile, Mode: 0o600, Data: asJSON(t, node.VIPConfig{Address: virtual, Kubeconfig: node.Dir + "/vip/kubeconfig"})},
		})
	}
	holders := func() (names []string) {
		for _, h := range lab.Hosts {
			if strings.Contains(lab.Exec(t, h.Name, "ip", "-o", "addr", "show"), " "+virtual+"/32 ") {
				names = append(names, h.Name)
			}
		}
		if len(names) > 1 {
			t.Errorf("%v have the address", names)
		}
		return names
	}
	// moved waits until another host has the address and answers there.
	const first = "the first time"
	moved := func(what, from string) string {
		t.Helper()
		begin := time.Now()
		for time.Since(begin) < 40*time.Second {
			now := holders()
			if len(now) == 1 && now[0] != from {
				took := time.Since(begin)
				conn, err := net.DialTimeout("tcp", virtual+":22", 3*time.Second)
				if err != nil {
					t.Errorf("%s: the address does not answer on %s: %v", what, now[0], err)
				} else {
					conn.Close()
				}
				t.Logf("%s: from %q to %s in %v", what, from, now[0], took.Round(10*time.Millisecond))
				// A Lease is made with more care than it is taken over.
				if took > 15*time.Second && what != first {
					t.Errorf("%s: that took too long", what)
				}
				return now[0]
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("%s: nobody has the address", what)
		return ""
	}
	holder := moved(first, "")
	for _, how := range [][]string{{"cut", "packets are lost"}, {"cut", "no carrier", "carrier"}} {
		old := holder
		lab.Verb(t, append([]string{how[0], old}, how[2:]...)...)
		holder = moved(how[1], old)
		lab.Verb(t, "heal", old)
	}
	old := holder
	lab.Exec(t, old, "systemctl", "kill", "-s", "STOP", node.VIPUnitName)
	holder = moved("the process hangs", old)
	lab.Exec(t, old, "systemctl", "kill", "-s", "CONT", node.VIPUnitName)
	old = holder
	lab.Exec(t, old, "systemctl", "kill", "-s", "KILL", node.VIPUnitName)
	begin := time.Now()
	for len(holders()) > 0 && time.Since(begin) < 10*time.Second {
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("the process is killed: the address is gone in %v", time.Since(begin).Round(10*time.Millisecond))
	holder = moved("the process is killed", "")
	lab.Exec(t, holder, "systemctl", "stop", node.VIPUnitName)
	holder = moved("the unit is stopped", holder)
	for _, h := range lab.Hosts {
		undo(t, lab, h)
	}
	if now := holders(); len(now) > 0 {
		t.Errorf("the address is left behind on %v", now)
	}
	_ = holder
}

// TestLabBalancer cuts the cable of a host behind a balancer.
func TestLabBalancer(t *testing.T) {
	lab := labtest.Open(t)
	first, second, worker := lab.Hosts[0], lab.Hosts[1], lab.Hosts[2]
	for _, h := range []labtest.Host{first, second} {
		lab.Exec(t, h.Name, "systemd-run", "-q", "--unit=backend", "socat", "TCP-LISTEN:7000,fork,reuseaddr", "SYSTEM:hostname; cat")
		defer lab.Exec(t, h.Name, "systemctl", "stop", "backend")
	}
	runUnit(t, lab, worker, buildAgent(t), node.BalancerUnitName, node.BalancerUnit, []node.File{
		{Path: node.BalancerConfigFile, Mode: 0o600, Data: asJSON(t, node.BalancerConfig{Listeners: []node.BalancerListener{{
			Listen: ":6443", Backends: []string{first.Addr + ":7000", second.Addr + ":7000"}, Check: node.BalancerCheck{Kind: node.CheckTCP},
		}}})},
	})
	dial := func() (net.Conn, string) {
		t.Helper()
		conn, err := net.Dial("tcp", worker.Addr+":6443")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		name, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return conn, strings.TrimSpace(name)
	}
	conns := map[string]net.Conn{}
	for range 2 {
		conn, name := dial()
		defer conn.Close()
		conns[name] = conn
	}
	if len(conns) != 2 {
		t.Fatalf("connections went to %v", conns)
	}
	lab.Verb(t, "cut", first.Name)
	begin := time.Now()
	conn, name := dial()
	conn.Close()
	t.Logf("a new connection: to %s in %v", name, time.Since(begin).Round(10*time.Millisecond))
	if _, err := conns[first.Name].Read(make([]byte, 1)); err == nil {
		t.Error("the dead connection stays")
	}
	took := time.Since(begin)
	t.Logf("the dead connection is closed in %v", took.Round(10*time.Millisecond))
	if took > 10*time.Second {
		t.Error("that took too long")
	}
	if _, err := io.WriteString(conns[second.Name], "x"); err != nil {
		t.Error(err)
	}
	if n, err := conns[second.Name].Read(make([]byte, 1)); n != 1 {
		t.Errorf("the other connection: %v", err)
	}
	lab.Verb(t, "heal", first.Name)
	undo(t, lab, worker)
}
