package buildkit_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/buildkit"
)

// daemon starts a real buildkitd, with more arguments, and returns the address of its socket.
func daemon(t *testing.T, more ...string) string {
	t.Helper()
	needRunc(t)
	const script = "testdata/buildkitd/build"
	out, err := exec.CommandContext(t.Context(), script, "path").Output()
	if err != nil {
		t.Skipf("%s: %v", script, err)
	}
	program := strings.TrimSpace(string(out))
	if _, err := os.Stat(program); err != nil {
		t.Skipf("there is no buildkitd: builder/buildkit/%s makes it", script)
	}
	// Paths of sockets are short.
	dir, err := os.MkdirTemp("", "bkd")
	if err != nil {
		t.Fatal(err)
	}
	socket := "unix://" + filepath.Join(dir, "s")
	cmd := exec.Command(program, append([]string{"--config", filepath.Join(dir, "none"), "--root", filepath.Join(dir, "root"), "--addr", socket, "--oci-worker-net", "host",
		"--containerd-worker=false", "--otel-socket-path", filepath.Join(dir, "o")}, more...)...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("buildkitd:\n%s", text)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		c, stop, err := buildkit.Dial(ctx, socket, buildkit.TLS{})
		if err == nil {
			_ = c
			_ = stop()
			return socket
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// TestRemote holds that a buildkitd elsewhere gives the same digests as BuildKit in this process.
func TestRemote(t *testing.T) {
	address := daemon(t)
	secrets := map[string][]byte{"token": []byte("sesame")}
	here, there := newRig(t, buildkit.Options{Secrets: secrets}), newRig(t, buildkit.Options{Secrets: secrets, Address: address})
	ctx := write(t, t.TempDir(), map[string]string{"data/a": "a", "data/b": "b"})
	for name, text := range map[string]string{
		"run":    "FROM base:v1\nCOPY data /data\nRUN mkdir -p /d/e && echo x >/d/f && chown 1:2 /d && rm /data/a\nENV A=b\nRUN echo $A $PATH $HOME >/env\nCOPY data /z\n",
		"stages": "FROM base:v1 AS one\nARG A=1\nRUN echo $A >/x\nFROM scratch\nCOPY --from=one /x /y/\nCOPY data /data\n",
		"mounts": "FROM base:v1\nRUN --mount=type=secret,id=token --mount=target=/c --mount=type=cache,target=/k cat /run/secrets/token /c/data/a >/x\n",
	} {
		t.Run(name, func(t *testing.T) {
			a, b := here.build(text, ctx, "x:v1"), there.build(text, ctx, "x:v1")
			if a.Target.Digest != b.Target.Digest {
				t.Errorf("in this process %s, in a buildkitd %s", a.Target.Digest, b.Target.Digest)
			}
		})
	}
	_, err := there.try("FROM base:v1\nRUN exit 5\n", ctx, "x:v1")
	if err == nil || !strings.Contains(err.Error(), "Kubefile:2:1: the command ended with exit code 5") {
		t.Errorf("a command that fails: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	r.solver = buildkit.New(buildkit.Options{Address: "tcp://127.0.0.1:1"})
	_, err := r.try("FROM base:v1\nRUN true\n", "", "x:v1")
	if err == nil || !strings.Contains(err.Error(), "dialing buildkitd tcp://127.0.0.1:1") {
		t.Errorf("nobody is there: %v", err)
	}
	var none builder.Solver = buildkit.New(buildkit.Options{Address: "tcp://127.0.0.1:1"})
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}
