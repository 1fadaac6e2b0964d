package runtime

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime/node"
)

// Host is keg-node on one host, a method a verb; package node describes what each does. It is wide
// because it mirrors that protocol, and nobody but its client and the tests' fake implement it.
type Host interface {
	Lock(ctx context.Context, r node.LockRequest) (release func() error, err error)
	Facts(ctx context.Context, r node.FactsRequest) (node.Facts, error)
	SetState(ctx context.Context, s node.HostState) error
	Missing(ctx context.Context, blobs []digest.Digest) ([]digest.Digest, error)
	Receive(ctx context.Context, blobs []Blob) error
	Unpack(ctx context.Context, r node.UnpackRequest) error
	Render(ctx context.Context, r node.RenderRequest) error
	Install(ctx context.Context, r node.InstallRequest) (node.InstallResponse, error)
	Put(ctx context.Context, files []File) (node.InstallResponse, error)
	Claim(ctx context.Context, r node.ClaimRequest) error
	Block(ctx context.Context, r node.BlockRequest) error
	Sysctl(ctx context.Context, r node.SysctlRequest) error
	Units(ctx context.Context, r node.UnitRequest) error
	Unit(ctx context.Context, r node.UnitQuery) (node.UnitStatus, error)
	Hook(ctx context.Context, r node.HookRequest, out io.Writer) (node.HookResponse, error)
	Prune(ctx context.Context, r node.PruneRequest) (node.PruneResponse, error)
	Undo(ctx context.Context) (node.UndoResponse, error)
	Forget(ctx context.Context) error
}

// Blob and File are what the client sends.
type (
	Blob = node.Blob
	File = node.File
)
