package kubernetes

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// CertificateFiles are those that kubeadm makes, and those that kubelet makes or is given.
func (Driver) CertificateFiles(n *runtime.Node) []string {
	kubelet := []string{"/var/lib/kubelet/pki/kubelet-client-current.pem", "/var/lib/kubelet/pki/kubelet.crt"}
	if n.Role == runtime.Worker {
		return append(kubelet, pkiDir+"/ca.crt")
	}
	return append(kubelet, pkiDir+"/*.crt", pkiDir+"/etcd/*.crt", "/etc/kubernetes/*.conf")
}

// restartStatic restarts the named static pods one after another: it ends their processes and waits until
// kubelet has started others. Nothing is ever out of its place, so it may be killed at any point. An API
// server that is asked to end waits a minute for those who watch it; they can ask another.
const restartStatic = `
running() {
  for id in $(ctr -n k8s.io containers ls -q "labels.\"io.kubernetes.container.name\"==$1" 2>/dev/null); do
    ctr -n k8s.io tasks ls 2>/dev/null | grep -q "^$id .*RUNNING" && echo "$id"
  done
}
for name; do
  old=$(running "$name")
  for id in $old; do ctr -n k8s.io tasks kill -s SIGTERM "$id" 2>/dev/null; done
  tries=0
  while :; do
    new=$(running "$name")
    [ -n "$new" ] && [ "$new" != "$old" ] && break
    tries=$((tries + 1))
    [ $tries -lt 180 ] || { echo "$name does not come back" >&2; exit 1; }
    [ $tries -ne 8 ] || for id in $old; do ctr -n k8s.io tasks kill -s SIGKILL "$id" 2>/dev/null; done
    sleep 1
  done
  echo "$name runs anew"
done
`

// renewKubelet makes kubelet sign a new certificate for its own port, which nothing else renews.
const renewKubelet = `rm -f /var/lib/kubelet/pki/kubelet.crt /var/lib/kubelet/pki/kubelet.key && systemctl restart kubelet.service`

// RenewCertificates renews with kubeadm all that a control plane has. The certificate by which a kubelet
// knows itself to the API is renewed by the two of them long before it ends.
func (d Driver) RenewCertificates(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	kubelet := n.On("renew kubelet's own certificate", func(ctx context.Context, _ writer) error {
		return n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", renewKubelet}})
	})
	if n.Role == runtime.Worker {
		return []runtime.Step{kubelet}
	}
	return []runtime.Step{
		n.On("renew certificates with kubeadm", func(ctx context.Context, out writer) error {
			if err := clearWay(ctx, n); err != nil {
				return err
			}
			return n.Runner.Run(ctx, remote.Cmd{
				Args:   []string{binDir + "/kubeadm", "certs", "renew", "all"},
				Stdout: &phaseLines{out: out}, Stderr: &phaseLines{out: out},
			})
		}),
		n.On("restart the control plane's pods", func(ctx context.Context, out writer) error {
			if err := n.Runner.Run(ctx, remote.Cmd{
				Args:   []string{"/bin/sh", "-c", restartStatic, "sh", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"},
				Stdout: out, Stderr: out,
			}); err != nil {
				return err
			}
			return waitAlive(ctx, d, c, n)
		}),
		kubelet,
	}
}

// configMap is the part of kubeadm's ConfigMap that is looked at; the rest is kept.
type configMap map[string]any

func kubeadmConfig(ctx context.Context, c *runtime.Cluster) (configMap, map[string]any, error) {
	out, err := kubectl(ctx, c, "-n", "kube-system", "get", "configmap", "kubeadm-config", "-o", "json")
	if err != nil {
		return nil, nil, err
	}
	var m configMap
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, nil, fmt.Errorf("reading ConfigMap kubeadm-config: %w", err)
	}
	text, _ := within(m, "data")[kindCluster].(string)
	var cluster map[string]any
	if err := yaml.Unmarshal([]byte(text), &cluster); err != nil || cluster == nil {
		return nil, nil, fmt.Errorf("reading ConfigMap kubeadm-config: it has no %s: %w", kindCluster, err)
	}
	return m, cluster, nil
}

