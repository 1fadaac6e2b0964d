package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"encoding/json"

	"sigs.k8s.io/yaml"
)

const (
	configAPIVersion = "k0s.k0sproject.io/v1beta1"
	configKind       = "ClusterConfig"
)

// ClusterConfig is k0s.yaml: every documented field, nothing else. What is not a field here is an
// error, as it is for k0s.
type ClusterConfig struct {
	APIVersion string       `json:"apiVersion,omitempty"`
	Kind       string       `json:"kind,omitempty"`
	Metadata   Metadata     `json:"metadata"`
	Spec       *ClusterSpec `json:"spec,omitempty"`
	Status     *struct{}    `json:"status,omitempty"`
}

// Metadata is that of any object, as far as anybody writes it by hand.
type Metadata struct {
	Name              string            `json:"name,omitempty"`
	Namespace         string            `json:"namespace,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`
	Generation        int64             `json:"generation,omitempty"`
	ResourceVersion   string            `json:"resourceVersion,omitempty"`
	UID               string            `json:"uid,omitempty"`
	CreationTimestamp any               `json:"creationTimestamp,omitempty"`
}

// ClusterSpec is the body of a ClusterConfig.
type ClusterSpec struct {
	API               *APISpec          `json:"api,omitempty"`
	ControllerManager *ExtraArguments   `json:"controllerManager,omitempty"`
	Scheduler         *ExtraArguments   `json:"scheduler,omitempty"`
	Storage           *StorageSpec      `json:"storage,omitempty"`
	Network           *NetworkSpec      `json:"network,omitempty"`
	WorkerProfiles    []WorkerProfile   `json:"workerProfiles,omitempty"`
	Telemetry         *TelemetrySpec    `json:"telemetry,omitempty"`
	Install           *InstallSpec      `json:"installConfig,omitempty"`
	Images            *ImagesSpec       `json:"images,omitempty"`
	Extensions        *ExtensionsSpec   `json:"extensions,omitempty"`
	Konnectivity      *KonnectivitySpec `json:"konnectivity,omitempty"`
	FeatureGates      []FeatureGate     `json:"featureGates,omitempty"`
	MetricsServer     *PatchedComponent `json:"metricsServer,omitempty"`
}

// APISpec says where the API of this controller is.
type APISpec struct {
	Address           string            `json:"address,omitempty"`
	OnlyBindToAddress bool              `json:"onlyBindToAddress,omitempty"`
	ExternalAddress   string            `json:"externalAddress,omitempty"`
	ExtraArgs         map[string]string `json:"extraArgs,omitempty"`
	RawArgs           []string          `json:"rawArgs,omitempty"`
	K0sAPIPort        int               `json:"k0sApiPort,omitempty"`
	Port              int               `json:"port,omitempty"`
	SANs              []string          `json:"sans,omitempty"`
	CA                *CASpec           `json:"ca,omitempty"`
}

// CASpec holds lifetimes.
type CASpec struct {
	ExpiresAfter            Duration `json:"expiresAfter"`
	CertificatesExpireAfter Duration `json:"certificatesExpireAfter"`
}

// ExtraArguments go to a component as they are.
type ExtraArguments struct {
	ExtraArgs map[string]string `json:"extraArgs,omitempty"`
	RawArgs   []string          `json:"rawArgs,omitempty"`
}

// StorageSpec chooses the storage.
type StorageSpec struct {
	Etcd *EtcdSpec `json:"etcd,omitempty"`
	Kine *KineSpec `json:"kine,omitempty"`
	Type string    `json:"type,omitempty"`
}

// EtcdSpec is for the etcd that k0s runs, or one that it does not run.
type EtcdSpec struct {
	ExternalCluster *ExternalEtcd     `json:"externalCluster,omitempty"`
	PeerAddress     string            `json:"peerAddress,omitempty"`
	ExtraArgs       map[string]string `json:"extraArgs,omitempty"`
	RawArgs         []string          `json:"rawArgs,omitempty"`
	CA              *CASpec           `json:"ca,omitempty"`
}

// ExternalEtcd is an etcd that k0s does not run. The stand-in knows the fields and refuses to use them.
type ExternalEtcd struct {
	Endpoints      []string `json:"endpoints"`
	EtcdPrefix     string   `json:"etcdPrefix,omitempty"`
	CaFile         string   `json:"caFile,omitempty"`
	ClientCertFile string   `json:"clientCertFile,omitempty"`
	ClientKeyFile  string   `json:"clientKeyFile,omitempty"`
}

