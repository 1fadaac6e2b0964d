package balancer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/pki"
)

// short are the usual times, a hundred times faster.
var short = times{interval: 20 * time.Millisecond, check: 300 * time.Millisecond, connect: 300 * time.Millisecond, poll: 10 * time.Millisecond, drain: 50 * time.Millisecond}

// patient is short for tests in which nobody is to be found out, on a machine with other things to do.
var patient = times{interval: 20 * time.Millisecond, check: 30 * time.Second, connect: 30 * time.Second, poll: 10 * time.Millisecond, drain: 50 * time.Millisecond}

// rig is a balancer at work, with files in memory.
type rig struct {
	*testing.T
	mu    sync.Mutex
	files map[string][]byte
	cut   map[string]bool // backends that packets to are dropped
	log   strings.Builder
	addr  string
	ended chan error
	stop  context.CancelFunc
	run   *run
}

// start balances 127.0.0.1:PORT to backends. It fails the test if anything is left running at its end.
func start(t *testing.T, check node.BalancerCheck, files map[string][]byte, backends ...string) *rig {
	t.Helper()
	return startWith(t, patient, check, files, backends...)
}

func startWith(t *testing.T, times times, check node.BalancerCheck, files map[string][]byte, backends ...string) *rig {
	t.Helper()
	before := goruntime.NumGoroutine()
	r := &rig{T: t, files: map[string][]byte{}, cut: map[string]bool{}, addr: free(t, "127.0.0.1"), ended: make(chan error, 1)}
	for name, data := range files {
		r.files[name] = data
	}
	r.configure(node.BalancerListener{Listen: r.addr, Backends: backends, Check: check})
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan net.Addr, 1)
	r.run = &run{times: times, Options: Options{
		Ready: func(a net.Addr) { ready <- a },
		Logf: func(format string, args ...any) {
			r.mu.Lock()
			defer r.mu.Unlock()
			fmt.Fprintf(&r.log, format+"\n", args...)
		},
		ReadFile: func(name string) ([]byte, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if data, ok := r.files[name]; ok {
				return data, nil
			}
			return nil, errors.New(name + " is not there")
		},
	}}
	r.run.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		r.mu.Lock()
		cut := r.cut[addr]
		r.mu.Unlock()
		if cut {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
	go func() { r.ended <- r.run.run(ctx) }()
	r.stop = cancel
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
		r.until("all that was started ends", func() bool { return goruntime.NumGoroutine() <= before })
		if t.Failed() {
			t.Log(r.said())
		}
	})
	select {
	case <-ready:
	case err := <-r.ended:
		r.ended <- nil
		t.Fatal(err)
	}
	return r
}

func (r *rig) configure(l ...node.BalancerListener) {
	data, err := json.Marshal(node.BalancerConfig{Listeners: l})
	if err != nil {
		r.Fatal(err)
	}
	r.write(node.BalancerConfigFile, data)
}

func (r *rig) write(name string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[name] = data
}

func (r *rig) sever(addr string, cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut[addr] = cut
}

func (r *rig) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func (r *rig) until(what string, done func() bool) {
	r.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	r.Fatalf("waiting until %s\n%s\n%s", what, r.said(), buf[:goruntime.Stack(buf, true)])
}

// health waits until the log has said n times that addr is healthy, or not.
func (r *rig) health(addr string, healthy bool, n int) {
	r.Helper()
	word := " is not healthy"
	if healthy {
		word = " is healthy"
	}
	r.until(addr+word, func() bool { return strings.Count(r.said(), addr+word) >= n })
}

// dial connects to the balancer and says which backend answered.
func (r *rig) dial() (net.Conn, string) {
	r.Helper()
	conn, name, err := r.try(r.addr)
	if err != nil {
		r.Fatalf("%v\n%s", err, r.said())
	}
	return conn, name
}

func (r *rig) try(addr string) (net.Conn, string, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, "", err
	}
	r.Cleanup(func() { _ = conn.Close() })
	name, err := echo(conn, "hello\n")
	return conn, strings.TrimSuffix(name, " hello"), err
}

