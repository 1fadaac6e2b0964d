package standin

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// Kubelet is a kubelet.
type Kubelet struct {
	// NodeName is the Node's, NodeIP one or two (with a comma) addresses.
	NodeName, NodeIP string
	// Config is the file that is written, DropIns a directory of more (or empty), Root is /var/lib/kubelet mostly.
	Config, DropIns, Root string
	Kubeconfig            string
	// BootstrapKubeconfig is for a kubelet that asks for its certificate, which then comes to CertDir.
	BootstrapKubeconfig, CertDir string
	// Serving is its certificate, without which it makes its own; CA of clients in Serving.CA.
	Serving TLSFiles
	Socket  string // of containerd
	// ClusterDNS are the addresses of the cluster's name servers.
	ClusterDNS         []string
	ClusterDomain      string
	PodManifests       string // directory of static pods, or empty
	ResolvConf         string
	Labels, Taints     []string // key=value, key=value:effect
	Cgroupfs           bool     // as in Containerd
	ExtraArgs          []string // --name=value
	Settings           map[string]any
	RotateCertificates bool
}

// Write writes the configuration. Settings, of a KubeletConfiguration, have the last word.
func (k Kubelet) Write() error {
	driver := "systemd"
	if k.Cgroupfs {
		driver = "cgroupfs"
	}
	config := map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"authentication":           map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": k.Serving.CA}},
		"authorization":            map[string]any{"mode": "Webhook"},
		"cgroupDriver":             driver,
		"failCgroupV1":             false, // kubelet >= 1.35 refuses cgroup v1 otherwise
		"failSwapOn":               false,
		"containerRuntimeEndpoint": "unix://" + k.Socket,
		"clusterDomain":            k.ClusterDomain,
		"resolvConf":               k.ResolvConf,
		"rotateCertificates":       k.RotateCertificates,
		// As k3s does: a machine of tests has a full disk more often than not.
		"evictionHard":                map[string]any{"imagefs.available": "5%", "nodefs.available": "5%"},
		"evictionMinimumReclaim":      map[string]any{"imagefs.available": "10%", "nodefs.available": "10%"},
		"imageGCHighThresholdPercent": 96,
		"imageGCLowThresholdPercent":  95,
		"logging":                     map[string]any{"verbosity": 1},
	}
	if len(k.ClusterDNS) > 0 {
		config["clusterDNS"] = k.ClusterDNS
	}
	if k.Serving.Cert != "" {
		config["tlsCertFile"], config["tlsPrivateKeyFile"] = k.Serving.Cert, k.Serving.Key
	}
	if k.PodManifests != "" {
		config["staticPodPath"] = k.PodManifests
	}
	for key, value := range k.Settings {
		config[key] = value
	}
	data, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("writing kubelet's configuration: %w", err)
	}
	if err := writeFile(k.Config, data, 0o600); err != nil {
		return fmt.Errorf("writing kubelet's configuration: %w", err)
	}
	return nil
}

// Start writes the configuration, starts kubelet and waits until it is healthy: the Node may not be Ready yet.
func (k Kubelet) Start(ctx context.Context, s *Supervisor) error {
	if err := k.Write(); err != nil {
		return err
	}
	args := []string{"--config=" + k.Config, "--kubeconfig=" + k.Kubeconfig, "--root-dir=" + k.Root, "--hostname-override=" + k.NodeName}
	if k.BootstrapKubeconfig != "" {
		args = append(args, "--bootstrap-kubeconfig="+k.BootstrapKubeconfig)
	}
	if k.CertDir != "" {
		args = append(args, "--cert-dir="+k.CertDir)
	}
	if k.NodeIP != "" {
		args = append(args, "--node-ip="+k.NodeIP)
	}
	if k.DropIns != "" {
		args = append(args, "--config-dir="+k.DropIns)
	}
	if len(k.Labels) > 0 {
		args = append(args, "--node-labels="+join(k.Labels))
	}
	if len(k.Taints) > 0 {
		args = append(args, "--register-with-taints="+join(k.Taints))
	}
	for _, dir := range []string{k.Root, k.DropIns, k.PodManifests} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("starting kubelet: %w", err)
		}
	}
	_ = os.Remove(filepath.Join(k.Root, "cpu_manager_state"))
	if err := s.Start(Process{Name: "kubelet", Program: "kubelet", Args: append(args, k.ExtraArgs...)}); err != nil {
		return err
	}
	err := Until(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		return probe(ctx, http.DefaultClient, "http://127.0.0.1:10248/healthz")
	})
	if err != nil {
		return fmt.Errorf("waiting for kubelet: %w", err)
	}
	return nil
}