// KineSpec is SQL storage. The stand-in knows the fields and refuses to use them.
type KineSpec struct {
	DataSource string            `json:"dataSource,omitempty"`
	ExtraArgs  map[string]string `json:"extraArgs,omitempty"`
	RawArgs    []string          `json:"rawArgs,omitempty"`
}

// NetworkSpec is the network of pods and services.
type NetworkSpec struct {
	Calico                    *CalicoSpec       `json:"calico,omitempty"`
	DualStack                 DualStackSpec     `json:"dualStack"`
	KubeProxy                 *KubeProxySpec    `json:"kubeProxy,omitempty"`
	KubeRouter                *KubeRouterSpec   `json:"kuberouter,omitempty"`
	CoreDNS                   *PatchedComponent `json:"coreDNS,omitempty"`
	NodeLocalLoadBalancing    *NLLBSpec         `json:"nodeLocalLoadBalancing,omitempty"`
	ControlPlaneLoadBalancing *CPLBSpec         `json:"controlPlaneLoadBalancing,omitempty"`
	PodCIDR                   string            `json:"podCIDR,omitempty"`
	Provider                  string            `json:"provider,omitempty"`
	ServiceCIDR               string            `json:"serviceCIDR,omitempty"`
	ClusterDomain             string            `json:"clusterDomain,omitempty"`
	PrimaryAddressFamily      string            `json:"primaryAddressFamily,omitempty"`
}

// CalicoSpec is for provider calico.
type CalicoSpec struct {
	EnableWireguard         bool              `json:"wireguard,omitempty"`
	EnvVars                 map[string]string `json:"envVars,omitempty"`
	FlexVolumeDriverPath    string            `json:"flexVolumeDriverPath,omitempty"`
	IPAutodetectionMethod   string            `json:"ipAutodetectionMethod,omitempty"`
	IPv6AutodetectionMethod string            `json:"ipV6AutodetectionMethod,omitempty"`
	MTU                     int               `json:"mtu,omitempty"`
	Mode                    string            `json:"mode,omitempty"`
	Overlay                 string            `json:"overlay,omitempty"`
	VxlanPort               int               `json:"vxlanPort,omitempty"`
	VxlanVNI                int               `json:"vxlanVNI,omitempty"`
	Patches                 []Patch           `json:"patches,omitempty"`
}

// DualStackSpec adds IPv6.
type DualStackSpec struct {
	Enabled         bool   `json:"enabled"`
	IPv6PodCIDR     string `json:"IPv6podCIDR,omitempty"`
	IPv6ServiceCIDR string `json:"IPv6serviceCIDR,omitempty"`
}

// KubeProxySpec is for kube-proxy.
type KubeProxySpec struct {
	Disabled           bool              `json:"disabled,omitempty"`
	Mode               string            `json:"mode,omitempty"`
	MetricsBindAddress string            `json:"metricsBindAddress,omitempty"`
	HealthzBindAddress string            `json:"healthzBindAddress,omitempty"`
	IPTables           ProxyIPTables     `json:"iptables"`
	IPVS               ProxyIPVS         `json:"ipvs"`
	NFTables           ProxyNFTables     `json:"nftables"`
	NodePortAddresses  []string          `json:"nodePortAddresses,omitempty"`
	ExtraArgs          map[string]string `json:"extraArgs,omitempty"`
	RawArgs            []string          `json:"rawArgs,omitempty"`
	Patches            []Patch           `json:"patches,omitempty"`
}

// ProxyIPTables is for mode iptables.
type ProxyIPTables struct {
	MasqueradeBit      *int32   `json:"masqueradeBit,omitempty"`
	MasqueradeAll      bool     `json:"masqueradeAll,omitempty"`
	LocalhostNodePorts *bool    `json:"localhostNodePorts,omitempty"`
	SyncPeriod         Duration `json:"syncPeriod"`
	MinSyncPeriod      Duration `json:"minSyncPeriod"`
}

