package standin

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// APIServer is a kube-apiserver.
type APIServer struct {
	// BindAddress is what it listens on, Port where; Probe is an address that the certificate covers, 127.0.0.1
	// if empty.
	BindAddress, Probe string
	Port               int
	// AdvertiseAddress is in the endpoints of service default/kubernetes, unless NoEndpoints leaves them to the caller.
	AdvertiseAddress string
	NoEndpoints      bool
	// Serving is its certificate; ClientCA verifies those of clients; Kubelet (CA, certificate) is for kubelets.
	Serving  TLSFiles
	ClientCA string
	Kubelet  TLSFiles
	// EtcdServers are client URLs, Etcd the certificate for them.
	EtcdServers []string
	Etcd        TLSFiles
	// FrontProxy is the CA of request headers, and the certificate towards extension servers.
	FrontProxy        TLSFiles
	FrontProxyNames   []string
	ServiceAccountKey string // verifies and signs
	Issuer            string // https://kubernetes.default.svc.cluster.local if empty
	ServiceCIDR       string
	EncryptionConfig  string // a file, or empty
	Kubeconfig        string // of an administrator: is the API ready?
	// ExtraArgs come last: --name=value.
	ExtraArgs []string
}

// Start starts it and waits until /readyz is ok.
func (a APIServer) Start(ctx context.Context, s *Supervisor) error {
	issuer := a.Issuer
	if issuer == "" {
		issuer = "https://kubernetes.default.svc.cluster.local"
	}
	args := []string{
		"--bind-address=" + a.BindAddress, "--secure-port=" + strconv.Itoa(a.Port), "--advertise-address=" + a.AdvertiseAddress,
		"--tls-cert-file=" + a.Serving.Cert, "--tls-private-key-file=" + a.Serving.Key, "--client-ca-file=" + a.ClientCA,
		"--kubelet-certificate-authority=" + a.Kubelet.CA, "--kubelet-client-certificate=" + a.Kubelet.Cert, "--kubelet-client-key=" + a.Kubelet.Key,
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--etcd-servers=" + join(a.EtcdServers), "--etcd-cafile=" + a.Etcd.CA, "--etcd-certfile=" + a.Etcd.Cert, "--etcd-keyfile=" + a.Etcd.Key,
		"--requestheader-client-ca-file=" + a.FrontProxy.CA, "--proxy-client-cert-file=" + a.FrontProxy.Cert, "--proxy-client-key-file=" + a.FrontProxy.Key,
		"--requestheader-allowed-names=" + join(a.FrontProxyNames), "--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-account-issuer=" + issuer, "--service-account-key-file=" + a.ServiceAccountKey, "--service-account-signing-key-file=" + a.ServiceAccountKey,
		"--service-cluster-ip-range=" + a.ServiceCIDR, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth", "--allow-privileged", "--profiling=false",
	}
	if a.NoEndpoints {
		args = append(args, "--endpoint-reconciler-type=none")
	}
	if a.EncryptionConfig != "" {
		args = append(args, "--encryption-provider-config="+a.EncryptionConfig)
	}
	if err := s.Start(Process{Name: "kube-apiserver", Program: "kube-apiserver", Args: append(args, a.ExtraArgs...), Grace: 5 * time.Second}); err != nil {
		return err
	}
	return a.Wait(ctx)
}

// Wait waits until /readyz is ok.
func (a APIServer) Wait(ctx context.Context) error {
	host := a.Probe
	if host == "" {
		host = "127.0.0.1"
	}
	client, err := KubeconfigClient(a.Kubeconfig, "https://"+bracket(host)+":"+strconv.Itoa(a.Port))
	if err != nil {
		return err
	}
	err = Until(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		_, err := client.Raw(ctx, http.MethodGet, "/readyz", "", nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for the API server: %w", err)
	}
	return nil
}

// ControllerManager is a kube-controller-manager.
type ControllerManager struct {
	Kubeconfig               string
	ServiceAccountKey        string
	RootCA                   string // in the configuration of pods
	SigningCert, SigningKey  string // the authority of certificate requests
	ClusterCIDR, ServiceCIDR string
	ExtraArgs                []string
}

// Start starts it and waits until it is healthy.
func (c ControllerManager) Start(ctx context.Context, s *Supervisor) error {
	args := []string{
		"--kubeconfig=" + c.Kubeconfig, "--authentication-kubeconfig=" + c.Kubeconfig, "--authorization-kubeconfig=" + c.Kubeconfig,
		"--bind-address=127.0.0.1", "--service-account-private-key-file=" + c.ServiceAccountKey, "--root-ca-file=" + c.RootCA,
		"--cluster-signing-cert-file=" + c.SigningCert, "--cluster-signing-key-file=" + c.SigningKey,
		"--allocate-node-cidrs", "--cluster-cidr=" + c.ClusterCIDR, "--service-cluster-ip-range=" + c.ServiceCIDR,
		"--controllers=*,bootstrapsigner,tokencleaner", "--use-service-account-credentials", "--profiling=false",
	}
	return startHealthy(ctx, s, "kube-controller-manager", 10257, append(args, c.ExtraArgs...))
}

// Scheduler is a kube-scheduler.
type Scheduler struct {
	Kubeconfig string
	ExtraArgs  []string
}

// Start starts it and waits until it is healthy.
func (c Scheduler) Start(ctx context.Context, s *Supervisor) error {
	args := []string{
		"--kubeconfig=" + c.Kubeconfig, "--authentication-kubeconfig=" + c.Kubeconfig, "--authorization-kubeconfig=" + c.Kubeconfig,
		"--bind-address=127.0.0.1", "--profiling=false",
	}
	return startHealthy(ctx, s, "kube-scheduler", 10259, append(args, c.ExtraArgs...))
}

func startHealthy(ctx context.Context, s *Supervisor, name string, port int, args []string) error {
	if err := s.Start(Process{Name: name, Program: name, Args: args}); err != nil {
		return err
	}
	url := "https://127.0.0.1:" + strconv.Itoa(port) + "/healthz"
	if err := Until(ctx, 500*time.Millisecond, func(ctx context.Context) error { return probe(ctx, unverified(), url) }); err != nil {
		return fmt.Errorf("waiting for %s: %w", name, err)
	}
	return nil
}