// echo sends a line and reads the answer.
func echo(conn net.Conn, text string) (string, error) {
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := conn.Read(b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

// broken waits until a connection is closed by the balancer.
func broken(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, err := conn.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout")
}

// server answers each line with its name before it.
type server struct {
	net.Listener
	addr  string
	mu    sync.Mutex
	conns []net.Conn
}

func serve(t *testing.T, addr string) *server {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("SKIP: no listening at %s: %v", addr, err)
	}
	s := &server{Listener: l, addr: l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go func() {
				defer conn.Close()
				for text := make([]byte, 100); ; {
					n, err := conn.Read(text)
					if n > 0 {
						fmt.Fprintf(conn, "%s %s", s.addr, text[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(s.kill)
	return s
}

func (s *server) kill() {
	_ = s.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
}

func free(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("SKIP: no listening at %s: %v", host, err)
	}
	defer l.Close()
	return l.Addr().String()
}

var tcp = node.BalancerCheck{Kind: node.CheckTCP}

func TestSpread(t *testing.T) {
	a, b := serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0")
	r := start(t, tcp, nil, a.addr, b.addr)
	r.health(a.addr, true, 1)
	r.health(b.addr, true, 1)
	count := map[string]int{}
	for range 20 {
		_, name := r.dial()
		count[name]++
	}
	if count[a.addr] != 10 || count[b.addr] != 10 {
		t.Errorf("connections went to %v", count)
	}
}

func TestKilled(t *testing.T) {
	a, b := serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0")
	r := start(t, tcp, nil, a.addr, b.addr)
	r.health(a.addr, true, 1)
	r.health(b.addr, true, 1)
	a.kill()
	for range 10 { // also before a check has found out
		if _, name := r.dial(); name != b.addr {
			t.Errorf("%s answered", name)
		}
	}
	r.health(a.addr, false, 1)
	serve(t, a.addr)
	r.health(a.addr, true, 2)
	if _, name := r.dial(); name != a.addr {
		t.Errorf("%s answered, which has more connections", name)
	}
}

// TestCut: a backend whose packets are lost keeps its connections open for ever, so they are closed here.
func TestCut(t *testing.T) {
	a, b := serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0")
	r := startWith(t, short, tcp, nil, a.addr, b.addr)
	r.health(a.addr, true, 1)
	r.health(b.addr, true, 1)
	conns := map[string]net.Conn{}
	for range 2 {
		conn, name := r.dial()
		conns[name] = conn
	}
	r.sever(a.addr, true)
	if !broken(conns[a.addr]) {
		t.Error("the connection to the dead backend stays")
	}
	if _, err := echo(conns[b.addr], "still\n"); err != nil {
		t.Errorf("the other connection: %v", err)
	}
	if _, name := r.dial(); name != b.addr {
		t.Errorf("%s answered", name)
	}
	r.sever(a.addr, false)
	r.health(a.addr, true, 2)
}

// TestHang: a program that takes connections and then says nothing is found out by more than TCP.
func TestHang(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, nobody else does
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	good := httptest.NewTLSServer(http.NotFoundHandler())
	defer good.Close()
	r := startWith(t, short, node.BalancerCheck{Kind: node.CheckTLS}, nil, l.Addr().String(), good.Listener.Addr().String())
	r.health(l.Addr().String(), false, 1)
	r.health(good.Listener.Addr().String(), true, 1)
	client := good.Client()
	defer client.CloseIdleConnections()
	for range 3 {
		resp, err := client.Get("https://" + r.addr)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		client.CloseIdleConnections()
	}
}

// api is a TLS server with a certificate of ca whose /readyz answers with a code that can be changed.
func api(t *testing.T, ca *pki.CA, code int) (string, *atomic.Int64) {
	t.Helper()
	var now atomic.Int64
	now.Store(int64(code))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/readyz" {
			w.WriteHeader(int(now.Load()))
			return
		}
		fmt.Fprint(w, req.Host)
	}))
	s.Config.ErrorLog = nil
	cert, key, err := ca.Server([]string{"api"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = serverTLS(t, cert, key)
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), &now
}

func TestReadyz(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	check := node.BalancerCheck{Kind: node.CheckHTTPS, Path: "/readyz", CAFile: "/ca.crt"}
	a, codeA := api(t, ca, 200)
	b, _ := api(t, ca, 401)
	c, _ := api(t, ca, 500)
	d, _ := api(t, other, 200)
	r := start(t, check, map[string][]byte{"/ca.crt": ca.CertPEM()}, a, b, c, d)
	r.health(a, true, 1)
	r.health(b, true, 1)
	r.health(c, false, 1)
	r.health(d, false, 1)
	r.until("the reasons are said", func() bool {
		return strings.Contains(r.said(), "500 Internal") && strings.Contains(r.said(), "certificate signed by unknown authority")
	})
	codeA.Store(403)
	// A new CA in the file is read without a change of the configuration.
	r.write("/ca.crt", append(bytes.Clone(ca.CertPEM()), other.CertPEM()...))
	r.health(d, true, 1)
	if strings.Contains(r.said(), a+" is not healthy") {
		t.Error("403 is not healthy")
	}
}

// TestNotReady: connections to a backend that says it is not ready stay until there is a better one.
func TestNotReady(t *testing.T) {
	ca := newCA(t)
	a, codeA := api(t, ca, 200)
	b, codeB := api(t, ca, 500)
	r := start(t, node.BalancerCheck{Kind: node.CheckHTTPS, Path: "/readyz"}, nil, a, b)
	r.health(a, true, 1)
	r.health(b, false, 1)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r.until("it is passed on", func() bool { return r.tunnels(a) == 1 })
	codeA.Store(500)
	r.health(a, false, 1)
	r.until("it has failed more often", func() bool { return r.fails(a) > 3 })
	if r.tunnels(a) != 1 {
		t.Error("a connection was closed that had nowhere else to go")
	}
	codeB.Store(200)
	if !broken(conn) {
		t.Error("the connection stays though another backend is healthy")
	}
}

func (r *rig) tunnels(addr string) int { return len(r.backend(addr).tunnels) }
func (r *rig) fails(addr string) int   { return r.backend(addr).fails }

// backend is a copy of what is known of one.
func (r *rig) backend(addr string) backend {
	s := r.run.services[r.addr]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := *s.find(addr)
	b.tunnels = map[*tunnel]bool{}
	for t := range s.find(addr).tunnels {
		b.tunnels[t] = true
	}
	return b
}

// TestAllDead: where nobody is healthy, everybody is tried.
func TestAllDead(t *testing.T) {
	ca := newCA(t)
	dead := free(t, "127.0.0.1")
	a, _ := api(t, ca, 500)
	r := start(t, node.BalancerCheck{Kind: node.CheckHTTPS, Path: "/readyz"}, nil, dead, a)
	r.health(dead, false, 1)
	r.health(a, false, 1)
	for range 3 {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		text, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.Contains(string(text), "400 Bad Request") { // plain HTTP to a TLS server
			t.Errorf("it answered %q", text)
		}
	}
	s := start(t, tcp, nil, dead, free(t, "127.0.0.1"))
	if _, _, err := s.try(s.addr); err == nil {
		t.Error("somebody answered")
	}
}

func TestHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // it answers when it has heard all
				defer conn.Close()
				n, _ := io.Copy(io.Discard, conn)
				fmt.Fprintf(conn, "%d bytes", n)
			}()
		}
	}()
	r := start(t, tcp, nil, l.Addr().String())
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const size = 3 << 20
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil || string(text) != fmt.Sprintf("%d bytes", size) {
		t.Errorf("it answered %q, %v", text, err)
	}
}

