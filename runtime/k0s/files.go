package k0s

import (
	"context"

	"github.com/clusterimage/keg/runtime"
)

var staleMark = runtime.File{Path: staleFile, Mode: 0o600, Data: []byte("restart k0s\n")}

// put writes files that k0s reads when it starts. stale says whether there is anything that the k0s at work does
// not know.
func put(ctx context.Context, n *runtime.Node, files []runtime.File) (stale bool, err error) {
	return n.PutUnread(ctx, staleMark, files)
}

// fresh notes that k0s has read what was written.
func fresh(ctx context.Context, n *runtime.Node) error { return n.Remove(ctx, staleFile) }
