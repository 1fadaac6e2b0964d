package host

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime/node"
)

func TestUnitStatus(t *testing.T) {
	h, f := newHost(t, nil)
	f.answers["systemctl is-active k3s.service"] = "!"
	f.answers["systemctl show -p NRestarts k3s.service"] = "NRestarts=7\n"
	f.answers["systemctl show -p InvocationID k3s.service"] = "InvocationID=cafe\n"
	f.answers["journalctl -q --no-pager -o cat _SYSTEMD_INVOCATION_ID=cafe"] = "Error: one\nfine\nError: two\nError: three\n"
	got, err := h.Unit(t.Context(), node.UnitQuery{Unit: "k3s.service", Lines: 2, Match: "^Error:", SinceStart: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(node.UnitStatus{Active: "unknown", Restarts: 7, Said: []string{"Error: two", "Error: three"}}, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []node.UnitQuery{{Unit: "k3s"}, {Unit: "--all.service"}, {Unit: "k3s.service", Match: "("}} {
		if _, err := h.Unit(t.Context(), bad); kind(err) != node.KindRequest {
			t.Errorf("%+v: error is %v", bad, err)
		}
	}
}

func TestStopUnits(t *testing.T) {
	h, f := newHost(t, nil)
	f.answers["systemctl is-active a.service"] = "active\n"
	f.answers["systemctl is-active b.service"] = "failed\n"
	f.answers["systemctl is-enabled b.service"] = "enabled\n"
	f.answers["systemctl stop a.service"] = "!it hangs"
	if err := h.Units(t.Context(), node.UnitRequest{Units: []string{"a.service"}, Stop: true}); kind(err) != node.KindProgram {
		t.Errorf("error is %v", err)
	}
	f.ran = nil
	if err := h.Units(t.Context(), node.UnitRequest{Units: []string{"a.service"}, Stop: true, Kill: true}); err != nil {
		t.Error(err)
	}
	if err := h.Units(t.Context(), node.UnitRequest{Units: []string{"b.service"}, Stop: true, Disable: true}); err != nil {
		t.Error(err)
	}
	want := []string{
		"systemctl is-active a.service", "systemctl stop a.service", "systemctl reset-failed a.service", "systemctl kill -s KILL a.service",
		"systemctl is-active b.service", "systemctl stop b.service", "systemctl is-enabled b.service", "systemctl disable b.service", "systemctl reset-failed b.service",
	}
	if d := cmp.Diff(want, f.ran); d != "" {
		t.Errorf("stop (-want +got):\n%s", d)
	}
	if r, err := h.Undo(t.Context()); err != nil || r.Restored > 0 {
		t.Errorf("undo put back %d: what is stopped is not written down (%v)", r.Restored, err)
	}
}

func TestUnitsBetween(t *testing.T) {
	h, f := newHost(t, nil)
	var log bytes.Buffer
	h.Log = &log
	f.answers["systemctl is-enabled k3s.service"] = "enabled\n"
	f.answers["rotate all"] = "!no room"
	req := node.UnitRequest{Units: []string{"k3s.service"}, Restart: true, NoBlock: true, Between: []string{"rotate", "all"}}
	if err := h.Units(t.Context(), req); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("error is %v", err)
	}
	want := []string{
		"systemctl daemon-reload", "systemctl is-enabled k3s.service", "systemctl is-active k3s.service",
		"systemctl stop k3s.service", "rotate all", "systemctl --no-block restart k3s.service",
	}
	if d := cmp.Diff(want, f.ran); d != "" {
		t.Errorf("a command that fails between (-want +got):\n%s", d)
	}
	f.answers["rotate all"] = "done\n"
	if err := h.Units(t.Context(), req); err != nil || log.String() != "done\n" {
		t.Errorf("said %q, error is %v", log.String(), err)
	}
	req.Restart = false
	if err := h.Units(t.Context(), req); kind(err) != node.KindRequest {
		t.Errorf("without a restart: error is %v", err)
	}
}
