package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

func TestMain(m *testing.M) {
	if os.Getenv("FAKE_K3S_MAIN") != "" { // the test binary is the program as well
		main()
		return
	}
	os.Exit(m.Run())
}

// host is a directory that a k3s runs in.
type host struct {
	*testing.T
	name, dir string
	port, lb  int
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func newHost(t *testing.T, name string) *host {
	return &host{T: t, name: name, dir: t.TempDir(), port: freePort(t), lb: freePort(t)}
}

func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		h.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = []string{"FAKE_K3S_MAIN=1", "FAKE_K3S_UNPRIVILEGED=1", "FAKE_K3S_ROOT=" + h.dir, "K3S_DATA_DIR=" + filepath.Join(h.dir, "data"), "K3S_CONFIG_FILE=" + filepath.Join(h.dir, "config.yaml"), "PATH=" + os.Getenv("PATH")}
	return cmd
}

// start starts k3s, and stops it with the test.
func (h *host) start(role string, more ...string) (*exec.Cmd, *bytes.Buffer) {
	h.Helper()
	ports := "lb-server-port: " + fmt.Sprint(h.lb) + "\n"
	if role == "server" {
		ports += "https-listen-port: " + fmt.Sprint(h.port) + "\n"
	}
	text := "node-name: " + h.name + "\nnode-ip: 127.0.0.1\nbind-address: 127.0.0.1\n" + ports + strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(h.dir, "config.yaml"), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
	var log bytes.Buffer
	cmd := h.command(context.WithoutCancel(h.Context()), role)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if h.Failed() {
			h.Logf("%s:\n%s", h.name, log.String())
		}
	})
	return cmd, &log
}

func (h *host) run(args ...string) (string, error) {
	out, err := h.command(h.Context(), args...).CombinedOutput()
	return string(out), err
}

func (h *host) wants(text string, args ...string) {
	h.Helper()
	ctx, cancel := context.WithTimeoutCause(h.Context(), time.Minute, errors.New("time is up"))
	defer cancel()
	err := standin.Until(ctx, 200*time.Millisecond, func(context.Context) error {
		out, err := h.run(args...)
		if err != nil || !strings.Contains(out, text) {
			return fmt.Errorf("%s, %w", out, err)
		}
		return nil
	})
	if err != nil {
		h.Fatalf("%s: waiting for %q of %v: %v", h.name, text, args, err)
	}
}

func TestLight(t *testing.T) {
	one, two, three, worker := newHost(t, "one"), newHost(t, "two"), newHost(t, "three"), newHost(t, "worker")
	first, _ := one.start("server", "cluster-init: true", "token: secret")
	one.wants("condition met", "kubectl", "wait", "node", "one", "--for=condition=Ready", "--timeout=1s")
	data, err := os.ReadFile(filepath.Join(one.dir, "data", "server", "token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(data))
	join := fmt.Sprintf("server: https://127.0.0.1:%d", one.port)

	refused, log := two.start("server", join, "token: "+token+"x")
	if err := refused.Wait(); err == nil || !strings.Contains(log.String(), "401 Unauthorized") || strings.Contains(log.String(), token) {
		t.Errorf("a wrong token: %v\n%s", err, log.String())
	}
	refused, log = two.start("server", join, "token: "+token, "cluster-domain: other.test")
	if err := refused.Wait(); err == nil || !strings.Contains(log.String(), "critical configuration value mismatch") {
		t.Errorf("another domain: %v\n%s", err, log.String())
	}
	for _, h := range []*host{two, three} {
		h.start("server", join, "token: "+token)
		h.wants("True", "kubectl", "get", "node", h.name, "-o", "json")
		h.wants(`"EtcdIsVoter"`, "kubectl", "get", "node", h.name, "-o", "json")
	}
	bootstrap, err := one.run("token", "create", "--ttl=10m")
	if err != nil {
		t.Fatal(bootstrap, err)
	}
	worker.start("agent", join, "token: "+strings.TrimSpace(bootstrap))
	two.wants("condition met", "kubectl", "wait", "node", "worker", "--for=condition=Ready", "--timeout=1s")

	// A minority is lost; the rest, and the agent that joined it, go on.
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	two.wants("one", "kubectl", "get", "nodes", "-l", "node-role.kubernetes.io/etcd=true")
	two.wants("NotReady", "kubectl", "get", "node", "one")
	two.wants("condition met", "kubectl", "wait", "node/worker", "--for=condition=Ready", "--timeout=1s")
	three.wants("ok", "kubectl", "get", "--raw", "/readyz")

	// The dead one is deleted, which makes room; then another leaves by the annotation.
	two.wants("deleted", "kubectl", "delete", "node", "one")
	two.wants("annotated", "kubectl", "annotate", "node", "three", "etcd.k3s.cattle.io/remove=true", "--overwrite")
	two.wants("removed-node-name", "kubectl", "get", "node", "three", "-o", "json")
	two.wants("ok", "kubectl", "get", "--raw", "/readyz")
}