// TestReset: an end that breaks must not look like one that was reached.
func TestReset(t *testing.T) {
	a := serve(t, "127.0.0.1:0")
	r := start(t, tcp, nil, a.addr)
	conn, _ := r.dial()
	a.mu.Lock()
	for _, c := range a.conns {
		reset(c)
	}
	a.mu.Unlock()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the client reads %v", err)
	}
}

func TestReload(t *testing.T) {
	a, b, c := serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0")
	r := start(t, tcp, nil, a.addr, b.addr)
	r.health(a.addr, true, 1)
	r.health(b.addr, true, 1)
	conns := map[string]net.Conn{}
	for range 2 {
		conn, name := r.dial()
		conns[name] = conn
	}
	taken := serve(t, "127.0.0.1:0")
	second := free(t, "127.0.0.1")
	for _, bad := range []string{
		`{`, `{"listeners":[]}`, `{"listener":[]}`,
		fmt.Sprintf(`{"listeners":[{"listen":%q,"backends":[%q],"check":{"kind":"tls","caFile":"/none"}}]}`, r.addr, c.addr),
		fmt.Sprintf(`{"listeners":[{"listen":%q,"backends":[%q],"check":{"kind":"tcp"}},{"listen":%q,"backends":[%[2]q],"check":{"kind":"tcp"}}]}`, r.addr, c.addr, taken.addr),
	} {
		said := strings.Count(r.said(), "stays as it was")
		r.write(node.BalancerConfigFile, []byte(bad))
		r.until("it refuses "+bad, func() bool { return strings.Count(r.said(), "stays as it was") > said })
		for name, conn := range conns {
			if _, err := echo(conn, "still\n"); err != nil {
				t.Errorf("after %s: %s: %v", bad, name, err)
			}
		}
	}
	r.configure(
		node.BalancerListener{Listen: second, Backends: []string{a.addr}, Check: tcp},
		node.BalancerListener{Listen: r.addr, Backends: []string{c.addr, b.addr}, Check: tcp})
	if !broken(conns[a.addr]) {
		t.Error("a connection to a backend that went stays")
	}
	if _, err := echo(conns[b.addr], "still\n"); err != nil {
		t.Errorf("a connection to a backend that stays: %v", err)
	}
	r.until("the new backend is used", func() bool { _, name := r.dial(); return name == c.addr })
	if _, name, err := r.try(second); err != nil || name != a.addr {
		t.Errorf("the new listener: %q, %v", name, err)
	}
	r.configure(node.BalancerListener{Listen: second, Backends: []string{a.addr}, Check: tcp})
	if !broken(conns[b.addr]) {
		t.Error("a connection of a listener that went stays")
	}
	r.until("nobody listens", func() bool { _, _, err := r.try(r.addr); return err != nil })
}

