package kubernetes

import (
	"context"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// Kubeconfig is the administrator's.
func (Driver) Kubeconfig(ctx context.Context, c *runtime.Cluster) ([]byte, error) {
	return fileOf(ctx, c.First(), adminConf)
}

func fileOf(ctx context.Context, n *runtime.Node, path string) ([]byte, error) {
	return remote.Output(ctx, n.Runner, "cat", path)
}
