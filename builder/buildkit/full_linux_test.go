package buildkit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/internal/disktest"
)

// TestDiskFull lets the disk run full before, while and after a command runs, each time in a process of its own: one
// error that says so, nothing left of it, and the next build goes through once there is room.
func TestDiskFull(t *testing.T) {
	needRunc(t)
	dir := disktest.Small(t, "160m")
	s, err := imagestore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: s}
	r.build("FROM scratch\nCOPY . /\n", busybox(t), "base:v1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	build := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), "KEG_TEST_BUILD="+dir, "KEG_TEST_KUBEFILE=FROM base:v1\nRUN dd if=/dev/urandom of=/big bs=1M count=16\n")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	failed := 0
	for free := int64(0); ; free += 6 << 20 {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filler, make([]byte, max(int64(fs.Bavail)*fs.Bsize-free, 0)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := build()
		storetest.Sound(t, s)
		unchanged(t, dir)
		if n := len(r.names()); err == nil && n != 2 || err != nil && n != 1 {
			t.Errorf("with %d MiB free: %v, and images are %v", free>>20, err, r.names())
		}
		if err == nil {
			break
		}
		failed++
		if !strings.Contains(strings.ToLower(out), "no space left on device") {
			t.Errorf("with %d MiB free: %s", free>>20, out)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if free > 120<<20 {
			t.Fatalf("the build never fits: %s", out)
		}
	}
	if failed < 4 {
		t.Errorf("the disk was full only %d times", failed)
	}
	t.Logf("%d builds found the disk full", failed)
}
