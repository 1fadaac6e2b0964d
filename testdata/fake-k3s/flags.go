package main

// kind is what a flag takes.
type kind int

const (
	text kind = iota
	boolean
	number
	list
)

// flag is one flag, and so one key of config.yaml.
type flag struct {
	kind    kind
	env     string
	short   string
	allowed []string // values, if only some are
	// unsupported says why the stand-in refuses the flag, loudly, where the real one would do something.
	unsupported string
}

// Documented at https://docs.k3s.io/cli/agent: all of these are flags of agents and of servers.
var nodeFlags = map[string]flag{
	"config": {short: "c", env: "K3S_CONFIG_FILE"}, "debug": {kind: boolean, env: "K3S_DEBUG"}, "v": {kind: number}, "vmodule": {},
	"log": {short: "l"}, "alsologtostderr": {kind: boolean},
	"token": {short: "t", env: "K3S_TOKEN"}, "token-file": {env: "K3S_TOKEN_FILE"}, "server": {short: "s", env: "K3S_URL"},
	"data-dir": {short: "d", env: "K3S_DATA_DIR"}, "node-name": {env: "K3S_NODE_NAME"}, "with-node-id": {kind: boolean},
	"node-label": {kind: list}, "node-taint": {kind: list},
	"image-credential-provider-bin-dir": {}, "image-credential-provider-config": {}, "selinux": {kind: boolean, env: "K3S_SELINUX"},
	"lb-server-port": {kind: number, env: "K3S_LB_SERVER_PORT"}, "protect-kernel-defaults": {kind: boolean},
	"container-runtime-endpoint": {unsupported: "it always runs its own containerd"}, "default-runtime": {}, "image-service-endpoint": {unsupported: "it always uses containerd"},
	"pause-image": {}, "snapshotter": {allowed: []string{"overlayfs", "native"}}, "private-registry": {},
	"disable-default-registry-endpoint": {kind: boolean}, "nonroot-devices": {kind: boolean}, "airgap-extra-registry": {kind: list},
	"node-ip": {kind: list}, "bind-address": {}, "node-external-ip": {kind: list}, "node-internal-dns": {kind: list}, "node-external-dns": {kind: list},
	"resolv-conf": {env: "K3S_RESOLV_CONF"}, "flannel-iface": {}, "flannel-conf": {}, "flannel-cni-conf": {},
	"kubelet-arg": {kind: list}, "kube-proxy-arg": {kind: list}, "rootless": {kind: boolean, unsupported: "it needs root"},
	"prefer-bundled-bin": {kind: boolean}, "docker": {kind: boolean, unsupported: "it always runs containerd"},
	"vpn-auth": {env: "K3S_VPN_AUTH", unsupported: "it has no VPN"}, "vpn-auth-file": {env: "K3S_VPN_AUTH_FILE", unsupported: "it has no VPN"},
	"disable-apiserver-lb": {kind: boolean}, "enable-pprof": {kind: boolean},
}

