package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// session is one command on an SSH connection (RFC 4254 §6). The library's own Session would wait for
// the end of the output before it tells how the command ended, and for the input's reader.
type session struct {
	ssh     *SSH
	channel ssh.Channel
	exit    chan ended
	gone    chan struct{} // closed when exit has something
	closed  chan struct{}
	once    sync.Once
}

func newSession(s *SSH, ch channel) *session {
	sess := &session{ssh: s, channel: ch.channel, exit: make(chan ended, 1), gone: make(chan struct{}), closed: make(chan struct{})}
	go sess.listen(ch.requests)
	return sess
}

// listen waits for the word of how the command ended.
func (s *session) listen(requests <-chan *ssh.Request) {
	for r := range requests {
		var status struct{ Code uint32 }
		var signal struct {
			Name       string
			CoreDumped bool
			Text, Lang string
		}
		switch {
		case r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &status) == nil:
			s.report(ended{code: int(status.Code)})
		case r.Type == "exit-signal" && ssh.Unmarshal(r.Payload, &signal) == nil:
			s.report(ended{code: 128 + int(unix.SignalNum("SIG"+signal.Name)), signal: signal.Name})
		}
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
	// No word: mostly because the connection is gone, which is known a moment later.
	select {
	case <-s.ssh.done:
	case <-time.After(time.Second):
	}
	s.report(ended{err: s.ssh.lost(nil)})
}

func (s *session) report(e ended) {
	select {
	case <-s.gone: // the first counts
	default:
		s.exit <- e
		close(s.gone)
	}
}

// exec starts the command.
func (s *session) exec(ctx context.Context, line string) error {
	answers := make(chan error, 1)
	go func() {
		ok, err := s.channel.SendRequest("exec", true, ssh.Marshal(struct{ Line string }{line}))
		switch {
		case err != nil:
			err = s.ssh.lost(err)
		case !ok:
			err = errors.New("the host refuses to run commands")
		}
		answers <- err
	}()
	select {
	case err := <-answers:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Write and Close are the command's stdin.
func (s *session) Write(p []byte) (int, error) { return s.channel.Write(p) }

func (s *session) Close() error { return s.channel.CloseWrite() }

func (s *session) wait() (int, string, error) {
	select {
	case e := <-s.exit:
		return e.code, e.signal, e.err
	case <-s.closed:
		return 0, "", errors.New("given up")
	}
}

// close may have to wait behind a write that a silent host blocks, so it does that elsewhere.
func (s *session) close() {
	s.once.Do(func() {
		close(s.closed)
		go func() { _ = s.channel.Close() }()
	})
}

// kill finds the processes of the command by their mark, in a session of its own; the signal that SSH
// knows reaches only the process group, and only if the host's sshd is of a mind to send it.
func (s *session) kill(ctx context.Context, token string) error {
	err := killMarked(withKill(ctx), s.gone, func(ctx context.Context) error { return s.ssh.Run(ctx, killCmd(token)) })
	if err != nil {
		go func() { _, _ = s.channel.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{"KILL"})) }()
		return fmt.Errorf("killing it: %w", err)
	}
	return nil
}
