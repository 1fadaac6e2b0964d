package balancer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/clusterimage/keg/runtime/node"
)

// service is one listener and those behind it.
type service struct {
	run      *run
	listen   string
	listener net.Listener

	mu       sync.Mutex // guards all below, and the backends' fields
	check    node.BalancerCheck
	tls      *tls.Config
	backends []*backend
	turn     int // who is asked first among equals
	waiting  int // clients that are not connected yet
}

// backend is one server. It lives as long as the file names it.
type backend struct {
	addr    string
	healthy bool
	fails   int // checks that failed since the last good one
	said    string
	gone    bool // the file does not name it any more
	tunnels map[*tunnel]bool
	stop    context.CancelFunc // of its checks
	hurry   chan struct{}      // asks for a check now
}

// replace puts what the file says in the place of what it said before.
func (s *service) replace(ctx context.Context, l node.BalancerListener, t *tls.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var now []*backend
	for _, addr := range l.Backends {
		b := s.find(addr)
		if b == nil {
			b = &backend{addr: addr, tunnels: map[*tunnel]bool{}, hurry: make(chan struct{}, 1)}
		} else {
			b.stop()
		}
		now = append(now, b)
	}
	for _, b := range s.backends {
		if !slices.Contains(l.Backends, b.addr) {
			b.gone = true
			b.stop()
			b.closeTunnels()
		}
	}
	s.backends, s.check, s.tls = now, l.Check, t
	for _, b := range now {
		checks, stop := context.WithCancel(ctx)
		b.stop = stop
		s.run.group.Go(func() { s.watch(checks, b, l.Check, t) })
	}
}

func (s *service) find(addr string) *backend {
	for _, b := range s.backends {
		if b.addr == addr {
			return b
		}
	}
	return nil
}

// busy says whether a client is served.
func (s *service) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting > 0 || slices.ContainsFunc(s.backends, func(b *backend) bool { return len(b.tunnels) > 0 })
}

// accept takes connections until the listener is closed.
func (s *service) accept(ctx context.Context) {
	pause := time.Duration(0)
	for {
		conn, err := s.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // too many open files: some of them will be closed
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.run.logf("%s: %v", s.listen, err)
			time.Sleep(pause)
			continue
		}
		pause = 0
		s.run.group.Go(func() { s.serve(ctx, conn) })
	}
}

// serve finds a backend for a client and stays until the connection is over.
func (s *service) serve(ctx context.Context, client net.Conn) {
	s.wait(1)
	defer s.wait(-1)
	for _, b := range s.order() {
		conn, err := s.run.connect(ctx, b.addr)
		if err != nil {
			s.doubt(b)
			continue
		}
		t := &tunnel{client: client, backend: conn}
		if !s.enter(b, t) {
			_ = conn.Close() // the file does not name it any more
			continue
		}
		s.wait(-1)
		t.pass()
		s.wait(1)
		s.leave(b, t)
		return
	}
	reset(client)
}

func (s *service) wait(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
}

// order is in which order a new connection tries the backends: the healthy ones first, that with the
// fewest connections before the others, and then the rest in turn.
func (s *service) order() []*backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.backends) == 0 {
		return nil
	}
	s.turn = (s.turn + 1) % len(s.backends)
	all := slices.Concat(s.backends[s.turn:], s.backends[:s.turn])
	slices.SortStableFunc(all, func(a, b *backend) int {
		if a.healthy != b.healthy {
			if a.healthy {
				return -1
			}
			return 1
		}
		if a.healthy {
			return cmp.Compare(len(a.tunnels), len(b.tunnels))
		}
		return 0
	})
	return all
}

// doubt takes a backend that took no connection out of the turn and has it checked at once.
func (s *service) doubt(b *backend) {
	s.mu.Lock()
	b.healthy = false
	s.mu.Unlock()
	select {
	case b.hurry <- struct{}{}:
	default:
	}
}

func (s *service) enter(b *backend, t *tunnel) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.gone {
		return false
	}
	b.tunnels[t] = true
	return true
}

func (s *service) leave(b *backend, t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(b.tunnels, t)
}

// watch checks a backend until ctx ends.
func (s *service) watch(ctx context.Context, b *backend, c node.BalancerCheck, t *tls.Config) {
	tick := time.NewTicker(s.run.times.interval)
	defer tick.Stop()
	for {
		err := s.run.check(ctx, b.addr, c, t)
		if ctx.Err() != nil {
			return
		}
		// That this process has too many files open says nothing of the backend.
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) {
			s.note(b, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-b.hurry:
		}
	}
}

// note takes the outcome of a check.
func (s *service) note(b *backend, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.healthy = err == nil
	b.fails++
	word := "not healthy"
	if b.healthy {
		b.fails, word = 0, "healthy"
	}
	if word != b.said {
		b.said = word
		if err == nil {
			s.run.logf("%s: %s is healthy", s.listen, b.addr)
		} else {
			s.run.logf("%s: %s is not healthy: %v", s.listen, b.addr, err)
		}
	}
	if b.fails == 2 && errors.Is(err, errUnreachable) {
		b.closeTunnels()
	}
	if !slices.ContainsFunc(s.backends, func(b *backend) bool { return b.healthy }) {
		return
	}
	for _, b := range s.backends {
		if b.fails >= 2 {
			b.closeTunnels()
		}
	}
}

// closeTunnels closes its connections; whoever passes them on sees it. The service's lock is held.
func (b *backend) closeTunnels() {
	for t := range b.tunnels {
		t.close()
	}
}
