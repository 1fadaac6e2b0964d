package k0s

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime"
)

var ips = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} // two control planes and a worker

func (s *sim) run(t *testing.T, dir string) error {
	t.Helper()
	return runtime.Run(t.Context(), s.cluster(dir, oldVersion, 2, ips...), runtime.RunPhases())
}

func (s *sim) mustRun(t *testing.T) {
	t.Helper()
	if err := s.run(t, ""); err != nil {
		t.Fatal(err)
	}
	s.ops = 0
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newSim(ips...), t.TempDir()
		if err := s.run(t, dir); err != nil {
			t.Fatal(err)
		}
		s.problems(t, oldVersion, 2, ips...)
		if d := cmp.Diff([]string{"kubectl apply -f 'web.yaml'", "one"}, s.ran); d != "" {
			t.Errorf("what ran (-want +got):\n%s", d)
		}
		if len(s.made) != 2 || len(s.tokens) > 0 {
			t.Errorf("tokens made: %d, one for each join; of them valid: %v", len(s.made), s.tokens)
		}
		first := s.ops
		if err := s.run(t, dir); err != nil {
			t.Fatal(err)
		}
		s.problems(t, oldVersion, 2, ips...)
		if s.creates != 1 || len(s.ran) != 2 || len(s.made) != 2 {
			t.Errorf("a second run did it again: %d clusters, %v, %d tokens", s.creates, s.ran, len(s.made))
		}
		t.Logf("%d operations the first time, %d the second", first, s.ops-first)
		for _, m := range s.machines {
			restarts := 0
			for _, call := range m.host.Calls() {
				for _, f := range []string{tokenFile, configFile} {
					if strings.HasPrefix(call, "put "+f+" ") && !strings.HasSuffix(call, " 600") {
						t.Errorf("%s: %s", m.name, call)
					}
				}
				if strings.HasPrefix(call, "restart k0s") {
					restarts++
				}
			}
			if restarts > 1 {
				t.Errorf("%s: k0s was restarted %d times", m.name, restarts)
			}
		}
	})
}

// survives kills keg before each operation of do, and in the middle of each that can be cut, and does it again.
func survives(t *testing.T, prepare func(t *testing.T, s *sim), do func(t *testing.T, s *sim) error, check func(t *testing.T, s *sim)) {
	t.Helper()
	for _, mode := range []killMode{before, midway} {
		for at := 1; ; at++ {
			reached := false
			synctest.Test(t, func(t *testing.T) {
				s := newSim(ips...)
				prepare(t, s)
				s.ops, s.cuts, s.killAt, s.mode = 0, 0, at, mode
				err := do(t, s)
				if reached = s.dead; !reached {
					return
				}
				if err == nil {
					return // in a clean-up, which a killed keg does not do: the next begins with that
				}
				s.revive()
				if err := do(t, s); err != nil {
					t.Fatalf("killed at operation %d (%s): %v", at, mode, err)
				}
				check(t, s)
			})
			if t.Failed() {
				t.Fatalf("killed at operation %d (%s)", at, mode)
			}
			if !reached {
				t.Logf("%s: %d operations", mode, at-1)
				break
			}
		}
	}
}

func TestRunAfterKill(t *testing.T) {
	survives(t, func(*testing.T, *sim) {}, func(t *testing.T, s *sim) error {
		return s.run(t, "") // without files of the operator's: facts of hosts must be enough
	}, func(t *testing.T, s *sim) {
		s.problems(t, oldVersion, 2, ips...)
	})
}

func TestUpgradeAfterKill(t *testing.T) {
	survives(t, func(t *testing.T, s *sim) { s.mustRun(t) }, func(t *testing.T, s *sim) error {
		return runtime.Run(t.Context(), s.cluster("", newVersion, 2, ips...), runtime.UpgradePhases(runtime.UpgradeOptions{}))
	}, func(t *testing.T, s *sim) {
		s.problems(t, newVersion, 2, ips...)
	})
}

