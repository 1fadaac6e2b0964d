package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

const containerdSocket = "/run/k3s/containerd/containerd.sock"

// removedWriter passes the log on and says when etcd has found that it is no longer a member.
type removedWriter struct {
	removed func()
}

func (w removedWriter) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("etcd: ")) && bytes.Contains(p, []byte("permanently removed from the cluster")) {
		w.removed()
	}
	// What the programs say for information only is too much for a journal.
	if _, line, ok := bytes.Cut(p, []byte(": ")); ok && len(line) > 5 && line[0] == 'I' && line[1] >= '0' && line[1] <= '9' {
		return len(p), nil
	}
	return os.Stderr.Write(p)
}

// containerd starts containerd and imports what is in agent/images, which happens before kubelet starts.
func (c *config) startContainerd(ctx context.Context, s *standin.Supervisor) (standin.Containerd, error) {
	extra, err := c.writeRegistries()
	if err != nil {
		return standin.Containerd{}, err
	}
	if _, err := os.Stat(c.agentFile("etc/containerd/config-v3.toml.tmpl")); err == nil {
		return standin.Containerd{}, errors.New("stand-in: config-v3.toml.tmpl is not supported")
	}
	d := standin.Containerd{
		Config: c.agentFile("etc/containerd/config.toml"), Root: c.agentFile("containerd"), State: "/run/k3s/containerd", Socket: containerdSocket,
		Pause: c.pause, CertsDir: c.agentFile("etc/containerd/certs.d"), CNIDir: c.agentFile("etc/cni/net.d"), Extra: extra,
		Imports: []string{c.agentFile("etc/containerd/config-v3.toml.d/*.toml")},
	}
	if c.flannelBackend == "none" { // as without flannel in the real one
		d.CNIDir, d.CNIBin = "/etc/cni/net.d", "/opt/cni/bin"
	}
	if err := d.Start(ctx, s); err != nil {
		return d, err
	}
	c.importImages(ctx, s, d)
	return d, nil
}

// credentials gets the certificates of this node from a server. It waits as long as the server refuses the node's
// password, as the real one does, and says so.
func (c *config) credentials(ctx context.Context, a *access) error {
	password, err := nodePassword()
	if err != nil {
		return err
	}
	header := map[string]string{"k3s-Node-Name": c.nodeName, "k3s-Node-Password": password, "k3s-Node-IP": strings.Join(c.nodeIP, ",")}
	return standin.Until(ctx, 3*time.Second, func(ctx context.Context) error {
		err := c.fetchCredentials(ctx, a, header)
		if err != nil {
			logf("error", "Failed to retrieve agent configuration; will retry: %v", err)
		}
		return err
	})
}

