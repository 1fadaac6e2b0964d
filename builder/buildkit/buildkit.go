// Package buildkit is where a builder.Solver comes from: BuildKit in this process, which needs Linux, root and
// runc, or a buildkitd elsewhere. Both are spoken to by BuildKit's own client, and both read Dockerfiles by
// BuildKit's own frontend, which runs in this process.
package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
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
	// TLS is how a buildkitd at a tcp:// address is spoken to; the zero value is without TLS.
	TLS TLS
	// Dir keeps the state of BuildKit in this process. It is made if missing, and one process at a time uses it. A
	// process executes with it by one Solver, until Close: BuildKit remembers things of it until the process ends.
	Dir string
	// Secrets are what RUN --mount=type=secret may ask for, by ID.
	Secrets map[string][]byte
	// SSH are what RUN --mount=type=ssh may ask for, by ID: the socket of an agent, or files with keys.
	SSH map[string][]string
	// Allow are entitlements that a RUN may ask for: "network.host", "security.insecure".
	Allow []string
	// Waiting is told, once, that another process uses Dir; nil is nobody.
	Waiting func(dir string)
	// Guard makes the command of a process that reads its standard input by the function Guard; it is started beside
	// BuildKit in this process. nil is none.
	Guard func(dir string) *exec.Cmd
}

// TLS names files, in PEM, by which this side and a buildkitd know each other.
type TLS struct {
	// CA has the authorities that may sign the buildkitd's certificate; "" are the system's, where another field is set.
	CA string
	// Cert and Key are this side's own; both or none.
	Cert, Key string
	// Name is the one in the buildkitd's certificate; "" is the host of the address.
	Name string
}

// ErrTLS says that an address cannot be spoken to by TLS.
var ErrTLS = errors.New("TLS is for tcp:// addresses")

// options are those of BuildKit's client.
func (t TLS) options(address string) ([]client.ClientOpt, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	if !strings.HasPrefix(address, "tcp://") {
		return nil, ErrTLS
	}
	server := client.WithServerConfig(t.Name, t.CA)
	if t.CA == "" {
		server = client.WithServerConfigSystem(t.Name)
	}
	if t.Cert == "" && t.Key == "" {
		return []client.ClientOpt{server}, nil
	}
	return []client.ClientOpt{server, client.WithCredentials(t.Cert, t.Key)}, nil
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
		s.client, s.stop, err = Dial(ctx, s.o.Address, s.o.TLS)
	} else {
		s.client, s.stop, err = Embed(ctx, s.o)
	}
	return s.client, err
}

// dialTime is how long a buildkitd may take to answer.
const dialTime = 20 * time.Second

var errUnreachable = errors.New("no answer")

// DialError says that a buildkitd cannot be spoken to.
type DialError struct {
	Address string
	Err     error
}

// Error implements error.
func (e *DialError) Error() string { return fmt.Sprintf("dialing buildkitd %s: %v", e.Address, e.Err) }

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// Dial connects to a buildkitd; an error is a *DialError. The caller calls stop at the end.
func Dial(ctx context.Context, address string, t TLS) (c *client.Client, stop func() error, err error) {
	opts, err := t.options(address)
	if err != nil {
		return nil, nil, &DialError{Address: address, Err: err}
	}
	c, err = client.New(ctx, address, opts...)
	if err != nil {
		return nil, nil, &DialError{Address: address, Err: err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialTime, errUnreachable)
	defer cancel()
	if _, err := c.Info(ctx); err != nil {
		return nil, nil, &DialError{Address: address, Err: errors.Join(err, c.Close())}
	}
	return c, c.Close, nil
}
