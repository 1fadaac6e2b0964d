package kubernetes

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

var wantRan = []string{"init", "kubectl apply -f 'web.yaml'", "one", "two"}

// checkStands sees that two hosts are the cluster that they should be.
func checkStands(t *testing.T, s *sim) {
	t.Helper()
	if len(s.nodes) != 2 {
		t.Errorf("nodes %v, want h1 and h2", s.nodes)
	}
	if len(s.secrets) > 0 {
		t.Errorf("%d bootstrap tokens are left", len(s.secrets))
	}
	if len(s.leaked) > 0 {
		t.Errorf("tokens in arguments: %v", s.leaked)
	}
	uid := ""
	for _, m := range s.machines {
		if m.host.Locked() {
			t.Errorf("%s is still locked", m.name)
		}
		st := m.host.State()
		if st == nil || uid != "" && st.UID != uid {
			t.Fatalf("%s: state %+v, the other's UID %s", m.name, st, uid)
		}
		uid = st.UID
		for _, f := range m.host.Files() {
			if strings.HasPrefix(f, secretDir) {
				t.Errorf("%s: %s is left", m.name, f)
			}
		}
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newSim(t, "10.0.0.1", "10.0.0.2"), t.TempDir()
		if err := runtime.Run(t.Context(), s.cluster(dir, "10.0.0.1", "10.0.0.2"), runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		checkStands(t, s)
		if d := cmp.Diff(wantRan, s.ran); d != "" {
			t.Errorf("what ran (-want +got):\n%s", d)
		}
		if got := s.machines["10.0.0.2"].host.Blobs(); got != 3 {
			t.Errorf("the worker has %d blobs, want those of the rootfs, 3", got)
		}
		toml := string(s.machines["10.0.0.2"].host.File("/etc/containerd/certs.d/_default/hosts.toml"))
		if !strings.HasPrefix(toml, "server = \"https://registry.cluster.local:5000\"\n") {
			t.Errorf("hosts.toml does not keep containerd from asking upstream:\n%s", toml)
		}

		first := s.ops
		if err := runtime.Run(t.Context(), s.cluster(dir, "10.0.0.1", "10.0.0.2"), runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		checkStands(t, s)
		if s.inits != 1 || s.joins != 1 || len(s.ran) != len(wantRan) {
			t.Errorf("a second run did it again: %d inits, %d joins, %v", s.inits, s.joins, s.ran)
		}
		t.Logf("%d operations the first time, %d the second", first, s.ops-first)
	})
}

// TestWorkerLost: a worker that has joined and has lost what it joined with joins anew, at the second try.
func TestWorkerLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, "10.0.0.1", "10.0.0.2")
		run := func() error {
			return runtime.Run(t.Context(), s.cluster("", "10.0.0.1", "10.0.0.2"), runtime.RunPhases())
		}
		if err := run(); err != nil {
			t.Fatal(err)
		}
		s.machines["10.0.0.2"].host.Remove(kubeletConf)
		if err := run(); err == nil || !strings.Contains(err.Error(), "run again") {
			t.Errorf("error %v", err)
		}
		if err := run(); err != nil {
			t.Fatal(err)
		}
		checkStands(t, s)
		if s.joins != 2 {
			t.Errorf("%d joins", s.joins)
		}
	})
}

// TestRunAfterKill kills keg before each operation of a run, and in the middle of each that can be cut, and runs again.
func TestRunAfterKill(t *testing.T) {
	for _, mode := range []killMode{before, midway} {
		for at := 1; ; at++ {
			reached := false
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, "10.0.0.1", "10.0.0.2")
				// Without files of the operator's: facts of hosts must be enough.
				run := func() error {
					c := s.cluster("", "10.0.0.1", "10.0.0.2")
					c.Kubeconfig = ""
					return runtime.Run(t.Context(), c, runtime.RunPhases())
				}
				s.killAt, s.mode = at, mode
				err := run()
				if reached = s.dead; !reached {
					return
				}
				// A killed keg answers nobody; the pretended one sees its error, except in clean-ups.
				if err == nil {
					t.Fatalf("killed at %d (%s): no error", at, mode)
				}
				uid := ""
				for _, m := range s.machines {
					if st := m.host.State(); st != nil {
						uid = st.UID
					}
				}
				ran := slices.Clone(s.ran)
				s.revive()
				if err := run(); err != nil {
					t.Fatalf("killed at %d (%s): the second run: %v", at, mode, err)
				}
				// A token that nobody could delete any more dies by itself after half an hour.
				clear(s.secrets)
				checkStands(t, s)
				if st := s.machines["10.0.0.1"].host.State(); uid != "" && st.UID != uid {
					t.Errorf("killed at %d (%s): it is another cluster, %s, before %s", at, mode, st.UID, uid)
				}
				// What ran on the last cluster ran once, except what was killed between its end and its mark.
				last := s.ran
				for i, command := range s.ran {
					if command == "init" {
						last = s.ran[i:]
					}
				}
				doubles := len(last) - len(wantRan)
				if got := slices.Compact(slices.Clone(last)); !slices.Equal(got, wantRan) || doubles > 1 {
					t.Errorf("killed at %d (%s): ran %v, before that %v", at, mode, s.ran, ran)
				}
			})
			if !reached || t.Failed() {
				t.Logf("%s: %d operations", mode, at-1)
				break
			}
		}
	}
}

