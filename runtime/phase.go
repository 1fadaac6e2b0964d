package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterimage/keg/runtime/remote"
)

// Phase is one part of a run. More is optional, found by assertion: Plan and Skip.
type Phase interface {
	// Title is what a person reads, such as "join workers".
	Title() string
	Run(ctx context.Context, c *Cluster) error
}

// planner is a Phase that can say beforehand what it does.
type planner interface{ Plan(c *Cluster) []Step }

// skipper is a Phase that is not always needed.
type skipper interface{ Skip(c *Cluster) bool }

// Step is one thing done on one host.
type Step struct {
	// Host is Address.String of a node; "" is the operator's machine.
	Host string `json:"host,omitempty"`
	// Text says what is done, in the imperative: "install containerd".
	Text string `json:"text"`
	// Do does it, or finds that it is done and returns ErrAlready. What it writes to out is shown to
	// the user, without secrets.
	Do func(ctx context.Context, out io.Writer) error `json:"-"`

	node *Node
}

// On makes a step on a node.
func (n *Node) On(text string, do func(ctx context.Context, out io.Writer) error) Step {
	return Step{Host: n.Address.String(), Text: text, Do: do, node: n}
}

// Batch holds steps that may be done at the same time on different hosts. Those of one host are done
// in order.
type Batch []Step

// ErrAlready is what the Do of a Step returns when there was nothing to do.
var ErrAlready = errors.New("already done")

// StepError says which step failed where.
type StepError struct {
	Phase string
	Host  string // "" is the operator's machine
	Step  string
	Err   error
}

// Error names phase, host and step, each once: what the cause says of them again is left out.
func (e *StepError) Error() string {
	text, cause := e.Phase+": ", e.Err.Error()
	if e.Host != "" {
		text += e.Host + ": "
		cause = strings.TrimPrefix(strings.Replace(cause, ": "+e.Host+": ", ": ", 1), e.Host+": ")
	}
	if e.Step != e.Phase {
		text += e.Step + ": "
	}
	return text + strings.TrimPrefix(cause, e.Step+": ")
}

// Unwrap is the cause.
func (e *StepError) Unwrap() error { return e.Err }

// phase is a Phase made of steps.
type phase struct {
	title string
	// limit is how many hosts are worked on at the same time.
	limit   int
	batches func(c *Cluster) []Batch
	// tolerant goes on without a host that failed; tolerated, if it is not nil, says for which hosts.
	tolerant  bool
	tolerated func(n *Node) bool
	skip      func(c *Cluster) bool
}

func (p *phase) Title() string { return p.title }

func (p *phase) Skip(c *Cluster) bool { return p.skip != nil && p.skip(c) }

// Plan lists the steps in the order in which one host sees them.
func (p *phase) Plan(c *Cluster) []Step {
	var all []Step
	for _, b := range p.batches(c) {
		all = append(all, b...)
	}
	return all
}

// Run does the batches one after another. When a step fails, the other hosts of its batch still end
// theirs, since a host is never worse for it and the next run has less to do.
func (p *phase) Run(ctx context.Context, c *Cluster) error {
	for _, b := range p.batches(c) {
		if err := p.runBatch(ctx, c, b); err != nil {
			return err
		}
	}
	return nil
}

func (p *phase) runBatch(ctx context.Context, c *Cluster, b Batch) error {
	var hosts []string
	byHost := map[string][]Step{}
	for _, s := range b {
		if byHost[s.Host] == nil {
			hosts = append(hosts, s.Host)
		}
		byHost[s.Host] = append(byHost[s.Host], s)
	}
	errs := make([]error, len(hosts))
	slots := make(chan struct{}, max(1, p.limit))
	var wg sync.WaitGroup
	for i, h := range hosts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = p.runHost(ctx, c, byHost[h])
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (p *phase) runHost(ctx context.Context, c *Cluster, steps []Step) error {
	for _, s := range steps {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: before %q on %s: %w", p.title, s.Text, hostName(s.Host), context.Cause(ctx))
		}
		if s.node != nil && s.node.failed != nil {
			return nil
		}
		err := c.do(ctx, p.title, s)
		if err == nil {
			continue
		}
		err = &StepError{Phase: p.title, Host: s.Host, Step: s.Text, Err: err}
		if s.node != nil && ctx.Err() == nil && (p.tolerant || p.tolerated != nil && p.tolerated(s.node)) {
			s.node.failed = err
			return nil
		}
		return err
	}
	return nil
}

