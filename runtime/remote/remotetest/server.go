// Package remotetest is an SSH server inside a test, as httptest is for HTTP: it runs commands for real,
// or gives them to a function, and it can misbehave in the ways that hosts do.
package remotetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Options say how a Server behaves. The zero value lets User "root" in with the key of Server.KeyFile and
// runs commands by `sh -c`.
type Options struct {
	// Users are logins with a password, by name. The empty name stands for any.
	Users map[string]string
	// KeyboardInteractive offers the passwords by that method instead of "password".
	KeyboardInteractive bool
	// AuthorizedKeys let any user in, besides the key of Server.KeyFile.
	AuthorizedKeys []ssh.PublicKey
	// NoKeys refuses all keys.
	NoKeys bool
	// HostKeys are the server's; one ed25519 key is made if empty.
	HostKeys []ssh.Signer

	// Exec runs commands instead of a shell. It gives the exit code.
	Exec func(Exec) int
	// Dir is where commands run; a temporary directory if "".
	Dir string
	// Bin is a directory of programs that commands find before all others, such as a fake systemctl.
	Bin string
	// Sudo puts a fake sudo in front of all others.
	Sudo *Sudo

	// MaxSessions refuses more sessions at a time on one connection; 0 is no limit.
	MaxSessions int
	// RefuseSessions refuses all of them.
	RefuseSessions bool
	// CutAfter closes each connection once so many bytes came in, 0 never. The handshake takes some
	// 3000 of them: count from Server.Received.
	CutAfter int64
	// Silent accepts connections and never says a word.
	Silent bool
}

// Exec is a command for Options.Exec.
type Exec struct {
	// User is who logged in.
	User string
	// Line is the whole shell line.
	Line string
	// Stdin, Stdout and Stderr are the client's.
	Stdin          Reader
	Stdout, Stderr Writer
	// Done is closed when the client is gone, or asks to kill the command.
	Done <-chan struct{}
}

// Server is a running SSH server on loopback.
type Server struct {
	// Host and Port are where it listens; Addr is both.
	Host string
	Port int
	Addr string
	// HostKey is the public key of the first host key.
	HostKey ssh.PublicKey
	// KeyFile is the path of a private key that is let in; KnownHosts that of a file with the host key.
	KeyFile    string
	KnownHosts string
	// Dir is where commands run.
	Dir string

	t        testing.TB
	opt      Options
	config   *ssh.ServerConfig
	listener net.Listener
	bin      string // searched first; "" for none

	mu       sync.Mutex
	conns    map[*conn]struct{}
	accepted int
	commands []string
	groups   map[int]struct{} // process groups that run
	received int64
	wg       sync.WaitGroup
}

// Start starts a server that ends with the test, and with it all that it still runs.
func Start(t testing.TB, opt Options) *Server {
	t.Helper()
	s := &Server{t: t, opt: opt, Dir: opt.Dir, conns: map[*conn]struct{}{}, groups: map[int]struct{}{}}
	if s.Dir == "" {
		s.Dir = t.TempDir()
	}
	if len(s.opt.HostKeys) == 0 {
		s.opt.HostKeys = []ssh.Signer{NewKey(t)}
	}
	s.HostKey = s.opt.HostKeys[0].PublicKey()
	s.installPrograms()
	clientKey := s.writeClientKey()
	s.configure(clientKey)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("remotetest: %v", err)
	}
	s.listener = l
	addr := l.Addr().(*net.TCPAddr)
	s.Host, s.Port, s.Addr = "127.0.0.1", addr.Port, addr.String()
	s.KnownHosts = filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(s.KnownHosts, []byte(KnownHostsLine(s.Addr, s.HostKey)), 0o600); err != nil {
		t.Fatalf("remotetest: %v", err)
	}
	s.wg.Go(s.serve)
	t.Cleanup(s.stop)
	return s
}

// NewKey makes an ed25519 key.
func NewKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatalf("remotetest: %v", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatalf("remotetest: %v", err)
	}
	return signer
}

// KnownHostsLine is a line of a known_hosts file, with its end.
func KnownHostsLine(addr string, key ssh.PublicKey) string {
	return knownhosts.Line([]string{knownhosts.Normalize(addr)}, key) + "\n"
}

// Commands are the shell lines received so far, in order.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Connections is how many were accepted so far.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Received is how many bytes came in so far, on all connections.
func (s *Server) Received() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received
}

// Running is how many commands are running.
func (s *Server) Running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.groups)
}

// Cut closes all connections, as a cable that is pulled and noticed.
func (s *Server) Cut() {
	for _, c := range s.open() {
		_ = c.Close()
	}
}

// CutAfter cuts each connection that is open once it has received n more bytes.
func (s *Server) CutAfter(n int64) {
	for _, c := range s.open() {
		c.mu.Lock()
		c.cutAt = c.received + n
		c.mu.Unlock()
	}
}

// Stall stops reading and writing on all connections without closing them, as a host that lost its
// power.
func (s *Server) Stall() {
	for _, c := range s.open() {
		c.stall()
	}
}

func (s *Server) open() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*conn
	for c := range s.conns {
		out = append(out, c)
	}
	return out
}

func (s *Server) stop() {
	_ = s.listener.Close()
	s.Cut()
	s.killAll()
	s.wg.Wait()
}

// writeClientKey makes the key that is let in.
func (s *Server) writeClientKey() ssh.PublicKey {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatalf("remotetest: %v", err)
	}
	s.KeyFile = filepath.Join(s.t.TempDir(), "id_ed25519")
	WriteKey(s.t, s.KeyFile, private, "")
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		s.t.Fatalf("remotetest: %v", err)
	}
	return key
}

func (s *Server) configure(clientKey ssh.PublicKey) {
	c := &ssh.ServerConfig{MaxAuthTries: 6}
	if !s.opt.NoKeys {
		allowed := append([]ssh.PublicKey{clientKey}, s.opt.AuthorizedKeys...)
		c.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			for _, k := range allowed {
				if string(k.Marshal()) == string(key.Marshal()) {
					return nil, nil //nolint:nilnil // the library's way to say yes
				}
			}
			return nil, errors.New("unknown key")
		}
	}
	if len(s.opt.Users) > 0 && !s.opt.KeyboardInteractive {
		c.PasswordCallback = func(m ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			return nil, s.checkPassword(m.User(), string(password))
		}
	}
	if len(s.opt.Users) > 0 && s.opt.KeyboardInteractive {
		c.KeyboardInteractiveCallback = func(m ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			answers, err := ask("", "", []string{"Password: "}, []bool{false})
			if err != nil || len(answers) != 1 {
				return nil, fmt.Errorf("no answer: %w", err)
			}
			return nil, s.checkPassword(m.User(), answers[0])
		}
	}
	for _, k := range s.opt.HostKeys {
		c.AddHostKey(k)
	}
	s.config = c
}

func (s *Server) checkPassword(user, password string) error {
	want, ok := s.opt.Users[user]
	if !ok {
		want, ok = s.opt.Users[""]
	}
	if !ok || want != password {
		return errors.New("wrong password")
	}
	return nil
}
