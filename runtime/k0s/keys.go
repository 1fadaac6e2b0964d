package k0s

import (
	"maps"
	"strings"
	"sync"

	"github.com/clusterimage/keg/runtime"
)

// keyPaths are the keys of a ClusterConfig (k0s.k0sproject.io/v1beta1), those of one mapping in a line
// behind its path. "name[]" is a list of mappings, "name?" is true or false, "name#" a whole number, and below
// "name*" everything is the user's.
const keyPaths = `
: apiVersion kind metadata* spec
spec: api controllerManager scheduler storage network workerProfiles[] telemetry installConfig images extensions konnectivity featureGates[] metricsServer
spec.api: address onlyBindToAddress? externalAddress extraArgs* rawArgs* k0sApiPort# port# sans* ca
spec.api.ca: expiresAfter certificatesExpireAfter
spec.controllerManager: extraArgs* rawArgs*
spec.scheduler: extraArgs* rawArgs*
spec.storage: type etcd kine*
spec.storage.etcd: externalCluster* peerAddress extraArgs* rawArgs* ca
spec.storage.etcd.ca: expiresAfter certificatesExpireAfter
spec.network: calico dualStack kubeProxy kuberouter coreDNS nodeLocalLoadBalancing controlPlaneLoadBalancing podCIDR provider serviceCIDR clusterDomain primaryAddressFamily
spec.network.calico: wireguard? envVars* flexVolumeDriverPath ipAutodetectionMethod ipV6AutodetectionMethod mtu# mode overlay vxlanPort# vxlanVNI# patches*
spec.network.dualStack: enabled? IPv6podCIDR IPv6serviceCIDR
spec.network.kubeProxy: disabled? mode metricsBindAddress healthzBindAddress iptables ipvs nftables nodePortAddresses* extraArgs* rawArgs* patches*
spec.network.kubeProxy.iptables: masqueradeBit# masqueradeAll? localhostNodePorts? syncPeriod minSyncPeriod
spec.network.kubeProxy.ipvs: syncPeriod minSyncPeriod scheduler excludeCIDRs* strictARP? tcpTimeout tcpFinTimeout udpTimeout
spec.network.kubeProxy.nftables: syncPeriod masqueradeBit# masqueradeAll? minSyncPeriod
spec.network.kuberouter: autoMTU? mtu# metricsPort# hairpin hairpinMode ipMasq? peerRouterASNs peerRouterIPs extraArgs* rawArgs* patches*
spec.network.coreDNS: patches*
spec.network.nodeLocalLoadBalancing: enabled? type envoyProxy traefik
spec.network.nodeLocalLoadBalancing.envoyProxy: image imagePullPolicy apiServerBindPort# konnectivityServerBindPort#
spec.network.nodeLocalLoadBalancing.envoyProxy.image: image version
spec.network.nodeLocalLoadBalancing.traefik: image imagePullPolicy apiServerBindPort# konnectivityServerBindPort#
spec.network.nodeLocalLoadBalancing.traefik.image: image version
spec.network.controlPlaneLoadBalancing: enabled? type keepalived
spec.network.controlPlaneLoadBalancing.keepalived: vrrpInstances[] virtualServers[] userSpaceProxyBindPort# disableLoadBalancer? configTemplateVRRP configTemplateVS
spec.network.controlPlaneLoadBalancing.keepalived.vrrpInstances: virtualIPs* interface virtualRouterID# advertIntervalSeconds# authPass unicastPeers* unicastSourceIP addressLabel
spec.network.controlPlaneLoadBalancing.keepalived.virtualServers: ipAddress delayLoop lbAlgo lbKind persistenceTimeoutSeconds#
spec.workerProfiles: name values*
spec.telemetry: enabled?
spec.installConfig: users
spec.installConfig.users: etcdUser kineUser konnectivityUser kubeAPIserverUser kubeSchedulerUser
spec.images: konnectivity pushgateway metricsserver kubeproxy coredns pause windows* calico kuberouter repository default_pull_policy
spec.images.konnectivity: image version
spec.images.pushgateway: image version
spec.images.metricsserver: image version
spec.images.kubeproxy: image version
spec.images.coredns: image version
spec.images.pause: image version
spec.images.calico: cni node kubecontrollers windows*
spec.images.calico.cni: image version
spec.images.calico.node: image version
spec.images.calico.kubecontrollers: image version
spec.images.kuberouter: cni cniInstaller
spec.images.kuberouter.cni: image version
spec.images.kuberouter.cniInstaller: image version
spec.extensions: storage helm
spec.extensions.storage: type create_default_storage_class?
spec.extensions.helm: concurrencyLevel# repositories[] charts[]
spec.extensions.helm.repositories: name url insecure? caFile certFile keyfile username password
spec.extensions.helm.charts: name chartname version values namespace timeout forceUpgrade? order#
spec.konnectivity: adminPort# agentPort# externalAddress
spec.featureGates: name enabled? components*
spec.metricsServer: patches*
`

// shape is what a key may hold.
type shape int

const (
	value   shape = iota // a plain value, or a mapping of known keys
	boolean              // true or false
	number               // a whole number
	list                 // a list of mappings of known keys
	open                 // anything
)

var suffixes = map[string]shape{"[]": list, "?": boolean, "#": number, "*": open}

// keys are the known keys of each mapping, by its path.
var keys = sync.OnceValue(func() map[string]map[string]shape {
	all := map[string]map[string]shape{}
	for line := range strings.Lines(strings.TrimSpace(keyPaths)) {
		path, names, _ := strings.Cut(line, ":")
		all[path] = map[string]shape{}
		for name := range strings.FieldsSeq(names) {
			kind := value
			for suffix, s := range suffixes {
				if plain, ok := strings.CutSuffix(name, suffix); ok {
					name, kind = plain, s
				}
			}
			all[path][name] = kind
		}
	}
	return all
})

// Why some keys are not the user's.
const (
	ownHost = "it is each host's own, and keg knows it"
	ownEtcd = "keg makes clusters with the etcd of k0s, a member on each control plane"
	ownPort = "all hosts of a keg cluster reach the API at port 6443, and controllers join at 9443"
	ownUser = "keg takes the accounts away that k0s makes, and knows them by their usual names"
)

var own = map[string]string{
	"spec.api.address": ownHost, "spec.storage.etcd.peerAddress": ownHost,
	"spec.storage.type": ownEtcd, "spec.storage.kine": ownEtcd, "spec.storage.etcd.externalCluster": ownEtcd,
	"spec.api.port": ownPort, "spec.api.k0sApiPort": ownPort,
	"spec.installConfig": ownUser,
}

// nearest is the known key that a wrong one was probably meant to be: of the same mapping, or else of any,
// with its path; "" if none is near.
func nearest(path, wrong string) string {
	best := runtime.Nearest(wrong, maps.Keys(keys()[path]))
	if best != "" {
		return best
	}
	for elsewhere, names := range keys() {
		if _, ok := names[wrong]; ok {
			if full := join(elsewhere, wrong); best == "" || full < best {
				best = full
			}
		}
	}
	return best
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