func (c *config) fetchCredentials(ctx context.Context, a *access, header map[string]string) error {
	for _, name := range []string{"client-ca", "server-ca"} {
		data, err := a.do(ctx, http.MethodGet, "/v1-k3s/"+name+".crt", nil, nil)
		if err != nil {
			return err
		}
		if err := write(c.agentFile(name+".crt"), string(data), 0o600); err != nil {
			return err
		}
	}
	for _, name := range []string{"client-kubelet", "serving-kubelet", "client-k3s-controller"} {
		key, request, err := standin.NewKey(c.nodeName)
		if err != nil {
			return err
		}
		data, err := a.do(ctx, http.MethodPost, "/v1-k3s/"+name+".crt", header, request)
		if err != nil {
			return err
		}
		if err := errors.Join(writeSecret(c.agentFile(name+".key"), string(key)), writeSecret(c.agentFile(name+".crt"), string(data))); err != nil {
			return err
		}
	}
	for file, name := range map[string]string{"kubelet.kubeconfig": "client-kubelet", "k3scontroller.kubeconfig": "client-k3s-controller"} {
		if err := standin.WriteKubeconfig(c.agentFile(file), "local", c.apiURL(), c.agentTLS(name), false, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// apiURL is where programs of this node find the API: on agents the balancer, on servers the API server itself.
func (c *config) apiURL() string { return "https://127.0.0.1:" + c.or("lb-server-port", "6444") }

func (c *config) agentTLS(name string) standin.TLSFiles {
	return standin.TLSFiles{CA: c.agentFile("server-ca.crt"), Cert: c.agentFile(name + ".crt"), Key: c.agentFile(name + ".key")}
}

// remoteConfig takes from a server what agents do not set themselves.
func (c *config) remoteConfig(ctx context.Context, a *access) error {
	data, err := a.do(ctx, http.MethodGet, "/v1-k3s/config", nil, nil)
	if err != nil {
		return err
	}
	var remote clusterConfig
	if err := json.Unmarshal(data, &remote); err != nil {
		return err
	}
	if newer(version, remote.Version) {
		logf("warning", "agent %s is newer than server %s, which is not supported", version, remote.Version)
	}
	c.clusterDNS, c.clusterDomain = remote.CriticalControlArgs.ClusterDNS, remote.CriticalControlArgs.ClusterDomain
	c.flannelBackend = remote.CriticalControlArgs.FlannelBackend
	return nil
}

// startKubelet starts kubelet and the network, and returns once kubelet is healthy.
func (c *config) startKubelet(ctx context.Context, s *standin.Supervisor, d standin.Containerd) error {
	resolv, err := c.resolvConf()
	if err != nil {
		return err
	}
	k := standin.Kubelet{
		NodeName: c.nodeName, NodeIP: strings.Join(c.nodeIP, ","), Config: c.agentFile("etc/kubelet.conf"), DropIns: c.agentFile("etc/kubelet.conf.d"), Root: "/var/lib/kubelet",
		Kubeconfig: c.agentFile("kubelet.kubeconfig"), Socket: d.Socket, ClusterDNS: c.clusterDNS, ClusterDomain: c.clusterDomain,
		Serving:      standin.TLSFiles{CA: c.agentFile("client-ca.crt"), Cert: c.agentFile("serving-kubelet.crt"), Key: c.agentFile("serving-kubelet.key")},
		PodManifests: c.agentFile("pod-manifests"), ResolvConf: resolv, Labels: c.list("node-label"), Taints: c.list("node-taint"), ExtraArgs: dashes(c.settings["kubelet-arg"]),
	}
	if err := k.Start(ctx, s); err != nil {
		return err
	}
	if c.flannelBackend != "none" {
		client, err := standin.KubeconfigClient(c.agentFile("k3scontroller.kubeconfig"), "")
		if err != nil {
			return err
		}
		network := standin.Network{NodeName: c.nodeName, ConfList: c.agentFile("etc/cni/net.d/10-flannel.conflist"), Bridge: "cni0"}
		go network.Run(ctx, client, os.Stderr)
	}
	go c.watchImages(ctx, s, d)
	return nil
}

// dashes makes arguments of name=value.
func dashes(values []string) []string {
	var all []string
	for _, v := range values {
		all = append(all, "--"+strings.TrimLeft(v, "-"))
	}
	return all
}

// resolvConf is the first file that names a server which pods can reach, or one that is made up.
func (c *config) resolvConf() (string, error) {
	if file := c.get("resolv-conf"); file != "" {
		return file, nil
	}
	for _, file := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) >= 2 && f[0] == "nameserver" && net.ParseIP(f[1]) != nil && !net.ParseIP(f[1]).IsLoopback() {
				return file, nil
			}
		}
	}
	file := c.agentFile("etc/resolv.conf")
	logf("warning", "Host resolv.conf includes loopback or multicast nameservers - kubelet will use autogenerated resolv.conf with nameserver 8.8.8.8")
	return file, write(file, "nameserver 8.8.8.8\n", 0o644)
}

func ready(ctx context.Context) {
	if err := standin.Notify(ctx, os.Getenv("NOTIFY_SOCKET"), "READY=1"); err != nil {
		logf("warning", "%v", err)
	}
}

// newer compares v1.37.2+k3s1 by numbers.
func newer(a, b string) bool {
	var x, y [3]int
	_, _ = fmt.Sscanf(a, "v%d.%d.%d", &x[0], &x[1], &x[2])
	_, _ = fmt.Sscanf(b, "v%d.%d.%d", &y[0], &y[1], &y[2])
	for i := range x {
		if x[i] != y[i] {
			return x[i] > y[i]
		}
	}
	return false
}
