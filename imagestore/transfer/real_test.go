package transfer

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/internal/registrytest"
)

// run runs a Debian program, or skips where it is not there.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// TestRealRegistry pushes a cluster image to Debian's docker-registry, has other tools read and copy
// it, and pulls it back.
func TestRealRegistry(t *testing.T) {
	registrytest.Anonymous(t)
	addr := registrytest.StartReal(t)
	c := newClient(Options{})
	s := newStore(t)
	desc := clusterImage(t, s)
	ref := mustRef(t, addr+"/shop/cluster:v1")
	result, err := c.Push(t.Context(), s, desc, ref, PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if result.Uploaded.Blobs != len(contents(t, s))-5 || result.Manifests != 5 {
		t.Errorf("pushed %+v of %d blobs and manifests", result, len(contents(t, s)))
	}

	pullBack := func(t *testing.T, name string) {
		t.Helper()
		back := newStore(t)
		got, err := newClient(Options{}).Pull(t.Context(), back, mustRef(t, name), PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != desc.Digest || got.Size != desc.Size || got.MediaType != desc.MediaType {
			t.Errorf("got %+v, want %+v", got, desc)
		}
		if diff := cmp.Diff(contents(t, s), contents(t, back)); diff != "" {
			t.Errorf("store after push and pull (-pushed +pulled):\n%s", diff)
		}
	}
	t.Run("pull", func(t *testing.T) { pullBack(t, addr+"/shop/cluster:v1") })
	t.Run("again", func(t *testing.T) {
		result, err := c.Push(t.Context(), s, desc, ref, PushOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if result.Uploaded.Blobs+result.Mounted.Blobs+result.Manifests != 0 {
			t.Errorf("pushing again did %+v", result)
		}
	})
	t.Run("mount", func(t *testing.T) {
		result, err := c.Push(t.Context(), s, desc, mustRef(t, addr+"/other/cluster:v1"), PushOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if result.Uploaded.Blobs != 0 || result.Mounted.Blobs == 0 {
			t.Errorf("pushing to another repository did %+v", result)
		}
		pullBack(t, addr+"/other/cluster:v1")
	})
	t.Run("mount from a named repository", func(t *testing.T) {
		other := newStore(t) // remembers nothing
		if _, err := c.Pull(t.Context(), other, ref, PullOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(other.Dir(), "cache")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(other.Dir(), "cache"), 0o700); err != nil {
			t.Fatal(err)
		}
		result, err := c.Push(t.Context(), other, desc, mustRef(t, addr+"/third/cluster:v1"), PushOptions{MountFrom: []string{"shop/cluster"}})
		if err != nil {
			t.Fatal(err)
		}
		if result.Uploaded.Blobs != 0 || result.Mounted.Blobs == 0 {
			t.Errorf("pushing to another repository did %+v", result)
		}
	})
	t.Run("skopeo inspect", func(t *testing.T) {
		out := run(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+addr+"/shop/cluster:v1")
		var got struct {
			Digest, Architecture string
			Layers               []string
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if got.Digest != desc.Digest.String() || len(got.Layers) != 2 || got.Architecture != "amd64" {
			t.Errorf("skopeo inspect says %+v", got)
		}
	})
	t.Run("skopeo copy --all", func(t *testing.T) {
		run(t, "skopeo", "copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", "--insecure-policy",
			"docker://"+addr+"/shop/cluster:v1", "docker://"+addr+"/copy/cluster:v2")
		// Skopeo of 2022 writes the index anew, without the fields it does not know, such as artifactType.
		back := newStore(t)
		got, err := newClient(Options{}).Pull(t.Context(), back, mustRef(t, addr+"/copy/cluster:v2"), PullOptions{Platforms: []string{"linux/amd64"}})
		if err != nil {
			t.Fatal(err)
		}
		var idx ocispec.Index
		if err := back.ReadJSON(got.Digest, &idx); err != nil {
			t.Fatal(err)
		}
		img, err := clusterimage.Parse(idx)
		if err != nil {
			t.Fatal(err)
		}
		if len(img.Rootfs) != 1 || len(img.Embedded) != 2 || len(img.Refs) != 1 {
			t.Errorf("the copy is %+v", img)
		}
		for hex := range contents(t, s) {
			if d := digest.NewDigestFromEncoded(digest.SHA256, hex); d != desc.Digest && !back.Has(d) {
				t.Errorf("blob %s is not in the copy", d)
			}
		}
	})
	t.Run("crane copy and validate", func(t *testing.T) {
		run(t, "crane", "copy", addr+"/shop/cluster:v1", addr+"/copy/cluster:v3")
		pullBack(t, addr+"/copy/cluster:v3")
		var idx ocispec.Index
		if err := s.ReadJSON(desc.Digest, &idx); err != nil {
			t.Fatal(err)
		}
		img, err := clusterimage.Parse(idx)
		if err != nil {
			t.Fatal(err)
		}
		run(t, "crane", "validate", "--remote", addr+"/shop/cluster@"+img.Rootfs[0].Digest.String())
	})
	t.Run("podman pull", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("podman wants subordinate IDs where the user is not root")
		}
		dir := t.TempDir()
		policy := filepath.Join(dir, "policy.json")
		if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs",
			"pull", "--tls-verify=false", "--signature-policy", policy, addr+"/shop/cluster:v1")
	})
}

func TestRealRegistryLogin(t *testing.T) {
	addr := registrytest.StartReal(t, registrytest.WithUser("ada", "s3cret"))
	dir := t.TempDir()
	client := func() *Client {
		k, err := Keychain(dir)
		if err != nil {
			t.Fatal(err)
		}
		return newClient(Options{Keychain: k})
	}
	s := newStore(t)
	desc := clusterImage(t, s)
	ref := mustRef(t, addr+"/shop/cluster:v1")
	file := filepath.Join(dir, "config.json")

	_, err := client().Push(t.Context(), s, desc, ref, PushOptions{})
	if re := (*RegistryError)(nil); !errors.Is(err, ErrUnauthorized) || !errors.As(err, &re) || re.Registry != addr {
		t.Errorf("push without login: %v", err)
	}
	if err := Login(t.Context(), client(), addr, "ada", "wrong", dir); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("login with a wrong password: %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused password was kept: %v", err)
	}
	if err := os.WriteFile(file, []byte(`{"currentContext":"kept"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Login(t.Context(), client(), addr, "ada", "s3cret", dir); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of config.json: %v, %v", fi.Mode(), err)
	}
	if data, err := os.ReadFile(file); err != nil || !strings.Contains(string(data), "kept") {
		t.Errorf("config.json lost what was in it: %s, %v", data, err)
	}
	if _, err := client().Push(t.Context(), s, desc, ref, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	back := newStore(t)
	if _, err := client().Pull(t.Context(), back, ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(contents(t, s), contents(t, back)) {
		t.Error("pulled other blobs than were pushed")
	}
	if err := Logout(t.Context(), addr, dir); err != nil {
		t.Fatal(err)
	}
	if err := Logout(t.Context(), addr, dir); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("second logout: %v", err)
	}
	if _, err := client().Pull(t.Context(), newStore(t), ref, PullOptions{}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("pull after logout: %v", err)
	}
}
