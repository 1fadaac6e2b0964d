package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// host is a "host" of the light mode: a directory, a name and an address of the loopback network.
type host struct {
	*testing.T
	name, address, root, program string
}

// lightHosts builds the stand-in and makes n hosts, with a configuration each.
func lightHosts(t *testing.T, n int) []*host {
	t.Helper()
	program := filepath.Join(t.TempDir(), "k0s")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	var hosts []*host
	for i := range n {
		h := &host{T: t, name: fmt.Sprintf("n%d", i+1), address: fmt.Sprintf("127.77.%d.%d", os.Getpid()%250, i+1), root: t.TempDir(), program: program}
		for _, dir := range []string{"etc/k0s", "run", "var/log", "var/lib/k0s/images"} {
			if err := os.MkdirAll(filepath.Join(h.root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		config := fmt.Sprintf("spec:\n  api: {address: %s}\n  storage: {etcd: {peerAddress: %s}}\n", h.address, h.address)
		if cgroupV1() {
			config += "  workerProfiles: [{name: default, values: {failCgroupV1: false}}]\n"
		}
		h.write("etc/k0s/k0s.yaml", config)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
			defer cancel()
			_, _ = h.command(ctx, "stop").CombinedOutput()
			if log, err := os.ReadFile(filepath.Join(h.root, "var/log/k0scontroller.log")); err == nil && t.Failed() {
				t.Logf("%s:\n%s", h.name, log)
			}
		})
		hosts = append(hosts, h)
	}
	return hosts
}

func (h *host) path(below string) string { return filepath.Join(h.root, below) }

func (h *host) write(below, text string) {
	h.Helper()
	if err := os.WriteFile(h.path(below), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Env = append(os.Environ(), rootEnv+"="+h.root, "FAKE_K0S_HOSTNAME="+h.name)
	return cmd
}

// k0s runs a command that must succeed and returns its standard output.
func (h *host) k0s(args ...string) string {
	h.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.Fatalf("%s: k0s %s: %v", h.name, strings.Join(args, " "), err)
	}
	return out
}

func (h *host) try(args ...string) (string, error) {
	cmd := h.command(h.Context(), args...)
	var diagnosis strings.Builder
	cmd.Stderr = &diagnosis
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%w: %s", err, diagnosis.String())
	}
	return string(out), nil
}