// addSANs writes the names into the cluster's own configuration, by which control planes that join and
// upgrades make their certificates.
func addSANs(ctx context.Context, c *runtime.Cluster) (cluster map[string]any, changed bool, err error) {
	m, cluster, err := kubeadmConfig(ctx, c)
	if err != nil {
		return nil, false, err
	}
	server := within(cluster, "apiServer")
	list, _ := server["certSANs"].([]any)
	for _, san := range c.SANs() {
		if !slices.Contains(list, any(san)) {
			list, changed = append(list, san), true
		}
	}
	if !changed {
		return cluster, false, nil
	}
	server["certSANs"] = list
	text, err := yaml.Marshal(cluster)
	if err != nil {
		return nil, false, fmt.Errorf("writing ConfigMap kubeadm-config: %w", err)
	}
	within(m, "data")[kindCluster] = string(text)
	data, err := json.Marshal(m)
	if err != nil {
		return nil, false, fmt.Errorf("writing ConfigMap kubeadm-config: %w", err)
	}
	// Its resourceVersion is in it: another writer makes this fail.
	_, err = c.KubectlOn(ctx, c.First(), bytes.NewReader(data), nil, "replace", "-f", "-", "--request-timeout=15s")
	return cluster, true, err
}

// signDir is where a new certificate is made beside the one in use.
const signDir = secretDir + "/pki"

const (
	// The authority stays where it is, also where keg dies now.
	beginSign = `umask 077 && rm -rf "$1" && mkdir -p "$1" && ln -s ` + pkiDir + `/ca.crt ` + pkiDir + `/ca.key "$1"`
	endSign   = `cp -p "$1/apiserver.key" ` + pkiDir + `/apiserver.key.new && cp -p "$1/apiserver.crt" ` + pkiDir + `/apiserver.crt.new &&
mv ` + pkiDir + `/apiserver.key.new ` + pkiDir + `/apiserver.key && mv ` + pkiDir + `/apiserver.crt.new ` + pkiDir + `/apiserver.crt`
)

// ApplySANs makes the API server's certificate anew where it lacks a name. The server reads it by itself.
func (d Driver) ApplySANs(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		c.First().On("add the names to the cluster's configuration", func(ctx context.Context, _ writer) error {
			_, changed, err := addSANs(ctx, c)
			if err == nil && !changed {
				return runtime.ErrAlready
			}
			return err
		}),
		n.On("make the API's certificate anew", func(ctx context.Context, out writer) error {
			if err := clearWay(ctx, n); err != nil {
				return err
			}
			current, err := fileOf(ctx, n, pkiDir+"/apiserver.crt")
			if err != nil {
				return err
			}
			if covers(current, c.SANs()) {
				return runtime.ErrAlready
			}
			return signAPI(ctx, c, n, out)
		}),
		n.On("wait for its API", func(ctx context.Context, _ writer) error { return waitAlive(ctx, d, c, n) }),
	}
}

func signAPI(ctx context.Context, c *runtime.Cluster, n *runtime.Node, out writer) (err error) {
	cluster, _, err := addSANs(ctx, c)
	if err != nil {
		return err
	}
	cluster["certificatesDir"] = signDir
	config, err := documents{
		{
			"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": kindInit,
			"localAPIEndpoint": map[string]any{"advertiseAddress": n.IP, "bindPort": 6443},
			"nodeRegistration": map[string]any{"name": n.Name, "criSocket": criSocket},
		},
		cluster,
	}.encode()
	if err != nil {
		return err
	}
	shell := func(script string) error {
		return n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", script, "sh", signDir}})
	}
	defer func() {
		if !errors.Is(err, remote.ErrDisconnected) { // else the next run clears the way
			err = errors.Join(err, n.Remove(context.WithoutCancel(ctx), signDir))
		}
	}()
	if err := shell(beginSign); err != nil {
		return err
	}
	if err := kubeadm(ctx, n, "certs.yaml", config, out, "init", "phase", "certs", "apiserver"); err != nil {
		return err
	}
	return shell(endSign)
}

// covers says whether the first certificate in data is valid for all the names and addresses.
func covers(data []byte, sans []string) bool {
	block, _ := pem.Decode(data)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(sans, func(san string) bool {
		if _, err := netip.ParseAddr(san); err == nil {
			return !slices.ContainsFunc(cert.IPAddresses, func(ip net.IP) bool {
				a, _ := netip.AddrFromSlice(ip)
				return sameAddress(a.String(), san)
			})
		}
		return !slices.Contains(cert.DNSNames, san)
	})
}

// RotateTokens deletes all bootstrap tokens, and the Secret in which `kubeadm init --upload-certs` keeps
// the cluster's keys. Those that keg makes live no longer than a join.
func (Driver) RotateTokens(c *runtime.Cluster) []runtime.Batch {
	return []runtime.Batch{{c.First().On("delete all join tokens", func(ctx context.Context, _ writer) error {
		if _, err := kubectl(ctx, c, "-n", "kube-system", "delete", "secret", "--field-selector", "type=bootstrap.kubernetes.io/token"); err != nil {
			return err
		}
		_, err := kubectl(ctx, c, "-n", "kube-system", "delete", "secret", "kubeadm-certs", "--ignore-not-found")
		return err
	})}}
}