// ProxyIPVS is for mode ipvs.
type ProxyIPVS struct {
	SyncPeriod    Duration `json:"syncPeriod"`
	MinSyncPeriod Duration `json:"minSyncPeriod"`
	Scheduler     string   `json:"scheduler,omitempty"`
	ExcludeCIDRs  []string `json:"excludeCIDRs,omitempty"`
	StrictARP     bool     `json:"strictARP,omitempty"`
	TCPTimeout    Duration `json:"tcpTimeout"`
	TCPFinTimeout Duration `json:"tcpFinTimeout"`
	UDPTimeout    Duration `json:"udpTimeout"`
}

// ProxyNFTables is for mode nftables.
type ProxyNFTables struct {
	SyncPeriod    Duration `json:"syncPeriod"`
	MasqueradeBit *int32   `json:"masqueradeBit,omitempty"`
	MasqueradeAll bool     `json:"masqueradeAll,omitempty"`
	MinSyncPeriod Duration `json:"minSyncPeriod"`
}

// KubeRouterSpec is for provider kuberouter.
type KubeRouterSpec struct {
	AutoMTU        *bool             `json:"autoMTU,omitempty"`
	MTU            int               `json:"mtu,omitempty"`
	MetricsPort    int               `json:"metricsPort,omitempty"`
	Hairpin        string            `json:"hairpin,omitempty"`
	HairpinMode    bool              `json:"hairpinMode,omitempty"`
	IPMasq         bool              `json:"ipMasq,omitempty"`
	PeerRouterASNs string            `json:"peerRouterASNs,omitempty"`
	PeerRouterIPs  string            `json:"peerRouterIPs,omitempty"`
	ExtraArgs      map[string]string `json:"extraArgs,omitempty"`
	RawArgs        []string          `json:"rawArgs,omitempty"`
	Patches        []Patch           `json:"patches,omitempty"`
}

// PatchedComponent is one of which k0s.yaml can only patch the manifests.
type PatchedComponent struct {
	Patches []Patch `json:"patches,omitempty"`
}

// Patch is applied to a manifest of k0s.
type Patch struct {
	Target struct {
		Kind      string `json:"kind"`
		Name      string `json:"name"`
		Namespace string `json:"namespace,omitempty"`
	} `json:"target"`
	Patch struct {
		Type    string `json:"type"`
		Content string `json:"content"`
	} `json:"patch"`
}

// NLLBSpec is node-local load balancing.
type NLLBSpec struct {
	Enabled    bool       `json:"enabled"`
	Type       string     `json:"type,omitempty"`
	EnvoyProxy *NLLBProxy `json:"envoyProxy,omitempty"`
	Traefik    *NLLBProxy `json:"traefik,omitempty"`
}

// NLLBProxy is one of the two proxies.
type NLLBProxy struct {
	Image                      *ImageSpec `json:"image,omitempty"`
	ImagePullPolicy            string     `json:"imagePullPolicy,omitempty"`
	APIServerBindPort          int32      `json:"apiServerBindPort,omitempty"`
	KonnectivityServerBindPort *int32     `json:"konnectivityServerBindPort,omitempty"`
}

// CPLBSpec is the virtual address of the control plane.
type CPLBSpec struct {
	Enabled    bool            `json:"enabled"`
	Type       string          `json:"type,omitempty"`
	Keepalived *KeepalivedSpec `json:"keepalived,omitempty"`
}

// KeepalivedSpec is the one type of control plane load balancing that there is.
type KeepalivedSpec struct {
	VRRPInstances       []VRRPInstance  `json:"vrrpInstances,omitempty"`
	VirtualServers      []VirtualServer `json:"virtualServers,omitempty"`
	UserSpaceProxyPort  int             `json:"userSpaceProxyBindPort,omitempty"`
	DisableLoadBalancer bool            `json:"disableLoadBalancer,omitempty"`
	ConfigTemplateVRRP  string          `json:"configTemplateVRRP,omitempty"`
	ConfigTemplateVS    string          `json:"configTemplateVS,omitempty"`
}

// VRRPInstance is one virtual address.
type VRRPInstance struct {
	VirtualIPs            []string `json:"virtualIPs"`
	Interface             string   `json:"interface,omitempty"`
	VirtualRouterID       int32    `json:"virtualRouterID,omitempty"`
	AdvertIntervalSeconds int32    `json:"advertIntervalSeconds,omitempty"`
	AuthPass              string   `json:"authPass"`
	UnicastPeers          []string `json:"unicastPeers,omitempty"`
	UnicastSourceIP       string   `json:"unicastSourceIP,omitempty"`
	AddressLabel          uint32   `json:"addressLabel,omitempty"`
}

