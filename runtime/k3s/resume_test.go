package k3s

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

var hosts = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} // two control planes and a worker

func (s *sim) run(t *testing.T, dir string) error {
	t.Helper()
	return runtime.Run(t.Context(), s.cluster(dir, oldVersion, 2, hosts...), runtime.RunPhases())
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
		s, dir := newSim(hosts...), t.TempDir()
		if err := s.run(t, dir); err != nil {
			t.Fatal(err)
		}
		s.problems(t, oldVersion, 2, hosts...)
		if d := cmp.Diff([]string{"kubectl apply -f 'web.yaml'", "one"}, s.ran); d != "" {
			t.Errorf("what ran (-want +got):\n%s", d)
		}
		server, agent := s.server, s.agent
		first := s.ops
		if err := s.run(t, dir); err != nil {
			t.Fatal(err)
		}
		s.problems(t, oldVersion, 2, hosts...)
		if s.creates != 1 || len(s.ran) != 2 || s.server != server || s.agent != agent || server == agent {
			t.Errorf("a second run did it again: %d clusters, %v", s.creates, s.ran)
		}
		t.Logf("%d operations the first time, %d the second", first, s.ops-first)
		for _, m := range s.machines {
			for _, call := range m.host.Calls() {
				for _, f := range []string{tokenFile, agentTokenFile, configFile} {
					if strings.HasPrefix(call, "put "+f+" ") && !strings.HasSuffix(call, " 600") {
						t.Errorf("%s: %s", m.name, call)
					}
				}
			}
		}
		worker := s.machines[hosts[2]].host
		if w := string(worker.File(tokenFile)); !strings.HasPrefix(w, "K10"+s.ca+"::node:") || strings.Contains(w, server) || worker.File(agentTokenFile) != nil {
			t.Error("the worker has more than the agents' token")
		}
	})
}

