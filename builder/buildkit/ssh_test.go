package buildkit_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/clusterimage/keg/builder/buildkit"
)

// TestSSH holds that a RUN that asks for it reaches the agent, or keys, and that nothing of them is in the image.
func TestSSH(t *testing.T) {
	needRunc(t)
	dir, err := os.MkdirTemp("", "agent") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: key, Comment: "the agent's"}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keys, c) }()
		}
	}()
	block, err := ssh.MarshalPrivateKey(key, "the file's")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(ctx, "agentkeys"), "./testdata/agentkeys")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("building a program that speaks to agents: %v\n%s", err, out)
	}
	r := newRig(t, buildkit.Options{SSH: map[string][]string{"default": {socket}, "deploy": {file}}})
	text := "FROM base:v1\nCOPY agentkeys /bin/\nRUN --mount=type=ssh agentkeys >/one\nRUN --mount=type=ssh,id=deploy agentkeys | wc -l >/two\nRUN env >/env\nRUN rm /bin/agentkeys\n"
	tree := r.tree(r.build(text, ctx, "x:v1").Platforms[0].Rootfs)
	for name, want := range map[string]string{"one": `"the agent's\n"`, "two": `"1\n"`} {
		if !strings.HasSuffix(tree[name], want) {
			t.Errorf("%s: %s, not %s", name, tree[name], want)
		}
	}
	for name, line := range tree {
		if strings.Contains(name, "ssh") || strings.Contains(line, "SSH_AUTH_SOCK") {
			t.Errorf("in the image: %s %s", name, line)
		}
	}
	if _, err := r.try("FROM base:v1\nRUN --mount=type=ssh,id=other,required=true true\n", "", "y:v1"); err == nil || !strings.Contains(err.Error(), "Kubefile:2:1") || !strings.Contains(err.Error(), "other") {
		t.Errorf("an agent that nobody gave: %v", err)
	}
}
