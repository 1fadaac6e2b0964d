package remote_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/clusterimage/keg/runtime/remote"
	"github.com/clusterimage/keg/runtime/remote/remotetest"
)

func TestDialUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	_ = l.Close()
	_, err = remote.Dial(t.Context(), remote.SSHConfig{Host: "127.0.0.1", Port: addr.Port})
	if !errors.Is(err, remote.ErrUnreachable) || !strings.Contains(err.Error(), addr.String()) {
		t.Errorf("closed port: %v", err)
	}

	silent := remotetest.Start(t, remotetest.Options{Silent: true})
	cfg := config(silent)
	cfg.Timeout = 50 * time.Millisecond
	_, err = remote.Dial(t.Context(), cfg)
	if !errors.Is(err, remote.ErrUnreachable) || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("silent: %v", err)
	}

	why := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		waitFor(t, func() bool { return silent.Connections() == 2 })
		cancel(why)
	}()
	if _, err = remote.Dial(ctx, config(silent)); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}

	cut := remotetest.Start(t, remotetest.Options{CutAfter: 100})
	if _, err = remote.Dial(t.Context(), config(cut)); !errors.Is(err, remote.ErrUnreachable) {
		t.Errorf("cut in the handshake: %v", err)
	}
}

func TestDialRefusesConfig(t *testing.T) {
	for name, cfg := range map[string]remote.SSHConfig{
		"no host given":                   {},
		"port 70000":                      {Host: "h", Port: 70000},
		`unknown host key policy "trust"`: {Host: "h", HostKeyPolicy: "trust"},
		"needs a known_hosts file":        {Host: "h", HostKeyPolicy: remote.AcceptNew},
		"list all in order":               {Host: "h", Jump: []remote.SSHConfig{{Host: "a", Jump: []remote.SSHConfig{{Host: "b"}}}}},
		"no such file":                    {Host: "h", Keys: []string{"/no/such/key"}},
	} {
		if _, err := remote.Dial(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPassword(t *testing.T) {
	for _, interactive := range []bool{false, true} {
		s := remotetest.Start(t, remotetest.Options{Users: map[string]string{"ops": "right"}, KeyboardInteractive: interactive})
		var asked atomic.Int32
		cfg := config(s)
		cfg.User, cfg.Keys = "ops", []string{filepath.Join(t.TempDir(), "stranger")}
		_, stranger, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		remotetest.WriteKey(t, cfg.Keys[0], stranger, "")
		cfg.Password = func(context.Context) (string, error) { asked.Add(1); return "right", nil }
		c := dial(t, cfg)
		if err := c.Run(t.Context(), remote.Cmd{Args: []string{"true"}}); err != nil {
			t.Error(err)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}

		asked.Store(0)
		cfg.Password = func(context.Context) (string, error) { asked.Add(1); return "s3cret", nil }
		_, err = remote.Dial(t.Context(), cfg)
		var auth *remote.AuthError
		if !errors.As(err, &auth) || auth.Host != s.Addr || auth.User != "ops" || len(auth.Tried) < 2 {
			t.Errorf("wrong password: %#v", err)
		}
		if asked.Load() != 1 || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), cfg.Keys[0]) {
			t.Errorf("asked %d times: %v", asked.Load(), err)
		}

		why := errors.New("no terminal")
		cfg.Password = func(context.Context) (string, error) { return "", why }
		if _, err := remote.Dial(t.Context(), cfg); !errors.Is(err, why) {
			t.Errorf("no password: %v", err)
		}
	}
}

// TestPasswordTakesTime: people type slower than hosts answer.
func TestPasswordTakesTime(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{Users: map[string]string{"": "right"}, NoKeys: true})
	cfg := config(s)
	cfg.Keys = nil
	cfg.Timeout = 300 * time.Millisecond
	cfg.Password = func(context.Context) (string, error) { time.Sleep(600 * time.Millisecond); return "right", nil }
	dial(t, cfg)
}

