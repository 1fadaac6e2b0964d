package runtime_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
)

func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// everyHook gives all machines scripts for all hooks, which say that they run.
func (w *world) everyHook() {
	for _, m := range w.machines {
		m.Scripts = map[string]func() error{}
		for _, name := range []string{
			"pre-configure", "init", "post-configure", "pre-registry", "post-registry", "pre-init", "post-init", "pre-join", "post-join",
			"pre-apps", "post-apps", "pre-scaleup", "post-scaleup", "pre-upgrade", "post-upgrade", "clean", "post-clean",
		} {
			m.Scripts[name] = func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.log = append(w.log, name+" on "+m.name)
				return nil
			}
		}
	}
}

// of are the lines of the log that are about a machine, without its name.
func of(log []string, name string) []string {
	var list []string
	for _, l := range log {
		if rest, ok := strings.CutSuffix(l, " on "+name); ok {
			list = append(list, rest)
		} else if rest, ok := strings.CutSuffix(l, " "+name); ok {
			list = append(list, rest)
		}
	}
	return list
}

func diff(t *testing.T, what string, want, got []string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// TestHooks: hooks come in the documented order, on the documented hosts, around what the runtime does.
func TestHooks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(4)
		w.everyHook()
		run := func(masters, workers int) []string {
			t.Helper()
			if err := runtime.Run(t.Context(), w.cluster("v1.37.2", masters, workers), runtime.RunPhases()); err != nil {
				t.Fatal(err)
			}
			return w.fresh()
		}
		log := run(2, 1)
		prepare := []string{"pre-configure", "init", "post-configure"}
		diff(t, "first control plane", append(slices.Clone(prepare), "pre-registry", "post-registry", "pre-init", "init", "post-init", "pre-apps", "post-apps"), of(log, "h1"))
		diff(t, "second control plane", append(slices.Clone(prepare), "pre-join", "join", "post-join"), of(log, "h2"))
		diff(t, "worker", append(slices.Clone(prepare), "pre-join", "join", "post-join"), of(log, "h3"))
		for ip, want := range map[string]string{"10.0.0.1": "true true", "10.0.0.2": "true false", "10.0.0.3": "false false"} {
			for _, r := range w.machines[ip].Hooks() {
				if got := fmt.Sprint(r.Master, r.First); got != want || r.Runtime != "kubernetes" || r.Kept || r.Env["NODE_IP"] != ip || r.Master == (r.Env["KUBECONFIG"] == "") {
					t.Errorf("%s: %+v", ip, r)
				}
			}
		}
		if log := run(2, 1); len(log) > 0 {
			t.Errorf("a second run did %v", log)
		}

		log = run(2, 2)
		diff(t, "the cluster grows, first control plane", []string{"pre-scaleup", "post-scaleup"}, of(log, "h1"))
		diff(t, "the worker that comes", append(slices.Clone(prepare), "pre-join", "join", "post-join"), of(log, "h4"))
		if log[0] != "pre-scaleup on h1" || log[len(log)-1] != "post-scaleup on h1" {
			t.Errorf("not around all else: %v", log)
		}
		if slices.Contains(w.machines["10.0.0.1"].State().Done, "scale-up") {
			t.Error("growing did not end")
		}

		c := w.standing(2, 2)
		if err := runtime.Run(t.Context(), c, runtime.RemovePhases(c.Nodes[3:], runtime.RemoveOptions{})); err != nil {
			t.Fatal(err)
		}
		diff(t, "a worker goes", []string{"drain h4", "clean on h4", "reset h4", "post-clean on h4", "delete node h4"}, w.fresh())

		c = w.standing(2, 1)
		if err := runtime.Run(t.Context(), c, runtime.RemovePhases(c.Nodes[:1], runtime.RemoveOptions{})); err != nil {
			t.Fatal(err)
		}
		diff(t, "a control plane goes", []string{"drain h1", "clean on h1", "leave h1", "stop h1", "reset h1", "post-clean on h1", "delete node h1"}, w.fresh())
		hooks := w.machines["10.0.0.1"].Hooks()
		if last := hooks[len(hooks)-1]; last.First || !last.Kept || !last.Master {
			t.Errorf("it is not the one that is asked any more: %+v", last)
		}

		c = w.standing(2, 1)
		c.Nodes, c.Image = c.Nodes[1:], nil
		if _, err := runtime.Reset(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		log = w.fresh()
		diff(t, "reset of the control plane", []string{"clean", "reset", "post-clean"}, of(log, "h2"))
		diff(t, "reset of the worker", []string{"clean", "reset", "post-clean"}, of(log, "h3"))
		hooks = w.machines["10.0.0.2"].Hooks()
		if last := hooks[len(hooks)-1]; last.Name != "post-clean" || !last.First || last.Runtime != "kubernetes" {
			t.Errorf("reset: %+v", last)
		}
	})
}

