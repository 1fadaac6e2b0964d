package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/internal/standin"
)

func workerCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{Use: "worker [join-token]", Short: "Run worker", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		text, err := tokenSource(args, o.tokenFile)
		if err != nil {
			return err
		}
		if err := o.check(); err != nil {
			return err
		}
		if err := preFlight(o.ignorePreFlight); err != nil {
			return err
		}
		d := &daemon{vars: v, options: o, log: cmd.OutOrStdout()}
		ctx := cmd.Context()
		if err := d.prepare(ctx, roleWorker, true); err != nil {
			return err
		}
		if d.s != nil {
			defer d.s.Shutdown()
		}
		if err := d.makeDirs(map[string]os.FileMode{d.images: 0o755}); err != nil {
			return err
		}
		return d.runWorker(ctx, text, false)
	}}
	debugFlags(cmd.PersistentFlags())
	dataFlags(cmd.Flags())
	o.workerFlags(cmd.Flags())
	return cmd
}

func splitArgs(text string) []string { return strings.Fields(strings.Trim(text, `"'`)) }

func extraArgs(named map[string]string, raw []string) []string {
	var args []string
	for key, value := range named {
		args = append(args, "--"+key+"="+value)
	}
	slices.Sort(args)
	return append(args, raw...)
}

// runWorker is a worker's life: identity, configuration from the API, containerd, images, kubelet. Beside a
// controller it speaks to that controller's own API, else to the token's, or to the local load balancer.
func (d *daemon) runWorker(ctx context.Context, token func() (string, error), embedded bool) error {
	if d.s == nil {
		return d.lightWorker(ctx, token, embedded)
	}
	var err error
	if embedded {
		err = d.ownIdentity()
	} else {
		err = d.bootstrap(ctx, token)
	}
	if err != nil {
		return fmt.Errorf("failed to bootstrap kubelet client configuration: %w", err)
	}
	kubeconfig, server := d.kubeletConf, ""
	if embedded {
		server = d.config.local()
	}
	client, err := standin.KubeconfigClient(d.kubeletConf, server)
	if err != nil {
		return err
	}
	profile, err := d.loadProfile(ctx, client)
	if err != nil {
		return err
	}
	if profile.NLLB.Enabled && !embedded {
		if kubeconfig, client, err = d.startNLLB(ctx, profile); err != nil {
			return err
		}
	} else if embedded {
		if kubeconfig, err = d.directKubeconfig(server); err != nil {
			return err
		}
	}
	if !embedded {
		probe := func(ctx context.Context) error {
			_, err := client.Raw(ctx, http.MethodGet, "/version", "", nil)
			return err
		}
		if err := serveStatus(ctx, d.vars, d.status, probe); err != nil {
			return err
		}
	}
	containerd, err := d.startContainerd(ctx, profile)
	if err != nil {
		return err
	}
	bundles := &bundles{d: d, containerd: containerd, seen: map[string]time.Time{}, named: map[string][]string{}}
	bundles.load(ctx)
	go bundles.watch(ctx)
	if err := d.startKubelet(ctx, profile, kubeconfig, embedded); err != nil {
		return err
	}
	d.startNetwork(ctx, client)
	if embedded {
		d.say("Controller has started")
	} else {
		d.say("Worker has started")
	}
	<-ctx.Done()
	return nil
}

func (d *daemon) clientPEM() string {
	return filepath.Join(d.kubeletRoot, "pki", "kubelet-client-current.pem")
}

// writeIdentity stores kubelet's certificate where kubelet looks for it when it renews it.
func (d *daemon) writeIdentity(server string, ca, cert, key []byte) error {
	dir := filepath.Join(d.kubeletRoot, "pki")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	caFile := filepath.Join(dir, "ca.crt")
	err := errors.Join(os.WriteFile(caFile, ca, 0o644), os.WriteFile(d.clientPEM(), append(bytes.TrimSpace(cert), append([]byte("\n"), key...)...), 0o600)) //nolint:gosec // a certificate is public
	if err != nil {
		return err
	}
	return standin.WriteKubeconfig(d.kubeletConf, "default", server, standin.TLSFiles{CA: caFile, Cert: d.clientPEM(), Key: d.clientPEM()}, false, 0o600)
}

// ownIdentity is for the kubelet beside a controller: the authority is at hand.
func (d *daemon) ownIdentity() error {
	if _, err := os.Stat(d.kubeletConf); err == nil {
		return nil
	}
	ca, err := d.ca("ca", "")
	if err != nil {
		return err
	}
	key, request, err := standin.NewKey("system:node:" + d.node)
	if err != nil {
		return err
	}
	public, err := standin.RequestedKey(request)
	if err != nil {
		return err
	}
	cert, err := ca.Sign(public, standin.Leaf{CommonName: "system:node:" + d.node, Organizations: []string{"system:nodes"}, Client: true})
	if err != nil {
		return err
	}
	return d.writeIdentity(d.config.Spec.API.url(d.config.Spec.API.Port), ca.CertPEM, cert, key)
}

