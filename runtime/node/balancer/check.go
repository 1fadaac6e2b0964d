package balancer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/clusterimage/keg/runtime/node"
)

// errUnreachable says that a backend did not even take a connection: whatever connections there are to
// it, they are dead, too.
var errUnreachable = errors.New("no connection")

// check looks at a backend once, by a connection of its own, so that one that takes no new connections
// is found out.
func (r *run) check(ctx context.Context, addr string, c node.BalancerCheck, t *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, r.times.check)
	defer cancel()
	conn, err := r.connect(ctx, addr)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer func() { _ = conn.Close() }()
	if c.Kind == node.CheckTCP {
		return nil
	}
	if t.ServerName == "" {
		t = t.Clone()
		t.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secured := tls.Client(conn, t)
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	if c.Kind == node.CheckTLS {
		return nil
	}
	return ask(ctx, secured, addr, c.Path)
}

// ask asks for path over conn.
func ask(ctx context.Context, conn net.Conn, addr, path string) error {
	used := false
	transport := &http.Transport{
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			if used {
				return nil, errors.New("the connection broke")
			}
			used = true
			return conn, nil
		},
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "keg-balancer")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusUnauthorized, http.StatusForbidden:
		return nil
	}
	return fmt.Errorf("GET %s: %s", path, resp.Status)
}