// survives kills keg before each operation of do, and in the middle of each that can be cut, and does it again.
// TestRunAfterKill names what it is about.
func survives(t *testing.T, prepare func(t *testing.T, s *sim), do func(t *testing.T, s *sim) error, check func(t *testing.T, s *sim)) {
	t.Helper()
	for _, mode := range []killMode{before, midway} {
		for at := 1; ; at++ {
			reached := false
			synctest.Test(t, func(t *testing.T) {
				s := newSim(hosts...)
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
		s.problems(t, oldVersion, 2, hosts...)
	})
}

func TestUpgradeAfterKill(t *testing.T) {
	survives(t, func(t *testing.T, s *sim) { s.mustRun(t) }, func(t *testing.T, s *sim) error {
		return runtime.Run(t.Context(), s.cluster("", newVersion, 2, hosts...), runtime.UpgradePhases(runtime.UpgradeOptions{}))
	}, func(t *testing.T, s *sim) {
		s.problems(t, newVersion, 2, hosts...)
	})
}

func TestRemoveAfterKill(t *testing.T) {
	for _, leaving := range []int{0, 1, 2} { // the first control plane, the other, the worker
		t.Run(hosts[leaving], func(t *testing.T) {
			survives(t, func(t *testing.T, s *sim) { s.mustRun(t) }, func(t *testing.T, s *sim) error {
				c := s.cluster("", oldVersion, 2, hosts...)
				c.UID = s.machines[hosts[(leaving+1)%3]].host.State().UID // the record has it
				return runtime.Run(t.Context(), c, runtime.RemovePhases([]*runtime.Node{c.Nodes[leaving]}, runtime.RemoveOptions{}))
			}, func(t *testing.T, s *sim) {
				rest := slices.Delete(slices.Clone(hosts), leaving, leaving+1)
				s.problems(t, oldVersion, map[int]int{0: 1, 1: 1, 2: 2}[leaving], rest...)
				if left := s.machines[hosts[leaving]].host.Files(); len(left) > 0 {
					t.Errorf("left on the host: %v", left)
				}
			})
		})
	}
}

func TestRotateAfterKill(t *testing.T) {
	survives(t, func(t *testing.T, s *sim) { s.mustRun(t) }, func(t *testing.T, s *sim) error {
		s.objects = []string{s.server, s.agent}
		return runtime.Run(t.Context(), s.cluster("", oldVersion, 2, hosts...), runtime.RotatePhases())
	}, func(t *testing.T, s *sim) {
		s.problems(t, oldVersion, 2, hosts...)
		if s.agent == s.objects[1] {
			t.Error("the agents' token is the old one")
		}
	})
}

func TestRenewAfterKill(t *testing.T) {
	survives(t, func(t *testing.T, s *sim) { s.mustRun(t) }, func(t *testing.T, s *sim) error {
		if err := runtime.Run(t.Context(), s.cluster("", oldVersion, 2, hosts...), runtime.SANPhases([]string{"api.example.com"})); err != nil {
			return err
		}
		return runtime.Run(t.Context(), s.cluster("", oldVersion, 2, hosts...), runtime.RenewPhases())
	}, func(t *testing.T, s *sim) {
		s.problems(t, oldVersion, 2, hosts...)
		for _, ip := range hosts[:2] {
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
		s := newSim(hosts...)
		s.mustRun(t)
		var out bytes.Buffer
		if err := runtime.Run(t.Context(), s.cluster("", oldVersion, 2, hosts...), runtime.BackupPhases(&out, id.Recipient())); err != nil {
			t.Fatal(err)
		}
		s.problems(t, oldVersion, 2, hosts...)
		uid = s.machines[hosts[0]].host.State().UID
		if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	survives(t, func(t *testing.T, s *sim) {}, func(t *testing.T, s *sim) error {
		a, err := runtime.ReadBackup(file, id)
		if err != nil {
			return err
		}
		return runtime.Run(t.Context(), s.cluster("", oldVersion, 2, hosts...), runtime.RestorePhases(a))
	}, func(t *testing.T, s *sim) {
		s.problems(t, oldVersion, 2, hosts...)
		if got := s.machines[hosts[1]].host.State().UID; got != uid {
			t.Errorf("UID %s, want %s", got, uid)
		}
		if len(s.objects) != 2 || len(s.ran) > 0 {
			t.Errorf("state %v; what ran once more: %v", s.objects, s.ran)
		}
	})
}

// TestNewHostOldName: a host that was installed anew joins under its old name; one whose name a living
// node has does not.
func TestNewHostOldName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(hosts...)
		s.mustRun(t)
		for _, ip := range []string{hosts[2], hosts[1]} {
			s.add(ip, s.machines[ip].name)
			if err := s.run(t, ""); err != nil {
				t.Fatal(err)
			}
			s.problems(t, oldVersion, 2, hosts...)
		}
		s.add("10.0.0.9", "h2")
		err := runtime.Run(t.Context(), s.cluster("", oldVersion, 1, hosts[0], "10.0.0.9"), runtime.RunPhases())
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
				m.host.Rootfs["bin/k3s"] = newVersion
			}
		}, "the program is v1.37.2+k3s1, Metadata says v1.36.3+k3s1"},
		{"data of another cluster", func(s *sim) { s.machines[hosts[1]].host.Write(serverCA, "x") }, "is of another cluster"},
		{"data that is gone", func(s *sim) { s.machines[hosts[1]].host.Remove(serverDir) }, "its data is gone"},
		{"data of the first that is gone", func(s *sim) { s.machines[hosts[0]].host.Remove(serverDir) }, "its data is gone"},
		{"a critical setting that changed", func(s *sim) {
			s.machines[hosts[0]].host.Write(configFile, "cluster-cidr: 10.9.0.0/16\n")
		}, `cluster-cidr would be "10.42.0.0/16", and the cluster was made with "10.9.0.0/16"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(hosts...)
				s.mustRun(t)
				c := s.cluster("", oldVersion, 2, hosts...)
				tt.change(s)
				was := fmt.Sprint(s.machines[hosts[1]].unit, s.creates)
				err := runtime.Run(t.Context(), c, runtime.RunPhases())
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want %q", err, tt.want)
				}
				if now := fmt.Sprint(s.machines[hosts[1]].unit, s.creates); now != was {
					t.Errorf("%s, was %s", now, was)
				}
			})
		})
	}
}

// TestDeadHost: a control plane that is gone is removed without it, and none that lives beside it.
func TestDeadHost(t *testing.T) {
	three := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}
	synctest.Test(t, func(t *testing.T) {
		s := newSim(three...)
		if err := runtime.Run(t.Context(), s.cluster("", oldVersion, 3, three...), runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		uid := s.machines[three[0]].host.State().UID
		removal := func(dead bool, leaving ...int) error {
			c := s.cluster("", oldVersion, 3, three...)
			c.UID = uid
			var list []*runtime.Node
			for i, n := range c.Nodes {
				n.Name, n.IP = fmt.Sprintf("h%d", i+1), three[i] // the record has them
				if slices.Contains(leaving, i) {
					list = append(list, n)
				}
			}
			return runtime.Run(t.Context(), c, runtime.RemovePhases(list, runtime.RemoveOptions{Dead: dead}))
		}
		delete(s.machines, three[0])
		if err := removal(true, 1); err == nil || s.nodes["h2"] == nil {
			t.Errorf("a living control plane was removed beside a dead one: %v", err)
		}
		if err := removal(true, 0); err != nil {
			t.Fatal(err)
		}
		if s.nodes["h1"] != nil {
			t.Error("the dead host is still a node")
		}
		s.problems(t, oldVersion, 2, three[1:]...)
	})
}
