package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzUnpack gives Rootfs any layer. Whether it takes it or not, nothing beside the rootfs changes, and
// what it takes has the digest and leads, by no file in it, to a device.
func FuzzUnpack(f *testing.F) {
	for _, entries := range [][]entry{
		{d("a/"), entry{tar.Header{Name: "a/f", Typeflag: tar.TypeReg, Mode: 0o4755}, "content"}, sym("l", "a"), hard("h", "a/f")},
		{sym("l", "../.."), entry{tar.Header{Name: "l/evil", Typeflag: tar.TypeReg}, "x"}},
		{special("dev", tar.TypeChar), special("p", tar.TypeFifo)},
		{entry{tar.Header{Name: "a/.wh..wh..opq", Typeflag: tar.TypeReg}, ""}, entry{tar.Header{Name: ".wh.a", Typeflag: tar.TypeReg}, ""}},
		{hard("h", "../secret"), d("../../x"), d("/abs")},
	} {
		plain := tarOf(f, entries...)
		for _, pack := range packings {
			f.Add(pack(f, plain))
		}
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		outer := t.TempDir()
		parent := filepath.Join(outer, "parent")
		if err := os.Mkdir(parent, 0o700); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(parent, "rootfs")
		o := Options{MaxBytes: 1 << 20, MaxEntries: 100, NoSync: true}
		// The digest is not known, but a first try tells it.
		id := digest.FromString("")
		_, err := plainDigest(packed, &id)
		l := raw(packed, id)
		l.MediaType = ocispec.MediaTypeImageLayer
		if err == nil {
			err = Rootfs(t.Context(), []Layer{l}, dir, o)
		} else if e := Rootfs(t.Context(), []Layer{l}, dir, o); e == nil {
			t.Fatalf("taken, though it cannot be decompressed: %v", err)
		}
		only(t, outer, "parent")
		if err != nil {
			only(t, parent)
			return
		}
		only(t, parent, "rootfs")
		err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
				err = errors.New(p + " is special")
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
		if err := removeAll(dir); err != nil {
			t.Error(err)
		}
	})
}

// plainDigest is the digest of the decompressed layer, by the same stream as Rootfs uses.
func plainDigest(packed []byte, id *digest.Digest) (int, error) {
	u := newUnpacker(nil, Options{Parallelism: 1, MaxBytes: 1 << 20})
	defer u.stop()
	h := digest.SHA256.Digester()
	s := newStream(context.Background(), u, bytes.NewReader(packed), h.Hash())
	defer s.close()
	var n int
	buf := make([]byte, 4096)
	for {
		k, err := s.Read(buf)
		n += k
		if err != nil {
			s.close()
			*id = h.Digest()
			if err.Error() == "EOF" {
				err = nil
			}
			return n, err
		}
	}
}
