package builder

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/internal/disktest"
)

// TestDiskFull lets the disk run full at every part of a build: one clear error, the store as before, and
// the next build goes through once there is room.
func TestDiskFull(t *testing.T) {
	dir := disktest.Small(t, "16m")
	s, err := imagestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	before := storetest.Tag(t, s, "example.com/before:v1", storetest.Image(t, s, storetest.Spec{}))
	filler := filepath.Join(dir, "cache", "filler")
	other := storetest.New(t)
	saved := savedArchive(t, map[string]ocispec.Descriptor{"example.com/saved:1": storetest.Image(t, other, storetest.Spec{Files: []string{"saved"}})}, other)
	noise := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{2}).Read(noise)
	context := writeFiles(t, files{
		"big": string(noise), "images/saved.tar": saved,
		"t.tgz": string(gz(t, tarOf(t, header{Name: "a", Linkname: string(noise[:1<<20])}))),
	})
	tb := &testBuild{store: s, context: context, kubefile: "FROM scratch\nCOPY big /\nADD t.tgz /t/\nCOPY images /images/\n"}
	failed := 0
	for free := int64(0); ; free += 384 << 10 {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filler, make([]byte, max(int64(fs.Bavail)*fs.Bsize-free, 0)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := tb.run(t)
		storetest.Sound(t, s)
		if rest, lerr := os.ReadDir(filepath.Join(dir, "ingest")); lerr != nil || len(rest) > 0 {
			t.Errorf("ingest with %d bytes free: %v, %v", free, rest, lerr)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			break
		}
		failed++
		if !errors.Is(err, unix.ENOSPC) || strings.Count(err.Error(), "no space left on device") != 1 {
			t.Errorf("with %d bytes free: %v", free, err)
		}
		images, lerr := s.Images()
		if lerr != nil || len(images) != 1 || images[0].Target.Digest != before.Target.Digest {
			t.Errorf("images with %d bytes free: %v, %v", free, images, lerr)
		}
		if _, err := s.Prune(t.Context(), imagestore.PruneOptions{}); err != nil { // else each run begins where the last ended
			t.Fatal(err)
		}
		if free > 16<<20 {
			t.Fatal("the build never fits")
		}
	}
	if failed < 5 {
		t.Errorf("the disk was full only %d times", failed)
	}
	t.Logf("%d builds found the disk full", failed)
}
