// Package realhosts tries runtime/remote on hosts with a real sudo, PAM and sshd.
package realhosts

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/internal/labtest"
	"github.com/clusterimage/keg/runtime/remote"
)

func TestMain(m *testing.M) { labtest.Main(m, 1) }

func login(t *testing.T, lab *labtest.Lab, user string) remote.SSHConfig {
	t.Helper()
	return remote.SSHConfig{
		Host: lab.Hosts[0].Addr, User: user, Keys: []string{lab.Key},
		HostKeyPolicy: remote.AcceptNew, KnownHosts: []string{filepath.Join(t.TempDir(), "known_hosts")},
	}
}

func dial(t *testing.T, cfg remote.SSHConfig) *remote.SSH {
	t.Helper()
	c, err := remote.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// users makes logins whose sudo asks for a password, and runs commands in a terminal of its own.
func users(t *testing.T, lab *labtest.Lab) {
	t.Helper()
	lab.Exec(t, "h1", "sh", "-c", `set -e
for u in asks pty; do id $u >/dev/null 2>&1 || useradd -m -s /bin/bash $u; echo "$u:pass word" | chpasswd; done
printf 'asks ALL=(ALL) ALL\npty ALL=(ALL) ALL\nDefaults:pty use_pty\n' >/etc/sudoers.d/test
chmod 0440 /etc/sudoers.d/test`)
}

func give(password string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return password, nil }
}

func runners(t *testing.T, lab *labtest.Lab) map[string]remote.Runner {
	t.Helper()
	users(t, lab)
	byPassword := func(user string) remote.Runner {
		cfg := login(t, lab, user)
		cfg.Keys, cfg.Password = nil, give("pass word")
		return remote.SudoPassword(dial(t, cfg), give("pass word"))
	}
	return map[string]remote.Runner{
		"root":            dial(t, login(t, lab, "root")),
		"no password":     remote.Sudo(dial(t, login(t, lab, "ops"))),
		"needs none":      remote.SudoPassword(dial(t, login(t, lab, "ops")), give("pass word")),
		"password":        byPassword("asks"),
		"password, pty":   byPassword("pty"),
		"found by asking": asRoot(t, dial(t, login(t, lab, "ops"))),
	}
}

func asRoot(t *testing.T, r remote.Runner) remote.Runner {
	t.Helper()
	root, err := remote.AsRoot(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestRunners(t *testing.T) {
	lab := labtest.Open(t)
	for name, r := range runners(t, lab) {
		t.Run(name, func(t *testing.T) {
			got, err := remote.Output(t.Context(), r, "sh", "-c", "id -u; echo $HOME $PATH")
			if want := "0\n/root " + remote.Path + "\n"; err != nil || string(got) != want {
				t.Errorf("%q, %v", got, err)
			}
			var exit *remote.ExitError
			err = r.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "echo why >&2; exit 9"}})
			if !errors.As(err, &exit) || exit.Code != 9 || strings.TrimSpace(exit.Stderr) != "why" {
				t.Errorf("%v", err)
			}
			big := bytes.Repeat([]byte{0, 1, 3, 4, 26, 28, '\n', '\r', 255}, 1<<17) // control characters included
			for range 2 {
				file := "/root/put test/" + strings.ReplaceAll(name, " ", "-")
				if _, err := remote.PutFile(t.Context(), r, file, 0o600, bytes.NewReader(big), digest.FromBytes(big)); err != nil {
					t.Error(err)
				}
			}
			why := errors.New("changed my mind")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(why) })
			script := `trap '' TERM HUP; setsid sleep 4321 & while :; do sleep 1; done`
			if err := r.Run(ctx, remote.Cmd{Args: []string{"sh", "-c", script}}); !errors.Is(err, why) {
				t.Errorf("error is %v", err)
			}
			if out, err := lab.TryExec(t.Context(), "h1", "sh", "-c", "pgrep -fa '[s]leep 4321|[t]rap'"); err == nil {
				t.Errorf("still there: %s", out)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	lab := labtest.Open(t)
	users(t, lab)
	for name, test := range map[string]struct {
		runner remote.Runner
		wrong  bool
	}{
		"password needed": {remote.Sudo(dial(t, login2(t, lab, "asks"))), false},
		"wrong password":  {remote.SudoPassword(dial(t, login2(t, lab, "asks")), give("wr0ng")), true},
		"not allowed":     {remote.Sudo(dial(t, login(t, lab, "plain"))), false},
	} {
		err := test.runner.Run(t.Context(), remote.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader("data")})
		var refused *remote.SudoError
		if !errors.As(err, &refused) || refused.Wrong != test.wrong || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Log(err)
		}
	}
	cfg := login2(t, lab, "asks")
	cfg.Password = give("wr0ng")
	var auth *remote.AuthError
	if _, err := remote.Dial(t.Context(), cfg); !errors.As(err, &auth) {
		t.Errorf("wrong password: %v", err)
	} else {
		t.Log(err)
	}
}

// login2 logs in by password: the key is not for these users.
func login2(t *testing.T, lab *labtest.Lab, user string) remote.SSHConfig {
	t.Helper()
	cfg := login(t, lab, user)
	cfg.Keys, cfg.Password = nil, give("pass word")
	return cfg
}

// TestHostGone: a host that loses its cable, and one that loses its power.
func TestHostGone(t *testing.T) {
	lab := labtest.Open(t)
	cfg := login(t, lab, "root")
	cfg.KeepAlive = time.Second
	for name, verbs := range map[string][2]string{"cut": {"cut", "heal"}, "kill": {"kill", "start"}} {
		c := dial(t, cfg)
		gone := make(chan struct{})
		time.AfterFunc(time.Second, func() { defer close(gone); lab.Verb(t, verbs[0], "h1") })
		err := c.Run(t.Context(), remote.Cmd{Args: []string{"sleep", "1000"}})
		if !errors.Is(err, remote.ErrDisconnected) {
			t.Errorf("%s: %v", name, err)
		}
		<-gone
		short := cfg
		short.Timeout = 2 * time.Second
		if _, err := remote.Dial(t.Context(), short); !errors.Is(err, remote.ErrUnreachable) {
			t.Errorf("%s, again: %v", name, err)
		}
		lab.Verb(t, verbs[1], "h1")
	}
}