// TestUpgradeTemplate: an image of the same version that configures k0s otherwise is a change.
func TestUpgradeTemplate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(ips...)
		s.mustRun(t)
		c := s.cluster("", oldVersion, 2, ips...)
		c.Image.Target = c.Content.(blobs).add("index of v2")
		for _, m := range s.machines {
			m.host.Rootfs["etc/k0s/k0s.yaml"] += "  controllerManager: {extraArgs: {v: \"4\"}}\n"
		}
		if err := runtime.Run(t.Context(), c, runtime.UpgradePhases(runtime.UpgradeOptions{})); err != nil {
			t.Fatal(err)
		}
		s.problems(t, oldVersion, 2, ips...)
		for _, ip := range ips[:2] {
			if !strings.Contains(string(s.machines[ip].host.File(configFile)), "controllerManager") {
				t.Errorf("%s runs with its old configuration", ip)
			}
		}
	})
}

func TestRemoveAfterKill(t *testing.T) {
	for _, leaving := range []int{0, 1, 2} { // the first control plane, the other, the worker
		t.Run(ips[leaving], func(t *testing.T) {
			survives(t, func(t *testing.T, s *sim) { s.mustRun(t) }, func(t *testing.T, s *sim) error {
				c := s.cluster("", oldVersion, 2, ips...)
				c.UID = s.machines[ips[(leaving+1)%3]].host.State().UID // the record has it
				return runtime.Run(t.Context(), c, runtime.RemovePhases([]*runtime.Node{c.Nodes[leaving]}, runtime.RemoveOptions{}))
			}, func(t *testing.T, s *sim) {
				rest := slices.Delete(slices.Clone(ips), leaving, leaving+1)
				s.problems(t, oldVersion, map[int]int{0: 1, 1: 1, 2: 2}[leaving], rest...)
				if left := s.machines[ips[leaving]].host.Files(); len(left) > 0 {
					t.Errorf("left on the host: %v", left)
				}
			})
		})
	}
}

func TestRotateAndRenewAfterKill(t *testing.T) {
	survives(t, func(t *testing.T, s *sim) {
		s.mustRun(t)
		s.tokens["eeeeee.0123456789abcdef"], s.tokens["ffffff.0123456789abcdef"] = "worker", "controller" // of somebody, for ever
	}, func(t *testing.T, s *sim) error {
		for _, phases := range [][]runtime.Phase{runtime.RotatePhases(), runtime.SANPhases([]string{"api.example.com"}), runtime.RenewPhases()} {
			if err := runtime.Run(t.Context(), s.cluster("", oldVersion, 2, ips...), phases); err != nil {
				return err
			}
		}
		return nil
	}, func(t *testing.T, s *sim) {
		s.problems(t, oldVersion, 2, ips...)
		if len(s.tokens) > 0 {
			t.Errorf("tokens are valid still: %v", s.tokens)
		}
		for _, ip := range ips[:2] {
			if !strings.Contains(string(s.machines[ip].host.File(configFile)), "- api.example.com\n") {
				t.Errorf("%s has no new name", ip)
			}
		}
	})
}