func hostName(h string) string {
	if h == "" {
		return "this machine"
	}
	return h
}

// do runs one step with its progress and its lines in the journal.
func (c *Cluster) do(ctx context.Context, phase string, s Step) error {
	out := c.stepOutput(phase, s)
	out.begin()
	c.journal.write(Entry{Phase: phase, Host: s.Host, Step: s.Text, Event: Began})
	err := s.Do(ctx, out)
	switch {
	case errors.Is(err, ErrAlready):
		out.end(nil, true)
		c.journal.write(Entry{Phase: phase, Host: s.Host, Step: s.Text, Event: Skipped})
		return nil
	case err != nil:
		err = redactError(err)
		out.end(err, false)
		c.journal.write(Entry{Phase: phase, Host: s.Host, Step: s.Text, Event: Failed, Error: err.Error()})
		return err
	}
	out.end(nil, false)
	c.journal.write(Entry{Phase: phase, Host: s.Host, Step: s.Text, Event: Ended})
	return nil
}

// Run runs phases in order. It stops at the first that fails, and between phases when ctx ends;
// whatever was deferred with Cluster.Defer is done at the end.
func Run(ctx context.Context, c *Cluster, phases []Phase) (err error) {
	if c.journal, err = openJournal(c.Dir); err != nil {
		return err
	}
	defer func() {
		event := Entry{Event: Ended}
		if err != nil {
			event = Entry{Event: Failed, Error: err.Error()}
		}
		err = errors.Join(err, c.cleanup(ctx, err))
		c.journal.write(event)
		err = errors.Join(err, c.journal.close())
		if err != nil {
			err = errors.Join(err, c.dropJournal())
		}
	}()
	c.journal.write(Entry{Event: Began})
	for _, p := range phases {
		if ctx.Err() != nil {
			return fmt.Errorf("before phase %q: %w", p.Title(), context.Cause(ctx))
		}
		if skipped(c, p) {
			continue
		}
		if err := c.runPhase(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// skipped says whether a phase is not needed, or has nothing to do.
func skipped(c *Cluster, p Phase) bool {
	if s, ok := p.(skipper); ok && s.Skip(c) {
		return true
	}
	pl, ok := p.(planner)
	return ok && len(pl.Plan(c)) == 0
}

func (c *Cluster) runPhase(ctx context.Context, p Phase) error {
	out := c.stepOutput(p.Title(), Step{})
	out.begin()
	c.journal.write(Entry{Phase: p.Title(), Event: Began})
	err := p.Run(ctx, c)
	out.end(err, false)
	if err != nil {
		c.journal.write(Entry{Phase: p.Title(), Event: Failed, Error: redact(err.Error())})
		return err
	}
	c.journal.write(Entry{Phase: p.Title(), Event: Ended})
	return nil
}

// cleanup does what was deferred, newest first. Where the run failed with a lost connection, those that
// are found lost now are no news.
func (c *Cluster) cleanup(ctx context.Context, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	c.mu.Lock()
	list := c.cleanups
	c.cleanups = nil
	c.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(list) {
		if err := f(ctx); err != nil && !(errors.Is(err, remote.ErrDisconnected) && errors.Is(failed, remote.ErrDisconnected)) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// each makes a batch of the steps of several nodes.
func each(nodes []*Node, steps func(n *Node) []Step) Batch {
	var b Batch
	for _, n := range nodes {
		b = append(b, steps(n)...)
	}
	return b
}
