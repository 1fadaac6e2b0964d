package host

import (
	"context"
	"log"

	"github.com/clusterimage/keg/runtime/node/vip"
)

// VIP holds the virtual address of the API while it is this host's turn, as node.VIPConfigFile says,
// until ctx ends. Host.Ready is called, with nil, when it stands for election.
func (h *Host) VIP(ctx context.Context) error {
	return vip.Run(ctx, vip.Options{Path: h.path, Ready: h.Ready, Logf: log.New(h.log(), "", 0).Printf})
}

// DropVIP takes away the virtual address if VIP was killed while it had it.
func (h *Host) DropVIP(context.Context) error {
	return vip.Drop(vip.Options{Path: h.path})
}
