package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/pki"
)

// TestServicesRefuse: work on a cluster that is there wants it to be there, and all of its hosts its own.
func TestServicesRefuse(t *testing.T) {
	for name, phases := range map[string]func() []runtime.Phase{
		"renew": runtime.RenewPhases, "rotate": runtime.RotatePhases, "sans": func() []runtime.Phase { return runtime.SANPhases([]string{"x"}) }, "app": runtime.AppPhases,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(3)
				w.refused(t, w.cluster("v1.37.2", 2, 1), phases(), "no-cluster")
				w.install(t, 2)
				w.machines["10.0.0.3"].foreign(t, "bank", "b")
				w.refused(t, w.cluster("v1.37.2", 2, 1), phases(), "other-cluster")
			})
		})
	}
}

// TestCertificates reads, renews, adds names and rotates.
func TestCertificates(t *testing.T) {
	ca, err := pki.NewCA("fake") // outside of the bubble, whose clock stands in the year 2000
	if err != nil {
		t.Fatal(err)
	}
	inBubble(t, func(t *testing.T) {
		w := newWorld(3)
		w.install(t, 2)
		for _, m := range w.machines {
			m.Write("/etc/fake/api.crt", string(ca.CertPEM()))
		}
		w.machines["10.0.0.3"].off = true
		list, err := runtime.Certificates(t.Context(), w.standing(2, 1))
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, c := range list {
			found[c.Host+" "+c.File]++
		}
		for _, f := range []string{"10.0.0.1 /etc/fake/api.crt", "10.0.0.2 /etc/fake/api.crt", "10.0.0.2 /var/lib/keg-node/registry/tls.crt"} {
			if found[f] != 1 {
				t.Errorf("%s is there %d times: %v", f, found[f], found)
			}
		}
		if !slices.IsSortedFunc(list, func(a, b runtime.Certificate) int { return a.Expires.Compare(b.Expires) }) {
			t.Error("soonest does not come first")
		}
		w.machines["10.0.0.3"].off = false

		registry := func() string { return string(w.machines["10.0.0.2"].File("/var/lib/keg-node/registry/tls.crt")) }
		before := registry()
		run := func(phases []runtime.Phase) []string {
			t.Helper()
			if err := runtime.Run(t.Context(), w.standing(2, 1), phases); err != nil {
				t.Fatal(err)
			}
			return w.fresh()
		}
		diff(t, "renew", []string{"renew h1", "renew h2", "renew h3"}, run(runtime.RenewPhases()))
		if after := registry(); after == before || after == "" {
			t.Error("the registry's certificate is the old one")
		}
		diff(t, "sans", []string{"sans a.example h1", "sans a.example h2"}, run(runtime.SANPhases([]string{"a.example"})))
		diff(t, "more sans", []string{"sans a.example,b.example h1", "sans a.example,b.example h2"}, run(runtime.SANPhases([]string{"b.example", "a.example"})))
		diff(t, "rotate", []string{"rotate h1"}, run(runtime.RotatePhases()))

		// The host of one that was asked is up, and its control plane down.
		w.install(t, 2)
		w.notReady = ""
		w.failOn = "renew h2"
		if err := runtime.Run(t.Context(), w.standing(2, 1), runtime.RenewPhases()); err == nil || slices.Contains(w.fresh(), "renew h3") {
			t.Errorf("it went on after a failure: %v", err)
		}
	})
}

// app is an app image for versions of Kubernetes.
func app(w *world, versions string) *runtime.Cluster {
	c := w.standing(2, 1)
	img, content := image("app")
	img.Spec.KubeVersion = versions
	c.Image, c.Content = img, content
	return c
}

