package imagestore_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/disktest"
)

// A store that lies on a disk that cannot be written to can be read, and held meanwhile.
func TestReadOnly(t *testing.T) {
	disk := disktest.Small(t, "1m")
	fresh, held := filepath.Join(disk, "fresh"), filepath.Join(disk, "held")
	for _, dir := range []string{fresh, held} {
		if _, err := imagestore.Open(dir); err != nil {
			t.Fatal(err)
		}
	}
	s, err := imagestore.Open(held)
	if err != nil {
		t.Fatal(err)
	}
	release, err := s.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release()
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "remount,ro", disk).CombinedOutput(); err != nil {
		t.Skipf("mounting read-only: %v: %s", err, out)
	}
	for _, dir := range []string{fresh, held} {
		s, err := imagestore.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		release, err := s.Hold(t.Context())
		if err != nil {
			t.Fatalf("holding %s: %v", dir, err)
		}
		release()
		if list, err := s.Images(); err != nil || len(list) != 0 {
			t.Errorf("got %v, %v", list, err)
		}
		if _, err := s.Prune(t.Context(), imagestore.PruneOptions{}); !errors.Is(err, syscall.EROFS) {
			t.Errorf("pruning: %v", err)
		}
	}
}
