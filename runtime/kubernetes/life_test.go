package kubernetes

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/runtime"
)

var (
	threeMasters = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}
	allHosts     = append(slices.Clone(threeMasters), "10.0.0.4")
)

// large is a new keg's view of some of three control planes and a worker. Nothing of it is on the
// operator's disk: facts of hosts must be enough.
func (s *sim) large(ips ...string) *runtime.Cluster {
	c := s.cluster("", ips...)
	c.Kubeconfig = ""
	for _, n := range c.Nodes {
		if slices.Contains(threeMasters, n.Address.Host) {
			n.Role = runtime.Master
		}
	}
	for _, ip := range threeMasters {
		s.machines[ip].host.Rootfs["etc/kubeadm-join.yaml"] = "kind: JoinConfiguration\ncontrolPlane: {}\n"
	}
	return c
}

// grown is a cluster of all hosts.
func grown(t *testing.T) *sim {
	t.Helper()
	s := newSim(t, allHosts...)
	if err := runtime.Run(t.Context(), s.large(allHosts...), runtime.RunPhases()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sim) checkMembers(t *testing.T, want ...string) {
	t.Helper()
	if got := slices.Sorted(maps.Keys(s.members)); !slices.Equal(got, want) {
		t.Errorf("members of etcd %v, want %v", got, want)
	}
	for ip, m := range s.members {
		if m.learner || !s.healthy(ip) {
			t.Errorf("member %s: learner %t, healthy %t", ip, m.learner, s.healthy(ip))
		}
	}
	if len(s.broken) > 0 || len(s.leaked) > 0 {
		t.Errorf("broken: %v; secrets in arguments: %v", s.broken, s.leaked)
	}
	for _, m := range s.machines {
		for _, f := range m.host.Files() {
			if strings.HasPrefix(f, secretDir) || strings.HasPrefix(f, restoreDir) || strings.HasPrefix(f, backupDir) {
				t.Errorf("%s: %s is left", m.name, f)
			}
		}
		if m.host.Locked() {
			t.Errorf("%s is still locked", m.name)
		}
	}
}

// killEverywhere does something that is killed at each of its operations in turn, does it again, and
// checks. Only before every step-th operation, since most are alike, and in the middle of every one that can be cut.
func killEverywhere(t *testing.T, step int, prepare func(t *testing.T) *sim, do func(t *testing.T, s *sim) error, check func(t *testing.T, s *sim)) {
	t.Helper()
	for _, mode := range []killMode{before, midway} {
		for at := 1; ; at += map[killMode]int{before: step, midway: 1}[mode] {
			reached := false
			synctest.Test(t, func(t *testing.T) {
				s := prepare(t)
				s.ops, s.cuts, s.killAt, s.mode = 0, 0, at, mode
				err := do(t, s)
				if reached = s.dead; !reached {
					return
				}
				if err == nil {
					t.Fatalf("killed at %d (%s): no error", at, mode)
				}
				s.revive()
				if err := do(t, s); err != nil {
					t.Fatalf("killed at %d (%s) by %q: again: %v", at, mode, s.killed, err)
				}
				clear(s.secrets) // a token that nobody could delete any more dies by itself after half an hour
				check(t, s)
				if t.Failed() {
					t.Logf("killed at %d (%s) by %q", at, mode, s.killed)
				}
			})
			if !reached || t.Failed() {
				t.Logf("%s: %d operations", mode, at-1)
				break
			}
		}
	}
}

func TestJoinMastersAfterKill(t *testing.T) {
	one := func(t *testing.T) *sim {
		s := newSim(t, allHosts...)
		if err := runtime.Run(t.Context(), s.large(allHosts[0], allHosts[3]), runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	killEverywhere(t, 2, one, func(t *testing.T, s *sim) error {
		return runtime.Run(t.Context(), s.large(allHosts...), runtime.RunPhases())
	}, func(t *testing.T, s *sim) {
		s.checkMembers(t, threeMasters...)
		if len(s.nodes) != 4 || s.inits != 1 {
			t.Errorf("nodes %v, %d inits", s.nodes, s.inits)
		}
	})
}

func TestRemoveMasterAfterKill(t *testing.T) {
	killEverywhere(t, 2, grown, func(t *testing.T, s *sim) error {
		c := s.large(allHosts...)
		for _, m := range s.machines {
			if st := m.host.State(); st != nil {
				c.UID = st.UID
			}
		}
		return runtime.Run(t.Context(), c, runtime.RemovePhases([]*runtime.Node{c.Nodes[0]}, runtime.RemoveOptions{}))
	}, func(t *testing.T, s *sim) {
		s.checkMembers(t, threeMasters[1:]...)
		if _, ok := s.nodes["h1"]; ok || len(s.nodes) != 3 {
			t.Errorf("nodes %v", s.nodes)
		}
		if left := s.machines["10.0.0.1"].host.Files(); len(left) > 0 {
			t.Errorf("left on h1: %v", left)
		}
	})
}

// TestRemoveDeadMaster: the first control plane has died. It is taken out, made anew, and joins.
func TestRemoveDeadMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := grown(t)
		h1 := s.machines["10.0.0.1"]
		h1.off = true
		c := s.large(allHosts...)
		c.UID = h1.host.State().UID
		c.Connect = s.reaching(c.Connect)
		c.Nodes[0].Name, c.Nodes[0].IP = "h1", "10.0.0.1" // as the record has it
		if err := runtime.Run(t.Context(), c, runtime.RemovePhases([]*runtime.Node{c.Nodes[0]}, runtime.RemoveOptions{Dead: true})); err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(s.members)); !slices.Equal(got, threeMasters[1:]) {
			t.Errorf("members %v", got)
		}
		fresh := newSim(t, allHosts...).machines["10.0.0.1"]
		fresh.sim, fresh.host.Before = s, func(op string) error { return s.op("h1: "+op, nil) }
		s.machines["10.0.0.1"] = fresh
		if err := runtime.Run(t.Context(), s.large(allHosts...), runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		s.checkMembers(t, threeMasters...)
		if s.inits != 1 {
			t.Errorf("%d inits: a second cluster was made", s.inits)
		}
	})
}

