package lives

import (
	"os"
	"testing"

	"github.com/clusterimage/keg/internal/e2e"
	"github.com/clusterimage/keg/runtime/runtimetest/life"
)

func TestK3s(t *testing.T) {
	o := newOperator(t)
	against := "stand-in with real Kubernetes " + e2e.KubeVersionBefore + " to " + e2e.KubeVersion
	if os.Getenv("KEG_K3S") != "" && os.Getenv("KEG_K3S_BEFORE") != "" {
		against = "real"
	}
	o.live(life.Subject{
		Runtime: "k3s", Against: against,
		Old:        o.images(e2e.KubeVersionBefore, e2e.K3sContext),
		New:        o.images(e2e.KubeVersion, e2e.K3sContext),
		Far:        o.far("k3s"),
		OldVersion: e2e.KubeVersionBefore, NewVersion: e2e.KubeVersion,
		Env:       []string{"K3S_DISABLE=coredns,local-storage,metrics-server,traefik,servicelb"},
		BadConfig: "flannel-backent: vxlan\n",
		BadKey:    "flannel-backent", Foreign: "/etc/rancher/node",
	})
}