// VirtualServer is one of keepalived's.
type VirtualServer struct {
	IPAddress                 string   `json:"ipAddress"`
	DelayLoop                 Duration `json:"delayLoop"`
	LBAlgo                    string   `json:"lbAlgo,omitempty"`
	LBKind                    string   `json:"lbKind,omitempty"`
	PersistenceTimeoutSeconds int      `json:"persistenceTimeoutSeconds,omitempty"`
}

// WorkerProfile is part of a kubelet's configuration. Values are kubelet's, not k0s': a field that no
// kubelet has passes unnoticed, here as there.
type WorkerProfile struct {
	Name   string          `json:"name"`
	Values json.RawMessage `json:"values,omitempty"`
}

// TelemetrySpec switches reports to the vendor on and off; on is the default.
type TelemetrySpec struct {
	Enabled *bool `json:"enabled,omitempty"`
}

// InstallSpec names the system users.
type InstallSpec struct {
	Users *UsersSpec `json:"users,omitempty"`
}

// UsersSpec has a user per component.
type UsersSpec struct {
	Etcd          string `json:"etcdUser,omitempty"`
	Kine          string `json:"kineUser,omitempty"`
	Konnectivity  string `json:"konnectivityUser,omitempty"`
	KubeAPIServer string `json:"kubeAPIserverUser,omitempty"`
	KubeScheduler string `json:"kubeSchedulerUser,omitempty"`
}

// ImageSpec is a name and a tag.
type ImageSpec struct {
	Image   string `json:"image"`
	Version string `json:"version"`
}

func (i *ImageSpec) ref() string {
	if strings.HasPrefix(i.Version, "sha256:") {
		return i.Image + "@" + i.Version
	}
	return i.Image + ":" + i.Version
}

// ImagesSpec are the images of k0s' own components.
type ImagesSpec struct {
	Konnectivity  *ImageSpec `json:"konnectivity,omitempty"`
	PushGateway   *ImageSpec `json:"pushgateway,omitempty"`
	MetricsServer *ImageSpec `json:"metricsserver,omitempty"`
	KubeProxy     *ImageSpec `json:"kubeproxy,omitempty"`
	CoreDNS       *ImageSpec `json:"coredns,omitempty"`
	Pause         *ImageSpec `json:"pause,omitempty"`
	Windows       *struct {
		KubeProxy *ImageSpec `json:"kubeproxy,omitempty"`
		Pause     *ImageSpec `json:"pause,omitempty"`
	} `json:"windows,omitempty"`
	Calico            *CalicoImages     `json:"calico,omitempty"`
	KubeRouter        *KubeRouterImages `json:"kuberouter,omitempty"`
	Repository        string            `json:"repository,omitempty"`
	DefaultPullPolicy string            `json:"default_pull_policy,omitempty"`
}

// CalicoImages are those of provider calico.
type CalicoImages struct {
	CNI             *ImageSpec `json:"cni,omitempty"`
	Node            *ImageSpec `json:"node,omitempty"`
	KubeControllers *ImageSpec `json:"kubecontrollers,omitempty"`
	Windows         *struct {
		CNI  *ImageSpec `json:"cni,omitempty"`
		Node *ImageSpec `json:"node,omitempty"`
	} `json:"windows,omitempty"`
}

// KubeRouterImages are those of provider kuberouter.
type KubeRouterImages struct {
	CNI          *ImageSpec `json:"cni,omitempty"`
	CNIInstaller *ImageSpec `json:"cniInstaller,omitempty"`
}

// ExtensionsSpec are charts and storage that k0s would install. The stand-in knows the fields and installs nothing.
type ExtensionsSpec struct {
	Storage *struct {
		Type                      string `json:"type,omitempty"`
		CreateDefaultStorageClass bool   `json:"create_default_storage_class,omitempty"`
	} `json:"storage,omitempty"`
	Helm *struct {
		ConcurrencyLevel int              `json:"concurrencyLevel,omitempty"`
		Repositories     []HelmRepository `json:"repositories,omitempty"`
		Charts           []HelmChart      `json:"charts,omitempty"`
	} `json:"helm,omitempty"`
}