func TestKeys(t *testing.T) {
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"ecdsa": ecKey, "rsa": rsaKey, "ed25519": edKey} {
		t.Run(name, func(t *testing.T) {
			signer, err := ssh.NewSignerFromKey(key)
			if err != nil {
				t.Fatal(err)
			}
			s := remotetest.Start(t, remotetest.Options{AuthorizedKeys: []ssh.PublicKey{signer.PublicKey()}})
			file := filepath.Join(t.TempDir(), "key")
			remotetest.WriteKey(t, file, key, "open sesame")
			cfg := config(s)
			cfg.Keys = []string{file}
			asked := 0
			cfg.Passphrase = func(_ context.Context, path string) (string, error) {
				asked++
				if path != file {
					t.Errorf("asked for %s", path)
				}
				return "open sesame", nil
			}
			dial(t, cfg)
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}

			cfg.Passphrase = func(context.Context, string) (string, error) { return "wrong", nil }
			if _, err := remote.Dial(t.Context(), cfg); !errors.Is(err, remote.ErrPassphrase) || !strings.Contains(err.Error(), file) {
				t.Errorf("wrong passphrase: %v", err)
			}
			cfg.Passphrase = nil
			if _, err := remote.Dial(t.Context(), cfg); !errors.Is(err, remote.ErrPassphrase) {
				t.Errorf("no passphrase: %v", err)
			}
			cfg.AgentSocket = startAgent(t, key)
			cfg.Keys = nil
			dial(t, cfg)
		})
	}
	t.Run("not wanted", func(t *testing.T) {
		s := remotetest.Start(t, remotetest.Options{})
		file := filepath.Join(t.TempDir(), "key")
		remotetest.WriteKey(t, file, edKey, "x")
		cfg := config(s)
		cfg.Keys = []string{file, s.KeyFile}
		cfg.AgentSocket = filepath.Join(t.TempDir(), "nobody")
		cfg.Passphrase = func(context.Context, string) (string, error) {
			t.Error("asked for the passphrase of a key that the host does not want")
			return "", nil
		}
		dial(t, cfg)
		cfg.Keys = cfg.Keys[:1]
		_, err := remote.Dial(t.Context(), cfg)
		var auth *remote.AuthError
		if !errors.As(err, &auth) || !strings.Contains(err.Error(), "key "+file) || !strings.Contains(err.Error(), "agent (not answering)") {
			t.Errorf("error is %v", err)
		}
	})
}

func startAgent(t *testing.T, key any) string {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn) }()
		}
	}()
	return path
}

func TestHostKeyStrict(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{})
	cfg := config(s)
	none := filepath.Join(t.TempDir(), "none")
	cfg.KnownHosts = []string{none}
	_, err := remote.Dial(t.Context(), cfg)
	var wrong *remote.HostKeyError
	if !errors.As(err, &wrong) || wrong.Known != "" || wrong.Host != s.Addr || !strings.Contains(wrong.Got, ssh.FingerprintSHA256(s.HostKey)) || wrong.File != none {
		t.Errorf("unknown: %#v", err)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("strict wrote a file")
	}
	cfg.KnownHosts = nil
	if _, err := remote.Dial(t.Context(), cfg); !errors.As(err, &wrong) {
		t.Errorf("no files: %v", err)
	}

	other := remotetest.NewKey(t).PublicKey()
	write := func(text string) []string {
		file := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{none, file}
	}
	for _, policy := range []remote.HostKeyPolicy{remote.Strict, remote.AcceptNew} {
		cfg.HostKeyPolicy = policy
		cfg.KnownHosts = write("# hosts\n" + remotetest.KnownHostsLine(s.Addr, other))
		_, err = remote.Dial(t.Context(), cfg)
		if !errors.As(err, &wrong) || wrong.File != cfg.KnownHosts[1] || wrong.Line != 2 || !strings.Contains(wrong.Known, ssh.FingerprintSHA256(other)) {
			t.Errorf("%s, changed: %v", policy, err)
		}
		cfg.KnownHosts = write("@revoked * " + strings.SplitN(remotetest.KnownHostsLine(s.Addr, s.HostKey), " ", 2)[1])
		_, err = remote.Dial(t.Context(), cfg)
		if !errors.As(err, &wrong) || !wrong.Revoked {
			t.Errorf("%s, revoked: %v", policy, err)
		}
		cfg.KnownHosts = write("garbage\n")
		if _, err = remote.Dial(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "reading known hosts") {
			t.Errorf("%s, garbage: %v", policy, err)
		}
	}
	cfg.HostKeyPolicy = remote.Strict
	hashed := knownhosts.HashHostname(knownhosts.Normalize(s.Addr)) + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.HostKey)))
	cfg.KnownHosts = write(hashed + "\n")
	dial(t, cfg)

	cfg.HostKeyPolicy = remote.Insecure
	cfg.KnownHosts = write(remotetest.KnownHostsLine(s.Addr, other))
	dial(t, cfg)
}

