package k0s

import (
	"context"
	"time"

	"github.com/clusterimage/keg/runtime"
)

// CertificateFiles are those that k0s makes, and those that the cluster gives to kubelet.
func (Driver) CertificateFiles(n *runtime.Node) []string {
	kubelet := []string{kubeletDir + "/pki/kubelet-client-current.pem", kubeletDir + "/pki/kubelet-server-current.pem"}
	if n.Role == runtime.Worker {
		return kubelet
	}
	return append(kubelet, pkiDir+"/*.crt", pkiDir+"/etcd/*.crt")
}

// RenewCertificates restarts k0s, which makes all but its CAs anew whenever a controller starts. The
// certificate by which a kubelet knows itself to the API is renewed by the two of them long before it
// ends; that of its own port is asked for anew here.
func (d Driver) RenewCertificates(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{n.On("restart k0s, which renews its certificates", func(ctx context.Context, _ writer) error {
		if err := n.Remove(ctx, kubeletDir+"/pki/kubelet-server-current.pem"); err != nil {
			return err
		}
		return restart(ctx, c, n)
	})}
}

// ApplySANs writes the names into the configuration and restarts k0s; then the API is asked by each name.
func (Driver) ApplySANs(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		n.On("name all of the API's names in k0s' configuration", func(ctx context.Context, _ writer) error { return keepRunning(ctx, c, n) }),
		waitFor(c, n),
		n.On("see that the API's certificate has them", func(ctx context.Context, _ writer) error {
			return runtime.Wait(ctx, 2*time.Minute, "the API's certificate", func(ctx context.Context) error { return c.AnswersTo(ctx, n) })
		}),
	}
}
