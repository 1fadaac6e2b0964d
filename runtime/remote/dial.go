package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// Dial connects to a host and logs in. It fails with ErrUnreachable, *HostKeyError, *AuthError,
// ErrPassphrase, what Password or Passphrase returned, or the cause of ctx.
func Dial(ctx context.Context, cfg SSHConfig) (*SSH, error) {
	var via *SSH
	hops := append(slices.Clone(cfg.Jump), cfg)
	for i, hop := range hops {
		s, err := dialHop(ctx, hop, i == len(hops)-1, via, cfg.DialContext)
		if err != nil {
			if via != nil {
				_ = via.Close()
			}
			return nil, err
		}
		via = s
	}
	return via, nil
}

func dialHop(ctx context.Context, hop SSHConfig, last bool, via *SSH, dial dialFunc) (*SSH, error) {
	if !last && len(hop.Jump) > 0 {
		return nil, fmt.Errorf("connecting to %s: a jump host cannot have jump hosts of its own: list all in order", hop.Host)
	}
	cfg, err := hop.complete()
	if err != nil {
		return nil, err
	}
	keys := &hostKeys{policy: cfg.HostKeyPolicy, files: cfg.KnownHosts, host: cfg.address()}
	algorithms, err := keys.algorithms()
	if err != nil {
		return nil, err
	}
	loginCtx, cancel := context.WithCancel(ctx) // the agent's connection ends with it
	defer cancel()
	stall := &stallTimer{limit: cfg.Timeout}
	who := &login{ctx: loginCtx, cfg: cfg, paused: stall.pause}
	if err := who.readKeys(); err != nil {
		return nil, err
	}
	conn, err := connect(ctx, cfg, via, dial)
	if err != nil {
		return nil, err
	}
	s := &SSH{cfg: cfg, via: via, done: make(chan struct{})}
	watched := &watchedConn{Conn: conn, received: &s.received}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	stall.start(func() { _ = conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(watched, cfg.address(), &ssh.ClientConfig{
		User: cfg.User,
		Auth: who.methods(),
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			return keys.check(ctx, remote, key)
		},
		HostKeyAlgorithms: algorithms,
	})
	expired := stall.stop()
	if !stop() && err == nil { // ctx ended just now and has closed it
		_ = c.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, loginError(ctx, cfg, keys, who, expired, err)
	}
	s.start(ssh.NewClient(c, channels, requests))
	return s, nil
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// connect makes the TCP connection, through via if there is one.
func connect(ctx context.Context, cfg SSHConfig, via *SSH, dial dialFunc) (net.Conn, error) {
	if via != nil {
		dial = via.client.DialContext
	} else if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	dialCtx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	conn, err := dial(dialCtx, "tcp", cfg.address())
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("connecting to %s: %w", cfg.address(), context.Cause(ctx))
	case dialCtx.Err() != nil:
		err = fmt.Errorf("no answer within %s", cfg.Timeout)
	}
	if via != nil {
		return nil, fmt.Errorf("connecting to %s by way of %s: %w: %w", cfg.address(), via.Host(), ErrUnreachable, err)
	}
	return nil, fmt.Errorf("connecting to %s: %w: %w", cfg.address(), ErrUnreachable, err)
}

// loginError tells apart the ways in which a handshake fails. The causes that the callbacks saw come
// first: the SSH library only says that something went wrong.
func loginError(ctx context.Context, cfg SSHConfig, keys *hostKeys, who *login, expired bool, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("logging in to %s: %w", cfg.address(), context.Cause(ctx))
	case keys.err != nil:
		return keys.err
	case who.err != nil:
		return who.err
	case expired:
		return fmt.Errorf("logging in to %s: %w: no answer within %s", cfg.address(), ErrUnreachable, cfg.Timeout)
	case keys.accepted && refusedLogin(err):
		return &AuthError{Host: cfg.address(), User: cfg.User, Tried: who.tried, Err: err}
	}
	var netErr net.Error
	if errors.As(err, &netErr) || !keys.accepted && strings.Contains(err.Error(), "EOF") {
		return fmt.Errorf("logging in to %s: %w: %w", cfg.address(), ErrUnreachable, err)
	}
	return fmt.Errorf("logging in to %s: %w", cfg.address(), err)
}

// refusedLogin knows the library's text and the disconnects that mean the same (RFC 4253 §11.1); it
// has no types for them.
func refusedLogin(err error) bool {
	text := err.Error()
	for _, sign := range []string{"unable to authenticate", "disconnect, reason 2:", "disconnect, reason 14:"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// stallTimer closes a connection whose handshake takes too long, but lets people type.
type stallTimer struct {
	limit   time.Duration
	timer   *time.Timer
	expired atomic.Bool
}

func (t *stallTimer) start(giveUp func()) {
	t.timer = time.AfterFunc(t.limit, func() { t.expired.Store(true); giveUp() })
}

// stop says whether it had expired.
func (t *stallTimer) stop() bool {
	t.timer.Stop()
	return t.expired.Load()
}

func (t *stallTimer) pause(ask func() error) error {
	if t.timer != nil { // keys may need a passphrase before there is a connection
		t.timer.Stop()
		defer t.timer.Reset(t.limit)
	}
	return ask()
}

// watchedConn notes that the peer is alive.
type watchedConn struct {
	net.Conn
	received *atomic.Int64 // bytes
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}