// TestHostKeyTypes: of a host's many keys the known one is asked for.
func TestHostKeyTypes(t *testing.T) {
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ssh.NewSignerFromKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := ssh.NewSignerFromKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	ed := remotetest.NewKey(t)
	s := remotetest.Start(t, remotetest.Options{HostKeys: []ssh.Signer{ec, rs, ed}})
	for _, key := range []ssh.Signer{ec, rs, ed} {
		cfg := config(s)
		cfg.KnownHosts = []string{filepath.Join(t.TempDir(), "known_hosts")}
		if err := os.WriteFile(cfg.KnownHosts[0], []byte(remotetest.KnownHostsLine(s.Addr, key.PublicKey())), 0o600); err != nil {
			t.Fatal(err)
		}
		dial(t, cfg)
	}
}

func TestHostKeyAcceptNew(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "known_hosts")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("# no end of line"), 0o600); err != nil {
		t.Fatal(err)
	}
	servers := make([]*remotetest.Server, 8)
	for i := range servers {
		servers[i] = remotetest.Start(t, remotetest.Options{})
	}
	var all sync.WaitGroup
	for _, s := range servers {
		for range 3 { // the same host more than once at a time
			all.Go(func() {
				cfg := config(s)
				cfg.HostKeyPolicy, cfg.KnownHosts = remote.AcceptNew, []string{file, s.KnownHosts + ".none"}
				c, err := remote.Dial(t.Context(), cfg)
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.Close()
			})
		}
	}
	all.Wait()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n != len(servers)+1 {
		t.Errorf("%d lines for %d hosts:\n%s", n, len(servers), text)
	}
	for _, s := range servers {
		cfg := config(s)
		cfg.KnownHosts = []string{file}
		dial(t, cfg)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
		t.Errorf("something was left beside it: %v, %v", entries, err)
	}
	// A host whose key changes later is refused, and the record stays.
	changed := remotetest.Start(t, remotetest.Options{})
	cfg := config(changed)
	cfg.HostKeyPolicy, cfg.KnownHosts = remote.AcceptNew, []string{file}
	if err := os.WriteFile(file, []byte(remotetest.KnownHostsLine(changed.Addr, servers[0].HostKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = remote.Dial(t.Context(), cfg)
	var wrong *remote.HostKeyError
	if !errors.As(err, &wrong) || wrong.Line != 1 {
		t.Errorf("changed: %v", err)
	}
}

func TestJump(t *testing.T) {
	first := remotetest.Start(t, remotetest.Options{})
	second := remotetest.Start(t, remotetest.Options{})
	target := remotetest.Start(t, remotetest.Options{})
	cfg := config(target)
	cfg.Jump = []remote.SSHConfig{config(first), config(second)}
	c := dial(t, cfg)
	got, err := remote.Output(t.Context(), c, "echo", "through")
	if err != nil || string(got) != "through\n" {
		t.Errorf("%q, %v", got, err)
	}
	if len(target.Commands()) != 1 || len(first.Commands())+len(second.Commands()) != 0 {
		t.Error("it ran elsewhere")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	_, err = remote.Dial(t.Context(), remote.SSHConfig{Host: "127.0.0.1", Port: 1, Jump: cfg.Jump})
	if !errors.Is(err, remote.ErrUnreachable) || !strings.Contains(err.Error(), "127.0.0.1:1 by way of "+second.Addr) {
		t.Errorf("unreachable from there: %v", err)
	}
}
