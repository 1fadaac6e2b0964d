package lives

import (
	"os"
	"testing"

	"github.com/clusterimage/keg/internal/e2e"
	"github.com/clusterimage/keg/runtime/runtimetest/life"
)

func TestK0s(t *testing.T) {
	o := newOperator(t)
	against := "stand-in with real Kubernetes " + e2e.KubeVersionBefore + " to " + e2e.KubeVersion
	if os.Getenv("KEG_K0S") != "" && os.Getenv("KEG_K0S_BEFORE") != "" {
		against = "real"
	}
	o.live(life.Subject{
		Runtime: "k0s", Against: against,
		Old:        o.images(e2e.KubeVersionBefore, e2e.K0sContext),
		New:        o.images(e2e.KubeVersion, e2e.K0sContext),
		Far:        o.far("k0s"),
		OldVersion: e2e.KubeVersionBefore, NewVersion: e2e.KubeVersion,
		Env:       []string{"K0S_DISABLE=autopilot,update-prober,coredns,konnectivity-server,kube-proxy,metrics-server"},
		BadConfig: "apiVersion: k0s.k0sproject.io/v1beta1\nkind: ClusterConfig\nspec:\n  network:\n    podCIRD: 10.1.0.0/16\n",
		BadKey:    "podCIRD", Foreign: "/var/lib/k0s/somebody",
	})
}
