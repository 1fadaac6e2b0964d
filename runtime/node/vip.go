package node

// Files of `keg-node vip`.
const (
	// VIPConfigFile is the VIPConfig, read once: restart the unit after a change.
	VIPConfigFile = Dir + "/vip/config.json"
	// VIPHeldFile says which address keg-node has put on which interface, so that one that was left
	// behind is told from one that belongs to the host.
	VIPHeldFile = Dir + "/vip/held.json"
)

// VIPConfig is the virtual address of a cluster's API, for clients outside: `keg-node vip` runs on every
// control plane, and one of them holds the address. They agree by a Lease in the cluster itself.
type VIPConfig struct {
	// Address is the address, of IPv4 or IPv6. "10.0.0.100" is put on the interface as a /32 (an IPv6
	// address as a /128), which changes no route; "10.0.0.100/24" as it says.
	Address string `json:"address"`
	// Interface is the network device; "" is the one with the smallest subnet that Address is in.
	Interface string `json:"interface,omitempty"`
	// Kubeconfig is a file on the host with a client certificate or a token that may write Leases in
	// kube-system. It is read again when it changes, and need not be there before the cluster is.
	Kubeconfig string `json:"kubeconfig"`
	// Server is the API server of this very host, such as "https://10.0.0.1:6443"; "" is that of
	// Kubeconfig. It must not be the virtual address, nor a balancer.
	Server string `json:"server,omitempty"`
	// Identity names this host in the Lease; "" is its host name.
	Identity string `json:"identity,omitempty"`
}

// VIPLease is the name of the Lease, in kube-system.
const VIPLease = "keg-vip"

// VIPUnitName is the unit that runs `keg-node vip`.
const VIPUnitName = "keg-vip.service"

// VIPUnit is the text of that unit. However keg-node ends, the address goes.
const VIPUnit = `[Unit]
Description=Virtual address of the cluster's API (keg)
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=` + Binary + ` vip
ExecStopPost=` + Binary + ` vip-drop
Restart=always
RestartSec=2
TimeoutStopSec=10
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
`