// TestAppImage: images first on all control planes, then the app, once; nothing where the version is wrong.
func TestAppImage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(3)
		w.install(t, 2)
		w.refused(t, app(w, "<1.37"), runtime.AppPhases(), "kube-version")
		wrong := app(w, "")
		wrong.Image.Platforms = map[string]runtime.Rootfs{"linux/arm64": {}}
		w.refused(t, wrong, runtime.AppPhases(), "arch")
		for range 2 {
			if err := runtime.Run(t.Context(), app(w, ">=1.37"), runtime.AppPhases()); err != nil {
				t.Fatal(err)
			}
		}
		diff(t, "started once", []string{"h1 runs kubectl apply -f 'web.yaml'", "h1 runs one"}, w.fresh())
		name := app(w, "").Image.Target.Digest
		for ip, m := range w.machines {
			_, serves := m.State().Apps[name]
			in := strings.Contains(string(m.File("/var/lib/keg-node/registry/config.json")), name.String())
			if want := ip != "10.0.0.3"; serves != want || in != want {
				t.Errorf("%s serves the app: %t, %t", ip, serves, in)
			}
		}
		// Those who come later, and a run of the cluster image, keep serving it.
		w.install(t, 2)
		if !strings.Contains(string(w.machines["10.0.0.2"].File("/var/lib/keg-node/registry/config.json")), name.String()) {
			t.Error("a run has taken the app out of the registry")
		}
	})
}

// TestAppImageNewMaster: a control plane that comes after an app image serves what that embeds, wherever keg
// dies; the operator has the app image no more.
func TestAppImageNewMaster(t *testing.T) {
	var name digest.Digest
	everyKill(t, func(t *testing.T) *world {
		w := newWorld(3)
		all := w.order
		w.order = w.order[:2]
		w.install(t, 1)
		c := w.standing(1, 1)
		c.Image, c.Content = image("app")
		name = c.Image.Target.Digest
		if err := runtime.Run(t.Context(), c, runtime.AppPhases()); err != nil {
			t.Fatal(err)
		}
		w.order = []string{all[0], all[2], all[1]}
		return w
	}, func(t *testing.T, w *world) error {
		return runtime.Run(t.Context(), w.cluster("v1.37.2", 2, 1), runtime.RunPhases())
	}, func(t *testing.T, w *world) {
		m := w.machines["10.0.0.3"]
		_, serves := m.State().Apps[name]
		if !serves || !strings.Contains(string(m.File("/var/lib/keg-node/registry/config.json")), name.String()) {
			t.Error("the new control plane does not serve the app")
		}
		img, content := image("app")
		manifest := img.Index.Embedded[0].Manifest.Digest
		for _, d := range []digest.Digest{name, manifest, img.Documents[manifest].Config.Digest, img.Documents[manifest].Layers[0].Digest} {
			if got := string(m.File("/var/lib/keg-node/store/blobs/sha256/" + d.Encoded())); got != content[d] {
				t.Errorf("blob %s is %q", d, got)
			}
		}
	})
}

func TestAppImageAfterKill(t *testing.T) {
	everyKill(t, func(t *testing.T) *world {
		w := newWorld(3)
		w.install(t, 2)
		return w
	}, func(t *testing.T, w *world) error {
		return runtime.Run(t.Context(), app(w, ""), runtime.AppPhases())
	}, func(t *testing.T, w *world) {
		if got := slices.Compact(w.fresh()); len(got) != 2 || got[1] != "h1 runs one" {
			t.Errorf("ran %v", got)
		}
	})
}

func TestCheckKubeVersion(t *testing.T) {
	for _, tt := range []struct {
		want, version string
		ok            bool
	}{
		{"", "v1.20.0", true}, {">=1.30, <1.38", "v1.37.2+k3s1", true}, {">=1.30, <1.38", "v1.38.0-rc.1", false}, {">=1.38", "v1.38.0-rc.1", true},
		{"<1.37", "v1.37.2", false}, {"many", "v1.37.2", false}, {">=1", "x", false},
	} {
		if err := runtime.CheckKubeVersion(tt.want, tt.version); (err == nil) != tt.ok {
			t.Errorf("%q, %s: %v", tt.want, tt.version, err)
		}
	}
}

