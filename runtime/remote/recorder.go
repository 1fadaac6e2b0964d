package remote

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Recorder is a Runner that runs nothing: it remembers commands and shows them. The zero Recorder
// works; it may be used from several goroutines.
type Recorder struct {
	// HostName stands in front of what is shown and in errors; "" for none.
	HostName string
	// Out gets one line a command; nil for none.
	Out io.Writer
	// Reply, if not nil, says what a command writes to stdout and how it ends. Without it every command
	// is silent and ends well.
	Reply func(c Cmd) ([]byte, error)

	mu   sync.Mutex
	cmds []Cmd
}

var _ Runner = (*Recorder)(nil)

// Host is HostName.
func (r *Recorder) Host() string { return r.HostName }

// Run implements Runner. It does not read Stdin.
func (r *Recorder) Run(ctx context.Context, c Cmd) error {
	if err := c.check(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: running %s: %w", r.HostName, c.Args[0], context.Cause(ctx))
	}
	if err := r.record(c); err != nil {
		return err
	}
	if r.Reply == nil {
		return nil
	}
	out, err := r.Reply(c)
	if len(out) > 0 && c.Stdout != nil {
		if _, werr := c.Stdout.Write(out); werr != nil {
			return fmt.Errorf("%s: running %s: taking its output: %w", r.HostName, c.Args[0], werr)
		}
	}
	return err
}

func (r *Recorder) record(c Cmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cmds = append(r.cmds, Cmd{Args: slices.Clone(c.Args), Env: slices.Clone(c.Env), Dir: c.Dir})
	if r.Out == nil {
		return nil
	}
	text := c.String()
	if r.HostName != "" {
		text = r.HostName + ": " + text
	}
	if _, err := fmt.Fprintln(r.Out, text); err != nil {
		return fmt.Errorf("recording %s: %w", c.Args[0], err)
	}
	return nil
}

// Commands are those run so far, without their streams.
func (r *Recorder) Commands() []Cmd {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.cmds)
}