// TestRemoveWithoutQuorum: with one of three dead, no healthy one may go.
func TestRemoveWithoutQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := grown(t)
		s.machines["10.0.0.2"].host.Remove(etcdManifest)
		c := s.large(allHosts...)
		c.UID = s.machines["10.0.0.1"].host.State().UID
		err := runtime.Run(t.Context(), c, runtime.RemovePhases([]*runtime.Node{c.Nodes[2]}, runtime.RemoveOptions{}))
		if err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("error %v", err)
		}
		if len(s.members) != 3 {
			t.Errorf("members %v", s.members)
		}
	})
}

// upgraded is the cluster's view with an image of the next minor version.
func (s *sim) upgraded(ips ...string) *runtime.Cluster {
	c := s.large(ips...)
	img, content := testImage()
	b := content
	img.Name, img.Target = "reg.example.com/shop:v2", b.add("index of v2")
	r := img.Platforms["linux/amd64"]
	r.Metadata = basefs.Metadata{Version: "v1.38.2", Arch: "amd64", Runtime: "kubernetes"}
	img.Platforms["linux/amd64"] = r
	for i, e := range img.Index.Embedded {
		img.Index.Embedded[i].Name = strings.Replace(e.Name, "v1.37.2", "v1.38.2", 1)
	}
	c.Image, c.Content = img, b
	s.minor = 38
	return c
}

func TestUpgradeAfterKill(t *testing.T) {
	killEverywhere(t, 5, grown, func(t *testing.T, s *sim) error {
		return runtime.Run(t.Context(), s.upgraded(allHosts...), runtime.UpgradePhases(runtime.UpgradeOptions{}))
	}, func(t *testing.T, s *sim) {
		s.checkMembers(t, threeMasters...)
		for _, ip := range threeMasters {
			if name := s.machines[ip].name; s.api[name] != 38 {
				t.Errorf("control plane of %s: 1.%d", name, s.api[name])
			}
		}
		for name, minor := range s.kubelet {
			if minor != 38 {
				t.Errorf("kubelet of %s: 1.%d", name, minor)
			}
		}
	})
}

func TestServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := grown(t)
		if err := runtime.Run(t.Context(), s.large(allHosts...), runtime.RenewPhases()); err != nil {
			t.Error(err)
		}
		if err := runtime.Run(t.Context(), s.large(allHosts...), runtime.SANPhases([]string{"api.example.com"})); err != nil {
			t.Error(err)
		}
		if !slices.Contains(s.sans, any("api.example.com")) {
			t.Errorf("SANs %v", s.sans)
		}
		s.secrets["abcdef.0123456789abcdef"] = true
		if err := runtime.Run(t.Context(), s.large(allHosts...), runtime.RotatePhases()); err != nil {
			t.Error(err)
		}
		if len(s.secrets) > 0 {
			t.Error("a token is left")
		}
		s.checkMembers(t, threeMasters...)
	})
}

// TestSignFails: a certificate that cannot be made leaves nothing of the cluster's keys in another place.
func TestSignFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := grown(t)
		s.unsigned = true
		if err := runtime.Run(t.Context(), s.large(allHosts...), runtime.SANPhases([]string{"api.example.com"})); err == nil {
			t.Error("it is done without a certificate")
		}
		for _, m := range s.machines {
			for _, f := range m.host.Files() {
				if strings.HasPrefix(f, secretDir) {
					t.Errorf("%s is left on %s", f, m.name)
				}
			}
		}
	})
}

// TestRestoreAfterKill: all hosts are gone; the backup comes back on others, killed at each point.
func TestRestoreAfterKill(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/backup.age"
	synctest.Test(t, func(t *testing.T) {
		s := grown(t)
		s.nodes["gone"] = 9
		var b bytes.Buffer
		if err := runtime.Run(t.Context(), s.large(allHosts...), runtime.BackupPhases(&b, id.Recipient())); err != nil {
			t.Fatal(err)
		}
		s.checkMembers(t, threeMasters...)
		if err := atomicfile.Write(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	killEverywhere(t, 5, func(t *testing.T) *sim {
		s := newSim(t, allHosts...)
		s.guarded = false // what is taken off before a restore has nobody to tell
		return s
	}, func(t *testing.T, s *sim) error {
		a, err := runtime.ReadBackup(file, id)
		if err != nil {
			return err
		}
		return runtime.Run(t.Context(), s.large(allHosts...), runtime.RestorePhases(a))
	}, func(t *testing.T, s *sim) {
		s.checkMembers(t, threeMasters...)
		if d := cmp.Diff([]string{"h1", "h2", "h3", "h4"}, slices.Sorted(maps.Keys(s.nodes))); d != "" {
			t.Errorf("nodes (-want +got):\n%s", d)
		}
		for _, command := range s.ran {
			if command != "init" {
				t.Errorf("%q ran again on the restored cluster", command)
			}
		}
	})
}

func TestOnlyBackup(t *testing.T) {
	pack := func(names ...string) io.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range names {
			if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	whole := []string{"./snapshot.db"}
	for _, a := range authorities {
		whole = append(whole, "pki/"+a)
	}
	var out bytes.Buffer
	if err := onlyBackup(&out, pack(append(whole, "../../etc/passwd", "pki/apiserver.crt")...)); err != nil {
		t.Fatal(err)
	}
	for in := tar.NewReader(&out); ; {
		hdr, err := in.Next()
		if err != nil {
			break
		}
		if strings.Contains(hdr.Name, "passwd") || strings.Contains(hdr.Name, "apiserver") || hdr.Mode != 0o600 {
			t.Errorf("%s (%o) came through", hdr.Name, hdr.Mode)
		}
	}
	if err := onlyBackup(io.Discard, pack(whole[:3]...)); err == nil || !strings.Contains(err.Error(), "it has no") {
		t.Errorf("a backup that lacks keys: %v", err)
	}
}
