package vip

import (
	"context"
	"errors"
	"time"
)

// How long things take. They are chosen so that two hosts never hold the address, whatever their clocks
// say: no time that one host wrote is compared with the clock of another.
//
//   - A holder counts from before it sent the last renewal that succeeded. After giveUp it takes the
//     address off. If it cannot, because it was killed or hangs, its kernel does it after linger: the
//     address is put there with a lifetime, which each renewal prolongs. The kernel may be a second late.
//   - The others count from after they first saw that renewal, which was later. Before leaseTime is over
//     they leave the Lease alone; then they write it with the version that they saw, so that only one of
//     them succeeds, and none if the holder was faster.
//
// giveUp < linger + 1 s < leaseTime is therefore enough. It takes for granted that clocks of hosts go at
// the same speed to within ten percent, and that none stands still: a virtual machine that was paused has the
// address until it finds, at its next renewal, that the Lease is another's.
const (
	leaseTime   = 10 * time.Second
	renewTime   = 2 * time.Second
	giveUp      = 6 * time.Second
	linger      = 8 * time.Second
	missing     = 3 * time.Second // until a Lease that is not there is made, longer than its holder needs
	tick        = time.Second     // between two looks at the API server, and at the Lease of another
	requestTime = 2 * time.Second // one request
	partingTime = time.Second     // the request that gives the Lease back
	announced   = 5               // how many renewals after a change of hands the address is announced with
	reannounce  = 15              // after which it is announced at every so many
)

// Errors of an api that say something. All others say only that nothing is known.
var (
	errNotReady = errors.New("the API server is not ready")
	errConflict = errors.New("somebody else has changed the Lease")
	errNoLease  = errors.New("there is no Lease")
)

// lease is what matters of a Lease.
type lease struct {
	version     string // resourceVersion; "" for one that is to be made
	holder      string // "" is nobody
	acquired    time.Time
	renewed     time.Time // for people
	duration    time.Duration
	transitions int
}

// api is the API server of this host.
type api interface {
	// ready says whether it is ready, errNotReady if it is known not to be.
	ready(ctx context.Context) error
	// get reads the Lease; errNoLease if there is none.
	get(ctx context.Context) (lease, error)
	// put replaces the Lease of l.version, and returns it with its new version; errConflict if there is
	// another version. If there is none it makes one: API servers do, also where an older one is meant.
	put(ctx context.Context, l lease) (lease, error)
}

// network is the address on this host.
type network interface {
	// check says why the address could not be held here, such as a cable that is not plugged in.
	check() error
	// hold puts the address here or prolongs it, for no longer than until, and perhaps tells the
	// neighbours.
	hold(until time.Time, announce bool) error
	// drop takes it away. That it is not there is no error.
	drop() error
}

// elector is one candidate.
type elector struct {
	api     api
	network network
	id      string
	logf    func(format string, args ...any)

	mine    bool      // the Lease is, as far as is known
	address bool      // the address may be here
	last    lease     // as it was last seen or written
	seen    time.Time // when last, being another's or none, was first seen
	written string    // the version that this host wrote last
	renewed time.Time // before the last renewal that succeeded was sent
	ready   time.Time // before the last answer that it is ready was asked for
	count   int       // renewals since the address came here
	said    string    // why this host is no candidate, so that it is said once
}

// run stands for election until ctx ends. Then the address is taken away and the Lease given back.
func (e *elector) run(ctx context.Context) {
	for {
		begin := time.Now()
		e.step(ctx)
		wait := tick - time.Since(begin)
		if left := time.Until(e.seen.Add(leaseTime)); !e.mine && left > 0 {
			wait = min(wait, left)
		}
		select {
		case <-ctx.Done():
			e.leave(ctx, "it was told to stop")
			return
		case <-time.After(max(wait, 10*time.Millisecond)):
		}
	}
}

func (e *elector) step(ctx context.Context) {
	if e.mine {
		e.keep(ctx)
		return
	}
	if e.address {
		e.drop()
	}
	if err := e.stand(ctx); err == nil {
		e.said = ""
	} else if text := err.Error(); text != e.said && ctx.Err() == nil {
		e.said = text
		e.logf("no candidate: %s", text)
	}
}

// deadline is when the address must be gone unless something gets better.
func (e *elector) deadline() time.Time {
	if e.ready.Before(e.renewed) {
		return e.ready.Add(giveUp)
	}
	return e.renewed.Add(giveUp)
}

