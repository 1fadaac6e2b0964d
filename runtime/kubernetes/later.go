package kubernetes

import (
	"context"
	"errors"
	"io"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

var errLater = errors.New("not made yet")

func later(n *runtime.Node) []runtime.Step {
	return []runtime.Step{n.On("fail", func(context.Context, io.Writer) error { return errLater })}
}

// CheckRequest has no opinion.
func (Driver) CheckRequest(*runtime.Cluster) []runtime.Finding { return nil }

// JoinMaster is not made yet.
func (Driver) JoinMaster(_ *runtime.Cluster, n *runtime.Node) []runtime.Step { return later(n) }

// Alive asks n.
func (Driver) Alive(ctx context.Context, _ *runtime.Cluster, n *runtime.Node) error {
	return n.Runner.Run(ctx, remote.Cmd{Args: []string{binDir + "/kubectl", "--kubeconfig", adminConf, "get", "--raw", "/readyz"}})
}

// Members is not made yet.
func (Driver) Members(context.Context, *runtime.Cluster) ([]runtime.Member, error) {
	return nil, errLater
}

// RemoveMember is not made yet.
func (Driver) RemoveMember(context.Context, *runtime.Cluster, runtime.Member, io.Writer) error {
	return errLater
}

// Left is not made yet.
func (Driver) Left(*runtime.Cluster, *runtime.Node) []runtime.Step { return nil }

// UpgradeControlPlane is not made yet.
func (Driver) UpgradeControlPlane(_ *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return later(n)
}

// Restart is not made yet.
func (Driver) Restart(_ *runtime.Cluster, n *runtime.Node) []runtime.Step { return later(n) }

// CertificateFiles is not made yet.
func (Driver) CertificateFiles(*runtime.Node) []string { return nil }

// RenewCertificates is not made yet.
func (Driver) RenewCertificates(_ *runtime.Cluster, n *runtime.Node) []runtime.Step { return later(n) }

// ApplySANs is not made yet.
func (Driver) ApplySANs(_ *runtime.Cluster, n *runtime.Node) []runtime.Step { return later(n) }

// RotateTokens is not made yet.
func (Driver) RotateTokens(*runtime.Cluster) []runtime.Batch { return nil }

// Backup is not made yet.
func (Driver) Backup(context.Context, *runtime.Cluster, io.Writer) error { return errLater }

// Restore is not made yet.
func (Driver) Restore(c *runtime.Cluster, _ func() (io.ReadCloser, error)) []runtime.Batch {
	return []runtime.Batch{later(c.First())}
}