func TestRestoreAfterKill(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "backup.age")
	var uid string
	synctest.Test(t, func(t *testing.T) {
		s := newSim(ips...)
		s.mustRun(t)
		s.tokens["eeeeee.0123456789abcdef"] = "worker"
		var out bytes.Buffer
		if err := runtime.Run(t.Context(), s.cluster("", oldVersion, 2, ips...), runtime.BackupPhases(&out, id.Recipient())); err != nil {
			t.Fatal(err)
		}
		s.problems(t, oldVersion, 2, ips...)
		uid = s.machines[ips[0]].host.State().UID
		if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	// On the same hosts in another order: the member gets another address than it had.
	order := []string{ips[1], ips[0], ips[2]}
	survives(t, func(*testing.T, *sim) {}, func(t *testing.T, s *sim) error {
		a, err := runtime.ReadBackup(file, id)
		if err != nil {
			return err
		}
		return runtime.Run(t.Context(), s.cluster("", oldVersion, 2, order...), runtime.RestorePhases(a))
	}, func(t *testing.T, s *sim) {
		s.problems(t, oldVersion, 2, order...)
		if got := s.machines[ips[1]].host.State().UID; got != uid {
			t.Errorf("UID %s, want %s", got, uid)
		}
		if len(s.objects) != 2 || len(s.ran) > 0 || s.tokens["eeeeee.0123456789abcdef"] != "" {
			t.Errorf("state %v; what ran once more: %v; tokens %v", s.objects, s.ran, s.tokens)
		}
	})
}

// TestNewHostOldName: a host that was installed anew joins under its old name; one whose name a living
// node has does not.
func TestNewHostOldName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(ips...)
		s.mustRun(t)
		for _, ip := range []string{ips[2], ips[1]} {
			s.add(ip, s.machines[ip].name)
			if err := s.run(t, ""); err != nil {
				t.Fatal(err)
			}
			s.problems(t, oldVersion, 2, ips...)
		}
		s.add("10.0.0.9", "h2")
		err := runtime.Run(t.Context(), s.cluster("", oldVersion, 1, ips[0], "10.0.0.9"), runtime.RunPhases())
		if err == nil || !strings.Contains(err.Error(), `the cluster has a node "h2" already, at 10.0.0.2`) {
			t.Errorf("error %v", err)
		}
	})
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(s *sim)
		want   string
	}{
		{"another version than Metadata's", func(s *sim) {
			for _, m := range s.machines {
				m.host.Rootfs["bin/k0s"] = newVersion
			}
		}, "the program is v1.37.2+k0s.0, Metadata says v1.36.3+k0s.0"},
		{"data of another cluster", func(s *sim) { s.machines[ips[1]].host.Write(caCert, "x") }, "is of another cluster"},
		{"data that is gone", func(s *sim) { s.machines[ips[1]].host.Remove(etcdDir) }, "its data is gone"},
		{"data of the first that is gone", func(s *sim) { s.machines[ips[0]].host.Remove(etcdDir) }, "its data is gone"},
		{"a setting that cannot change", func(s *sim) {
			s.machines[ips[0]].host.Write(configFile, "spec: {network: {podCIDR: 10.9.0.0/16, provider: kuberouter}}\n")
		}, "spec.network.podCIDR is 10.9.0.0/16 there and cannot become 10.244.0.0/16"},
		{"a configuration that k0s refuses", func(s *sim) {
			for _, m := range s.machines {
				m.host.Rootfs["etc/k0s/k0s.yaml"] += "  images: {repository: unheard.of}\n"
			}
		}, "having k0s judge its configuration"},
		{"a key that there is not", func(s *sim) {
			for _, m := range s.machines {
				m.host.Rootfs["etc/k0s/k0s.yaml"] += "  imagse: {}\n"
			}
		}, "did you mean images?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(ips...)
				s.mustRun(t)
				c := s.cluster("", oldVersion, 2, ips...)
				tt.change(s)
				was := fmt.Sprint(s.machines[ips[1]].unit, s.creates)
				err := runtime.Run(t.Context(), c, runtime.RunPhases())
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want %q", err, tt.want)
				}
				if now := fmt.Sprint(s.machines[ips[1]].unit, s.creates); now != was {
					t.Errorf("%s, was %s", now, was)
				}
			})
		})
	}
}

// TestDeadHost: a control plane that is gone is removed without it, and none that lives beside it.
func TestDeadHost(t *testing.T) {
	four := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}
	synctest.Test(t, func(t *testing.T) {
		s := newSim(four...)
		if err := runtime.Run(t.Context(), s.cluster("", oldVersion, 3, four...), runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		uid := s.machines[four[0]].host.State().UID
		removal := func(dead bool, leaving ...int) error {
			c := s.cluster("", oldVersion, 3, four...)
			c.UID = uid
			var list []*runtime.Node
			for i, n := range c.Nodes {
				n.Name, n.IP = fmt.Sprintf("h%d", i+1), four[i] // the record has them
				if slices.Contains(leaving, i) {
					list = append(list, n)
				}
			}
			return runtime.Run(t.Context(), c, runtime.RemovePhases(list, runtime.RemoveOptions{Dead: dead}))
		}
		delete(s.machines, four[0])
		if err := removal(true, 1); err == nil || s.nodes["h2"] == nil {
			t.Errorf("a living control plane was removed beside a dead one: %v", err)
		}
		if err := removal(true, 0); err != nil {
			t.Fatal(err)
		}
		s.problems(t, oldVersion, 2, four[1:]...)
	})
}
