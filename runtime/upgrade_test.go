package runtime_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/clusterimage/keg/runtime"
)

// newer gives all machines the rootfs of another version.
func (w *world) newer(version string) {
	for _, m := range w.machines {
		m.Rootfs = map[string]string{"bin/fake": version}
	}
}

func TestUpgradeRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		change        func(t *testing.T, w *world)
		want          string
	}{
		{"two minors", "v1.39.0", nil, "version"},
		{"back", "v1.36.3", nil, "version"},
		{"a node that is not ready", "v1.38.0", func(_ *testing.T, w *world) { w.notReady = "h4" }, "not-ready"},
		{"a host without node", "v1.38.0", func(_ *testing.T, w *world) { delete(w.kubelets, "h4") }, "no-node"},
		{"a host that has not joined", "v1.38.0", func(t *testing.T, w *world) {
			s := *w.machines["10.0.0.4"].State()
			s.Done = []string{"unpack"}
			if err := w.machines["10.0.0.4"].SetState(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}, "other-cluster"},
		{"another cluster's host", "v1.38.0", func(t *testing.T, w *world) { w.machines["10.0.0.4"].foreign(t, "bank", "b") }, "other-cluster"},
		{"another runtime", "v1.38.0", func(t *testing.T, w *world) {
			s := *w.machines["10.0.0.4"].State()
			s.Runtime = "k3s"
			if err := w.machines["10.0.0.4"].SetState(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}, "runtime"},
		{"a control plane that is down", "v1.38.0", func(_ *testing.T, w *world) { w.machines["10.0.0.3"].master = false }, "not-well"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(4)
				w.install(t, 3)
				if tt.change != nil {
					tt.change(t, w)
				}
				w.refused(t, w.cluster(tt.version, 3, 1), runtime.UpgradePhases(runtime.UpgradeOptions{}), tt.want)
			})
		})
	}
}

// TestUpgrade: the one that is asked first, then the other control planes, then workers; a backup before all.
func TestUpgrade(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(4)
		w.install(t, 2)
		w.newer("v1.38.0")
		backups := 0
		o := runtime.UpgradeOptions{Backup: func(context.Context, *runtime.Cluster) error { backups++; return w.op("back up", nil) }}
		if err := runtime.Run(t.Context(), w.cluster("v1.38.0", 2, 2), runtime.UpgradePhases(o)); err != nil {
			t.Fatal(err)
		}
		want := []string{"back up"}
		for _, h := range []string{"h1", "h2", "h3", "h4"} {
			if h < "h3" {
				want = append(want, "upgrade "+h)
			}
			want = append(want, "drain "+h, "restart "+h, "uncordon "+h)
			if h == "h1" { // the API is drained through it
				want[1], want[2] = "upgrade h1", "drain h1"
			}
		}
		diff(t, "order", append(want, "h1 runs kubectl apply -f 'web.yaml'", "h1 runs one"), w.fresh())
		if err := runtime.Run(t.Context(), w.cluster("v1.38.0", 2, 2), runtime.UpgradePhases(o)); err != nil {
			t.Fatal(err)
		}
		if log := w.fresh(); len(log) > 0 || backups != 1 {
			t.Errorf("again: %v, %d backups", log, backups)
		}
	})
}

// TestUpgradeStops: a failure on one host leaves the rest as it is.
func TestUpgradeStops(t *testing.T) {
	for _, tt := range []struct {
		failOn string
		old    []string
	}{
		{"upgrade h2", []string{"h2", "h3", "h4"}}, {"restart h1", []string{"h1", "h2", "h3", "h4"}}, {"drain h3", []string{"h3", "h4"}},
	} {
		inBubble(t, func(t *testing.T) {
			w := newWorld(4)
			w.install(t, 2)
			w.newer("v1.38.0")
			w.failOn = tt.failOn
			err := runtime.Run(t.Context(), w.cluster("v1.38.0", 2, 2), runtime.UpgradePhases(runtime.UpgradeOptions{Workers: 1}))
			if err == nil || !strings.Contains(err.Error(), "it broke") {
				t.Errorf("%s: error %v", tt.failOn, err)
			}
			for name, version := range w.kubelets {
				if old := slices.Contains(tt.old, name); old != (version == "v1.37.2") {
					t.Errorf("%s: %s runs %s", tt.failOn, name, version)
				}
			}
			w.failOn = ""
			if err := runtime.Run(t.Context(), w.cluster("v1.38.0", 2, 2), runtime.UpgradePhases(runtime.UpgradeOptions{})); err != nil {
				t.Errorf("%s: again: %v", tt.failOn, err)
			}
		})
	}
}

// TestUpgradeDespiteAPI: a server that is replaced late, when the next host is drained or let on again, costs a
// little time and no more.
func TestUpgradeDespiteAPI(t *testing.T) {
	for _, away := range []string{"drain h3", "uncordon h1", "get nodes"} {
		inBubble(t, func(t *testing.T) {
			w := newWorld(3)
			w.install(t, 1)
			w.newer("v1.38.0")
			w.away = away
			if err := runtime.Run(t.Context(), w.cluster("v1.38.0", 1, 2), runtime.UpgradePhases(runtime.UpgradeOptions{})); err != nil {
				t.Errorf("%s: %v", away, err)
			}
			if w.away != "" {
				t.Errorf("%s never came", away)
			}
		})
	}
}

// TestUncordonDespiteKubectl: kubectl uncordon ends with 0 even where its change was not taken.
func TestUncordonDespiteKubectl(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(2)
		w.install(t, 1)
		w.newer("v1.38.0")
		w.silent = true
		if err := runtime.Run(t.Context(), w.cluster("v1.38.0", 1, 1), runtime.UpgradePhases(runtime.UpgradeOptions{})); err != nil {
			t.Fatal(err)
		}
		for name, cordoned := range w.cordoned {
			if cordoned {
				t.Errorf("%s is still cordoned", name)
			}
		}
	})
}

func TestUpgradeAfterKill(t *testing.T) {
	everyKill(t, func(t *testing.T) *world {
		w := newWorld(3)
		w.install(t, 2)
		w.newer("v1.38.0")
		return w
	}, func(t *testing.T, w *world) error {
		return runtime.Run(t.Context(), w.cluster("v1.38.0", 2, 1), runtime.UpgradePhases(runtime.UpgradeOptions{}))
	}, func(t *testing.T, w *world) {
		for name, version := range w.kubelets {
			if version != "v1.38.0" {
				t.Errorf("%s runs %s", name, version)
			}
		}
		for _, m := range w.machines {
			if s := m.State(); s.Name != "shop:v1.38.0" || string(m.File("/usr/local/bin/fake")) != "v1.38.0" || m.Locked() {
				t.Errorf("%s: %+v", m.name, s)
			}
		}
	})
}
