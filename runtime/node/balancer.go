package node

// BalancerConfigFile is the BalancerConfig of `keg-node balance`, which looks at it every second.
const BalancerConfigFile = Dir + "/balancer/config.json"

// BalancerConfig is what `keg-node balance` passes TCP connections on to: on a worker the API servers
// and the cluster's registry, whose names stand for 127.0.0.1 there.
//
// The file may be replaced at any time (by rename). Connections to backends that stay where they are
// go on; a file that makes no sense is logged, and the one before stays in force.
type BalancerConfig struct {
	Listeners []BalancerListener `json:"listeners"`
}

// BalancerListener is one address that connections are taken at.
type BalancerListener struct {
	// Listen is "ADDRESS:PORT", such as "127.0.0.1:6443" or "[::1]:6443".
	Listen string `json:"listen"`
	// Backends are "HOST:PORT". A new connection goes to the healthy one that has the fewest.
	Backends []string `json:"backends"`
	// Check says when a backend is healthy.
	Check BalancerCheck `json:"check"`
}

// CheckKind is how a backend is checked.
type CheckKind string

// The kinds of checks.
const (
	// CheckTCP: it takes connections.
	CheckTCP CheckKind = "tcp"
	// CheckTLS: it also completes a TLS handshake.
	CheckTLS CheckKind = "tls"
	// CheckHTTPS: it also answers a GET with 200, or with 401 or 403. An API server that lets nobody
	// anonymous ask for its health says one of those: it is up, and more cannot be known without a
	// credential, which the balancer has no business to hold.
	CheckHTTPS CheckKind = "https"
)

// BalancerCheck is made of each backend every two seconds.
type BalancerCheck struct {
	Kind CheckKind `json:"kind"`
	// Path is what CheckHTTPS asks for, such as "/readyz".
	Path string `json:"path,omitempty"`
	// CAFile is a PEM file on the host with the authorities that may have signed the backends'
	// certificates, for CheckTLS and CheckHTTPS. Without it certificates are not looked at: the check
	// says nothing secret and believes little; clients verify the server themselves.
	CAFile string `json:"caFile,omitempty"`
	// ServerName must stand in the certificates; "" is the backend's own host.
	ServerName string `json:"serverName,omitempty"`
}

// BalancerUnitName is the unit that runs `keg-node balance`.
const BalancerUnitName = "keg-balancer.service"

// BalancerUnit is the text of that unit. Nothing is to wait for the network here: a backend that is out
// of reach is a backend that is not healthy.
const BalancerUnit = `[Unit]
Description=Balancer before the cluster's control planes (keg)
After=network.target
Before=containerd.service kubelet.service k3s.service k3s-agent.service k0scontroller.service k0sworker.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=` + Binary + ` balance
Restart=always
RestartSec=1
TimeoutStopSec=10
LimitNOFILE=262144
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
`
