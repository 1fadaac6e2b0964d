package k3s

import (
	"context"

	"github.com/clusterimage/keg/runtime"
)

var staleMark = runtime.File{Path: staleFile, Mode: 0o600, Data: []byte("restart k3s\n")}

// put writes files that k3s reads when it starts. stale says whether there is anything that the k3s at work does
// not know.
func put(ctx context.Context, n *runtime.Node, files []runtime.File) (stale bool, err error) {
	return n.PutUnread(ctx, staleMark, files)
}

// fresh notes that k3s has read what was written.
func fresh(ctx context.Context, n *runtime.Node) error { return n.Remove(ctx, staleFile) }
