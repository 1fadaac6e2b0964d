package balancer

import (
	"io"
	"net"
	"sync"
)

// tunnel is a client's connection and the one to a backend it is passed on by.
type tunnel struct {
	client, backend net.Conn
}

// pass copies both ways until both are done. One end may be done long before the other: a half-closed
// connection stays so. There is no time-out: TCP's keep-alive, which Go sets on both, finds dead peers.
func (t *tunnel) pass() {
	var group sync.WaitGroup
	group.Go(func() { t.copy(t.backend, t.client) })
	t.copy(t.client, t.backend)
	group.Wait()
	_ = t.client.Close()
	_ = t.backend.Close()
}

// copy copies one way. Between TCP connections the kernel does it.
func (t *tunnel) copy(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		t.close()
		return
	}
	if c, ok := to.(interface{ CloseWrite() error }); !ok || c.CloseWrite() != nil {
		t.close()
	}
}

// close ends both at once. Their other ends must not take that for the end of what was sent.
func (t *tunnel) close() {
	reset(t.client)
	reset(t.backend)
}

// reset closes a connection so that the other end sees a failure.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
