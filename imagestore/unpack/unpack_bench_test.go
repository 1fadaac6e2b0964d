package unpack

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BenchmarkUnpack unpacks one layer of what KEG_BENCH_DIR holds, or of 64 MB of made-up files. As imagestore
// must not import builder, the layer of frames is made here, as builder/pack would.
func BenchmarkUnpack(b *testing.B) {
	for _, c := range []string{"frames", "zstd", "gzip"} {
		b.Run(c, func(b *testing.B) {
			name := filepath.Join(b.TempDir(), "layer")
			l, size := benchLayer(b, c, name)
			b.SetBytes(size)
			dir := b.TempDir()
			for b.Loop() {
				if err := Rootfs(b.Context(), []Layer{l}, filepath.Join(dir, "rootfs"), Options{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.RemoveAll(filepath.Join(dir, "rootfs")); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func benchLayer(b *testing.B, compression, name string) (Layer, int64) {
	out, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	var w io.WriteCloser
	switch compression {
	case "gzip":
		w = gzip.NewWriter(out)
	case "zstd":
		w, err = zstd.NewWriter(out)
	default:
		w, err = newFrameWriter(out)
	}
	if err != nil {
		b.Fatal(err)
	}
	d := digest.SHA256.Digester()
	tw := tar.NewWriter(io.MultiWriter(w, d.Hash()))
	var size int64
	add := func(name string, n int64, r io.Reader) {
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: n}); err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{tw}, r, make([]byte, 1<<20)); err != nil {
			b.Fatal(err)
		}
		size += n
	}
	if dir := os.Getenv("KEG_BENCH_DIR"); dir != "" {
		err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(p)
			rel, _ := filepath.Rel(dir, p)
			add(rel, int64(len(data)), bytes.NewReader(data))
			return err
		})
	} else {
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range 16 {
			data := make([]byte, 4<<20)
			for j := range data {
				data[j] = byte(rng.IntN(24))
			}
			add(fmt.Sprintf("bin/%d", i), int64(len(data)), bytes.NewReader(data))
		}
		for i := range 400 {
			add(fmt.Sprintf("etc/%d", i), 2000, bytes.NewReader(make([]byte, 2000)))
		}
	}
	for _, err := range []error{err, tw.Close(), w.Close()} {
		if err != nil {
			b.Fatal(err)
		}
	}
	return Layer{MediaType: ocispec.MediaTypeImageLayerZstd, DiffID: d.Digest(), Open: func() (io.ReadCloser, error) { return os.Open(name) }}, size
}

// frameWriter makes a zstd frame of every 4 MiB.
type frameWriter struct {
	w   io.Writer
	enc *zstd.Encoder
	buf []byte
}

func newFrameWriter(w io.Writer) (*frameWriter, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithWindowSize(maxFrame))
	return &frameWriter{w: w, enc: enc}, err
}

func (f *frameWriter) Write(p []byte) (int, error) {
	f.buf = append(f.buf, p...)
	for len(f.buf) >= maxFrame {
		if _, err := f.w.Write(f.enc.EncodeAll(f.buf[:maxFrame], nil)); err != nil {
			return 0, err
		}
		f.buf = append(f.buf[:0], f.buf[maxFrame:]...)
	}
	return len(p), nil
}

func (f *frameWriter) Close() error {
	_, err := f.w.Write(f.enc.EncodeAll(f.buf, nil))
	return err
}
