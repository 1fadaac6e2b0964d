package compression_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/clusterimage/keg/internal/compression"
)

func pack(t testing.TB, open func(io.Writer) (io.WriteCloser, error), data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := open(&buf)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func packXZ(t testing.TB, data []byte) []byte {
	return pack(t, func(w io.Writer) (io.WriteCloser, error) { return xz.WriterConfig{BlockSize: 300_000}.NewWriter(w) }, data)
}

func unpack(data []byte) ([]byte, error) {
	r, err := compression.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// mixed is content of which parts can be compressed and parts cannot.
func mixed(n int) []byte {
	data := bytes.Repeat([]byte("keg "), n/8)
	noise := make([]byte, n/2)
	_, _ = rand.Read(noise)
	return append(data, noise...)
}

func TestReader(t *testing.T) {
	data := mixed(1 << 20)
	one := packXZ(t, data)
	for name, packed := range map[string][]byte{
		"none": data,
		"gzip": pack(t, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }, data),
		"zstd": pack(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, data),
		"xz":   one,
	} {
		if got, err := unpack(packed); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if name == "none" {
			continue
		}
		if _, err := unpack(packed[:len(packed)-1]); err == nil || !strings.HasPrefix(err.Error(), "unpacking "+name) {
			t.Errorf("%s, cut: %v", name, err)
		}
	}
	two := append(append(bytes.Clone(one), make([]byte, 8)...), one...) // with padding between the streams
	if got, err := unpack(two); err != nil || len(got) != 2*len(data) {
		t.Errorf("two xz streams: %d bytes, %v", len(got), err)
	}
	if got, err := unpack(nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
}

// What the real xz writes: all checks, blocks whose size is told, several filters.
func TestRealXZ(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("needs xz")
	}
	data := mixed(1 << 20)
	for _, args := range []string{"-6", "-9 --check=none", "-0 --check=crc32", "-T2 --block-size=200000 --check=sha256", "--block-size=100000 -1"} {
		cmd := exec.CommandContext(t.Context(), "xz", append(strings.Fields(args), "-c")...)
		cmd.Stdin = bytes.NewReader(data)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unpack(packed); err != nil || !bytes.Equal(got, data) {
			t.Errorf("xz %s: %d bytes, %v", args, len(got), err)
		}
	}
}

// enlarge makes the first block of a file want the dictionary that bits stand for.
func enlarge(t *testing.T, packed []byte, bits byte) []byte {
	t.Helper()
	packed = bytes.Clone(packed)
	head := packed[12 : 12+(int(packed[12])+1)*4] // behind the stream's header
	i := bytes.Index(head, []byte{0x21, 1})
	if i < 0 {
		t.Fatal("no LZMA2 in a block header")
	}
	head[i+2] = bits
	binary.LittleEndian.PutUint32(head[len(head)-4:], crc32.ChecksumIEEE(head[:len(head)-4]))
	return packed
}

func TestHugeDictionary(t *testing.T) {
	data := mixed(1 << 12)
	one := packXZ(t, data)
	if got, err := unpack(enlarge(t, one, 28)); err != nil || !bytes.Equal(got, data) { // 64 MiB, as xz -9
		t.Errorf("a large dictionary: %v", err)
	}
	for _, bits := range []byte{31, 37, 40, 41, 63} { // 192 MiB, 1.5 GiB, 4 GiB - 1, and what stands for nothing
		if _, err := unpack(enlarge(t, one, bits)); err == nil || !strings.Contains(err.Error(), "dictionary is too large") {
			t.Errorf("dictionary %d: %v", bits, err)
		}
		// Not the first block, but that of a second stream.
		second := append(bytes.Clone(one), enlarge(t, one, bits)...)
		if _, err := unpack(second); err == nil || !strings.Contains(err.Error(), "dictionary is too large") {
			t.Errorf("dictionary %d in the second stream: %v", bits, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(packXZ(f, mixed(1<<10)))
	f.Add(pack(f, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, mixed(100)))
	f.Add([]byte("BZh9"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := compression.NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if r.Format == compression.None && (err != nil || n != int64(min(len(data), 1<<20))) {
			t.Errorf("%d bytes, %v", n, err)
		}
		if errors.Is(err, io.EOF) {
			t.Error("EOF as an error")
		}
	})
}
