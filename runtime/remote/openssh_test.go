package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime/remote"
	"github.com/clusterimage/keg/runtime/remote/remotetest"
)

// openSSH starts Debian's sshd on loopback, for the user who runs the test.
func openSSH(t *testing.T, options string) remote.SSHConfig {
	t.Helper()
	sshd := "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		t.Skip("no OpenSSH server here (package openssh-server)")
	}
	if os.Getuid() == 0 { // it wants its directory then, which stays: another test's sshd may be using it
		if err := os.Mkdir("/run/sshd", 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			t.Skipf("sshd needs /run/sshd: %v", err)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"host_ed25519", "host_ecdsa", "client"} {
		kind := "ed25519"
		if name == "host_ecdsa" {
			kind = "ecdsa"
		}
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", kind, "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, "client.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "authorized_keys"), public, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	text := fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s/host_ecdsa\nHostKey %s/host_ed25519\nAuthorizedKeysFile %s/authorized_keys\n"+
		"StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n%s\n", port, dir, dir, dir, options)
	if err := os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "sshd_config"))
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", log.String())
		}
	})
	waitFor(t, func() bool {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return remote.SSHConfig{
		Host: "127.0.0.1", Port: port, User: me.Username, Keys: []string{filepath.Join(dir, "client")},
		HostKeyPolicy: remote.AcceptNew, KnownHosts: []string{filepath.Join(dir, "known_hosts")},
	}
}

func TestOpenSSH(t *testing.T) {
	cfg := openSSH(t, "MaxSessions 3")
	c := dial(t, cfg)
	t.Run("many sessions", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				got, err := remote.Output(t.Context(), c, "sh", "-c", "sleep 0.1; echo $1", "sh", fmt.Sprint(i))
				if err != nil || string(got) != fmt.Sprintln(i) {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		all.Wait()
	})
	t.Run("environment and exit", func(t *testing.T) {
		got, err := remote.Output(t.Context(), c, "env")
		if err != nil || strings.Count(string(got), "\n") != 4 || !strings.Contains(string(got), "PATH="+remote.Path+"\n") {
			t.Errorf("%q, %v", got, err)
		}
		err = c.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "echo why >&2; exit 3"}})
		var exit *remote.ExitError
		if !errors.As(err, &exit) || exit.Code != 3 || exit.Stderr != "why\n" {
			t.Errorf("%v", err)
		}
		err = c.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "kill -TERM $$"}})
		if !errors.As(err, &exit) || exit.Code != 143 {
			t.Errorf("%v", err)
		}
	})
	t.Run("files", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "dir")
		big := bytes.Repeat([]byte("keg"), 5<<20)
		if _, err := remote.PutFile(t.Context(), c, dir+"/big", 0o755, bytes.NewReader(big), digest.FromBytes(big)); err != nil {
			t.Error(err)
		}
		assertFile(t, dir+"/big", big, 0o755)
	})
	t.Run("cancel", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "pids")
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			waitFor(t, func() bool { _, err := os.Stat(file); return err == nil })
			cancel()
		}()
		script := `trap '' TERM; setsid sleep 1000 & echo $$ $! >"$1.part"; mv "$1.part" "$1"; while :; do sleep 1; done`
		if err := c.Run(ctx, remote.Cmd{Args: []string{"sh", "-c", script, "sh", file}}); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range strings.Fields(string(text)) {
			waitFor(t, func() bool { return !alive(pid) })
		}
	})
	t.Run("background", func(t *testing.T) {
		got, err := remote.Output(t.Context(), c, "sh", "-c", "sleep 5 & echo started")
		if err != nil || string(got) != "started\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("jump", func(t *testing.T) {
		target := remotetest.Start(t, remotetest.Options{})
		through := config(target)
		through.Jump = []remote.SSHConfig{cfg}
		if _, err := remote.Output(t.Context(), dial(t, through), "true"); err != nil {
			t.Error(err)
		}
	})
	t.Run("known the second time", func(t *testing.T) {
		strict := cfg
		strict.HostKeyPolicy = remote.Strict
		dial(t, strict)
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-F", fmt.Sprintf("[127.0.0.1]:%d", cfg.Port), "-f", cfg.KnownHosts[0]).CombinedOutput(); err != nil {
			t.Errorf("OpenSSH does not understand what was written: %v: %s", err, out)
		}
	})
	t.Run("stranger", func(t *testing.T) {
		other := remotetest.Start(t, remotetest.Options{})
		stranger := cfg
		stranger.Keys = []string{other.KeyFile}
		var auth *remote.AuthError
		if _, err := remote.Dial(t.Context(), stranger); !errors.As(err, &auth) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestOpenSSHNoSessions(t *testing.T) {
	c := dial(t, openSSH(t, "MaxSessions 0"))
	if err := c.Run(t.Context(), remote.Cmd{Args: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "MaxSessions") {
		t.Errorf("error is %v", err)
	}
}