func TestDecideInit(t *testing.T) {
	for _, tt := range []struct {
		name   string
		marked bool
		paths  []string
		want   action
	}{
		{"fresh host", false, nil, create},
		{"made", true, []string{adminConf, kubeletConf, "/var/lib/etcd/member"}, skip},
		{"half made", false, []string{"/etc/kubernetes/pki/ca.crt"}, redo},
		{"killed before the mark", false, []string{adminConf, kubeletConf, "/var/lib/etcd/member"}, redo},
		{"somebody reset it by hand", true, nil, create},
		{"somebody reset it by half", true, []string{"/var/lib/etcd/member"}, redo},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := decideInit(tt.marked, tt.paths); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestDecideJoin(t *testing.T) {
	for _, tt := range []struct {
		name       string
		registered bool
		paths      []string
		want       action
	}{
		{"fresh host", false, nil, create},
		{"joined", true, []string{kubeletConf}, skip},
		{"of a control plane that was made anew", false, []string{kubeletConf}, redo},
		{"killed in the middle", false, []string{"/etc/kubernetes/bootstrap-kubelet.conf"}, redo},
		{"wiped, and its node still there", true, nil, redo},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := decideJoin(tt.registered, tt.paths); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestBusy: where one host is not to be had, the others keep nothing of keg.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, "10.0.0.1", "10.0.0.2")
		busy := s.machines["10.0.0.2"].host
		release, err := busy.Lock(t.Context(), node.LockRequest{})
		if err != nil {
			t.Fatal(err)
		}
		c := s.cluster(t.TempDir(), "10.0.0.1", "10.0.0.2")
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); !errors.Is(err, &node.Error{Kind: node.KindBusy}) {
			t.Fatalf("error %v", err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
		for ip, want := range map[string]bool{"10.0.0.1": true, "10.0.0.2": false} {
			h := s.machines[ip].host
			if got := slices.Contains(h.Calls(), "forget"); got != want || h.Locked() {
				t.Errorf("%s: forgotten %t, locked %t: %v", ip, got, h.Locked(), h.Calls())
			}
		}
	})
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newSim(t, "10.0.0.1", "10.0.0.2"), t.TempDir()+"/shop"
		if err := runtime.Run(t.Context(), s.cluster(dir, "10.0.0.1", "10.0.0.2"), runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		record, err := runtime.LoadRecord(dir)
		if err != nil || record == nil || !record.Complete {
			t.Fatalf("record %+v, %v", record, err)
		}
		load := func() *runtime.Cluster {
			r, err := runtime.LoadRecord(dir)
			if err != nil || r == nil {
				t.Fatalf("record %v, %v", r, err)
			}
			c := r.Cluster(dir, []runtime.Driver{Driver{}})
			fresh := s.cluster(dir)
			c.Connect, c.Agent = fresh.Connect, fresh.Agent
			return c
		}

		// The worker's cable is out: the master is reset all the same, the worker stays in the record.
		worker := s.machines["10.0.0.2"]
		delete(s.machines, "10.0.0.2")
		report, err := runtime.Reset(t.Context(), load())
		if err == nil || !strings.Contains(err.Error(), "connect: 10.0.0.2: no route to host") {
			t.Fatalf("error %v", err)
		}
		if report.Hosts[0].Error != "" || report.Hosts[0].Restored == 0 || report.Hosts[1].Error == "" {
			t.Errorf("report %+v", report)
		}
		if left := s.machines["10.0.0.1"].host.Files(); len(left) > 0 {
			t.Errorf("left on the master: %v", left)
		}
		if r, _ := runtime.LoadRecord(dir); r == nil || len(r.Nodes) != 1 || r.Nodes[0].Address.Host != "10.0.0.2" {
			t.Errorf("record %+v, want the worker alone", r)
		}

		s.machines["10.0.0.2"] = worker
		worker.host.Residue = []string{"/dev/x: it does not go"}
		var residue *runtime.ResidueError
		if report, err = runtime.Reset(t.Context(), load()); !errors.As(err, &residue) || len(report.Hosts[0].Residue) != 1 {
			t.Errorf("report %+v, error %v; want residue", report, err)
		}
		worker.host.Residue = nil
		if _, err := runtime.Reset(t.Context(), load()); err != nil {
			t.Error(err)
		}
		if r, err := runtime.LoadRecord(dir); r != nil || err != nil {
			t.Errorf("record %+v, %v; want none", r, err)
		}
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newSim(t, "10.0.0.1", "10.0.0.2"), t.TempDir()
		ips := []string{"10.0.0.1", "10.0.0.2"}
		if err := runtime.Run(t.Context(), s.cluster(dir, ips...), runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		for _, m := range s.machines {
			m.host.Write("keg-node", "")
		}
		st, err := runtime.Status(t.Context(), s.cluster(dir, ips...))
		if err != nil {
			t.Fatal(err)
		}
		if !st.Healthy() {
			t.Errorf("not healthy: %+v", st)
		}
		delete(s.machines, "10.0.0.2")
		st, err = runtime.Status(t.Context(), s.cluster(dir, ips...))
		if err != nil || st.Healthy() || !strings.Contains(st.Hosts[1].Error, "no route") {
			t.Errorf("status %+v, %v", st, err)
		}
	})
}

func TestSingleHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, "10.0.0.1")
		s.machines[""] = s.machines["10.0.0.1"]
		c := s.cluster(t.TempDir(), "")
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		if c.Nodes[0].IP != "10.0.0.1" {
			t.Errorf("address %q", c.Nodes[0].IP)
		}
		for _, call := range s.machines[""].host.Calls() {
			if strings.Contains(call, routesUnit) {
				t.Errorf("routes on a single host: %s", call)
			}
		}
	})
}
