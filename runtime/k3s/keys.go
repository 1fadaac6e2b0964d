package k3s

import (
	"strings"

	"github.com/clusterimage/keg/runtime"
)

// kind is what a key of config.yaml takes.
type kind int

const (
	text kind = iota
	boolean
	number
	list
)

// key is one key of config.yaml, which is a flag of `k3s server`.
type key struct {
	kind kind
	// agent says that `k3s agent` knows it too.
	agent bool
	// critical keys must say the same on all servers, for as long as the cluster lives: k3s refuses servers
	// that differ, and some are in its data.
	critical bool
	// own is why keg alone sets it; "" leaves it to the user.
	own string
}

const (
	ownHost    = "it is each host's own, and keg knows it"
	ownPaths   = "keg works with k3s' usual paths"
	ownSecret  = "keg makes the tokens, rotates them and keeps them off command lines"
	ownPort    = "all hosts of a keg cluster reach the API at port 6443"
	ownEtcd    = "keg makes clusters with embedded etcd, a member on each control plane"
	ownNode    = "every control plane of a keg cluster is a node with all parts"
	ownMake    = "keg makes, joins and restores clusters itself"
	ownEngine  = "images come from the cluster's registry to the containerd in k3s"
	ownCommand = "it is of a command, not of a cluster"
)

// keys are the flags that https://docs.k3s.io/cli/server and /cli/agent list, without those that are
// hidden or no longer there in k3s 1.31.
var keys = makeKeys()

func makeKeys() map[string]key {
	all := map[string]key{}
	add := func(k key, names string) {
		for name := range strings.FieldsSeq(names) {
			all[name] = k
		}
	}
	// Servers and agents.
	add(key{agent: true}, "vmodule log default-runtime pause-image snapshotter resolv-conf flannel-iface flannel-conf flannel-cni-conf image-credential-provider-bin-dir image-credential-provider-config vpn-auth vpn-auth-file bind-address")
	add(key{agent: true, kind: number}, "v lb-server-port")
	add(key{agent: true, kind: boolean}, "debug alsologtostderr selinux protect-kernel-defaults nonroot-devices prefer-bundled-bin enable-pprof disable-apiserver-lb disable-default-registry-endpoint with-node-id")
	add(key{agent: true, kind: list}, "node-label node-taint node-external-ip node-internal-dns node-external-dns kubelet-arg kube-proxy-arg airgap-extra-registry")
	add(key{agent: true, own: ownHost}, "node-name node-ip")
	add(key{agent: true, own: ownPaths}, "data-dir private-registry config")
	add(key{agent: true, own: ownSecret}, "token token-file")
	add(key{agent: true, own: ownMake}, "server")
	add(key{agent: true, own: ownEngine}, "container-runtime-endpoint image-service-endpoint docker")
	add(key{agent: true, own: ownNode}, "rootless")

	// Servers alone.
	add(key{}, "advertise-port servicelb-namespace write-kubeconfig-group helm-job-image default-local-storage-path system-default-registry service-node-port-range secrets-encryption-provider etcd-snapshot-name etcd-snapshot-schedule-cron etcd-snapshot-reconcile-interval etcd-s3-endpoint etcd-s3-endpoint-ca etcd-s3-access-key etcd-s3-secret-key etcd-s3-session-token etcd-s3-bucket etcd-s3-bucket-lookup-type etcd-s3-region etcd-s3-folder etcd-s3-proxy etcd-s3-config-secret etcd-s3-timeout write-kubeconfig-mode")
	add(key{kind: number}, "etcd-snapshot-retention etcd-s3-retention")
	add(key{kind: boolean}, "tls-san-security disable-scheduler etcd-expose-metrics etcd-disable-snapshots etcd-snapshot-compress etcd-s3 etcd-s3-skip-ssl-verify etcd-s3-insecure kine-tls disable-kube-proxy")
	add(key{kind: list}, "tls-san disable kube-apiserver-arg etcd-arg kube-controller-manager-arg kube-scheduler-arg kube-cloud-controller-manager-arg")
	add(key{critical: true}, "cluster-cidr service-cidr cluster-dns cluster-domain flannel-backend egress-selector-mode")
	add(key{critical: true, kind: boolean}, "flannel-ipv6-masq flannel-external-ip disable-cloud-controller disable-network-policy disable-helm-controller secrets-encryption embedded-registry supervisor-metrics")
	add(key{own: ownHost}, "advertise-address")
	add(key{own: ownPort}, "https-listen-port")
	add(key{own: ownPaths}, "write-kubeconfig etcd-snapshot-dir")
	add(key{own: ownSecret}, "agent-token agent-token-file")
	add(key{own: ownMake}, "cluster-init cluster-reset cluster-reset-restore-path")
	add(key{own: ownEtcd}, "datastore-endpoint datastore-cafile datastore-certfile datastore-keyfile")
	add(key{own: ownNode}, "disable-agent disable-apiserver disable-controller-manager disable-etcd")
	add(key{own: ownCommand}, "help version")
	return all
}

// nearest is the key that a wrong one was probably meant to be; "" if none is near.
func nearest(wrong string) string {
	return runtime.Nearest(wrong, func(yield func(string) bool) {
		for name, k := range keys {
			if k.own == "" && !yield(name) {
				return
			}
		}
	})
}
