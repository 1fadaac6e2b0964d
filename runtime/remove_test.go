package runtime_test

import (
	"testing"

	"github.com/clusterimage/keg/runtime"
)

// TestRemoveRefusals: what would end the cluster, or is not of it, is refused, and nothing is touched.
func TestRemoveRefusals(t *testing.T) {
	dead := runtime.RemoveOptions{Dead: true}
	for _, tt := range []struct {
		name             string
		masters, workers int
		leaving          []int
		options          runtime.RemoveOptions
		change           func(t *testing.T, w *world)
		want             string
	}{
		{"the last control plane", 1, 1, []int{0}, runtime.RemoveOptions{}, nil, "last-master"},
		{"all control planes", 3, 0, []int{0, 1, 2}, runtime.RemoveOptions{}, nil, "last-master"},
		{"a healthy one while another is dead", 3, 0, []int{0}, runtime.RemoveOptions{}, func(_ *testing.T, w *world) { w.machines["10.0.0.3"].master = false }, "quorum"},
		{"one of two while the other is dead", 2, 0, []int{0}, dead, func(_ *testing.T, w *world) { w.machines["10.0.0.2"].master = false }, ""},
		{"the only one that was made", 2, 0, []int{0}, dead, func(t *testing.T, w *world) {
			s := *w.machines["10.0.0.2"].State()
			s.Done = []string{"unpack"}
			if err := w.machines["10.0.0.2"].SetState(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}, "no-survivor"},
		{"another cluster's host", 1, 1, []int{1}, runtime.RemoveOptions{}, func(t *testing.T, w *world) { w.machines["10.0.0.2"].foreign(t, "bank", "b") }, "other-cluster"},
		{"a host of an earlier cluster of that name", 1, 1, []int{1}, runtime.RemoveOptions{}, func(t *testing.T, w *world) { w.machines["10.0.0.2"].foreign(t, "shop", "old") }, "other-cluster"},
		{"a host that does not answer", 1, 1, []int{1}, runtime.RemoveOptions{}, func(_ *testing.T, w *world) { w.machines["10.0.0.2"].off = true }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(tt.masters + tt.workers)
				w.install(t, tt.masters)
				c := w.standing(tt.masters, tt.workers)
				if tt.change != nil {
					tt.change(t, w)
				}
				var leaving []*runtime.Node
				for _, i := range tt.leaving {
					leaving = append(leaving, c.Nodes[i])
				}
				phases := runtime.RemovePhases(leaving, tt.options)
				if tt.want != "" {
					w.refused(t, c, phases, tt.want)
				} else if err := runtime.Run(t.Context(), c, phases); err == nil || len(w.fresh()) > 0 {
					t.Errorf("error %v, done %v", err, w.log)
				}
			})
		})
	}
}

// TestRemoveDead: hosts that are gone are taken out of etcd and the API by those that stay.
func TestRemoveDead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(4)
		w.install(t, 3)
		c := w.standing(3, 1)
		for _, i := range []int{0, 3} { // what the operator's record says of them
			ip := w.order[i]
			w.machines[ip].off, c.Nodes[i].IP, c.Nodes[i].Name = true, ip, w.machines[ip].name
		}
		if err := runtime.Run(t.Context(), c, runtime.RemovePhases([]*runtime.Node{c.Nodes[0], c.Nodes[3]}, runtime.RemoveOptions{Dead: true})); err != nil {
			t.Fatal(err)
		}
		diff(t, "done", []string{"delete node h4", "leave h1", "delete node h1"}, w.fresh())
	})
}

// TestRemoveAfterKill takes a control plane, the one that was first, and a worker off, killed anywhere.
func TestRemoveAfterKill(t *testing.T) {
	everyKill(t, func(t *testing.T) *world {
		w := newWorld(4)
		w.install(t, 3)
		return w
	}, func(t *testing.T, w *world) error {
		c := w.standing(3, 1)
		return runtime.Run(t.Context(), c, runtime.RemovePhases([]*runtime.Node{c.Nodes[0], c.Nodes[3]}, runtime.RemoveOptions{}))
	}, func(t *testing.T, w *world) {
		if len(w.kubelets) != 2 || len(w.members) != 2 || w.members["10.0.0.1"] {
			t.Errorf("nodes %v, members %v", w.kubelets, w.members)
		}
		for _, ip := range []string{"10.0.0.1", "10.0.0.4"} {
			if m := w.machines[ip]; m.State() != nil || m.master || m.worker || m.Locked() {
				t.Errorf("%s is not as it was: %+v", m.name, m.State())
			}
		}
	})
}