// keep is a step of the holder.
func (e *elector) keep(ctx context.Context) {
	if !time.Now().Before(e.deadline()) {
		e.leave(ctx, "the API server has not answered in time")
		return
	}
	work, cancel := context.WithDeadline(ctx, e.deadline())
	defer cancel()
	if err := e.network.check(); err != nil {
		e.leave(ctx, err.Error())
		return
	}
	sent := time.Now()
	if err := e.isReady(work); errors.Is(err, errNotReady) {
		e.leave(ctx, err.Error())
		return
	} else if err == nil {
		e.ready = sent
	}
	if time.Since(e.renewed) >= renewTime && !e.renew(work) {
		return
	}
	if ctx.Err() == nil && !time.Now().Before(e.deadline()) {
		e.leave(ctx, "the API server has not answered in time")
	}
}

// renew writes the Lease again and prolongs the address. It says whether the host still is the holder.
func (e *elector) renew(ctx context.Context) bool {
	for range 2 {
		sent := time.Now()
		l := e.last
		l.renewed = sent
		now, err := e.put(ctx, l)
		switch {
		case err == nil:
			e.last, e.written, e.renewed = now, now.version, sent
			return e.hold(ctx)
		case !errors.Is(err, errConflict):
			return true // nothing is known; the deadline is near
		}
		// Perhaps an answer was lost, or somebody has put a label on it.
		now, err = e.get(ctx)
		if err != nil || now.holder != e.id {
			e.lose("it is held by " + now.holder)
			return false
		}
		e.last = now
	}
	return true
}

// hold puts the address here, or gives up.
func (e *elector) hold(ctx context.Context) bool {
	e.address = true
	e.count++
	until := e.renewed.Add(linger)
	if err := e.network.hold(until, e.count <= announced || e.count%reannounce == 0); err != nil {
		e.leave(ctx, err.Error())
		return false
	}
	return true
}

// stand is a step of a candidate. The error says why it is none.
func (e *elector) stand(ctx context.Context) error {
	if err := e.network.check(); err != nil {
		return err
	}
	ready := time.Now()
	if err := e.isReady(ctx); err != nil {
		return err
	}
	l, err := e.get(ctx)
	if err != nil && !errors.Is(err, errNoLease) {
		return err
	}
	if l.version != e.last.version || e.seen.IsZero() {
		e.last, e.seen = l, time.Now()
	}
	if l.version == "" {
		return e.make(ctx)
	}
	// What this host has written and nobody has changed since is nobody else's. Its own name alone does not
	// say so: a request may arrive long after it was given up.
	free := l.holder == "" || l.version == e.written
	if !free && time.Since(e.seen) < max(leaseTime, l.duration) {
		return nil
	}
	sent := time.Now()
	next := lease{version: l.version, holder: e.id, acquired: sent, renewed: sent, duration: leaseTime, transitions: l.transitions}
	if l.holder != e.id {
		next.transitions++
	}
	now, err := e.put(ctx, next)
	if errors.Is(err, errConflict) {
		return nil // somebody was faster
	}
	if err != nil {
		return err
	}
	e.last, e.written, e.renewed, e.ready, e.mine, e.count = now, now.version, sent, ready, true, 0
	if !time.Now().Before(e.deadline()) {
		e.leave(ctx, "the API server has not answered in time")
		return nil
	}
	if e.hold(ctx) {
		e.logf("the address is here")
	}
	return nil
}

// make makes a Lease where there is none, and takes nothing by it: it is waited for like another's. Who
// deletes a Lease does not take the address from its holder, who will write it again, or else learn by the
// new one that it was lost.
func (e *elector) make(ctx context.Context) error {
	if time.Since(e.seen) < missing {
		return nil
	}
	now := time.Now()
	_, err := e.put(ctx, lease{holder: e.id, acquired: now, renewed: now, duration: leaseTime})
	if errors.Is(err, errConflict) {
		return nil // somebody was faster
	}
	return err
}

// leave takes the address away, and then gives the Lease back so that nobody has to wait.
func (e *elector) leave(ctx context.Context, why string) {
	if !e.mine {
		if e.address {
			e.drop()
		}
		return
	}
	e.lose(why)
	if e.address {
		return // it could not be taken away: the others must wait until the kernel has
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partingTime)
	defer cancel()
	l := e.last
	l.holder, l.renewed = "", time.Now()
	_, _ = e.api.put(ctx, l) // if it is not given back, it runs out
}

// lose takes the address away.
func (e *elector) lose(why string) {
	e.mine, e.seen = false, time.Time{}
	e.logf("the address goes: %s", why)
	e.drop()
}

func (e *elector) drop() {
	if err := e.network.drop(); err != nil {
		e.logf("%v", err)
		return
	}
	e.address = false
}

func (e *elector) isReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	return e.api.ready(ctx)
}

func (e *elector) get(ctx context.Context) (lease, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	return e.api.get(ctx)
}

func (e *elector) put(ctx context.Context, l lease) (lease, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	return e.api.put(ctx, l)
}
