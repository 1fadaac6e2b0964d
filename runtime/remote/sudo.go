package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Sudo runs the commands of r as root, by a sudo that asks for no password. If sudo refuses, the error
// is a *SudoError.
func Sudo(r Runner) Runner { return &sudo{runner: r} }

// SudoPassword is Sudo where sudo may ask for a password: ask is called at most once, when it does.
// The password travels on stdin, and the command's own stdin begins only after sudo has let it start:
// neither gets into the other, whether sudo asks or not.
func SudoPassword(r Runner, ask func(ctx context.Context) (string, error)) Runner {
	return &sudo{runner: r, ask: ask}
}

// AsRoot gives a Runner whose commands run as root: r itself if it does so, else one through sudo. ask
// may be nil. It runs `id -u` to be sure.
func AsRoot(ctx context.Context, r Runner, ask func(ctx context.Context) (string, error)) (Runner, error) {
	uid, err := Output(ctx, r, "id", "-u")
	if err != nil {
		return nil, fmt.Errorf("looking who is logged in: %w", err)
	}
	if strings.TrimSpace(string(uid)) == "0" {
		return r, nil
	}
	root := Sudo(r)
	if ask != nil {
		root = SudoPassword(r, ask)
	}
	uid, err = Output(ctx, root, "id", "-u")
	if err != nil {
		return nil, err
	}
	if got := strings.TrimSpace(string(uid)); got != "0" {
		return nil, &SudoError{Host: hostOf(r), User: userOf(r), Text: "commands run as user " + got + ", not as root"}
	}
	return root, nil
}

// sudo is the decorator.
type sudo struct {
	runner Runner
	ask    func(ctx context.Context) (string, error)

	once     sync.Mutex
	asked    bool
	password string
	askErr   error
}

var _ Runner = (*sudo)(nil)

// Close closes the runner below, where that can be.
func (s *sudo) Close() error {
	if c, ok := s.runner.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Host is that of the Runner below.
func (s *sudo) Host() string { return hostOf(s.runner) }

// User is who logged in, not root.
func (s *sudo) User() string { return userOf(s.runner) }

// startScript says that sudo has let us through, goes to the directory and becomes the command.
const startScript = `printf %s "$1" >&2; [ -z "$2" ] || cd -- "$2" || exit 1; shift 2; exec "$@"`

// Run implements Runner.
func (s *sudo) Run(ctx context.Context, c Cmd) error {
	if err := c.check(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: running %s: %w", s.Host(), c.Args[0], context.Cause(ctx))
	}
	// The login user may not kill what runs as root, so the Runner below must not see ctx end before
	// that is done here.
	inner, cancel := context.WithCancelCause(withStart(context.WithoutCancel(ctx), ctx))
	defer cancel(nil)
	token := rand.Text()
	over := make(chan struct{})
	kill := func() {
		killCtx, stop := context.WithTimeout(withKill(context.WithoutCancel(ctx)), killTime)
		defer stop()
		_ = killMarked(killCtx, over, func(ctx context.Context) error { return s.run(ctx, ctx, killCmd(token), rand.Text()) })
	}
	var broken failure
	if !isKill(ctx) {
		c = guard(c, func(err error) {
			if broken.set(err) {
				kill()
			}
		})
	}
	var err error
	go func() {
		defer close(over)
		err = s.run(inner, ctx, c, token)
	}()
	select {
	case <-over:
		if cause := broken.get(); cause != nil && err != nil {
			return fmt.Errorf("%s: running %s: %w", s.Host(), c.Args[0], cause)
		}
		return err
	case <-ctx.Done():
	}
	if !isKill(ctx) {
		kill()
	}
	select {
	case <-over:
	case <-time.After(time.Second): // now the Runner below has to do what it can
		cancel(context.Cause(ctx))
		<-over
	}
	return fmt.Errorf("%s: running %s: %w", s.Host(), c.Args[0], context.Cause(ctx))
}

// failure is the first error of several.
type failure struct {
	mu  sync.Mutex
	err error
}

// set says whether err was the first.
func (f *failure) set(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false
	}
	f.err = err
	return true
}

