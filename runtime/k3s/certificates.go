package k3s

import (
	"context"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

// CertificateFiles are those that k3s makes.
func (Driver) CertificateFiles(n *runtime.Node) []string {
	agent := []string{dataDir + "/agent/*.crt"}
	if n.Role == runtime.Worker {
		return agent
	}
	return append(agent, serverDir+"/tls/*.crt", serverDir+"/tls/*/*.crt", kubeconfigFile)
}

// RenewCertificates issues all but the CAs' anew: k3s deletes what it then makes when it starts, which it must not be
// while that is done. It starts again whatever happens.
func (d Driver) RenewCertificates(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		n.On("renew certificates with k3s", func(ctx context.Context, _ writer) error {
			return n.Host.Units(ctx, node.UnitRequest{
				Units: []string{unitOf(n)}, Restart: true, NoBlock: true,
				Between: []string{program, "certificate", "rotate"},
			})
		}),
		waitFor(c, n),
	}
}

// ApplySANs writes the names into the configuration and restarts k3s; then the API is asked by each name.
func (d Driver) ApplySANs(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{
		n.On("name all of the API's names in k3s' configuration", func(ctx context.Context, _ writer) error {
			return d.keepRunning(ctx, c, n)
		}),
		waitFor(c, n),
		n.On("see that the API's certificate has them", func(ctx context.Context, _ writer) error {
			return runtime.Wait(ctx, 2*time.Minute, "the API's certificate", func(ctx context.Context) error { return c.AnswersTo(ctx, n) })
		}),
	}
}
