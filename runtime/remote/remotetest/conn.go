package remotetest

import (
	"io"
	"net"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Reader and Writer are io's, named here so that Exec reads well.
type (
	Reader = io.Reader
	Writer = io.Writer
)

// conn counts, cuts and stalls.
type conn struct {
	net.Conn
	server   *Server
	mu       sync.Mutex
	received int64
	cutAt    int64 // 0 never
	stalled  chan struct{}
	once     sync.Once
	closed   chan struct{}
	closing  sync.Once
}

func (c *conn) stall() { c.once.Do(func() { close(c.stalled) }) }

func (c *conn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// wait blocks a stalled connection until it is closed.
func (c *conn) wait() error {
	select {
	case <-c.stalled:
		<-c.closed
		return net.ErrClosed
	default:
		return nil
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if werr := c.wait(); werr != nil {
		return 0, werr
	}
	c.server.mu.Lock()
	c.server.received += int64(n)
	c.server.mu.Unlock()
	c.mu.Lock()
	c.received += int64(n)
	cut := c.cutAt > 0 && c.received >= c.cutAt
	c.mu.Unlock()
	if cut {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (s *Server) serve() {
	for {
		raw, err := s.listener.Accept()
		if err != nil {
			return
		}
		c := &conn{Conn: raw, server: s, cutAt: s.opt.CutAfter, stalled: make(chan struct{}), closed: make(chan struct{})}
		s.mu.Lock()
		s.accepted++
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		if s.opt.Silent {
			c.stall()
		}
		s.wg.Go(func() {
			s.handle(c)
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// handle speaks SSH on one connection.
func (s *Server) handle(c *conn) {
	server, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	s.wg.Go(func() { answerGlobal(requests) })
	var open sync.WaitGroup
	var mu sync.Mutex
	sessions := 0
	for n := range channels {
		switch n.ChannelType() {
		case "session":
		case "direct-tcpip":
			open.Go(func() { forward(n) })
			continue
		default:
			_ = n.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		mu.Lock()
		full := s.opt.RefuseSessions || s.opt.MaxSessions > 0 && sessions >= s.opt.MaxSessions
		if !full {
			sessions++
		}
		mu.Unlock()
		if full {
			_ = n.Reject(ssh.Prohibited, "open failed")
			continue
		}
		ch, reqs, err := n.Accept()
		if err != nil {
			continue
		}
		open.Go(func() {
			s.session(server.User(), ch, reqs, c.closed)
			mu.Lock()
			sessions--
			mu.Unlock()
			_ = ch.Close()
		})
	}
	_ = c.Close()
	open.Wait()
}

// answerGlobal refuses, as sshd does; keepalives need no more.
func answerGlobal(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
}

// forward connects a jump to its target.
func forward(n ssh.NewChannel) {
	var target struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(n.ExtraData(), &target); err != nil {
		_ = n.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	out, err := net.Dial("tcp", net.JoinHostPort(target.Host, strconv.Itoa(int(target.Port))))
	if err != nil {
		_ = n.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer out.Close()
	ch, reqs, err := n.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	go ssh.DiscardRequests(reqs)
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(ch, out)
		_ = ch.CloseWrite()
	}()
	_, _ = io.Copy(out, ch)
	if t, ok := out.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
	<-back
}
