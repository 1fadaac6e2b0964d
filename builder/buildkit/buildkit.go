// Package buildkit is where a builder.Solver comes from: BuildKit in this process, which needs Linux, root and
// runc, or a buildkitd elsewhere. Both are spoken to by BuildKit's own client, and both read Dockerfiles by
// BuildKit's own frontend, which runs in this process.
package buildkit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/clusterimage/keg/builder"
)

// Errors of Solver.Available that callers tell apart.
var (
	// ErrPlatform says that BuildKit runs inside of a process on Linux only.
	ErrPlatform = errors.New("BuildKit runs inside of this process on Linux only")
	// ErrRoot says that it needs to be root.
	ErrRoot = errors.New("BuildKit inside of this process needs root")
	// ErrRunc says that there is no runc.
	ErrRunc = errors.New("runc is not in PATH")
)

// Options say where a Solver works, and what commands may have.
type Options struct {
	// Address is that of a buildkitd, such as "tcp://10.0.0.5:1234" or "unix:///run/buildkit/buildkitd.sock";
	// "" is BuildKit in this process.
	Address string
	// Dir keeps the state of BuildKit in this process. It is made if missing, and one process at a time uses it.
	Dir string
	// Secrets are what RUN --mount=type=secret may ask for, by ID.
	Secrets map[string][]byte
	// SSH are what RUN --mount=type=ssh may ask for, by ID: the socket of an agent, or files with keys.
	SSH map[string][]string
	// Allow are entitlements that a RUN may ask for: "network.host", "security.insecure".
	Allow []string
	// Waiting is told, once, that another process uses Dir; nil is nobody.
	Waiting func(dir string)
}

// Solver is a builder.Solver. It starts or dials BuildKit when it first has something to execute. It may be
// used by several goroutines.
type Solver struct {
	o Options

	mu     sync.Mutex
	client *client.Client
	stop   func() error
}

var _ builder.Solver = (*Solver)(nil)

// New makes a Solver and starts nothing.
func New(o Options) *Solver { return &Solver{o: o} }

// Available implements builder.Solver: it says which of Linux, root and runc is missing. Whether a remote
// buildkitd answers is seen when it is dialed.
func (s *Solver) Available(context.Context) error {
	if s.o.Address != "" {
		return nil
	}
	return embeddable()
}

// Close ends the connection and, of BuildKit in this process, waits for what it runs.
func (s *Solver) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil
	}
	s.client = nil
	return s.stop()
}

// connect gives the client, and starts what it speaks to if that is the first time.
func (s *Solver) connect(ctx context.Context) (*client.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	var err error
	if s.o.Address != "" {
		s.client, s.stop, err = Dial(ctx, s.o.Address)
	} else {
		s.client, s.stop, err = Embed(ctx, s.o.Dir, s.o.Waiting)
	}
	return s.client, err
}

// dialTime is how long a buildkitd may take to answer.
const dialTime = 20 * time.Second

var errUnreachable = errors.New("no answer")

// Dial connects to a buildkitd. The caller calls stop at the end.
func Dial(ctx context.Context, address string) (c *client.Client, stop func() error, err error) {
	c, err = client.New(ctx, address)
	if err != nil {
		return nil, nil, fmt.Errorf("dialing buildkitd %s: %w", address, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialTime, errUnreachable)
	defer cancel()
	if _, err := c.Info(ctx); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("dialing buildkitd %s: %w", address, err), c.Close())
	}
	return c, c.Close, nil
}
