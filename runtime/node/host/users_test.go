package host

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime/node"
)

// accounts is a userdel that works, on a pretended host, and leaves a copy as the real one does.
type accounts struct{ h *Host }

func (a accounts) Run(_ context.Context, p Program) error {
	if p.Args[0] != "userdel" {
		return ErrNoProgram
	}
	text := a.h.text("/etc/passwd")
	if err := os.WriteFile(a.h.path("/etc/passwd-"), []byte(text), 0o600); err != nil {
		return err
	}
	lines := slices.DeleteFunc(strings.SplitAfter(text, "\n"), func(l string) bool { return strings.HasPrefix(l, p.Args[1]+":") })
	return os.WriteFile(a.h.path("/etc/passwd"), []byte(strings.Join(lines, "")), 0o755)
}

func TestUsersComeAndGo(t *testing.T) {
	const before = "root:x:0:0::/root:/bin/sh\netcd:x:107:112::/var/lib/etcd:/bin/false\n"
	h, _ := newHost(t, map[string]string{"/etc/passwd": before, "/etc/passwd-": "root:x:0:0::/root:/bin/sh\n"})
	h.Programs = accounts{h}
	for range 2 { // the second claim is that of a run that goes on
		if err := h.Claim(t.Context(), node.ClaimRequest{Users: []string{"etcd", "kube-apiserver"}}); err != nil {
			t.Fatal(err)
		}
		made := before + "kube-apiserver:x:998:998::/var/lib/k0s:/usr/sbin/nologin\n"
		for name, text := range map[string]string{"/etc/passwd": made, "/etc/passwd-": before, "/etc/.pwd.lock": ""} {
			if err := os.WriteFile(h.path(name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := h.Residue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(r.Residue, "account kube-apiserver: was not there before") || slices.ContainsFunc(r.Residue, func(s string) bool { return strings.Contains(s, "account etcd") }) {
		t.Errorf("residue %q", r.Residue)
	}
	if r, err = h.Undo(t.Context()); err != nil || len(r.Residue) > 0 {
		t.Fatalf("undo: %v, residue %q", err, r.Residue)
	}
	got := map[string]string{"/etc/passwd": h.text("/etc/passwd"), "/etc/passwd-": h.text("/etc/passwd-")}
	if d := cmp.Diff(map[string]string{"/etc/passwd": before, "/etc/passwd-": "root:x:0:0::/root:/bin/sh\n"}, got); d != "" {
		t.Errorf("after undo (-want +got):\n%s", d)
	}
	if _, err := os.Stat(h.path("/etc/.pwd.lock")); err == nil {
		t.Error("/etc/.pwd.lock is left")
	}
	for _, name := range []string{"root", "-r", "a b", ""} {
		if err := h.Claim(t.Context(), node.ClaimRequest{Users: []string{name}}); kind(err) != node.KindRequest {
			t.Errorf("claim of account %q: %v", name, err)
		}
	}
}

func TestUnitsNotedOnly(t *testing.T) {
	h, f := newHost(t, nil)
	f.answers["systemctl is-enabled k0s.service"] = "not-found\n"
	f.answers["systemctl is-active k0s.service"] = "inactive\n"
	if err := h.Units(t.Context(), node.UnitRequest{Units: []string{"k0s.service"}, NoteOnly: true}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"systemctl daemon-reload", "systemctl is-enabled k0s.service", "systemctl is-active k0s.service"}, f.ran); d != "" {
		t.Errorf("noting a unit (-want +got):\n%s", d)
	}
	// Whoever made it has enabled it, and it is not kept: it was not there.
	f.ran = nil
	f.answers["systemctl is-enabled k0s.service"] = "enabled\n"
	if _, err := h.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(f.ran, "systemctl disable k0s.service") {
		t.Errorf("undo ran %q", f.ran)
	}
}
