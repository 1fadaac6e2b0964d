package contextdir_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/builder/contextdir"
)

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// served is a repository with two commits, a branch, a tag and a submodule, behind a real git daemon; the result is the
// URL of its directory and the first commit.
func served(t *testing.T) (base, first string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git (apt install git)")
	}
	for _, kv := range []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null"} {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	base = "git://127.0.0.1:" + port
	work := filepath.Join(dir, "work")
	commit := func(files map[string]string) {
		for name, text := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(work, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			mode := os.FileMode(0o644)
			if strings.HasSuffix(name, ".sh") {
				mode = 0o755
			}
			if err := os.WriteFile(filepath.Join(work, name), []byte(text), mode); err != nil {
				t.Fatal(err)
			}
		}
		git(t, work, "add", "-A")
		git(t, work, "commit", "-qm", "x")
	}
	for _, bare := range []string{"shop.git", "part.git"} {
		git(t, dir, "init", "-q", "--bare", bare)
		git(t, filepath.Join(dir, bare), "symbolic-ref", "HEAD", "refs/heads/main")
	}
	work = filepath.Join(dir, "part")
	git(t, dir, "init", "-q", "part")
	commit(map[string]string{"p": "part"})
	git(t, work, "push", "-q", filepath.Join(dir, "part.git"), "HEAD:refs/heads/main")
	work = filepath.Join(dir, "work")
	git(t, dir, "init", "-q", "work")
	commit(map[string]string{"a": "one", "deploy/Kubefile": "FROM scratch\n", "run.sh": "#!/bin/sh\n"})
	first = git(t, work, "rev-parse", "HEAD")
	git(t, work, "tag", "v1")
	if err := os.Symlink("/etc", filepath.Join(work, "out")); err != nil {
		t.Fatal(err)
	}
	commit(map[string]string{"a": "two"})
	git(t, work, "push", "-q", filepath.Join(dir, "shop.git"), "HEAD:refs/heads/main", "v1")
	git(t, work, "checkout", "-q", "-b", "sub")
	git(t, work, "submodule", "--quiet", "add", filepath.Join(dir, "part.git"), "part")
	git(t, work, "config", "-f", ".gitmodules", "submodule.part.url", base+"/part.git")
	git(t, work, "add", "-A")
	git(t, work, "commit", "-qm", "x")
	git(t, work, "push", "-q", filepath.Join(dir, "shop.git"), "HEAD:refs/heads/sub")
	serve := exec.Command("git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", "--port="+port, "--base-path="+dir, dir)
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
	})
	for range 100 {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
			return base, first
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Skip("git daemon does not answer")
	return "", ""
}

func TestGit(t *testing.T) {
	base, first := served(t)
	shop := base + "/shop.git"
	one := map[string]string{"a": "-rw-r--r-- one", "deploy": "drwxr-xr-x ", "deploy/Kubefile": "-rw-r--r-- FROM scratch\n", "run.sh": "-rwxr-xr-x #!/bin/sh\n"}
	two := map[string]string{"out": "-> /etc"}
	for k, v := range one {
		two[k] = v
	}
	two["a"] = "-rw-r--r-- two"
	for name, tt := range map[string]struct {
		url  string
		want map[string]string
	}{
		"head": {shop, two}, "branch": {shop + "#main", two}, "tag": {shop + "#v1", one}, "commit": {shop + "#" + first, one},
		"directory":           {shop + "#v1:deploy", map[string]string{"Kubefile": "-rw-r--r-- FROM scratch\n"}},
		"directory of a head": {shop + "#:deploy", map[string]string{"Kubefile": "-rw-r--r-- FROM scratch\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			at, commit, err := contextdir.Git(t.Context(), tt.url, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tree(t, at)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tt.want["a"] == one["a"] && commit != first {
				t.Errorf("commit %s, not %s", commit, first)
			}
		})
	}
	t.Run("submodule", func(t *testing.T) {
		at, _, err := contextdir.Git(t.Context(), shop+"#sub:part", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"p": "-rw-r--r-- part"}, tree(t, at)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	for name, url := range map[string]string{
		"no such branch": shop + "#nothing", "no such repository": base + "/none.git", "no such directory": shop + "#main:nowhere",
		"a file": shop + "#main:a", "out by a link": shop + "#main:out", "no such commit": shop + "#" + strings.Repeat("0", 40),
		"an option": shop + "#--upload-pack=x",
	} {
		t.Run(name, func(t *testing.T) {
			if at, _, err := contextdir.Git(t.Context(), url, t.TempDir()); err == nil {
				t.Errorf("it is in %s", at)
			} else if !strings.Contains(err.Error(), "reading build context") {
				t.Error(err)
			}
		})
	}
}

func TestGitRefused(t *testing.T) {
	for _, url := range []string{"git://example.com/shop.git", "http://example.com/shop.git#main"} {
		if _, _, err := contextdir.Git(t.Context(), url, t.TempDir()); !errors.Is(err, contextdir.ErrUnencrypted) {
			t.Errorf("%s: %v", url, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, _, err := contextdir.Git(t.Context(), "https://127.0.0.1/shop.git", t.TempDir()); !errors.Is(err, contextdir.ErrNoGit) {
		t.Error(err)
	}
}

func TestIsGit(t *testing.T) {
	for text, want := range map[string]bool{
		"https://example.com/shop.git": true, "https://example.com/shop.git#v1:deploy": true, "git@example.com:shop.git": true, "ssh://git@example.com/shop": true,
		"git://example.com/shop": true, ".": false, "./shop.git": false, "/srv/shop.git": false, "github.com/a/b": false, "https://example.com/shop.tar.gz": false, "docker-image://x": false,
	} {
		if got := contextdir.IsGit(text); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
