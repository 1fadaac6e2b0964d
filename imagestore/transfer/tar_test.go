package transfer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"testing"
)

type archive struct{ plain, compressed []byte }

// tarGz is a layer with one file.
func tarGz(t testing.TB, name string, content []byte) archive {
	t.Helper()
	var plain, compressed bytes.Buffer
	tw := tar.NewWriter(&plain)
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	zw, err := gzip.NewWriterLevel(&compressed, gzip.NoCompression) // noise does not get smaller
	if err != nil {
		t.Fatal(err)
	}
	if _, err := zw.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return archive{plain.Bytes(), compressed.Bytes()}
}