// bootstrap asks the API for a certificate with the token. A worker that has one needs no token any more.
func (d *daemon) bootstrap(ctx context.Context, text func() (string, error)) error {
	if _, err := os.Stat(d.kubeletConf); err == nil {
		return nil
	}
	encoded, err := text()
	if err != nil {
		return fmt.Errorf("failed to get bootstrap kubeconfig: %w", err)
	}
	if encoded == "" {
		return errors.New("neither regular nor bootstrap kubeconfig files exist and no join token given; dunno how to make kubelet authenticate to API server")
	}
	token, err := decodeToken(encoded, roleWorker)
	if err != nil {
		return fmt.Errorf("failed to get bootstrap kubeconfig: %w", err)
	}
	client, err := token.client()
	if err != nil {
		return err
	}
	key, request, err := nodeRequest("system:node:" + d.node)
	if err != nil {
		return err
	}
	name := "node-csr-" + random(20)
	object := map[string]any{
		"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"request": request, "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": []string{"digital signature", "client auth"}},
	}
	if err := retry(ctx, 6, func(ctx context.Context) error {
		return client.do(ctx, http.MethodPost, requestsPath, object, nil)
	}); err != nil {
		return fmt.Errorf("failed to bootstrap client configuration: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var answer struct{ Status struct{ Certificate []byte } }
	err = standin.Until(wait, time.Second, func(ctx context.Context) error {
		if err := client.do(ctx, http.MethodGet, requestsPath+"/"+name, nil, &answer); err != nil {
			return err
		}
		if len(answer.Status.Certificate) == 0 {
			return errors.New("the certificate is not signed yet")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("failed to bootstrap client configuration: %w", err)
	}
	return d.writeIdentity(token.server, token.ca, answer.Status.Certificate, key)
}

func (d *daemon) loadProfile(ctx context.Context, client *standin.Client) (*workerConfig, error) {
	name := profileName(d.profile)
	var m configMap
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := standin.Until(wait, 2*time.Second, func(ctx context.Context) error { return client.Get(ctx, configMapsPath+"/"+name, &m) }); err != nil {
		return nil, fmt.Errorf("failed to load worker configuration profile %s: %w", name, err)
	}
	return parseProfile(&m)
}

func parseProfile(m *configMap) (*workerConfig, error) {
	w := &workerConfig{}
	for key, to := range map[string]any{"apiServerAddresses": &w.APIServers, "kubeletConfiguration": &w.Kubelet, "nodeLocalLoadBalancing": &w.NLLB, "pauseImage": &w.Pause} {
		if err := json.Unmarshal([]byte(m.Data[key]), to); err != nil {
			return nil, fmt.Errorf("failed to load worker configuration profile: %s: %w", key, err)
		}
	}
	return w, nil
}

// directKubeconfig is for the kubelet beside a controller: never another controller's API, which may be older.
func (d *daemon) directKubeconfig(server string) (string, error) {
	file := filepath.Join(d.run, "kubelet-direct.conf")
	return file, d.kubeconfigTo(file, server)
}

func (d *daemon) kubeconfigTo(file, server string) error {
	return standin.WriteKubeconfig(file, "default", server, standin.TLSFiles{CA: filepath.Join(d.kubeletRoot, "pki", "ca.crt"), Cert: d.clientPEM(), Key: d.clientPEM()}, false, 0o640)
}

func (d *daemon) startKubelet(ctx context.Context, profile *workerConfig, kubeconfig string, embedded bool) error {
	k := standin.Kubelet{
		NodeName: d.node, Config: filepath.Join(d.run, "kubelet", "config.yaml"), Root: d.kubeletRoot, Kubeconfig: kubeconfig,
		CertDir: filepath.Join(d.kubeletRoot, "pki"), Serving: standin.TLSFiles{CA: filepath.Join(d.kubeletRoot, "pki", "ca.crt")},
		Socket: filepath.Join(d.run, "containerd.sock"), ResolvConf: "/etc/resolv.conf", Cgroupfs: true, RotateCertificates: true,
		Taints: d.taints, Settings: profile.Kubelet,
	}
	for key, value := range d.labels {
		k.Labels = append(k.Labels, key+"="+value)
	}
	if embedded {
		k.Labels = append(k.Labels, "node.k0sproject.io/role=control-plane")
		if !d.noTaints && !d.single {
			k.Taints = append(k.Taints, "node-role.kubernetes.io/control-plane:NoSchedule")
		}
	}
	slices.Sort(k.Labels)
	for _, a := range d.kubeletArg {
		if !strings.HasPrefix(a, "--hostname-override=") {
			k.ExtraArgs = append(k.ExtraArgs, a)
		}
	}
	return k.Start(ctx, d.s)
}

// startNetwork stands in for kube-router: only with provider kuberouter, and only unless that is disabled. With any other
// the Node is not ready before somebody brings a network, as with k0s.
func (d *daemon) startNetwork(ctx context.Context, client *standin.Client) {
	go func() {
		var m configMap
		err := standin.Until(ctx, 2*time.Second, func(ctx context.Context) error {
			return client.Get(ctx, configMapsPath+"/fake-k0s-network", &m)
		})
		if err != nil || m.Data["provider"] != "kuberouter" {
			return
		}
		const bin = "/opt/cni/bin"
		if err := os.MkdirAll(bin, 0o755); err != nil {
			d.complain("installing CNI plugins", err)
			return
		}
		for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap"} {
			data, err := os.ReadFile(filepath.Join(d.bin, plugin))
			if err == nil {
				err = errors.Join(os.WriteFile(filepath.Join(bin, "."+plugin), data, 0o755), os.Rename(filepath.Join(bin, "."+plugin), filepath.Join(bin, plugin))) //nolint:gosec // a program
			}
			if err != nil {
				d.complain("installing CNI plugins", err)
				return
			}
		}
		standin.Network{NodeName: d.node, ConfList: "/etc/cni/net.d/10-kuberouter.conflist", Bridge: "kube-bridge"}.Run(ctx, client, d.log)
	}()
}