// TestScaleUpAfterKill: pre-scaleup and post-scaleup stand around what was added, however often it was cut off.
func TestScaleUpAfterKill(t *testing.T) {
	everyKill(t, func(t *testing.T) *world {
		w := newWorld(3)
		last := w.order
		w.order = w.order[:2]
		w.install(t, 1)
		w.order = last
		w.everyHook()
		return w
	}, func(t *testing.T, w *world) error {
		return runtime.Run(t.Context(), w.cluster("v1.37.2", 1, 2), runtime.RunPhases())
	}, func(t *testing.T, w *world) {
		log := w.fresh()
		first, last := slices.Index(log, "pre-scaleup on h1"), slices.Index(log, "post-scaleup on h1")
		join := slices.Index(log, "join h3")
		if first < 0 || last < join || join < first || slices.Contains(w.machines["10.0.0.1"].State().Done, "scale-up") {
			t.Errorf("%v", log)
		}
	})
}

// TestFirstRunAfterKill: a run that goes on where the first was cut off adds no hosts to a cluster.
func TestFirstRunAfterKill(t *testing.T) {
	everyKill(t, func(*testing.T) *world {
		w := newWorld(3)
		w.everyHook()
		return w
	}, func(t *testing.T, w *world) error {
		return runtime.Run(t.Context(), w.cluster("v1.37.2", 2, 1), runtime.RunPhases())
	}, func(t *testing.T, w *world) {
		log := w.fresh()
		if i := slices.IndexFunc(log, func(l string) bool { return strings.Contains(l, "scaleup") }); i >= 0 && !slices.Contains(log[:i], "h1 runs one") {
			t.Errorf("%v", log)
		}
		if len(w.kubelets) != 3 || len(w.members) != 2 {
			t.Errorf("nodes %v, members %v", w.kubelets, w.members)
		}
	})
}

// TestCleanFails: a script that fails keeps no host from being put back.
func TestCleanFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(2)
		w.install(t, 1)
		w.machines["10.0.0.2"].Scripts = map[string]func() error{"clean": func() error { return errKilled }, "post-clean": func() error { return errKilled }}
		c := w.standing(1, 1)
		if err := runtime.Run(t.Context(), c, runtime.RemovePhases(c.Nodes[1:], runtime.RemoveOptions{})); err != nil {
			t.Fatal(err)
		}
		if st := w.machines["10.0.0.2"].State(); st != nil {
			t.Errorf("it is not forgotten: %+v", st)
		}
	})
}

// TestDocker: a tree with docker only is refused before anything is touched.
func TestDocker(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(1)
		c := w.cluster("v1.37.2", 1, 0)
		r := c.Image.Platforms["linux/amd64"]
		r.Labels = map[string]string{clusterimage.LabelDocker: "only"}
		c.Image.Platforms["linux/amd64"] = r
		w.refused(t, c, runtime.RunPhases(), "docker")
		if h := w.machines["10.0.0.1"]; h.State() != nil || slices.Contains(h.Calls(), "claim") {
			t.Errorf("the host was touched: %v", h.Calls())
		}
	})
}

// TestLegacySettings: what is set by sealer's names is what the runtime is told, now and later.
func TestLegacySettings(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(2)
		c := w.cluster("v1.37.2", 1, 1)
		c.Image.Spec.Env = map[string]string{"PodCIDR": "100.64.0.0/10", "SvcCIDR": "172.16.0.0/16", "CertSANs": "a.example"}
		c.Options.Env = map[string]string{"SvcCIDR": "172.17.0.0/16", "COLOUR": "blue"}
		c.Options.SANs = []string{"b.example"}
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"POD_CIDR": "100.64.0.0/10", "PodCIDR": "100.64.0.0/10", "SERVICE_CIDR": "172.17.0.0/16", "SvcCIDR": "172.17.0.0/16",
			"CERT_SANS": "a.example", "CertSANs": "a.example", "KubeSvcIP": "172.17.0.1", "DNSSvcIP": "172.17.0.10", "ContainerRuntime": "containerd",
			"HostIP": "10.0.0.1", "COLOUR": "blue",
		}
		check := func(c *runtime.Cluster) {
			t.Helper()
			env := c.Env(c.Nodes[0])
			for k, v := range want {
				if env[k] != v {
					t.Errorf("%s is %q, want %q", k, env[k], v)
				}
			}
			if v, ok := c.Setting("SERVICE_CIDR"); !ok || v != want["SERVICE_CIDR"] {
				t.Errorf("the driver is told %q", v)
			}
		}
		check(c)

		// Another operator, who says something else of one thing, by keg's name.
		c = w.cluster("v1.37.2", 1, 1)
		c.Image.Spec.Env = map[string]string{"PodCIDR": "100.64.0.0/10", "CertSANs": "a.example"}
		c.Options.Env = map[string]string{"CERT_SANS": "c.example"}
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		want["CERT_SANS"], want["CertSANs"] = "c.example", "c.example"
		check(c)
		diff(t, "SANs", []string{"b.example"}, c.Options.SANs)
		if _, ok := c.Setting("DNS_DOMAIN"); ok {
			t.Error("a setting that nobody made")
		}
	})
}

// foreign makes a machine another cluster's.
func (m *machine) foreign(t *testing.T, name, uid string) {
	t.Helper()
	s := *m.State()
	s.Cluster, s.UID = name, uid
	if err := m.SetState(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}