func (f *failure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// guard kills when a stream fails, before the Runner below hears of it: that one could only take the
// input away, and the command would take what it has for the whole.
func guard(c Cmd, kill func(error)) Cmd {
	if c.Stdin != nil {
		c.Stdin = &guardedReader{c.Stdin, kill}
	}
	if c.Stdout != nil {
		c.Stdout = &guardedWriter{c.Stdout, kill}
	}
	if c.Stderr != nil {
		c.Stderr = &guardedWriter{c.Stderr, kill}
	}
	return c
}

type guardedReader struct {
	io.Reader
	kill func(error)
}

func (g *guardedReader) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if err != nil && err != io.EOF {
		g.kill(fmt.Errorf("reading its input: %w", err))
	}
	return n, err
}

type guardedWriter struct {
	io.Writer
	kill func(error)
}

func (g *guardedWriter) Write(p []byte) (int, error) {
	n, err := g.Writer.Write(p)
	if err != nil {
		g.kill(fmt.Errorf("taking its output: %w", err))
	}
	return n, err
}

// run runs c under sudo, marked by token. askCtx is for the person who is asked for the password: it ends
// before ctx does.
func (s *sudo) run(ctx, askCtx context.Context, c Cmd, token string) error {
	flags := []string{"-n"}
	prompt := ""
	if s.ask != nil {
		prompt = "[keg asks " + rand.Text() + "]"
		flags = []string{"-S", "-p", prompt}
	}
	g := &gate{start: "[keg runs " + token + "]", prompt: prompt, out: c.Stderr, events: make(chan event, 8), over: make(chan struct{})}
	g.last.limit = 4 << 10
	args := append([]string{"sudo"}, flags...)
	args = append(args, "--", "env", runVariable+"="+token, "sh", "-c", startScript, "sh", g.start, c.Dir)
	args = append(args, words(Cmd{Args: c.Args, Env: c.Env}, token)...)

	inner := Cmd{Args: args, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: g}
	if s.ask != nil || c.Stdin != nil {
		inner.Stdin = &gatedInput{ctx: askCtx, gate: g, sudo: s, rest: c.Stdin}
	}
	err := s.runner.Run(ctx, inner)
	var exit *ExitError
	if !errors.As(err, &exit) {
		if err != nil {
			return strip(err, c)
		}
		return nil
	}
	started, wrong, text := g.state()
	if !started {
		return &SudoError{Host: s.Host(), User: s.User(), Wrong: wrong, Text: text}
	}
	return &ExitError{Host: exit.Host, Args: c.Args, Code: exit.Code, Signal: exit.Signal, Stderr: g.last.String()}
}

// strip is for errors that carry the command line: callers know their own, not the one with sudo.
func strip(err error, c Cmd) error {
	if text := err.Error(); strings.Contains(text, "running sudo:") {
		return &renamed{err: err, text: strings.Replace(text, "running sudo:", "running "+c.Args[0]+":", 1)}
	}
	return err
}

type renamed struct {
	err  error
	text string
}

func (e *renamed) Error() string { return e.text }
func (e *renamed) Unwrap() error { return e.err }

// secret asks once.
func (s *sudo) secret(ctx context.Context) (string, error) {
	s.once.Lock()
	defer s.once.Unlock()
	if !s.asked {
		if isKill(ctx) {
			return "", errors.New("no password given yet")
		}
		s.asked = true
		if s.password, s.askErr = s.ask(ctx); s.askErr != nil {
			s.asked = ctx.Err() == nil
			s.askErr = fmt.Errorf("getting the password for sudo: %w", s.askErr)
		}
	}
	return s.password, s.askErr
}

