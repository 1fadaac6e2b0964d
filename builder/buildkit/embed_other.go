//go:build !linux

package buildkit

import (
	"context"
	"os/exec"

	"github.com/moby/buildkit/client"

	"github.com/clusterimage/keg/builder"
)

func embeddable() error { return ErrPlatform }

// Embed runs BuildKit in this process, which it can on Linux only.
func Embed(context.Context, Options) (*client.Client, func() error, error) {
	return nil, nil, ErrPlatform
}

func link(string, builder.Execution) {}

// sweep has nothing to do: no container was started.
func sweep(context.Context, string) error { return nil }

func detach(*exec.Cmd) {}
