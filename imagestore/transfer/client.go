// Package transfer moves images between a store and registries (OCI distribution-spec v1.1). Only
// blobs that are missing on the other side move, in parallel, verified while they are written, and
// resumed where a connection was cut. What was received whole before a failure stays, so that the
// same call again continues.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/clusterimage/keg/internal/progress"
)

// Options say how a Client speaks to registries. The zero value is useful.
type Options struct {
	// Keychain finds credentials; nil is anonymous. See Keychain, the function.
	Keychain authn.Keychain
	// Insecure names registries that may speak plain HTTP or show a certificate that cannot be
	// verified: "host:port", "host" for all of its ports, or "*" for every registry. Loopback registries
	// may always speak plain HTTP.
	Insecure []string
	// CertDir is a directory laid out as Docker's certs.d: HOST[:PORT]/*.crt are further authorities
	// for that registry, *.cert with *.key of the same name the client's certificate. "" is none.
	CertDir string
	// Transport replaces the way requests are sent. Certificates apply to it where it is an
	// *http.Transport, which is cloned; nil is a transport of the package's own.
	Transport http.RoundTripper
	// Proxy chooses an HTTP proxy, such as http.ProxyFromEnvironment; nil is none. Not used with Transport.
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent is sent with every request; "" is "keg".
	UserAgent string
	// Parallelism is the number of blobs moved at a time, over all calls on the Client; 0 is 5.
	Parallelism int
	// Progress is told about every blob, by its digest.
	Progress progress.Func
	// Offline makes every request fail with ErrOffline. Calls that need nothing from a registry work.
	Offline bool
	// Retry says how often and after how long a failed request is made again.
	Retry Retry
	// StallTimeout is how long a blob may not move at all before its connection is given up and made
	// again; 0 is one minute.
	StallTimeout time.Duration
}

// Client moves images. It may be used by several goroutines at once: they share the limit on blobs in
// flight, and a blob wanted by several of them is fetched once.
type Client struct {
	keychain  authn.Keychain
	base      http.RoundTripper
	insecure  insecureSet
	offline   bool
	blobs     chan struct{} // one element for each blob on its way
	documents chan struct{} // one element for each small request on its way
	progress  progress.Func
	retry     Retry
	stall     time.Duration

	mu       sync.Mutex
	sessions map[string]*session
	flights  map[string]chan struct{}
}

// maxDocuments bounds requests other than for blobs. They are small but many in an index of hundreds
// of images.
const maxDocuments = 8

// New makes a Client.
func New(o Options) *Client {
	if o.Keychain == nil {
		o.Keychain = authn.NewMultiKeychain()
	}
	if o.UserAgent == "" {
		o.UserAgent = "keg"
	}
	if o.Parallelism <= 0 {
		o.Parallelism = 5
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = time.Minute
	}
	return &Client{
		keychain:  o.Keychain,
		base:      transport.NewUserAgent(newGuard(o), o.UserAgent),
		insecure:  o.Insecure,
		offline:   o.Offline,
		blobs:     make(chan struct{}, o.Parallelism),
		documents: make(chan struct{}, maxDocuments),
		progress:  o.Progress,
		retry:     o.Retry.withDefaults(),
		stall:     o.StallTimeout,
		sessions:  map[string]*session{},
		flights:   map[string]chan struct{}{},
	}
}

// enter takes a place among the limit's; leave gives it back.
func enter(ctx context.Context, limit chan struct{}) (leave func(), err error) {
	select {
	case limit <- struct{}{}:
		return func() { <-limit }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// session is the authenticated way to one repository.
type session struct {
	repo name.Repository
	http *http.Client
	// chunked says that the registry does not take large blobs in one request.
	chunked atomic.Bool

	ready chan struct{} // closed when http and err are set
	err   error
}

// access is what a session may do, in the words of the token protocol.
type access string

const (
	pull = access(transport.PullScope)
	push = access(transport.PushScope)
)

// session returns the way to a repository, with read access to others where blobs are mounted from
// them. It is made once: the first caller asks the registry how it authenticates and gets a token.
func (c *Client) session(ctx context.Context, repo name.Repository, a access, from ...name.Repository) (*session, error) {
	scopes := []string{repo.Scope(string(a))}
	key := repo.String() + " " + string(a)
	for _, f := range from {
		scopes = append(scopes, f.Scope(string(pull)))
		key += " " + f.String()
	}
	if c.offline {
		return nil, fmt.Errorf("connecting to %s: %w", registryName(repo.Registry), ErrOffline)
	}
	for {
		c.mu.Lock()
		s, there := c.sessions[key]
		if !there {
			s = &session{repo: repo, ready: make(chan struct{})}
			c.sessions[key] = s
		}
		c.mu.Unlock()
		if !there {
			s.http, s.err = c.authenticate(ctx, repo, scopes)
			if s.err != nil {
				c.mu.Lock()
				delete(c.sessions, key)
				c.mu.Unlock()
			}
			close(s.ready)
			return s, s.err
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if s.err == nil {
			return s, nil
		}
		if !errors.Is(s.err, context.Canceled) && !errors.Is(s.err, context.DeadlineExceeded) {
			return nil, s.err
		} // else it was the other caller who gave up, not the registry
	}
}

func (c *Client) authenticate(ctx context.Context, repo name.Repository, scopes []string) (*http.Client, error) {
	auth, err := authn.Resolve(ctx, c.keychain, repo)
	if err != nil {
		return nil, fmt.Errorf("finding credentials for %s: %w", registryName(repo.Registry), err)
	}
	var rt http.RoundTripper
	err = c.retry.contact().do(ctx, func() error {
		reg, err := c.registry(repo.Registry)
		if err != nil {
			return err
		}
		asked, wait := withWait(ctx)
		rt, err = transport.NewWithContext(asked, reg, auth, c.base, scopes)
		return wait.in(registryError(ctx, repo, "authenticating", err))
	})
	if err != nil {
		return nil, err
	}
	// Credentials do not follow a redirect: ggcr adds them to each request for the registry's own host.
	return &http.Client{Transport: rt}, nil
}

// registry gives the registry the scheme that our own rule allows. ggcr's rule is another: it would
// fall back to plain HTTP for all private addresses, which the guard refuses.
func (c *Client) registry(reg name.Registry) (name.Registry, error) {
	var opts []name.Option
	if c.insecure.has(reg.RegistryStr()) || Loopback(reg.RegistryStr()) {
		opts = append(opts, name.Insecure)
	}
	r, err := name.NewRegistry(reg.RegistryStr(), opts...)
	if err != nil {
		return name.Registry{}, fmt.Errorf("reading registry name: %w", err)
	}
	return r, nil
}

// registryName is the registry as people write it.
func registryName(r name.Registry) string {
	if r.RegistryStr() == name.DefaultRegistry {
		return "docker.io"
	}
	return r.RegistryStr()
}

// repoName is the repository as people write it, with its registry.
func repoName(r name.Repository) string {
	return registryName(r.Registry) + "/" + r.RepositoryStr()
}
