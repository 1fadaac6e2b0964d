package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSH is a connection to a host. Commands run in sessions on it, several at a time, without a terminal.
type SSH struct {
	cfg    SSHConfig
	via    *SSH // the jump host, closed with it
	client *ssh.Client

	sessions chan struct{} // slots of commands
	kills    chan struct{} // slots of what kills them, or a full house could not be emptied
	running  atomic.Int64
	received atomic.Int64 // bytes

	done     chan struct{} // closed with the connection
	mu       sync.Mutex
	reason   error
	closeErr error
	closing  sync.Once
}

var _ Runner = (*SSH)(nil)

// start begins to use a connection.
func (s *SSH) start(client *ssh.Client) {
	kills := min(2, s.cfg.MaxSessions-1)
	s.sessions = make(chan struct{}, s.cfg.MaxSessions-kills)
	s.kills = make(chan struct{}, max(kills, 1))
	s.client = client
	go func() {
		s.fail(client.Wait())
		close(s.done)
	}()
	go s.keepAlive()
}

// Host is how errors name the host: its address, with the port unless that is 22.
func (s *SSH) Host() string { return s.cfg.name() }

// User is who is logged in.
func (s *SSH) User() string { return s.cfg.User }

// LocalAddr is this machine's address as seen from the host, or from the jump host.
func (s *SSH) LocalAddr() net.Addr {
	if s.via != nil {
		return s.via.LocalAddr()
	}
	return s.client.LocalAddr()
}

// Close ends the connection, and those of the jump hosts; running commands fail with ErrDisconnected.
func (s *SSH) Close() error {
	s.closing.Do(func() {
		s.fail(net.ErrClosed)
		s.closeErr = s.client.Close()
		if errors.Is(s.closeErr, net.ErrClosed) {
			s.closeErr = nil
		}
		<-s.done
		if s.via != nil {
			s.closeErr = errors.Join(s.closeErr, s.via.Close())
		}
	})
	return s.closeErr
}

// fail notes why the connection ended; the first reason counts.
func (s *SSH) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == nil {
		s.reason = err
	}
}

// lost is the error of whatever used the connection when it ended. seen is what that saw of it: it only
// counts as long as the reason is not known. It may be nil.
func (s *SSH) lost(seen error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != nil {
		seen = s.reason
	}
	if seen == nil {
		return ErrDisconnected
	}
	return fmt.Errorf("%w: %w", ErrDisconnected, seen)
}

// keepAlive closes the connection when the host has been silent for three questions. Anything it sends
// is a sign of life: an answer may queue behind a large transfer.
func (s *SSH) keepAlive() {
	const allowed = 3
	tick := time.NewTicker(s.cfg.KeepAlive)
	defer tick.Stop()
	var asking atomic.Bool
	seen, misses := s.received.Load(), 0
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		if now := s.received.Load(); now != seen {
			seen, misses = now, 0
		} else if asking.Load() {
			misses++
		}
		if misses >= allowed {
			s.fail(fmt.Errorf("no sign of life for %s", allowed*s.cfg.KeepAlive))
			_ = s.client.Close()
			return
		}
		if asking.CompareAndSwap(false, true) {
			go func() {
				_, _, _ = s.client.SendRequest("keepalive@openssh.com", true, nil)
				asking.Store(false)
			}()
		}
	}
}

// Run implements Runner. It waits for a free session if the host allows no more.
func (s *SSH) Run(ctx context.Context, c Cmd) error {
	if err := c.check(); err != nil {
		return err
	}
	token := rand.Text()
	text, err := line(c, token)
	if err != nil {
		return err
	}
	slots := s.sessions
	if isKill(ctx) {
		slots = s.kills
	}
	p, release, err := s.begin(ctx, slots, text, token)
	if err != nil {
		for _, c := range []context.Context{ctx, startOf(ctx)} {
			if c.Err() != nil {
				err = context.Cause(c)
			}
		}
		return fmt.Errorf("%s: running %s: %w", s.Host(), c.Args[0], err)
	}
	defer release()
	return p.run(ctx, s.Host(), c)
}

// begin starts a command in a session of its own. release gives back the session's slot.
func (s *SSH) begin(ctx context.Context, slots chan struct{}, text, token string) (_ *process, release func(), err error) {
	start := startOf(ctx)
	select {
	case slots <- struct{}{}:
	case <-start.Done():
		return nil, nil, start.Err()
	case <-s.done:
		return nil, nil, s.lost(nil)
	}
	ch, err := s.open(start)
	if err != nil {
		<-slots
		return nil, nil, err
	}
	s.running.Add(1)
	release = func() {
		s.running.Add(-1)
		<-slots
	}
	sess := newSession(s, ch)
	if err := sess.exec(ctx, text); err != nil {
		if ctx.Err() != nil && !isKill(ctx) { // it may have started all the same
			killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
			defer cancel()
			_ = sess.kill(killCtx, token)
		}
		sess.close()
		release()
		return nil, nil, err
	}
	return &process{
		stdin: sess, stdout: ch.channel, stderr: ch.channel.Stderr(),
		wait:  sess.wait,
		kill:  func(ctx context.Context) error { return sess.kill(ctx, token) },
		close: sess.close,
	}, release, nil
}

// channel is an open channel and the host's requests on it.
type channel struct {
	channel  ssh.Channel
	requests <-chan *ssh.Request
}

// open opens a channel. A host that refuses has too many sessions open: as long as some of them are
// ours, one will end; else it gets a few chances, since it may not have noticed yet that they have.
func (s *SSH) open(ctx context.Context) (channel, error) {
	const chances = 8
	pause := 20 * time.Millisecond
	for refusals := 0; ; {
		ch, err := s.openOnce(ctx)
		var refused *ssh.OpenChannelError
		switch {
		case err == nil || ctx.Err() != nil:
			return ch, err
		case !errors.As(err, &refused):
			return ch, s.lost(err)
		}
		if s.running.Load() == 0 {
			if refusals++; refusals >= chances {
				return ch, fmt.Errorf("the host opens no session (MaxSessions of its sshd?): %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return ch, ctx.Err()
		case <-s.done:
			return ch, s.lost(nil)
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
}

// openOnce asks once, and comes back when ctx ends.
func (s *SSH) openOnce(ctx context.Context) (channel, error) {
	type answer struct {
		channel
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		ch, requests, err := s.client.OpenChannel("session", nil)
		answers <- answer{channel{ch, requests}, err}
	}()
	select {
	case a := <-answers:
		return a.channel, a.err
	case <-ctx.Done():
		go func() { // an answer that comes too late must not leave a session open
			if a := <-answers; a.err == nil {
				go ssh.DiscardRequests(a.requests)
				_ = a.channel.channel.Close()
			}
		}()
		return channel{}, ctx.Err()
	}
}