// Documented at https://docs.k3s.io/cli/server: servers know these besides.
var serverOnlyFlags = map[string]flag{
	"https-listen-port": {kind: number}, "advertise-address": {}, "advertise-port": {kind: number}, "tls-san": {kind: list}, "tls-san-security": {kind: boolean},
	"cluster-cidr": {kind: list}, "service-cidr": {kind: list}, "service-node-port-range": {}, "cluster-dns": {kind: list}, "cluster-domain": {},
	"flannel-backend":   {allowed: []string{"none", "vxlan", "host-gw", "wireguard-native", "tailscale"}},
	"flannel-ipv6-masq": {kind: boolean}, "flannel-external-ip": {kind: boolean},
	"egress-selector-mode": {allowed: []string{"disabled", "agent", "pod", "cluster"}}, "servicelb-namespace": {},
	"write-kubeconfig": {short: "o", env: "K3S_KUBECONFIG_OUTPUT"}, "write-kubeconfig-mode": {env: "K3S_KUBECONFIG_MODE"}, "write-kubeconfig-group": {env: "K3S_KUBECONFIG_GROUP"},
	"helm-job-image": {}, "agent-token": {env: "K3S_AGENT_TOKEN"}, "agent-token-file": {env: "K3S_AGENT_TOKEN_FILE"},
	"cluster-init": {kind: boolean, env: "K3S_CLUSTER_INIT"}, "cluster-reset": {kind: boolean, env: "K3S_CLUSTER_RESET"}, "cluster-reset-restore-path": {},
	"kube-apiserver-arg": {kind: list}, "etcd-arg": {kind: list}, "kube-controller-manager-arg": {kind: list}, "kube-scheduler-arg": {kind: list},
	"kube-cloud-controller-manager-arg": {kind: list},
	"datastore-endpoint":                {env: "K3S_DATASTORE_ENDPOINT", unsupported: "it has embedded etcd only"}, "datastore-cafile": {env: "K3S_DATASTORE_CAFILE"},
	"datastore-certfile": {env: "K3S_DATASTORE_CERTFILE"}, "datastore-keyfile": {env: "K3S_DATASTORE_KEYFILE"}, "kine-tls": {kind: boolean},
	"etcd-expose-metrics": {kind: boolean}, "etcd-disable-snapshots": {kind: boolean}, "etcd-snapshot-name": {}, "etcd-snapshot-schedule-cron": {},
	"etcd-snapshot-reconcile-interval": {}, "etcd-snapshot-retention": {kind: number}, "etcd-snapshot-dir": {}, "etcd-snapshot-compress": {kind: boolean, unsupported: "its snapshots are plain"},
	"etcd-s3": {kind: boolean, unsupported: "it has no S3"}, "etcd-s3-endpoint": {}, "etcd-s3-endpoint-ca": {}, "etcd-s3-skip-ssl-verify": {kind: boolean}, "etcd-s3-access-key": {},
	"etcd-s3-secret-key": {}, "etcd-s3-session-token": {}, "etcd-s3-bucket": {}, "etcd-s3-bucket-lookup-type": {}, "etcd-s3-region": {}, "etcd-s3-folder": {}, "etcd-s3-proxy": {},
	"etcd-s3-config-secret": {}, "etcd-s3-insecure": {kind: boolean}, "etcd-s3-timeout": {}, "etcd-s3-retention": {kind: number},
	"default-local-storage-path": {}, "disable": {kind: list}, "disable-scheduler": {kind: boolean}, "disable-cloud-controller": {kind: boolean},
	"disable-kube-proxy": {kind: boolean}, "disable-network-policy": {kind: boolean}, "disable-helm-controller": {kind: boolean},
	"disable-apiserver": {kind: boolean, unsupported: "its servers have all components"}, "disable-controller-manager": {kind: boolean, unsupported: "its servers have all components"},
	"disable-etcd": {kind: boolean, unsupported: "its servers have all components"}, "disable-agent": {kind: boolean, unsupported: "its servers run a kubelet"},
	"secrets-encryption": {kind: boolean, env: "K3S_SECRETS_ENCRYPTION"}, "secrets-encryption-provider": {allowed: []string{"aescbc", "secretbox"}},
	"embedded-registry": {kind: boolean}, "supervisor-metrics": {kind: boolean}, "system-default-registry": {env: "K3S_SYSTEM_DEFAULT_REGISTRY"},
}

// Documented at https://docs.k3s.io/cli/etcd-snapshot: config.yaml is read by these commands too, and what is not
// theirs is skipped with the warning.
var snapshotFlags = map[string]flag{
	"config": {short: "c", env: "K3S_CONFIG_FILE"}, "debug": {kind: boolean}, "log": {short: "l"}, "alsologtostderr": {kind: boolean},
	"node-name": {env: "K3S_NODE_NAME"}, "data-dir": {short: "d", env: "K3S_DATA_DIR"}, "etcd-token": {short: "t", env: "K3S_TOKEN"}, "token": {}, "token-file": {},
	"etcd-server": {short: "s"}, "server": {}, "name": {}, "dir": {}, "etcd-snapshot-dir": {}, "etcd-snapshot-name": {},
	"snapshot-compress": {kind: boolean, unsupported: "its snapshots are plain"}, "etcd-snapshot-compress": {kind: boolean, unsupported: "its snapshots are plain"},
	"snapshot-retention": {kind: number}, "etcd-snapshot-retention": {kind: number}, "output": {short: "o"},
	"s3": {kind: boolean, unsupported: "it has no S3"}, "etcd-s3": {kind: boolean, unsupported: "it has no S3"},
}

// flagsOf are the flags of a command.
func flagsOf(command string) map[string]flag {
	switch command {
	case "agent":
		return nodeFlags
	case "etcd-snapshot":
		return snapshotFlags
	}
	all := map[string]flag{}
	for name, f := range nodeFlags {
		all[name] = f
	}
	for name, f := range serverOnlyFlags {
		all[name] = f
	}
	return all
}
