package imagestore_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/internal/disktest"
)

func TestDiskFull(t *testing.T) {
	dir := disktest.Small(t, "1m")
	s, err := imagestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	img := storetest.Tag(t, s, "x:v1", storetest.Image(t, s, storetest.Spec{}))
	before, blobs := names(t, s, "."), names(t, s, "blobs", "sha256")

	w, err := s.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(w, bytes.NewReader(randomBytes(9, 2<<20)))
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	// Full to the last byte: no tag can be written either, and the old ones stay.
	filler := filepath.Join(dir, "cache", "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	ref, err := imagestore.ParseName("y:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), ref, img.Target); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("tagging: %v", err)
	}
	storetest.Sound(t, s)
	if diff := cmp.Diff(before, names(t, s, ".")); diff != "" {
		t.Errorf("store directory (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(blobs, names(t, s, "blobs", "sha256")); diff != "" || len(names(t, s, "ingest")) != 0 {
		t.Errorf("blobs (-before +after):\n%s\ningest: %v", diff, names(t, s, "ingest"))
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), ref, img.Target); err != nil {
		t.Error(err)
	}
}
