package remote_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/clusterimage/keg/runtime/remote"
	"github.com/clusterimage/keg/runtime/remote/remotetest"
)

func TestSudoRefuses(t *testing.T) {
	give := func(password string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return password, nil }
	}
	for name, test := range map[string]struct {
		sudo  *remotetest.Sudo
		wrap  func(remote.Runner) remote.Runner
		wrong bool
		want  string
	}{
		"asks":           {&remotetest.Sudo{Password: "right"}, remote.Sudo, false, "a password is required"},
		"refuses":        {&remotetest.Sudo{Refuse: true}, remote.Sudo, false, "may not run sudo here"},
		"wrong password": {&remotetest.Sudo{Password: "right"}, func(r remote.Runner) remote.Runner { return remote.SudoPassword(r, give("wr0ng")) }, true, "Sorry, try again."},
		"refuses still":  {&remotetest.Sudo{Refuse: true}, func(r remote.Runner) remote.Runner { return remote.SudoPassword(r, give("right")) }, false, "may not run sudo here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := remotetest.Start(t, remotetest.Options{Sudo: test.sudo})
			cfg := config(s)
			cfg.User = "ops"
			r := test.wrap(dial(t, cfg))
			var out bytes.Buffer
			err := r.Run(t.Context(), remote.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader("data"), Stdout: &out})
			var refused *remote.SudoError
			if !errors.As(err, &refused) || refused.Host != s.Addr || refused.User != "ops" || refused.Wrong != test.wrong || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %#v", err)
			}
			if out.Len() > 0 || strings.Contains(err.Error(), "wr0ng") || strings.Contains(err.Error(), "[keg") {
				t.Errorf("out %q, error %v", out.String(), err)
			}
			if _, err := remote.AsRoot(t.Context(), pretendUser{r}, nil); !errors.As(err, &refused) {
				t.Errorf("AsRoot: %v", err)
			}
		})
	}
}

// pretendUser is not root, whoever runs the test.
type pretendUser struct{ remote.Runner }

func (p pretendUser) Run(ctx context.Context, c remote.Cmd) error {
	if c.Args[0] == "id" {
		_, err := c.Stdout.Write([]byte("1000\n"))
		return err
	}
	return p.Runner.Run(ctx, c)
}

// TestSudoNoneThere: a host without sudo.
func TestSudoNoneThere(t *testing.T) {
	if _, err := exec.LookPath("sudo"); err == nil {
		t.Skip("this machine has a sudo")
	}
	err := remote.Sudo(remote.Local()).Run(t.Context(), remote.Cmd{Args: []string{"true"}})
	var refused *remote.SudoError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "sudo") || refused.Host != "localhost" {
		t.Errorf("error is %v", err)
	}
}

// TestSudoSecret: the password is asked for once, is in no command line, and does not get into the
// command's input; sudo's words do not get into its stderr.
func TestSudoSecret(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{Sudo: &remotetest.Sudo{Password: "s3cret"}})
	var asked atomic.Int32
	r := remote.SudoPassword(dial(t, config(s)), func(context.Context) (string, error) { asked.Add(1); return "s3cret", nil })
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			var out, stderr bytes.Buffer
			err := r.Run(t.Context(), remote.Cmd{Args: []string{"sh", "-c", "cat; echo warning >&2"}, Stdin: strings.NewReader("line\n"), Stdout: &out, Stderr: &stderr})
			if err != nil || out.String() != "line\n" || stderr.String() != "warning\n" {
				t.Errorf("%q, %q, %v", out.String(), stderr.String(), err)
			}
		})
	}
	all.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	for _, line := range s.Commands() {
		if strings.Contains(line, "s3cret") {
			t.Errorf("password in %q", line)
		}
	}
	why := errors.New("no terminal")
	r = remote.SudoPassword(dial(t, config(s)), func(context.Context) (string, error) { return "", why })
	if err := r.Run(t.Context(), remote.Cmd{Args: []string{"true"}}); !errors.Is(err, why) || strings.Contains(err.Error(), "running sudo") {
		t.Errorf("no password to be had: %v", err)
	}
}

// TestSudoAskCancelled: whoever is asked for a password may as well press Ctrl-C.
func TestSudoAskCancelled(t *testing.T) {
	s := remotetest.Start(t, remotetest.Options{Sudo: &remotetest.Sudo{Password: "s3cret"}})
	ctx, cancel := context.WithCancel(t.Context())
	r := remote.SudoPassword(dial(t, config(s)), func(ctx context.Context) (string, error) {
		cancel()
		<-ctx.Done()
		return "", ctx.Err()
	})
	if err := r.Run(ctx, remote.Cmd{Args: []string{"true"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestAsRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, as which commands of the fake sudo run")
	}
	s := remotetest.Start(t, remotetest.Options{Sudo: &remotetest.Sudo{}})
	c := dial(t, config(s))
	if r, err := remote.AsRoot(t.Context(), c, nil); err != nil || r != remote.Runner(c) {
		t.Errorf("root already: %v, %v", r, err)
	}
	n := len(s.Commands())
	if n != 1 {
		t.Errorf("%d commands", n)
	}
}

func TestRecorder(t *testing.T) {
	var shown bytes.Buffer
	r := &remote.Recorder{HostName: "10.0.0.1", Out: &shown, Reply: func(c remote.Cmd) ([]byte, error) { return []byte("said " + c.Args[0]), nil }}
	got, err := remote.Output(t.Context(), r, "echo", "it's")
	if err != nil || string(got) != "said echo" {
		t.Errorf("%q, %v", got, err)
	}
	err = remote.Sudo(r).Run(t.Context(), remote.Cmd{Args: []string{"ls", "-l"}, Dir: "/a b", Env: []string{"K=v w"}})
	if err != nil {
		t.Error(err)
	}
	if want := "10.0.0.1: echo 'it'\\''s'\n"; !strings.HasPrefix(shown.String(), want) {
		t.Errorf("showed %q", shown.String())
	}
	if cmds := r.Commands(); len(cmds) != 2 || cmds[1].Args[0] != "sudo" {
		t.Errorf("%v", cmds)
	}
	text := remote.Cmd{Args: []string{"ls", "-l"}, Dir: "/a b", Env: []string{"K=v w"}}.String()
	if text != "cd '/a b' && 'K=v w' ls -l" {
		t.Errorf("as text: %s", text)
	}
}
