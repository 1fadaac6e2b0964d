package host

import (
	"slices"
	"testing"

	"github.com/clusterimage/keg/runtime/node"
)

// TestRoutes: routes into a claimed range that came later go, and no others: not those that were there, not
// those elsewhere, and not a device's own.
func TestRoutes(t *testing.T) {
	h, f := newHost(t, nil)
	const before = "default via 10.0.0.1 dev eth0\n10.244.9.0/24 via 10.0.0.9 dev eth0 proto static\n10.0.0.0/24 dev eth0 proto kernel\n"
	f.answers["ip -4 route show"] = before
	f.answers["ip -6 route show"] = ""
	req := node.ClaimRequest{Paths: []string{"/var/lib/k0s"}, Routes: []string{"10.244.0.0/16", "fd00:10::/56"}}
	if err := h.Claim(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	f.answers["ip -4 route show"] = before + "10.244.1.0/24 via 10.0.0.2 dev eth0 proto 17\n10.244.0.0/24 dev kube-bridge\n10.245.0.0/24 via 10.0.0.3 dev eth0\n10.244.2.7 via 10.0.0.2 dev eth0\n"
	f.answers["ip -6 route show"] = "fd00:10:0:1::/64 via fe80::2 dev eth0 metric 1024 pref medium\n"
	if err := h.Claim(t.Context(), req); err != nil { // a later run claims again
		t.Fatal(err)
	}
	left, err := h.Residue(t.Context())
	if err != nil || len(left.Residue) != 3 {
		t.Errorf("residue %v, %v; want 3 routes", left.Residue, err)
	}
	if _, err := h.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	var deleted []string
	for _, line := range f.ran {
		if len(line) > 12 && line[:3] == "ip " && line[6:15] == "route del" {
			deleted = append(deleted, line)
		}
	}
	if want := []string{"ip -6 route del fd00:10:0:1::/64", "ip -4 route del 10.244.1.0/24", "ip -4 route del 10.244.2.7"}; !slices.Equal(deleted, want) {
		t.Errorf("deleted %q, want %q", deleted, want)
	}
	for _, bad := range []string{"0.0.0.0/0", "10.0.0.0/4", "nonsense", ""} {
		if err := h.Claim(t.Context(), node.ClaimRequest{Routes: []string{bad}}); kind(err) != node.KindRequest {
			t.Errorf("claim of routes into %q: %v", bad, err)
		}
	}
}