// HelmRepository is where charts are.
type HelmRepository struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	Insecure *bool  `json:"insecure,omitempty"`
	CAFile   string `json:"caFile,omitempty"`
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyfile,omitempty"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// HelmChart is one chart.
type HelmChart struct {
	Name         string `json:"name"`
	ChartName    string `json:"chartname"`
	Version      string `json:"version,omitempty"`
	Values       string `json:"values,omitempty"`
	Namespace    string `json:"namespace"`
	Timeout      any    `json:"timeout"`
	ForceUpgrade *bool  `json:"forceUpgrade,omitempty"`
	Order        int    `json:"order,omitempty"`
}

// KonnectivitySpec are the ports of the tunnel. There is no tunnel in the stand-in.
type KonnectivitySpec struct {
	AdminPort       int32  `json:"adminPort,omitempty"`
	AgentPort       int32  `json:"agentPort,omitempty"`
	ExternalAddress string `json:"externalAddress,omitempty"`
}

// FeatureGate is one of Kubernetes'.
type FeatureGate struct {
	Name       string   `json:"name"`
	Enabled    bool     `json:"enabled"`
	Components []string `json:"components,omitempty"`
}

// Duration is Go's, written as text.
type Duration struct{ time.Duration }

// MarshalJSON writes it as 8760h0m0s.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads what time.ParseDuration does.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(text)
	d.Duration = parsed
	return err
}

// etcdOnly says why this stand-in cannot run the storage, or nothing.
func (s *StorageSpec) etcdOnly() error {
	if s.Type != "etcd" || s.Etcd == nil || s.Etcd.ExternalCluster != nil {
		return errors.New("fake-k0s: this stand-in has no storage but the etcd that it runs itself")
	}
	return nil
}

// host is the address under which others reach this API.
func (a *APISpec) url(port int) string {
	host := a.Address
	if a.ExternalAddress != "" {
		if _, _, ok := splitHostPort(a.ExternalAddress); ok {
			return "https://" + a.ExternalAddress
		}
		host = a.ExternalAddress
	}
	return "https://" + joinHostPort(host, port)
}

// parseConfig reads k0s.yaml over the defaults. What is no field is an error, and so is a field that is there twice.
func parseConfig(data []byte, base *ClusterConfig) (*ClusterConfig, error) {
	converted, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("error converting YAML to JSON: %w", err)
	}
	if bytes.Equal(converted, []byte("null")) {
		return base, nil
	}
	config := base
	d := json.NewDecoder(bytes.NewReader(converted))
	d.DisallowUnknownFields()
	if err := d.Decode(config); err != nil {
		if strings.Contains(err.Error(), `unknown field "podSecurityPolicy"`) || strings.Contains(err.Error(), `unknown field "interval"`) {
			return config, nil // forgiven: fields of old versions
		}
		return nil, fmt.Errorf("error unmarshaling JSON: while decoding JSON: %w", err)
	}
	config.fill()
	return config, nil
}

// loadConfig reads the configuration file; the default one may be absent.
func (v *vars) loadConfig(stdin io.Reader) (*ClusterConfig, error) {
	config := defaultConfig()
	if v.startupConfig == "-" {
		data, err := io.ReadAll(stdin)
		if err != nil {
			return nil, err
		}
		return parseConfig(data, config)
	}
	data, err := os.ReadFile(v.startupConfig)
	if errors.Is(err, os.ErrNotExist) && v.startupConfig == under("/etc/k0s/k0s.yaml") {
		return config, nil
	}
	if err != nil {
		return nil, err
	}
	return parseConfig(data, config)
}

