package buildkit_test

import (
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/buildkit"
)

// TestAddGit lets BuildKit clone from a real git daemon: branches are asked for each time, commits stay.
func TestAddGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git (apt install git)")
	}
	r := newRig(t, buildkit.Options{})
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=A", "-c", "user.email=a@example.com"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	commit := func(text string) string {
		write(t, dir, map[string]string{"a": text, "d/b": "b"})
		git("add", "-A")
		git("commit", "-qm", text)
		return git("rev-parse", "HEAD")
	}
	first := commit("one")
	git("tag", "v1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	_ = l.Close()
	serve := exec.Command("git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", "--port="+port, "--base-path="+filepath.Dir(dir), filepath.Dir(dir))
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
	})
	for range 100 {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	url := "git://" + address + "/" + filepath.Base(dir) + "/.git"
	base := r.tree(r.build("FROM base:v1\n", "", "same:v1").Platforms[0].Rootfs)
	add := func(line string, changes ...change) map[string]string {
		t.Helper()
		return added(base, r.tree(r.build("FROM base:v1\nADD "+line+"\n", "", "x:v1", changes...).Platforms[0].Rootfs))
	}
	want := func(text string) map[string]string {
		return map[string]string{
			"src": `5 0755 0:0 0 [] "" ""`, "src/a": `0 0644 0:0 0 [] "" "` + text + `"`, "src/d": `5 0755 0:0 0 [] "" ""`, "src/d/b": `0 0644 0:0 0 [] "" "b"`,
		}
	}
	if diff := cmp.Diff(want("one"), add(url+"#main /src")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	commit("two")
	for line, text := range map[string]string{url + "#main /src": "two", url + "#v1 /src": "one", "--checksum=" + first + " " + url + "#v1 /src": "one"} {
		if diff := cmp.Diff(want(text), add(line)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
	if diff := cmp.Diff(map[string]string{"src": `5 0755 0:0 0 [] "" ""`, "src/b": `0 0644 0:0 0 [] "" "b"`}, add(url+"#v1:d /src")); diff != "" {
		t.Errorf("a directory of it (-want +got):\n%s", diff)
	}
	if got := add("--keep-git-dir=true "+url+"#main /src", noCache); got["src/.git/HEAD"] == "" {
		t.Errorf("with its directory of git's: %v", got)
	}
	for line, text := range map[string]string{"--checksum=" + strings.Repeat("0", 40) + " " + url + "#v1 /src": "checksum", url + "#nothing /src": "nothing"} {
		if _, err := r.try("FROM base:v1\nADD "+line+"\n", "", "x:v1"); err == nil || !strings.Contains(err.Error(), "Kubefile:2:1") || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", line, err)
		}
	}
	// A cache elsewhere has nothing of it: a branch may have moved.
	cache := builder.CachePlace{Dir: filepath.Join(t.TempDir(), "cache")}
	add(url+"#main /src", func(_ *builder.Builder, req *builder.Request) {
		req.CacheTo = []builder.CacheExport{{CachePlace: cache, All: true}}
	})
	commit("three")
	if diff := cmp.Diff(want("three"), add(url+"#main /src", func(_ *builder.Builder, req *builder.Request) { req.CacheFrom = []builder.CachePlace{cache} })); diff != "" {
		t.Errorf("with a cache (-want +got):\n%s", diff)
	}
}
