package registrytest

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Option changes how StartReal configures the registry.
type Option func(*config)

type config struct {
	user, password string
	data           string
}

// WithUser makes the registry ask for this user and password (basic authentication).
func WithUser(user, password string) Option {
	return func(c *config) { c.user, c.password = user, password }
}

// WithData makes the registry serve what is in a directory.
func WithData(dir string) Option {
	return func(c *config) { c.data = dir }
}

// StartReal starts Debian's docker-registry on a free loopback port, waits until it answers, and
// returns its address ("127.0.0.1:PORT"). The test is skipped where the program is not installed.
func StartReal(t testing.TB, opts ...Option) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed (Debian package docker-registry)")
	}
	var c config
	for _, o := range opts {
		o(&c)
	}
	dir := t.TempDir()
	const attempts = 5 // another process may take the port between our look and the registry's bind
	for i := range attempts {
		addr, err := start(t, program, filepath.Join(dir, fmt.Sprint(i)), c)
		if err == nil {
			return addr
		}
		t.Logf("starting docker-registry: %v", err)
	}
	t.Fatalf("docker-registry did not start in %d attempts", attempts)
	return ""
}

func start(t testing.TB, program, dir string, c config) (string, error) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	file, err := c.write(dir, addr)
	if err != nil {
		return "", err
	}
	var output bytes.Buffer
	cmd := exec.Command(program, "serve", file)
	cmd.Stdout, cmd.Stderr = &output, &output
	// docker-registry takes REGISTRY_... for settings of its own.
	cmd.Env = slices.DeleteFunc(append(os.Environ(), "OTEL_TRACES_EXPORTER=none"), func(kv string) bool { return strings.HasPrefix(kv, "REGISTRY_") })
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-exited
		}
	}
	if err := awaitAnswer(addr, exited); err != nil {
		stop()
		return "", fmt.Errorf("%w\n%s", err, output.Bytes())
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("docker-registry %s, end of its log:\n%s", addr, tail(output.String(), 4000))
		}
	})
	return addr, nil
}

func (c config) write(dir, addr string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  delete:\n    enabled: true\n  cache:\n    blobdescriptor: inmemory\n  filesystem:\n    rootdirectory: %q\nhttp:\n  addr: %q\n",
		cmp.Or(c.data, filepath.Join(dir, "data")), addr)
	if c.user != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(c.password), bcrypt.MinCost)
		if err != nil {
			return "", err
		}
		users := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(users, fmt.Appendf(nil, "%s:%s\n", c.user, hash), 0o600); err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "auth:\n  htpasswd:\n    realm: test\n    path: %q\n", users)
	}
	file := filepath.Join(dir, "config.yml")
	return file, os.WriteFile(file, []byte(b.String()), 0o600)
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// awaitAnswer returns once the registry answers, with 200 or by asking for a password.
func awaitAnswer(addr string, exited <-chan struct{}) error {
	deadline := time.After(30 * time.Second)
	for {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized {
				return nil
			}
		}
		select {
		case <-exited:
			return fmt.Errorf("it ended before it answered on %s", addr)
		case <-deadline:
			return fmt.Errorf("no answer on %s: %w", addr, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func tail(s string, n int) string {
	return s[max(0, len(s)-n):]
}