// event is something that sudo did.
type event int

const (
	prompted event = iota
	started
)

// gate reads sudo's stderr up to the start of the command, and the command's after it.
type gate struct {
	start, prompt string
	out           io.Writer // the command's stderr, may be nil
	events        chan event
	over          chan struct{}
	once          sync.Once

	mu       sync.Mutex
	begun    bool
	prompts  int
	pending  []byte // not yet known to be free of marks
	sudoSaid []byte
	last     tail // of what the command said
}

// Write implements io.Writer.
func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.begun {
		return g.pass(p)
	}
	g.pending = append(g.pending, p...)
	for !g.begun {
		at, mark := g.next()
		if mark == "" {
			// What could be the beginning of a mark stays; the rest is sudo's.
			keep := max(len(g.start), len(g.prompt))
			if cut := len(g.pending) - keep; cut > 0 {
				g.said(g.pending[:cut])
				g.pending = append(g.pending[:0], g.pending[cut:]...)
			}
			return len(p), nil
		}
		g.said(g.pending[:at])
		g.pending = append(g.pending[:0], g.pending[at+len(mark):]...)
		if mark == g.start {
			g.begun = true
			g.send(started)
		} else {
			g.prompts++
			g.send(prompted)
		}
	}
	rest := g.pending
	g.pending = nil
	if len(rest) > 0 {
		if _, err := g.pass(rest); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// next finds the first mark.
func (g *gate) next() (int, string) {
	start := bytes.Index(g.pending, []byte(g.start))
	ask := -1
	if g.prompt != "" {
		ask = bytes.Index(g.pending, []byte(g.prompt))
	}
	switch {
	case start >= 0 && (ask < 0 || start < ask):
		return start, g.start
	case ask >= 0:
		return ask, g.prompt
	}
	return 0, ""
}

func (g *gate) send(e event) {
	select {
	case g.events <- e:
	default: // a sudo that asks nine times is past help
	}
}

// said keeps sudo's words for the error, up to a limit.
func (g *gate) said(p []byte) {
	if room := 4<<10 - len(g.sudoSaid); room > 0 {
		g.sudoSaid = append(g.sudoSaid, p[:min(room, len(p))]...)
	}
}

func (g *gate) pass(p []byte) (int, error) {
	g.last.add(p)
	if g.out == nil {
		return len(p), nil
	}
	return g.out.Write(p)
}

// state says whether the command started, whether a password was refused, and what sudo said.
func (g *gate) state() (begun, wrong bool, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	text = strings.TrimSpace(string(g.sudoSaid) + string(g.pending))
	return g.begun, g.prompts > 1, strings.Join(strings.Fields(text), " ")
}

// gatedInput is the stdin of sudo -S: the password when it asks, the command's input once that runs.
type gatedInput struct {
	ctx     context.Context //nolint:containedctx // io.Reader has none
	gate    *gate
	sudo    *sudo
	rest    io.Reader // may be nil
	begun   bool
	asked   bool
	pending []byte
}

// Read implements io.Reader.
func (i *gatedInput) Read(p []byte) (int, error) {
	for {
		if len(i.pending) > 0 {
			n := copy(p, i.pending)
			i.pending = i.pending[n:]
			return n, nil
		}
		if i.begun {
			if i.rest == nil {
				return 0, io.EOF
			}
			return i.rest.Read(p)
		}
		select {
		case <-i.gate.over:
			return 0, io.EOF
		case e := <-i.gate.events:
			switch {
			case e == started:
				i.begun = true
			case i.asked: // asked again: the password was wrong
				return 0, io.EOF
			default:
				i.asked = true
				password, err := i.sudo.secret(i.ctx)
				if err != nil {
					return 0, err
				}
				i.pending = []byte(password + "\n")
			}
		}
	}
}

// end implements ender.
func (i *gatedInput) end() { i.gate.once.Do(func() { close(i.gate.over) }) }