// fill puts defaults where the document said null.
func (c *ClusterConfig) fill() {
	d := defaultConfig().Spec
	if c.Spec == nil {
		c.Spec = d
		return
	}
	s := c.Spec
	s.API = or(s.API, d.API)
	s.API.CA = or(s.API.CA, d.API.CA)
	if s.API.Address == "" {
		s.API.Address = d.API.Address
	}
	if s.API.Port == 0 {
		s.API.Port = 6443
	}
	if s.API.K0sAPIPort == 0 {
		s.API.K0sAPIPort = 9443
	}
	s.ControllerManager = or(s.ControllerManager, d.ControllerManager)
	s.Scheduler = or(s.Scheduler, d.Scheduler)
	s.Storage = or(s.Storage, d.Storage)
	if s.Storage.Type == "etcd" {
		s.Storage.Etcd = or(s.Storage.Etcd, d.Storage.Etcd)
		s.Storage.Etcd.CA = or(s.Storage.Etcd.CA, d.Storage.Etcd.CA)
		if s.Storage.Etcd.PeerAddress == "" {
			s.Storage.Etcd.PeerAddress = d.Storage.Etcd.PeerAddress
		}
	}
	s.Network = or(s.Network, d.Network)
	s.Network.KubeProxy = or(s.Network.KubeProxy, d.Network.KubeProxy)
	s.Network.NodeLocalLoadBalancing = or(s.Network.NodeLocalLoadBalancing, d.Network.NodeLocalLoadBalancing)
	if n := s.Network.NodeLocalLoadBalancing; n.Type == "" {
		n.Type = "EnvoyProxy"
	}
	s.Telemetry = or(s.Telemetry, d.Telemetry)
	s.Install = or(s.Install, d.Install)
	s.Install.Users = or(s.Install.Users, d.Install.Users)
	s.Images = or(s.Images, d.Images)
	s.Images.fill(d.Images)
	s.Extensions = or(s.Extensions, d.Extensions)
	s.Konnectivity = or(s.Konnectivity, d.Konnectivity)
}

func (i *ImagesSpec) fill(d *ImagesSpec) {
	i.Konnectivity = or(i.Konnectivity, d.Konnectivity)
	i.PushGateway = or(i.PushGateway, d.PushGateway)
	i.MetricsServer = or(i.MetricsServer, d.MetricsServer)
	i.KubeProxy = or(i.KubeProxy, d.KubeProxy)
	i.CoreDNS = or(i.CoreDNS, d.CoreDNS)
	i.Pause = or(i.Pause, d.Pause)
	i.Calico = or(i.Calico, d.Calico)
	i.KubeRouter = or(i.KubeRouter, d.KubeRouter)
	if i.DefaultPullPolicy == "" {
		i.DefaultPullPolicy = d.DefaultPullPolicy
	}
	if i.Repository == "" {
		return
	}
	for _, image := range []*ImageSpec{
		i.Konnectivity, i.PushGateway, i.MetricsServer, i.KubeProxy, i.CoreDNS, i.Pause,
		i.Calico.CNI, i.Calico.Node, i.Calico.KubeControllers, i.KubeRouter.CNI, i.KubeRouter.CNIInstaller,
	} {
		if image != nil {
			image.Image = moveHost(i.Repository, image.Image)
		}
	}
}

// moveHost replaces the host of a name by a repository.
func moveHost(repository, name string) string {
	if strings.HasPrefix(name, repository) {
		return name
	}
	host, rest, found := strings.Cut(name, "/")
	if !found || (!strings.ContainsAny(host, ".:") && host != "localhost") {
		return repository + "/" + name
	}
	return repository + "/" + rest
}

func or[T any](value, otherwise *T) *T {
	if value == nil {
		return otherwise
	}
	return value
}

// defaultConfig is what `k0s config create` prints.
func defaultConfig() *ClusterConfig {
	address := firstAddress()
	yes := true
	ca := func() *CASpec {
		return &CASpec{ExpiresAfter: Duration{87600 * time.Hour}, CertificatesExpireAfter: Duration{8760 * time.Hour}}
	}
	return &ClusterConfig{
		APIVersion: configAPIVersion, Kind: configKind,
		Metadata: Metadata{Name: "k0s", Namespace: "kube-system"},
		Spec: &ClusterSpec{
			API:               &APISpec{Address: address, K0sAPIPort: 9443, Port: 6443, CA: ca()},
			ControllerManager: &ExtraArguments{}, Scheduler: &ExtraArguments{},
			Storage: &StorageSpec{Type: "etcd", Etcd: &EtcdSpec{PeerAddress: address, CA: ca()}},
			Network: &NetworkSpec{
				KubeProxy:              &KubeProxySpec{Mode: "iptables", MetricsBindAddress: "0.0.0.0:10249", HealthzBindAddress: "0.0.0.0:10256"},
				KubeRouter:             &KubeRouterSpec{AutoMTU: &yes, MetricsPort: 8080, Hairpin: "Enabled"},
				NodeLocalLoadBalancing: &NLLBSpec{Type: "EnvoyProxy"},
				PodCIDR:                "10.244.0.0/16", ServiceCIDR: "10.96.0.0/12", Provider: "kuberouter", ClusterDomain: "cluster.local",
			},
			Telemetry:    &TelemetrySpec{Enabled: &yes},
			Install:      &InstallSpec{Users: &UsersSpec{Etcd: "etcd", Kine: "kube-apiserver", Konnectivity: "konnectivity-server", KubeAPIServer: "kube-apiserver", KubeScheduler: "kube-scheduler"}},
			Images:       defaultImages(),
			Extensions:   &ExtensionsSpec{},
			Konnectivity: &KonnectivitySpec{AdminPort: 8133, AgentPort: 8132},
		},
	}
}