// until tries a command until it prints want.
func (h *host) until(want string, args ...string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), time.Minute)
	defer cancel()
	var out string
	var err error
	for ctx.Err() == nil {
		if out, err = h.try(args...); err == nil && strings.Contains(out, want) {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	h.Fatalf("%s: k0s %s: want %q, got %q, %v", h.name, strings.Join(args, " "), want, out, err)
}

func (h *host) controller(flags ...string) {
	h.Helper()
	h.k0s(append([]string{"install", "controller", "-c", h.path("etc/k0s/k0s.yaml"), "--force"}, flags...)...)
	h.k0s("start")
	h.until("Role: controller", "status") // a little later than /readyz
	h.until("ok", "kubectl", "get", "--raw=/readyz")
}

const joined = `-o=jsonpath={.status.conditions[?(@.type=="Joined")].status}`

func TestLightLife(t *testing.T) {
	hosts := lightHosts(t, 4)
	first, second, third, worker := hosts[0], hosts[1], hosts[2], hosts[3]
	first.controller("--enable-worker", "--no-taints")
	if _, err := first.try("start"); err == nil {
		t.Fatal("a second start is an error")
	}
	if _, err := first.try("reset"); err == nil || !strings.Contains(err.Error(), "please stop k0s before reset") {
		t.Fatalf("reset of a running k0s: %v", err)
	}
	for _, h := range []*host{second, third} {
		h.write("token", first.k0s("token", "create", "--role", "controller", "--expiry", "10m"))
		trimFile(t, h.path("token"))
		h.controller("--token-file", h.path("token"))
		first.until("True", "kubectl", "get", "etcdmember", h.name, joined)
	}
	first.until(`"n3":"https://`+third.address+`:2380"`, "etcd", "member-list")

	// Tokens: expired and invalidated ones, and those of another role, are refused.
	for _, args := range [][]string{{"--role", "worker", "--expiry", "1ns"}, {"--role", "controller", "--expiry", "10m"}} {
		worker.write("token", first.k0s(append([]string{"token", "create"}, args...)...))
		trimFile(t, worker.path("token"))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if out, _ := worker.command(ctx, "worker", "--token-file", worker.path("token")).CombinedOutput(); strings.Contains(string(out), "Worker has started") {
			t.Fatalf("token %v was accepted", args)
		}
		cancel()
	}
	worker.write("token", first.k0s("token", "create", "--role", "worker", "--expiry", "10m"))
	trimFile(t, worker.path("token"))
	worker.k0s("install", "worker", "--token-file", worker.path("token"), "--labels=a=b")
	worker.k0s("start")
	first.until("n4", "kubectl", "get", "nodes", "-l", "a=b", "-o", "name")
	first.k0s("kubectl", "wait", "node/n4", "--for=condition=Ready", "--timeout=20s")
	first.k0s("kubectl", "drain", "n4", "--ignore-daemonsets", "--delete-emptydir-data", "--force")
	first.until("SchedulingDisabled", "kubectl", "get", "nodes")

	// A controller leaves, asked by another; its process stays, without a status.
	second.k0s("kubectl", "patch", "etcdmember", "n3", "--type", "merge", "-p", `{"spec":{"leave":true}}`)
	second.k0s("kubectl", "wait", "etcdmember", "n3", "--for", "condition=Joined=False", "--timeout=30s")
	if list := first.k0s("etcd", "member-list"); strings.Contains(list, "n3") {
		t.Fatal(list)
	}
	if _, err := third.try("status"); err == nil {
		t.Fatal("a controller that left has a status")
	}
	third.k0s("stop")
	third.k0s("reset")
	if _, err := os.Stat(third.path("var/lib/k0s")); err == nil {
		t.Fatal("reset left the data")
	}

	// Backup, disaster, restore.
	dir := t.TempDir()
	first.k0s("backup", "--save-path", dir)
	files, err := filepath.Glob(filepath.Join(dir, "k0s_backup_*.tar.gz"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files of the backup: %v, %v", files, err)
	}
	if fi, err := os.Stat(files[0]); err != nil || fi.Mode().Perm() != 0o644 {
		t.Fatalf("mode of the backup: %v, %v", fi.Mode(), err)
	}
	first.k0s("kubectl", "delete", "node", "n4")
	if _, err := first.try("restore", files[0]); err == nil {
		t.Fatal("restored into a running k0s")
	}
	for _, h := range []*host{first, second} {
		h.k0s("stop")
	}
	if _, err := first.try("restore", files[0]); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Fatalf("restored over data: %v", err)
	}
	first.k0s("reset")
	first.k0s("restore", "--config-out", filepath.Join(dir, "k0s.yaml"), files[0])
	first.controller("--enable-worker", "--no-taints")
	if list := first.k0s("etcd", "member-list"); strings.Contains(list, "n2") {
		t.Fatal(list)
	}
	first.k0s("kubectl", "get", "node", "n4")
	first.until("False", "kubectl", "get", "etcdmember", "n2", joined)
}

// trimFile takes the end of line off a token that was written with it.
func trimFile(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.TrimSpace(string(data))), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLightQuorum(t *testing.T) {
	hosts := lightHosts(t, 2)
	first, second := hosts[0], hosts[1]
	first.controller()
	second.write("token", strings.TrimSpace(first.k0s("token", "create", "--role", "controller", "--expiry", "10m")))
	second.controller("--token-file", second.path("token"))
	first.until("True", "kubectl", "get", "etcdmember", "n2", joined)
	second.k0s("stop")
	if out, err := first.try("kubectl", "get", "--raw", "/readyz"); err == nil {
		t.Fatalf("one of two is a quorum: %s", out)
	}
	if _, err := first.try("etcd", "leave", "--peer-address", second.address); err == nil {
		t.Fatal("a member was removed without quorum")
	}
	second.k0s("start")
	first.until("ok", "kubectl", "get", "--raw", "/readyz")
}
