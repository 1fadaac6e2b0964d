package standin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"syscall"
	"time"
)

// Process is a program to be kept running.
type Process struct {
	// Name is what it is called in the log, and what Stop takes.
	Name string
	// Program is a name in the supervisor's directory of programs, or an absolute path.
	Program string
	// Args come without the program's name. They are seen by every user of the host: no secrets.
	Args []string
	// Env is in addition to PATH and HOME.
	Env []string
	// Grace is how long it may take to end after SIGTERM before it is killed; zero is 15 s.
	Grace time.Duration
}

// Supervisor keeps processes running. A process that ends is started again, after a second or after
// five when it did not last ten. The processes die with the supervisor's own process, however that ends;
// what they started in sessions of their own, as containerd does shims, lives on.
type Supervisor struct {
	bin      string
	log      io.Writer
	mu       sync.Mutex
	children []*child
}

type child struct {
	Process
	quit, done chan struct{}
	stopping   sync.Once
	mu         sync.Mutex
	running    *exec.Cmd
	starts     int
}

// NewSupervisor returns a supervisor of the programs in bin. Lines that they write go to log with the
// process' name in front.
func NewSupervisor(bin string, log io.Writer) *Supervisor {
	return &Supervisor{bin: bin, log: &lockedWriter{w: log}}
}

// Bin is the directory of the programs.
func (s *Supervisor) Bin() string { return s.bin }

// Command is a program of the set that runs once, with the environment that supervised ones have.
func (s *Supervisor) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.path(program), args...)
	cmd.Env = s.environment(nil)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Output runs a program of the set and returns what it wrote on standard output; the error has the standard error.
func (s *Supervisor) Output(ctx context.Context, stdin io.Reader, program string, args ...string) ([]byte, error) {
	cmd := s.Command(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("running %s: %w: %s", program, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

func (s *Supervisor) path(program string) string {
	if filepath.IsAbs(program) {
		return program
	}
	return filepath.Join(s.bin, program)
}

func (s *Supervisor) environment(more []string) []string {
	return append([]string{"PATH=" + s.bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}, more...)
}

// Start starts p and keeps it running. It fails if p cannot be started at all.
func (s *Supervisor) Start(p Process) error {
	if p.Grace == 0 {
		p.Grace = 15 * time.Second
	}
	c := &child{Process: p, quit: make(chan struct{}), done: make(chan struct{})}
	first := make(chan error)
	go s.keep(c, first)
	if err := <-first; err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	s.mu.Lock()
	s.children = append(s.children, c)
	s.mu.Unlock()
	return nil
}

// Running says whether the process of that name is running now, and how often it was started.
func (s *Supervisor) Running(name string) (bool, int) {
	if c := s.find(name); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.running != nil, c.starts
	}
	return false, 0
}

// Stop ends the process of that name, if there is one, and waits for its end.
func (s *Supervisor) Stop(name string) {
	c := s.find(name)
	if c == nil {
		return
	}
	c.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.children {
		if other == c {
			s.children = append(s.children[:i:i], s.children[i+1:]...)
			break
		}
	}
}

// Shutdown stops all processes, the last started first.
func (s *Supervisor) Shutdown() {
	s.mu.Lock()
	children := s.children
	s.children = nil
	s.mu.Unlock()
	for i := len(children) - 1; i >= 0; i-- {
		children[i].stop()
	}
}

func (s *Supervisor) find(name string) *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (c *child) stop() {
	c.stopping.Do(func() { close(c.quit) })
	<-c.done
}

// keep runs c until it is told to stop. It stays on one thread, since the death signal of a child is
// sent when the thread that started it ends.
func (s *Supervisor) keep(c *child, first chan<- error) {
	goruntime.LockOSThread()
	defer close(c.done)
	for report := first; ; report = nil {
		began := time.Now()
		err := s.once(c, report)
		select {
		case <-c.quit:
			return
		default:
		}
		if report != nil && c.starts == 0 {
			return // it was never started, and Start says so
		}
		pause := time.Second
		if time.Since(began) < 10*time.Second {
			pause = 5 * time.Second
		}
		fmt.Fprintf(s.log, "%s ended (%v), starting it again in %v\n", c.Name, err, pause)
		select {
		case <-c.quit:
			return
		case <-time.After(pause):
		}
	}
}

func (s *Supervisor) once(c *child, first chan<- error) error {
	cmd := exec.Command(s.path(c.Program), c.Args...) //nolint:noctx // ends by signals, in the order of Shutdown
	cmd.Env = s.environment(c.Env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out := &prefixWriter{w: s.log, prefix: c.Name + ": "}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 2 * time.Second // grandchildren may hold the pipe
	err := cmd.Start()
	if err == nil {
		c.mu.Lock()
		c.running = cmd
		c.starts++
		c.mu.Unlock()
	}
	if first != nil {
		first <- err
	}
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		c.mu.Lock()
		c.running = nil
		c.mu.Unlock()
	}()
	select {
	case err := <-ended:
		return err
	case <-c.quit:
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-time.After(c.Grace):
		_ = cmd.Process.Kill()
		return errors.Join(errors.New("killed"), <-ended)
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// prefixWriter writes whole lines, each with prefix in front.
type prefixWriter struct {
	w      io.Writer
	prefix string
	rest   []byte
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 && len(p.rest) < 1<<16 {
			return len(b), nil
		}
		if i < 0 {
			i = len(p.rest) - 1
		}
		if _, err := fmt.Fprintf(p.w, "%s%s\n", p.prefix, p.rest[:i]); err != nil {
			return 0, err
		}
		p.rest = append([]byte(nil), p.rest[i+1:]...)
	}
}