// backedUp is a file with a backup of the world's cluster.
func (w *world) backedUp(t *testing.T, key *age.X25519Identity) *runtime.Archive {
	t.Helper()
	var out bytes.Buffer
	if err := runtime.Run(t.Context(), w.standing(2, 1), runtime.BackupPhases(&out, key.Recipient())); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := runtime.ReadBackup(file, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runtime.ReadBackup(file, newKey(t)); err == nil {
		t.Error("somebody else's key opens it")
	}
	if err := os.Truncate(file, int64(out.Len()-5)); err != nil {
		t.Fatal(err)
	}
	if _, err := runtime.ReadBackup(file, key); err == nil {
		t.Error("half a backup was read")
	}
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestRestoreRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, w *world, c *runtime.Cluster)
		want   string
	}{
		{"another name", func(_ *testing.T, _ *world, c *runtime.Cluster) { c.Name = "bank" }, "backup-cluster"},
		{"another version", func(_ *testing.T, w *world, c *runtime.Cluster) { c.Image, c.Content = image("v1.36.3") }, "backup-version"},
		{"another runtime", func(_ *testing.T, w *world, c *runtime.Cluster) { c.Driver = otherDriver{fakeDriver{w}} }, "backup-runtime"},
		{"another cluster's host", func(t *testing.T, w *world, _ *runtime.Cluster) { w.machines["10.0.0.3"].foreign(t, "bank", "b") }, "other-cluster"},
		{"a later cluster of that name", func(t *testing.T, w *world, _ *runtime.Cluster) { w.machines["10.0.0.1"].foreign(t, "shop", "new") }, "other-cluster"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(3)
				w.install(t, 2)
				a := w.backedUp(t, newKey(t))
				c := w.cluster("v1.37.2", 2, 1)
				tt.change(t, w, c)
				w.refused(t, c, runtime.RestorePhases(a), tt.want)
			})
		})
	}
}

// TestLaterNames: what a later run names for clients outside comes into the certificates of a cluster that is there, once.
func TestLaterNames(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(3)
		w.install(t, 2)
		run := func(want ...string) {
			t.Helper()
			c := w.standing(2, 1)
			c.Options.Endpoint, c.Options.SANs = "lb.example:6443", []string{"a.example"}
			if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err != nil {
				t.Fatal(err)
			}
			log := slices.DeleteFunc(w.fresh(), func(l string) bool { return !strings.HasPrefix(l, "sans") })
			diff(t, "sans", want, log)
		}
		w.failOn = "sans a.example h2"
		c := w.standing(2, 1)
		c.Options.SANs = []string{"a.example"}
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err == nil {
			t.Error("it went on after a failure")
		}
		w.failOn = ""
		w.fresh()
		run("sans a.example h1", "sans a.example h2")
		run()
	})
}

// TestNoName: what is no name reaches no host: a runtime might keep it for good.
func TestNoName(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(1)
		w.install(t, 1)
		w.refused(t, w.standing(1, 0), runtime.SANPhases([]string{"a.example", "a b"}), "san")
	})
}

// TestRestoreElsewhere: hosts are gone for good and the operator's machine still has their record. The cluster is made
// on another, and the record forgets those that were; it is not made where that name is another cluster's.
func TestRestoreElsewhere(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(4)
		dir := t.TempDir()
		first := w.cluster("v1.37.2", 2, 1)
		first.Dir = dir
		if err := runtime.Run(t.Context(), first, runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		a := w.backedUp(t, newKey(t))
		for _, ip := range w.order[:3] {
			w.machines[ip].off = true
		}
		clear(w.members)
		clear(w.kubelets) // those of this cluster are on hosts that are gone
		elsewhere := func() *runtime.Cluster {
			c := w.cluster("v1.37.2", 4, 0)
			c.Dir, c.Nodes = dir, c.Nodes[3:]
			return c
		}
		if err := runtime.Run(t.Context(), elsewhere(), runtime.RestorePhases(a)); err != nil {
			t.Fatal(err)
		}
		r, err := runtime.LoadRecord(dir)
		if err != nil || len(r.Nodes) != 1 || r.Nodes[0].Address.Host != w.order[3] || r.UID != a.Header.UID {
			t.Errorf("record %+v, %v", r, err)
		}

		other := *a
		other.Header.UID = "another"
		c := elsewhere()
		c.Nodes[0].Address.Host = "10.0.0.77"
		w.refused(t, c, runtime.RestorePhases(&other), "cluster-name")
	})
}

type otherDriver struct{ fakeDriver }

func (otherDriver) Name() string { return "k3s" }

