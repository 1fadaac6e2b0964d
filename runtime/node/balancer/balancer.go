// Package balancer passes TCP connections on to whichever backend is healthy. It is `keg-node balance`:
// on a worker it stands for the API servers and for the registry, from before kubelet starts, without an
// image, a kernel module or an address of its own.
//
// A backend that fails one check gets no new connections. When it fails a second time its connections
// are closed, since clients that keep one for hours, as kubelet does, would otherwise wait on a dead
// one. There are two cases. A backend that takes no connections at all has dead ones, which are closed.
// One that answers, and says it is not ready, is left its connections until another one is healthy: to
// close them would only make its clients come back to it. Where none is healthy, all are tried in turn.
package balancer

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/clusterimage/keg/runtime/node"
)

// Options are where a balancer finds and says things.
type Options struct {
	// ReadFile reads a file of the host: node.BalancerConfigFile and the CA files it names.
	ReadFile func(name string) ([]byte, error)
	// Ready is told once, when it listens, with the first listener's address; nil tells nobody.
	Ready func(net.Addr)
	// Logf is told what happens; nil tells nobody.
	Logf func(format string, args ...any)
}

// times are how long things take.
type times struct {
	interval time.Duration // between two checks of a backend
	check    time.Duration // one check, all of it
	connect  time.Duration // one connection to a backend
	poll     time.Duration // between two looks at the file
	drain    time.Duration // what connections have to end by themselves
}

var usual = times{interval: 2 * time.Second, check: 3 * time.Second, connect: 2 * time.Second, poll: time.Second, drain: 2 * time.Second}

// run is one run of a balancer.
type run struct {
	Options
	times times
	dial  func(ctx context.Context, addr string) (net.Conn, error)

	group    sync.WaitGroup // everything that was started
	services map[string]*service
	config   []byte // what is in force
	cas      map[string][]byte
	refused  string // the last error of a file that was not taken, so that it is said once
}

// Run balances until ctx ends, and then gives connections two seconds to end by themselves. It fails at
// once if the configuration makes no sense or an address cannot be listened at; later such files are
// logged and not taken.
func Run(ctx context.Context, o Options) error {
	var d net.Dialer
	return (&run{
		Options: o, times: usual,
		dial: func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) },
	}).run(ctx)
}

func (r *run) run(ctx context.Context) error {
	r.services = map[string]*service{}
	// What runs is ended in order: listeners first, connections later.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer r.group.Wait()
	defer stop()
	if err := r.load(work); err != nil {
		return err
	}
	if r.Ready != nil {
		r.Ready(r.first())
	}
	tick := time.NewTicker(r.times.poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.drain()
			return nil
		case <-tick.C:
		}
		if err := r.load(work); err == nil {
			r.refused = ""
		} else if text := err.Error(); text != r.refused {
			r.refused = text
			r.logf("the configuration stays as it was: %s", text)
		}
	}
}

// load reads the files and, if they are not what is in force, puts them in force: wholly or not at all.
func (r *run) load(ctx context.Context) error {
	data, err := r.ReadFile(node.BalancerConfigFile)
	if err != nil {
		return fmt.Errorf("reading the balancer's configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return err
	}
	cas, err := authorities(c, r.ReadFile)
	if err != nil {
		return err
	}
	if bytes.Equal(data, r.config) && maps.EqualFunc(cas, r.cas, bytes.Equal) {
		return nil
	}
	var fresh []*service
	var lc net.ListenConfig
	for _, l := range c.Listeners {
		if r.services[l.Listen] != nil {
			continue
		}
		listener, err := lc.Listen(ctx, "tcp", l.Listen)
		if err != nil {
			for _, s := range fresh {
				_ = s.listener.Close()
			}
			return fmt.Errorf("listening for the balancer: %w", err)
		}
		fresh = append(fresh, &service{run: r, listen: l.Listen, listener: listener})
	}
	for _, s := range fresh {
		r.services[s.listen] = s
	}
	for name, s := range r.services {
		if !slices.ContainsFunc(c.Listeners, func(l node.BalancerListener) bool { return l.Listen == name }) {
			delete(r.services, name)
			_ = s.listener.Close()
			s.replace(ctx, node.BalancerListener{}, nil)
		}
	}
	for _, l := range c.Listeners {
		r.services[l.Listen].replace(ctx, l, tlsConfig(l.Check, cas))
	}
	for _, s := range fresh {
		r.group.Go(func() { s.accept(ctx) })
	}
	if r.config != nil {
		r.logf("a new configuration is in force")
	}
	r.config, r.cas = data, cas
	return nil
}

// first is the address of the listener that the file names first.
func (r *run) first() net.Addr {
	c, _ := Parse(r.config)
	return r.services[c.Listeners[0].Listen].listener.Addr()
}

// drain ends everything that clients began.
func (r *run) drain() {
	for _, s := range r.services {
		_ = s.listener.Close()
	}
	deadline := time.Now().Add(r.times.drain)
	for time.Now().Before(deadline) && slices.ContainsFunc(slices.Collect(maps.Values(r.services)), (*service).busy) {
		time.Sleep(20 * time.Millisecond)
	}
	for _, s := range r.services {
		s.replace(context.Background(), node.BalancerListener{}, nil)
	}
}

func (r *run) logf(format string, args ...any) {
	if r.Logf != nil {
		r.Logf(format, args...)
	}
}

// connect dials a backend.
func (r *run) connect(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, r.times.connect)
	defer cancel()
	return r.dial(ctx, addr)
}
