package remotetest

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/runtime/remote"
)

// session serves one channel: exec and signal.
func (s *Server) session(user string, ch ssh.Channel, requests <-chan *ssh.Request, gone <-chan struct{}) {
	killed := make(chan string, 1) // a signal's name
	finished := make(chan struct{})
	started := false
	for {
		select {
		case <-finished:
			return
		case r, ok := <-requests:
			if !ok {
				if started {
					<-finished
				}
				return
			}
			var text struct{ Text string }
			switch {
			case r.Type == "exec" && !started && ssh.Unmarshal(r.Payload, &text) == nil:
				started = true
				s.mu.Lock()
				s.commands = append(s.commands, text.Text)
				s.mu.Unlock()
				_ = r.Reply(true, nil)
				s.wg.Go(func() {
					defer close(finished)
					s.run(user, text.Text, ch, killed, gone)
				})
			case r.Type == "signal" && ssh.Unmarshal(r.Payload, &text) == nil:
				select {
				case killed <- text.Text:
				default:
				}
			case r.WantReply:
				_ = r.Reply(false, nil)
			}
		}
	}
}

// run runs one command and tells how it ended.
func (s *Server) run(user, line string, ch ssh.Channel, killed <-chan string, gone <-chan struct{}) {
	if s.opt.Exec == nil {
		s.shell(line, ch, killed)
		return
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-killed:
		case <-gone:
		case <-ended:
		}
	}()
	code := s.opt.Exec(Exec{User: user, Line: line, Stdin: ch, Stdout: ch, Stderr: ch.Stderr(), Done: done})
	close(ended)
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(code)})) //nolint:gosec // 0..255
}

// shell runs line as sshd would: in a session of its own, with the streams of the channel.
func (s *Server) shell(line string, ch ssh.Channel, killed <-chan string) {
	if s.bin != "" { // every command sets its PATH, so that is where to get in
		line = strings.ReplaceAll(line, "PATH="+remote.Path, "PATH="+s.bin+":"+remote.Path)
	}
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir = s.Dir
	cmd.Env = []string{"PATH=" + remote.Path, "HOME=" + s.Dir}
	if s.bin != "" {
		cmd.Env[0] = "PATH=" + s.bin + ":" + remote.Path
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.t.Errorf("remotetest: %v", err)
		return
	}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	if err := cmd.Start(); err != nil {
		s.t.Errorf("remotetest: %v", err)
		return
	}
	pid := cmd.Process.Pid
	s.mu.Lock()
	s.groups[pid] = struct{}{}
	s.mu.Unlock()
	go func() {
		_, _ = io.Copy(stdin, ch)
		_ = stdin.Close()
	}()
	ended := make(chan struct{})
	var signals sync.WaitGroup
	signals.Go(func() {
		for {
			select {
			case name := <-killed:
				_ = syscall.Kill(-pid, unix.SignalNum("SIG"+name))
			case <-ended:
				return
			}
		}
	})
	err = s.wait(cmd, ch)
	close(ended)
	signals.Wait()
	s.mu.Lock()
	delete(s.groups, pid)
	s.mu.Unlock()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return // the streams broke; the client is gone
	}
}

// wait tells the client how the command ended as soon as it has, and waits for the end of its output
// only then, as sshd does.
func (s *Server) wait(cmd *exec.Cmd, ch ssh.Channel) error {
	state, err := cmd.Process.Wait()
	if err != nil {
		return err
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		name := strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
		_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name       string
			Core       bool
			Text, Lang string
		}{Name: name}))
	} else {
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(state.ExitCode())})) //nolint:gosec // 0..255
	}
	_ = cmd.Wait() // only the copies: the process is gone already
	return nil
}

// killAll ends what still runs at the end of a test.
func (s *Server) killAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range s.groups {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}