// TestRestoreAfterKill: the cluster is made anew with its state, on the same hosts, wherever keg dies; its
// settings come from the backup, and what was started once is not started again.
func TestRestoreAfterKill(t *testing.T) {
	var a *runtime.Archive
	everyKill(t, func(t *testing.T) *world {
		w := newWorld(3)
		c := w.cluster("v1.37.2", 2, 1)
		c.Options.Env, c.Options.SANs = map[string]string{"COLOUR": "blue"}, []string{"a.example"}
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		a = w.backedUp(t, newKey(t))
		w.kubelets["gone"] = "v1.37.2"
		w.fresh()
		return w
	}, func(t *testing.T, w *world) error {
		c := w.cluster("v1.37.2", 2, 1)
		err := runtime.Run(t.Context(), c, runtime.RestorePhases(a))
		w.broken = nil // the etcd that was ends with it
		if err == nil && (c.Options.Env["COLOUR"] != "blue" || !slices.Contains(c.Options.SANs, "a.example") || c.UID != a.Header.UID) {
			t.Errorf("settings %+v, UID %s", c.Options.Settings, c.UID)
		}
		return err
	}, func(t *testing.T, w *world) {
		if len(w.kubelets) != 3 || len(w.members) != 2 {
			t.Errorf("nodes %v, members %v", w.kubelets, w.members)
		}
		for _, m := range w.machines {
			if s := m.State(); s == nil || s.UID != a.Header.UID || m.Locked() {
				t.Errorf("%s: %+v", m.name, s)
			}
		}
		if log := w.fresh(); slices.ContainsFunc(log, func(l string) bool { return strings.Contains(l, "runs") }) {
			t.Errorf("started again: %v", log)
		}
	})
}

// TestResetAfterKill: whatever was done of a reset, the next one ends it.
func TestResetAfterKill(t *testing.T) {
	everyKill(t, func(t *testing.T) *world {
		w := newWorld(3)
		w.install(t, 2)
		w.broken = nil
		return w
	}, func(t *testing.T, w *world) error {
		c := w.standing(2, 1)
		c.Image = nil
		_, err := runtime.Reset(t.Context(), c)
		w.broken = nil // nobody needs etcd any more
		return err
	}, func(t *testing.T, w *world) {
		for _, m := range w.machines {
			if m.State() != nil || m.master || m.worker || len(m.Files()) > 0 || m.Locked() {
				t.Errorf("%s: %+v, files %v", m.name, m.State(), m.Files())
			}
		}
	})
}

// TestPluginApps: the network comes before everything else.
func TestPluginApps(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(1)
		c := w.cluster("v1.37.2", 1, 0)
		c.Image.Spec.Apps = append(c.Image.Spec.Apps,
			clusterimage.App{Name: "disk", Role: clusterimage.RoleCSI, Type: "shell", Files: []string{"disk.sh"}},
			clusterimage.App{Name: "net", Role: clusterimage.RoleCNI, Type: "shell", Files: []string{"net.sh"}})
		c.Image.Spec.Launch = []string{"disk", "web", "net"}
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		diff(t, "order", []string{"init h1", "h1 runs sh 'net.sh'", "h1 runs sh 'disk.sh'", "h1 runs kubectl apply -f 'web.yaml'", "h1 runs one"}, w.fresh())
		c = w.cluster("v1.37.2", 1, 0)
		c.Image.Spec.Launch = []string{"nobody"}
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err == nil || !strings.Contains(err.Error(), `no app of that name`) {
			t.Errorf("error %v", err)
		}
	})
}

// TestCancelled: Ctrl-C ends between two steps, and the locks go.
func TestCancelled(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(2)
		ctx, cancel := context.WithCancelCause(t.Context())
		interrupted := errors.New("interrupted")
		w.machines["10.0.0.1"].Scripts = map[string]func() error{"init": func() error { cancel(interrupted); return nil }}
		if err := runtime.Run(ctx, w.cluster("v1.37.2", 1, 1), runtime.RunPhases()); !errors.Is(err, interrupted) {
			t.Errorf("error %v", err)
		}
		for _, m := range w.machines {
			if m.Locked() {
				t.Errorf("%s is locked", m.name)
			}
		}
		if err := runtime.Run(t.Context(), w.cluster("v1.37.2", 1, 1), runtime.RunPhases()); err != nil {
			t.Error(err)
		}
	})
}
