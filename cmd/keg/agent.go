package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node/client"
	"github.com/clusterimage/keg/runtime/remote"
)

// embedded holds keg-node, compressed, for each architecture of hosts; make build puts it there.
//
//go:embed embedded
var embedded embed.FS

// errNoAgent says that this keg was built by go build alone.
var errNoAgent = errors.New("this keg was built without keg-node: build it with make build")

// newAgent makes sure that keg-node of this keg is on the host.
func newAgent(ctx context.Context, r remote.Runner) (runtime.Host, error) {
	c := &client.Client{Runner: r}
	if err := c.Ensure(ctx, agentBinary); err != nil {
		return nil, err
	}
	return c, nil
}

// agents are keg-node unpacked, by architecture: hosts share one copy.
var agents sync.Map // of GOARCH to func() ([]byte, error)

func agentBinary(goarch string) (client.Binary, error) {
	load, _ := agents.LoadOrStore(goarch, sync.OnceValues(func() ([]byte, error) { return loadAgent(goarch) }))
	data, err := load.(func() ([]byte, error))()
	if err != nil {
		return client.Binary{}, err
	}
	return client.Binary{
		Digest: digest.FromBytes(data),
		Open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}, nil
}

func loadAgent(goarch string) ([]byte, error) {
	packed, err := embedded.ReadFile("embedded/keg-node-linux-" + goarch + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("finding keg-node for %s: %w", goarch, errNoAgent)
	}
	if err != nil {
		return nil, fmt.Errorf("finding keg-node for %s: %w", goarch, err)
	}
	d, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpacking keg-node: %w", err)
	}
	defer d.Close()
	data, err := io.ReadAll(d)
	if err != nil {
		return nil, fmt.Errorf("unpacking keg-node: %w", err)
	}
	return data, nil
}
