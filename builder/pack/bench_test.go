package pack

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// BenchmarkPack packs what KEG_BENCH_DIR holds, or 64 MB of made-up files.
func BenchmarkPack(b *testing.B) {
	entries := benchEntries(b)
	var size int64
	for _, e := range entries {
		size += e.Size
	}
	for _, c := range []Compression{Zstd, Gzip} {
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			var l Layer
			for b.Loop() {
				var err error
				if l, err = Write(b.Context(), io.Discard, entries, Options{Compression: c}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(l.Descriptor.Size)/float64(l.Uncompressed), "ratio")
		})
	}
}

func benchEntries(b *testing.B) []Entry {
	if dir := os.Getenv("KEG_BENCH_DIR"); dir != "" {
		root, err := os.OpenRoot(dir)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = root.Close() })
		entries, err := (&Scanner{Root: root}).Dir(b.Context(), ".")
		if err != nil {
			b.Fatal(err)
		}
		return entries
	}
	rng := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 4+rng.IntN(12))
		for j := range words[i] {
			words[i][j] = byte(rng.IntN(256))
		}
	}
	content := func(n int) []byte {
		var buf bytes.Buffer
		for buf.Len() < n {
			buf.Write(words[int(rng.ExpFloat64()*300)%len(words)])
		}
		return buf.Bytes()[:n]
	}
	var entries []Entry
	add := func(name string, data []byte) {
		entries = append(entries, Entry{Name: name, Type: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}})
	}
	for i := range 2 {
		add(fmt.Sprintf("bin/%d", i), content(32<<20))
	}
	for i := range 400 {
		add(fmt.Sprintf("etc/%d", i), content(rng.IntN(4096)))
	}
	return entries
}
