package basefs_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/clusterimage/keg/basefs"
)

// TestRecipes: keg carries the trees, with all that a build needs and nothing for one machine.
func TestRecipes(t *testing.T) {
	for _, runtime := range basefs.Runtimes() {
		tree, err := basefs.Recipe(runtime)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"Kubefile", "README.md", ".dockerignore", "Metadata.example", "etc/sysctl.d/90-keg.conf"} {
			if _, err := fs.Stat(tree, name); err != nil {
				t.Errorf("%s: %v", runtime, err)
			}
		}
	}
	var unknown *basefs.RuntimeError
	if _, err := basefs.Recipe("nomad"); !errors.As(err, &unknown) {
		t.Error(err)
	}
}

func TestChecksums(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	release := basefs.Release{Runtime: "k0s", Version: "v1.37.2+k0s.0", Arch: "arm64"}
	const file = "https://github.com/k0sproject/k0s/releases/download/v1.37.2%2Bk0s.0/sha256sums.txt"
	site := func(text string) func(context.Context, string) (io.ReadCloser, error) {
		return func(_ context.Context, url string) (io.ReadCloser, error) {
			if url != file {
				t.Errorf("asked for %s", url)
			}
			return io.NopCloser(strings.NewReader(text)), nil
		}
	}
	k0s, bundle := sum+" *k0s-v1.37.2+k0s.0-arm64\n", sum+"  ./k0s-airgap-bundle-v1.37.2+k0s.0-arm64\r\n"
	got, err := basefs.Checksums(t.Context(), release, "", site(k0s+bundle))
	if err != nil || !strings.HasSuffix(string(got), "\nK0S_SHA256="+sum+"\nIMAGES_SHA256="+sum+"\n") {
		t.Errorf("%v %s", err, got)
	}
	for name, text := range map[string]string{
		"page": "<html>", "empty": "", "other architecture": strings.ReplaceAll(k0s+bundle, "arm64", "amd64"), "one of two": k0s, "short": k0s[1:] + bundle,
		"longer name": strings.ReplaceAll(k0s, "arm64", "arm64.exe") + bundle, "name within": strings.ReplaceAll(k0s, "*k0s", "*x-k0s") + bundle,
		"two without names": sum + "\n" + sum + "\n",
	} {
		if _, err := basefs.Checksums(t.Context(), release, "", site(text)); !errors.Is(err, basefs.ErrNoChecksum) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := basefs.Checksums(t.Context(), release, "", site(strings.Repeat("x", 2<<20))); err == nil || !strings.Contains(err.Error(), "no file of checksums") {
		t.Error(err)
	}
	down := errors.New("down")
	if _, err := basefs.Checksums(t.Context(), release, "", func(context.Context, string) (io.ReadCloser, error) { return nil, down }); !errors.Is(err, down) {
		t.Error(err)
	}
}