func TestManyConnections(t *testing.T) {
	a, b := serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0")
	r := start(t, tcp, nil, a.addr, b.addr)
	r.health(a.addr, true, 1)
	r.health(b.addr, true, 1)
	const many = 1000
	var group sync.WaitGroup
	var failed atomic.Int64
	conns := make([]net.Conn, many)
	for i := range many {
		group.Go(func() {
			conn, err := net.Dial("tcp", r.addr)
			if err == nil {
				conns[i] = conn
				_, err = echo(conn, "one\n")
			}
			if err != nil {
				failed.Add(1)
			}
		})
	}
	group.Wait()
	for _, conn := range conns { // all at a time
		if conn == nil {
			continue
		}
		group.Go(func() {
			defer conn.Close()
			if _, err := echo(conn, "two\n"); err != nil {
				failed.Add(1)
			}
		})
	}
	group.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d connections failed", n, many)
	}
	r.until("all are forgotten", func() bool { return r.tunnels(a.addr)+r.tunnels(b.addr) == 0 })
}

func TestIPv6(t *testing.T) {
	a := serve(t, "[::1]:0")
	r := start(t, tcp, nil, a.addr)
	second := free(t, "::1")
	r.configure(node.BalancerListener{Listen: second, Backends: []string{a.addr}, Check: tcp})
	r.until("it answers over IPv6", func() bool { _, name, err := r.try(second); return err == nil && name == a.addr })
}

// TestDrain: a connection that ends by itself is let end, one that does not is closed.
func TestDrain(t *testing.T) {
	a := serve(t, "127.0.0.1:0")
	r := start(t, tcp, nil, a.addr)
	one, _ := r.dial()
	r.stop()
	r.until("nobody listens", func() bool { _, _, err := r.try(r.addr); return err != nil })
	if !broken(one) {
		t.Error("the connection stays")
	}
}

func TestStartRefused(t *testing.T) {
	taken := serve(t, "127.0.0.1:0")
	for _, config := range []string{``, `{}`, fmt.Sprintf(`{"listeners":[{"listen":%q,"backends":["127.0.0.1:1"],"check":{"kind":"tcp"}}]}`, taken.addr)} {
		err := Run(t.Context(), Options{ReadFile: func(string) ([]byte, error) { return []byte(config), nil }, Ready: func(net.Addr) { t.Error("ready") }})
		if err == nil {
			t.Errorf("%s was taken", config)
		}
	}
}
