package vip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a cluster with a Lease in it, and hosts whose cables can be cut. Its time is synctest's.
type world struct {
	*testing.T
	mu    sync.Mutex
	lease *lease
	count int
	hosts []*pretended
	log   strings.Builder
	begin time.Time
}

// link is what happens to the requests of a host.
type link int

const (
	whole link = iota
	cut        // they are lost
	mute       // they arrive, and the answers are lost
	late       // they arrive after the host has stopped waiting
	slow       // the answers need almost as long as the host waits
)

// pretended is a host, both its API server and its network.
type pretended struct {
	*world
	name string
	link link
	// unready: the API server says so; unplugged: there is no carrier.
	unready, unplugged bool
	until              time.Time // how long the kernel keeps the address
	frozen             bool      // the process was killed: nothing that it does has an effect
	stop               context.CancelFunc
	ended              chan struct{}
}

func newWorld(t *testing.T, hosts int) *world {
	w := &world{T: t, begin: time.Now()}
	for i := range hosts {
		w.hosts = append(w.hosts, &pretended{world: w, name: "m" + strconv.Itoa(i+1)})
	}
	for i := range w.hosts {
		w.start(i)
	}
	return w
}

func (w *world) say(format string, args ...any) {
	fmt.Fprintf(&w.log, "%8.3f  %s\n", time.Since(w.begin).Seconds(), fmt.Sprintf(format, args...))
}

// start starts keg-node on a host. What ran before is a ghost from then on.
func (w *world) start(i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.hosts[i]
	p := &pretended{world: w, name: old.name, link: old.link, unready: old.unready, unplugged: old.unplugged, ended: make(chan struct{})}
	w.hosts[i] = p // Drop has taken away what was left behind
	ctx, stop := context.WithCancel(w.Context())
	p.stop = stop
	e := &elector{api: p, network: p, id: fmt.Sprintf("%s_%d", p.name, w.count), logf: func(format string, args ...any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.say("%s: "+format, append([]any{p.name}, args...)...)
	}}
	w.count++
	go func() {
		defer close(p.ended)
		e.run(ctx)
	}()
}

// kill ends the process of a host at once. The kernel still has the address.
func (w *world) kill(i int) {
	w.mu.Lock()
	p := w.hosts[i]
	p.frozen = true
	w.say("kill %s", p.name)
	w.mu.Unlock()
	p.stop()
}

// set changes a host.
func (w *world) set(i int, what string, do func(*pretended)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.say("%s %s", what, w.hosts[i].name)
	do(w.hosts[i])
}

// end stops all that still run.
func (w *world) end() {
	for _, p := range w.hosts {
		p.stop()
		<-p.ended
	}
	if w.Failed() {
		w.Log("\n" + w.log.String())
	}
}

// late by the kernel is a second at most.
func (p *pretended) has() bool { return time.Now().Before(p.until.Add(time.Second)) }

// holder is the number of the host that has the address, -1 if none has.
func (w *world) holder() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, p := range w.hosts {
		if p.has() && !p.frozen {
			return i
		}
	}
	return -1
}

// transitions is how often the address has changed hands.
func (w *world) transitions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lease.transitions
}

// within waits for done and says how long it took.
func (w *world) within(limit time.Duration, what string, done func() bool) {
	w.Helper()
	begin := time.Now()
	for !done() {
		if time.Since(begin) > limit {
			w.Errorf("%s: not within %v", what, limit)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.Logf("%s: %v", what, time.Since(begin))
}

func (p *pretended) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unplugged {
		return errors.New("no link")
	}
	return nil
}

func (p *pretended) hold(until time.Time, _ bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen {
		return nil
	}
	for _, other := range p.hosts {
		if other.name != p.name && other.has() {
			p.Errorf("%.3f: %s takes the address while %s has it", time.Since(p.begin).Seconds(), p.name, other.name)
		}
	}
	if l := p.lease; l != nil && strings.HasPrefix(l.holder, p.name) && until.After(l.renewed.Add(linger)) {
		p.Errorf("%s counts from the answer, not from the question", p.name)
	}
	p.until = until
	return nil
}

func (p *pretended) drop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.frozen {
		p.until = time.Time{}
	}
	return nil
}

func (p *pretended) ready(ctx context.Context) error {
	p.mu.Lock()
	unready, link := p.unready, p.link
	p.mu.Unlock()
	if unready {
		return errNotReady
	}
	if link != whole && link != slow && rand.IntN(2) == 0 { // an API server may know nothing of the others
		<-ctx.Done()
	}
	return ctx.Err()
}

// request does what is asked for when it arrives, and answers if it can.
func (p *pretended) request(ctx context.Context, do func() (lease, error)) (lease, error) {
	p.mu.Lock()
	link := p.link
	if p.frozen {
		link = cut
	}
	p.mu.Unlock()
	guarded := func() (lease, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return do()
	}
	if ctx.Err() != nil {
		return lease{}, ctx.Err()
	}
	switch link {
	case whole:
		time.Sleep(time.Millisecond)
		return guarded()
	case slow:
		l, err := guarded()
		time.Sleep(time.Duration(rand.IntN(1990)) * time.Millisecond)
		return l, err
	case mute:
		_, _ = guarded()
	case late:
		time.AfterFunc(time.Duration(rand.IntN(15000))*time.Millisecond, func() { _, _ = guarded() })
	}
	<-ctx.Done()
	return lease{}, ctx.Err()
}