// defaultImages has the names of k0s; kube-proxy goes with the version of this program.
func defaultImages() *ImagesSpec {
	image := func(name, version string) *ImageSpec {
		return &ImageSpec{Image: "quay.io/k0sproject/" + name, Version: version}
	}
	return &ImagesSpec{
		Konnectivity:  image("apiserver-network-proxy-agent", "v0.36.0-k0s.0"),
		PushGateway:   image("pushgateway-ttl", "1.4.0-k0s.2"),
		MetricsServer: image("metrics-server", "v0.9.0-k0s.0"),
		KubeProxy:     image("kube-proxy", kubernetesVersion()),
		CoreDNS:       image("coredns", "1.14.6-k0s.0"),
		Pause:         image("pause", "3.10.2-0"),
		Calico: &CalicoImages{
			CNI: image("calico-cni", "v3.32.1-2"), Node: image("calico-node", "v3.32.1-2"),
			KubeControllers: image("calico-kube-controllers", "v3.32.1-2"),
		},
		KubeRouter: &KubeRouterImages{
			CNI: image("kube-router", "v2.10.0-iptables1.8.13-k0s.1"), CNIInstaller: image("cni-node", "v1.9.1-k0s.1-mac-pinning"),
		},
		DefaultPullPolicy: "IfNotPresent",
	}
}

// imageList is what an air gap needs with this configuration.
func imageList(spec *ClusterSpec, all bool) []string {
	i := spec.Images
	list := []string{i.Pause.ref(), i.Konnectivity.ref(), i.KubeProxy.ref(), i.CoreDNS.ref(), i.MetricsServer.ref()}
	if all {
		list = append(list, i.PushGateway.ref())
	}
	if all || spec.Network.Provider == "kuberouter" {
		list = append(list, i.KubeRouter.CNIInstaller.ref(), i.KubeRouter.CNI.ref())
	}
	if all || spec.Network.Provider == "calico" {
		list = append(list, i.Calico.CNI.ref(), i.Calico.KubeControllers.ref(), i.Calico.Node.ref())
	}
	nllb := spec.Network.NodeLocalLoadBalancing
	if (all || nllb.Enabled && nllb.Type == "EnvoyProxy") && runtime.GOARCH != "arm" && runtime.GOARCH != "riscv64" {
		list = append(list, nllb.image().ref())
	}
	if all || nllb.Enabled && nllb.Type == "Traefik" {
		list = append(list, (&NLLBSpec{Type: "Traefik", Traefik: nllb.Traefik}).image().ref())
	}
	return list
}

func (n *NLLBSpec) proxy() *NLLBProxy {
	if n.Type == "Traefik" {
		return n.Traefik
	}
	return n.EnvoyProxy
}

// image is the proxy's; the stand-in never runs it, but an air gap must have it.
func (n *NLLBSpec) image() *ImageSpec {
	if p := n.proxy(); p != nil && p.Image != nil {
		return p.Image
	}
	if n.Type == "Traefik" {
		return &ImageSpec{Image: "quay.io/k0sproject/traefik", Version: "v3.7.8-k0s.0"}
	}
	return &ImageSpec{Image: "quay.io/k0sproject/envoy-distroless", Version: "v1.39.0"}
}

func (n *NLLBSpec) port() int {
	if p := n.proxy(); p != nil && p.APIServerBindPort != 0 {
		return int(p.APIServerBindPort)
	}
	return 7443
}
