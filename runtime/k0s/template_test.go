package k0s

import (
	"testing"
	"testing/synctest"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
)

// TestTreeWithoutTemplate: trees of sealer have no k0s.yaml, and get keg's, with what was set by sealer's names.
func TestTreeWithoutTemplate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim("10.0.0.1")
		h := s.machines["10.0.0.1"].host
		c := s.cluster(t.TempDir(), oldVersion, 1, "10.0.0.1")
		delete(h.Rootfs, "etc/k0s/k0s.yaml")
		c.Image.Spec.Env = map[string]string{"PodCIDR": "100.64.0.0/10"}
		if err := runtime.Run(t.Context(), c, runtime.RunPhases()); err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Kind string
			Spec struct {
				Network struct{ Provider, PodCIDR, ServiceCIDR string }
				Storage struct{ Type string }
			}
		}
		if err := yaml.Unmarshal(h.File(configFile), &doc); err != nil {
			t.Fatal(err)
		}
		if n := doc.Spec.Network; doc.Kind != "ClusterConfig" || n.Provider != "kuberouter" || n.PodCIDR != "100.64.0.0/10" || n.ServiceCIDR != "10.96.0.0/12" || doc.Spec.Storage.Type != "etcd" {
			t.Errorf("%s", h.File(configFile))
		}
	})
}