func (p *pretended) get(ctx context.Context) (lease, error) {
	return p.request(ctx, func() (lease, error) {
		if p.lease == nil {
			return lease{}, errNoLease
		}
		return *p.lease, nil
	})
}

func (p *pretended) put(ctx context.Context, l lease) (lease, error) {
	return p.request(ctx, func() (lease, error) {
		if p.lease != nil && p.lease.version != l.version {
			return lease{}, errConflict
		}
		p.count++
		l.version = strconv.Itoa(p.count)
		p.lease = &l
		return l, nil
	})
}

func TestElection(t *testing.T) {
	for _, tc := range []struct {
		name  string
		do    func(w *world, holder int)
		limit time.Duration // until another has the address
	}{
		{"cut", func(w *world, i int) { w.set(i, "cut", func(p *pretended) { p.link = cut }) }, 13 * time.Second},
		{"answers are lost", func(w *world, i int) { w.set(i, "mute", func(p *pretended) { p.link = mute }) }, 25 * time.Second},
		{"no carrier", func(w *world, i int) { w.set(i, "unplug", func(p *pretended) { p.unplugged = true }) }, 3 * time.Second},
		{"not ready", func(w *world, i int) { w.set(i, "unready", func(p *pretended) { p.unready = true }) }, 3 * time.Second},
		{"stopped", func(w *world, i int) { w.hosts[i].stop() }, 2 * time.Second},
		{"killed", func(w *world, i int) { w.kill(i) }, 13 * time.Second},
		{"deleted Lease", func(w *world, i int) {
			w.set(i, "delete", func(p *pretended) { w.lease = nil; p.link = cut })
		}, 16 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3)
				defer w.end()
				w.within(16*time.Second, "the first one has it", func() bool { return w.holder() >= 0 })
				first, begin := w.holder(), w.transitions()
				time.Sleep(time.Minute)
				if n := w.transitions() - begin; n != 0 || w.holder() != first {
					t.Errorf("the address changed hands %d times for no reason", n)
				}
				tc.do(w, first)
				w.within(tc.limit, "another one has it", func() bool { i := w.holder(); return i >= 0 && i != first })
				time.Sleep(30 * time.Second)
				if now := w.holder(); now == first || now < 0 {
					t.Errorf("host %d has it", now)
				}
			})
		})
	}
}

// TestNobody: who cannot write the Lease does not have the address either.
func TestNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.end()
		w.within(16*time.Second, "somebody has it", func() bool { return w.holder() >= 0 })
		time.Sleep(10 * time.Second)
		for i := range w.hosts {
			w.set(i, "cut", func(p *pretended) { p.link = cut })
		}
		w.within(giveUp+10*time.Millisecond, "nobody has it", func() bool { return w.holder() < 0 })
		time.Sleep(time.Hour)
		if w.holder() >= 0 {
			t.Error("somebody has it")
		}
		w.set(1, "heal", func(p *pretended) { p.link = whole })
		w.within(13*time.Second, "it is there again", func() bool { return w.holder() == 1 })
	})
}

// TestDeleted: who deletes the Lease takes the address from nobody.
func TestDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		w.within(16*time.Second, "somebody has it", func() bool { return w.holder() >= 0 })
		first := w.holder()
		for range 20 {
			time.Sleep(time.Second)
			w.set(first, "delete", func(*pretended) { w.lease = nil })
			time.Sleep(3700 * time.Millisecond)
			if w.holder() != first {
				t.Error("the address went")
			}
		}
	})
}

// TestLabel: a change of the Lease by somebody else is not the loss of it.
func TestLabel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.end()
		w.within(16*time.Second, "somebody has it", func() bool { return w.holder() >= 0 })
		first := w.holder()
		for range 10 {
			w.set(first, "label", func(p *pretended) { p.count++; l := *p.lease; l.version = strconv.Itoa(p.count); p.lease = &l })
			time.Sleep(3 * time.Second)
			if w.holder() != first {
				t.Error("the address went")
			}
		}
	})
}

// TestNeverTwo breaks everything at random. hold sees to it that there never are two; at the end, with all
// well again, there must be one.
func TestNeverTwo(t *testing.T) {
	for seed := range 40 {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			w := newWorld(t, 3)
			defer w.end()
			for range 150 {
				i := r.IntN(3)
				switch r.IntN(7) {
				case 0, 1:
					l := link(r.IntN(5))
					w.set(i, fmt.Sprint("link ", l), func(p *pretended) { p.link = l })
				case 2:
					w.set(i, "readiness", func(p *pretended) { p.unready = !p.unready })
				case 3:
					w.set(i, "carrier", func(p *pretended) { p.unplugged = !p.unplugged })
				case 4:
					w.kill(i)
					<-w.hosts[i].ended
					time.Sleep(time.Duration(r.IntN(12000)) * time.Millisecond)
					w.start(i)
				case 5:
					w.set(i, "delete, by", func(*pretended) { w.lease = nil })
				case 6:
					w.hosts[i].stop()
					<-w.hosts[i].ended
					w.start(i)
				}
				time.Sleep(time.Duration(r.IntN(8000)) * time.Millisecond)
			}
			for i := range w.hosts {
				w.set(i, "heal", func(p *pretended) { p.link, p.unready, p.unplugged = whole, false, false })
			}
			time.Sleep(20 * time.Second) // late requests arrive
			w.within(13*time.Second, "somebody has it", func() bool { return w.holder() >= 0 })
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
