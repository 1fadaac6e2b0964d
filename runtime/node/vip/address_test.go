package vip

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/runtime/node"
)

// device makes this test's thread a network of its own, with a device of the name "keg0" in it.
func device(t *testing.T) net.Interface {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP: network devices need root")
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("SKIP: there is no program ip")
	}
	goruntime.LockOSThread() // never unlocked: the thread goes with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("SKIP: there can be no new network: ", err)
	}
	for _, args := range []string{
		"link add keg0 type veth peer name keg1", "addr add 198.18.104.11/24 dev keg0", "addr add fd00:104::11/64 dev keg0 nodad",
		"link set lo up", "link set keg0 up", "link set keg1 up", "addr add 198.18.0.1/16 dev keg1",
	} {
		if out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Skipf("SKIP: ip %s: %v: %s", args, err, out)
		}
	}
	for range 1000 { // the kernel notices the link a moment later
		i, err := net.InterfaceByName("keg0")
		if err != nil {
			t.Fatal(err)
		}
		if i.Flags&net.FlagRunning != 0 {
			return *i
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the device has no link")
	return net.Interface{}
}

// listen takes the packets of a kind that arrive at the other end.
func listen(t *testing.T, protocol uint16) func() []byte {
	t.Helper()
	peer, err := net.InterfaceByName("keg1")
	if err != nil {
		t.Fatal(err)
	}
	swapped := protocol<<8 | protocol>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(swapped))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swapped, Ifindex: peer.Index}); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	return func() []byte {
		p := make([]byte, 1500)
		n, _, err := unix.Recvfrom(fd, p, 0)
		if err != nil {
			t.Fatalf("nothing arrived: %v", err)
		}
		return p[:n]
	}
}

func hasAddress(t *testing.T, i net.Interface, p netip.Prefix) bool {
	t.Helper()
	for _, q := range prefixes(i) {
		if q == p {
			return true
		}
	}
	return false
}

func TestAddress(t *testing.T) {
	i := device(t)
	for _, tc := range []struct {
		prefix   string
		protocol uint16
		found    func(p []byte) bool
	}{
		{"198.18.104.100/32", unix.ETH_P_ARP, func(p []byte) bool { return len(p) >= 28 && p[7] == 2 && string(p[14:18]) == "\xc6\x12\x68\x64" }},
		{"fd00:104::100/128", unix.ETH_P_IPV6, func(p []byte) bool { return len(p) >= 72 && p[40] == 136 && p[44] == 0x20 && p[64] == 2 }},
	} {
		p := netip.MustParsePrefix(tc.prefix)
		a := &address{prefix: p, mark: filepath.Join(t.TempDir(), "vip", "held.json"), logf: t.Errorf}
		if err := a.check(); err != nil {
			t.Fatal(err)
		}
		next := listen(t, tc.protocol)
		if err := a.hold(time.Now().Add(linger), true); err != nil {
			t.Fatal(err)
		}
		if a.on != "keg0" || !hasAddress(t, i, p) { // not keg1, whose subnet is larger
			t.Errorf("%s is not on keg0", p)
		}
		for !tc.found(next()) {
			continue
		}
		if err := a.hold(time.Now().Add(linger), false); err != nil {
			t.Errorf("prolonging: %v", err)
		}
		if err := a.check(); err != nil {
			t.Errorf("its own address: %v", err)
		}
		b := &address{prefix: p, mark: a.mark, logf: t.Errorf}
		if err := b.check(); err == nil {
			t.Errorf("an address that the host has was not refused")
		}
		// What a killed process left behind goes with the next one.
		if err := Drop(Options{Path: func(string) string { return a.mark }}); err != nil {
			t.Error(err)
		}
		if hasAddress(t, i, p) {
			t.Errorf("%s is left behind", p)
		}
		if _, err := os.Stat(a.mark); err == nil {
			t.Error("the note is left behind")
		}
		if err := a.drop(); err != nil {
			t.Errorf("an address that is gone: %v", err)
		}
		// Nobody is there to take it away.
		if err := a.hold(time.Now().Add(1500*time.Millisecond), false); err != nil {
			t.Fatal(err)
		}
		for begin := time.Now(); hasAddress(t, i, p); time.Sleep(50 * time.Millisecond) {
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("the kernel keeps %s", p)
			}
		}
	}
	if err := (&address{prefix: netip.MustParsePrefix("10.1.1.1/32")}).check(); err == nil || !strings.Contains(err.Error(), "no network device") {
		t.Errorf("no subnet: %v", err)
	}
	if err := (&address{prefix: netip.MustParsePrefix("198.18.104.11/32")}).check(); err == nil || !strings.Contains(err.Error(), "must be a free one") {
		t.Errorf("an address of the host: %v", err)
	}
	if out, err := exec.Command("ip", "link", "set", "keg1", "down").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := (&address{prefix: netip.MustParsePrefix("198.18.104.100/32"), device: "keg0"}).check()
		if err != nil && strings.Contains(err.Error(), "no link") {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("without a link: %v", err)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	o := Options{Path: func(name string) string { return filepath.Join(dir, name) }}
	put := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(o.Path(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(o.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Run(t.Context(), o); err == nil {
		t.Error("no configuration was taken")
	}
	put(node.VIPConfigFile, "{")
	if err := Run(t.Context(), o); err == nil {
		t.Error("a broken configuration was taken")
	}
	put(node.VIPHeldFile, "{")
	if err := Drop(o); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged note: %v", err)
	}
}

// TestRun holds an address for as long as it runs.
func TestRun(t *testing.T) {
	f, _, kubeconfig := serveAPI(t, "secret")
	f.version = 1
	f.lease = map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "spec": map[string]any{}} // free
	dir := t.TempDir()
	var said strings.Builder
	o := Options{Logf: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }, Path: func(name string) string {
		if name == kubeconfig {
			return name
		}
		return filepath.Join(dir, name)
	}}
	i := device(t) // from here on the thread cannot reach the API: another one asks it
	data, err := json.Marshal(node.VIPConfig{Address: "198.18.104.100", Kubeconfig: kubeconfig, Identity: "m1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(o.Path(node.VIPConfigFile)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Path(node.VIPConfigFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	ready := false
	o.Ready = func(net.Addr) { ready = true }
	if err := Run(ctx, o); err != nil || !ready {
		t.Errorf("it ended with %v, ready %v", err, ready)
	}
	if hasAddress(t, i, netip.MustParsePrefix("198.18.104.100/32")) {
		t.Error("the address is left behind")
	}
	if !strings.Contains(said.String(), "the address is here") {
		t.Errorf("it never had the address: %s", said.String())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if holder, ok := f.lease["spec"].(map[string]any)["holderIdentity"]; ok {
		t.Errorf("the Lease is still held by %v", holder)
	}
}
