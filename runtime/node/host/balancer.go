package host

import (
	"context"
	"log"
	"os"

	"github.com/clusterimage/keg/runtime/node/balancer"
)

// Balance passes connections on as node.BalancerConfigFile says, until ctx ends. Host.Ready is called
// when it listens.
func (h *Host) Balance(ctx context.Context) error {
	return balancer.Run(ctx, balancer.Options{ReadFile: h.readFile, Ready: h.Ready, Logf: log.New(h.log(), "", 0).Printf})
}

// readFile reads a file of the host.
func (h *Host) readFile(name string) ([]byte, error) { return os.ReadFile(h.path(name)) }
