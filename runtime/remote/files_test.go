package remote_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime/remote"
	"github.com/clusterimage/keg/runtime/remote/remotetest"
)

func TestPutFile(t *testing.T) {
	content := bytes.Repeat([]byte("keg-node\x00\n"), 300_000)
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "it's new", "dir", "keg node")
			changed, err := remote.PutFile(t.Context(), r, file, 0o755, bytes.NewReader(content), digest.FromBytes(content))
			if err != nil || !changed {
				t.Fatalf("changed %v, %v", changed, err)
			}
			assertFile(t, file, content, 0o755)
			if info, err := os.Stat(filepath.Dir(file)); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("directory: %v, %v", info, err)
			}
			changed, err = remote.PutFile(t.Context(), r, file, 0o500, iotest.ErrReader(errors.New("read all the same")), digest.FromBytes(content))
			if err != nil || changed {
				t.Errorf("again: changed %v, %v", changed, err)
			}
			assertFile(t, file, content, 0o500)
			changed, err = remote.PutFile(t.Context(), r, file, 0o644, strings.NewReader("v2"), digest.FromString("v2"))
			if err != nil || !changed {
				t.Errorf("replaced: changed %v, %v", changed, err)
			}
			assertFile(t, file, []byte("v2"), 0o644)

			// Whatever goes wrong, the file stays and nothing lies beside it.
			broken := errors.New("disk on fire")
			for _, test := range []struct {
				in   io.Reader
				want string
			}{
				{strings.NewReader("something else"), "not " + digest.FromString("v3").String()},
				{strings.NewReader(""), "has the digest"},
				{iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("v3"))), "timeout"},
				{io.MultiReader(bytes.NewReader(content), iotest.ErrReader(broken)), "disk on fire"},
			} {
				_, err := remote.PutFile(t.Context(), r, file, 0o755, test.in, digest.FromString("v3"))
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), file) {
					t.Errorf("error is %v, not about %q", err, test.want)
				}
				assertFile(t, file, []byte("v2"), 0o644)
			}
			if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
				t.Errorf("left: %v, %v", entries, err)
			}
			dir := filepath.Dir(file)
			if _, err := remote.PutFile(t.Context(), r, dir, 0o755, strings.NewReader("x"), digest.FromString("x")); err == nil || !strings.Contains(err.Error(), "is a directory") {
				t.Errorf("onto a directory: %v", err)
			}
		})
	}
}

func TestPutFileRefuses(t *testing.T) {
	r := &remote.Recorder{}
	for _, name := range []string{"", "x", "/", "/a/../b", "/a/", "/a\nb"} {
		if _, err := remote.PutFile(t.Context(), r, name, 0o600, strings.NewReader(""), digest.FromString("")); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if _, err := remote.PutFile(t.Context(), r, "/x", 0o600, strings.NewReader(""), "sha256:short"); err == nil {
		t.Error("the digest was taken")
	}
	if n := len(r.Commands()); n != 0 {
		t.Errorf("%d commands", n)
	}
}

// TestPutFileRunning: a program that runs can be replaced.
func TestPutFileRunning(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep here")
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sleep")
	if err := os.WriteFile(file, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), file, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, err := remote.PutFile(t.Context(), remote.Local(), file, 0o755, strings.NewReader("new"), digest.FromString("new")); err != nil {
		t.Error(err)
	}
	assertFile(t, file, []byte("new"), 0o755)
}

func assertFile(t *testing.T, file string, want []byte, mode fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes instead of %d, %v", file, len(got), len(want), err)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm() != mode {
		t.Errorf("%s: mode %o instead of %o", file, info.Mode().Perm(), mode)
	}
}

// TestPutFileCut: the cable is pulled at many points; the file is the old one or the new one, and what
// was sent in part goes.
func TestPutFileCut(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 200_000)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{100, 1000, 50_000, 1_000_000, 1_999_000} {
		s := remotetest.Start(t, remotetest.Options{})
		c := dial(t, config(s))
		s.CutAfter(at)
		_, err := remote.PutFile(t.Context(), c, file, 0o600, bytes.NewReader(content), digest.FromBytes(content))
		if !errors.Is(err, remote.ErrDisconnected) {
			t.Errorf("cut at %d: %v", at, err)
		}
		waitFor(t, func() bool { return s.Running() == 0 })
		assertFile(t, file, []byte("old"), 0o600)
		if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
			t.Errorf("cut at %d left %v, %v", at, entries, err)
		}
	}
}

func TestPutFileCancelled(t *testing.T) {
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "file")
			ctx, cancel := context.WithCancel(t.Context())
			in, w := io.Pipe()
			go func() {
				_, _ = w.Write(make([]byte, 1<<20))
				cancel()
			}()
			_, err := remote.PutFile(ctx, r, file, 0o600, in, digest.FromString("x"))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			_ = w.Close()
			waitFor(t, func() bool { entries, err := os.ReadDir(filepath.Dir(file)); return err == nil && len(entries) == 0 })
		})
	}
}

// TestPutFileDiskFull has a small disk of its own.
func TestPutFileDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	big := bytes.Repeat([]byte("x"), 4<<20)
	s := remotetest.Start(t, remotetest.Options{})
	_, err := remote.PutFile(t.Context(), dial(t, config(s)), dir+"/file", 0o600, bytes.NewReader(big), digest.FromBytes(big))
	if err == nil || !strings.Contains(err.Error(), "No space left on device") {
		t.Errorf("error is %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// TestBusybox: the scripts run in the shell of small systems, too.
func TestBusybox(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox here")
	}
	bin := t.TempDir()
	for _, applet := range []string{"sh", "env", "tar", "sha256sum", "dd", "mv", "rm", "mkdir", "chmod", "grep", "tr", "sync", "cat", "sleep", "id"} {
		if err := os.Symlink(busybox, filepath.Join(bin, applet)); err != nil {
			t.Fatal(err)
		}
	}
	s := remotetest.Start(t, remotetest.Options{Bin: bin})
	c := dial(t, config(s))
	dir := filepath.Join(t.TempDir(), "dir")
	for range 2 {
		if _, err := remote.PutFile(t.Context(), c, dir+"/bin/run", 0o755, strings.NewReader("v2"), digest.FromString("v2")); err != nil {
			t.Fatal(err)
		}
	}
	assertFile(t, dir+"/bin/run", []byte("v2"), 0o755)
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	go func() { <-started; cancel() }()
	err = c.Run(ctx, remote.Cmd{Args: []string{"sh", "-c", "echo; trap '' TERM; while :; do sleep 1; done"}, Stdout: signaller{started}})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	waitFor(t, func() bool { return s.Running() == 0 })
}
