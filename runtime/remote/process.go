package remote

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// killTime bounds how long a command may take to die after its context ended.
	killTime = 10 * time.Second
	// quietTime is how long the output of a command that has ended may stay open in silence: what it
	// left running in the background may hold it for ever.
	quietTime = 2 * time.Second
)

// process is a started command, wherever it runs.
type process struct {
	stdin          io.WriteCloser
	stdout, stderr io.Reader
	// wait blocks until the command has ended, or until close.
	wait func() (code int, signal string, err error)
	// kill ends it and what it started, as well as can be, within its context.
	kill func(ctx context.Context) error
	// close gives up on it: streams and wait come back. It does not block.
	close func()
}

// ended is what wait gave.
type ended struct {
	code   int
	signal string
	err    error
}

// ender is a Stdin that wants to know that nobody will read any more.
type ender interface{ end() }

// run feeds and drains p until it has ended. An input that cannot be read and an output that cannot be
// written kill the command: it must not take half an input for the whole.
func (p *process) run(ctx context.Context, host string, c Cmd) error {
	defer p.close()
	exit := make(chan ended, 1)
	go func() {
		code, signal, err := p.wait()
		exit <- ended{code, signal, err}
	}()

	last := &tail{limit: 4 << 10}
	s := streams{badInput: make(chan error, 1), badOutput: make(chan error, 2)}
	s.in.Go(func() { s.feed(p.stdin, c.Stdin) })
	s.out.Go(func() { s.drain(p.stdout, c.Stdout, nil) })
	s.out.Go(func() { s.drain(p.stderr, c.Stderr, last) })

	var end ended
	var cause error
	select {
	case end = <-exit:
	case err := <-s.badInput:
		cause = fmt.Errorf("%s: running %s: reading its input: %w", host, c.Args[0], err)
	case err := <-s.badOutput:
		cause = fmt.Errorf("%s: running %s: taking its output: %w", host, c.Args[0], err)
	case <-ctx.Done():
		cause = fmt.Errorf("%s: running %s: %w", host, c.Args[0], context.Cause(ctx))
	}
	if cause != nil {
		cause = p.stop(ctx, exit, cause)
		p.close()
	}
	if e, ok := c.Stdin.(ender); ok {
		e.end()
	}
	s.settle(p.close, cause != nil)
	select {
	case err := <-s.badOutput: // the command ended well, but nobody has all it said
		if cause == nil && end == (ended{}) {
			cause = fmt.Errorf("%s: running %s: taking its output: %w", host, c.Args[0], err)
		}
	default:
	}
	switch {
	case cause != nil:
		return cause
	case end.err != nil:
		return fmt.Errorf("%s: running %s: %w", host, c.Args[0], end.err)
	case end.code != 0 || end.signal != "":
		return &ExitError{Host: host, Args: c.Args, Code: end.code, Signal: end.signal, Stderr: last.String()}
	}
	return nil
}

// stop kills and waits, both bounded.
func (p *process) stop(ctx context.Context, exit <-chan ended, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	err := p.kill(ctx)
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	select {
	case <-exit:
	case <-patience.C:
		if err != nil {
			return fmt.Errorf("%w (it may still be running there: %v)", cause, err) //nolint:errorlint // the cause is what counts
		}
	}
	return cause
}

// streams are the three copies that go on while a command runs.
type streams struct {
	in, out             sync.WaitGroup
	badInput, badOutput chan error
	moved               atomic.Int64 // reads so far
	busy                atomic.Int64 // writes going on
}

// feed copies src to the command and closes its stdin at the end, never after a failed read.
func (s *streams) feed(dst io.WriteCloser, src io.Reader) {
	if src == nil {
		_ = dst.Close()
		return
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return // the command does not want more; its exit code says whether that is well
			}
		}
		if err == io.EOF {
			_ = dst.Close()
			return
		}
		if err != nil {
			s.badInput <- err
			return
		}
	}
}

// drain copies output to dst (nil discards) and to also.
func (s *streams) drain(src io.Reader, dst io.Writer, also *tail) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		s.moved.Add(1)
		if n > 0 {
			if also != nil {
				also.add(buf[:n])
			}
			if dst != nil {
				s.busy.Add(1)
				_, werr := dst.Write(buf[:n])
				s.busy.Add(-1)
				if werr != nil {
					s.badOutput <- werr
					dst = nil
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// settle waits for the output to end, or to be silent for too long, and a moment for the input: a
// reader that blocks may come back after Run has. In a hurry it waits for no writer either.
func (s *streams) settle(giveUp func(), hurry bool) {
	out, in := after(&s.out), after(&s.in)
	tick := time.NewTicker(quietTime / 2)
	defer tick.Stop()
	for seen, quiet := s.moved.Load(), 0; out != nil; {
		select {
		case <-out:
			out = nil
		case <-tick.C:
			quiet++
			if now := s.moved.Load(); !hurry && (now != seen || s.busy.Load() > 0) {
				seen, quiet = now, 0
			}
			if quiet == 2 {
				giveUp()
			}
			if quiet > 2 && hurry {
				out = nil
			}
		}
	}
	giveUp()
	patience := time.NewTimer(quietTime)
	defer patience.Stop()
	select {
	case <-in:
	case <-patience.C:
	}
}

func after(g *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() { g.Wait(); close(done) }()
	return done
}

// tail keeps the end of a text.
type tail struct {
	mu    sync.Mutex
	limit int
	text  []byte
	cut   bool
}

func (t *tail) add(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - t.limit; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
		t.cut = true
	}
}

// String is whole lines, unless there is only one.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := t.text
	if t.cut {
		for i, b := range text {
			if b == '\n' && i+1 < len(text) {
				text = text[i+1:]
				break
			}
		}
	}
	return string(text)
}
