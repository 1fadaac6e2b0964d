package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func file(name, content string) Entry {
	return Entry{Name: name, Type: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

// noise is content that compresses by about half and is the same every time.
func noise(n int) string { return noiseOf()[:n] }

var noiseOf = sync.OnceValue(func() string {
	rng := rand.New(rand.NewPCG(7, 7))
	b := make([]byte, 10<<20)
	for i := range b {
		b[i] = byte(rng.IntN(16))
	}
	return string(b)
})

// sample has every form that an entry can take.
func sample() []Entry {
	long := strings.Repeat("long-name/", 30) + "end"
	suid := file("bin/su", "suid")
	suid.Mode = 0o4755
	cap := file("bin/ping", "ping")
	cap.Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02\x00 \x00\x00\x00\x00", "user.b": "2", "user.a": "1"}
	owned := file("etc/owned", "x")
	owned.UID, owned.GID = 3_000_000, 70_000
	return []Entry{
		file("z", "last"),
		{Name: "a-link", Type: tar.TypeLink, Linkname: "bin/big"},
		{Name: "lib", Type: tar.TypeSymlink, Linkname: "/usr/lib"},
		{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777},
		file("bin/big", noise(9<<20+12345)),
		file("bin/chunk", noise(chunkSize)),
		file("bin/zeros", string(make([]byte, 5<<20))),
		suid, cap, owned, file(long, "deep"), file("ünïcode/né", "é"), file("empty", ""),
		file("etc-conf", "sorts between etc and etc/"),
	}
}

func write(t *testing.T, entries []Entry, o Options) ([]byte, Layer) {
	t.Helper()
	var buf bytes.Buffer
	l, err := Write(t.Context(), &buf, entries, o)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), l
}

func decompress(t *testing.T, c Compression, data []byte) []byte {
	t.Helper()
	var r io.Reader
	var err error
	if c == Gzip {
		r, err = gzip.NewReader(bytes.NewReader(data))
	} else {
		r, err = zstd.NewReader(bytes.NewReader(data))
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWriteDescribesWhatItWrites(t *testing.T) {
	for _, c := range []Compression{Zstd, Gzip, ""} {
		data, l := write(t, sample(), Options{Compression: c})
		plain := decompress(t, c, data)
		want := Layer{Descriptor: l.Descriptor, DiffID: digest.FromBytes(plain), Uncompressed: int64(len(plain))}
		want.Descriptor.Digest, want.Descriptor.Size = digest.FromBytes(data), int64(len(data))
		if diff := cmp.Diff(want, l); diff != "" {
			t.Errorf("%q: %s", c, diff)
		}
		suffix := "+zstd"
		if c == Gzip {
			suffix = "+gzip"
		}
		if !strings.HasSuffix(l.Descriptor.MediaType, suffix) {
			t.Errorf("media type is %s", l.Descriptor.MediaType)
		}
	}
}

func TestTarHasParentsOrderAndPlainHeaders(t *testing.T) {
	data, _ := write(t, sample(), Options{ModTime: time.Date(2020, 1, 2, 3, 4, 5, 678, time.FixedZone("x", 3600))})
	tr := tar.NewReader(bytes.NewReader(decompress(t, Zstd, data)))
	var names []string
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 1577930645 || h.ModTime.Nanosecond() != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: time %v, owner %q:%q", h.Name, h.ModTime, h.Uname, h.Gname)
		}
		needsPAX := len(h.Name) > 256 || strings.Contains(h.Name, "ü") || h.Name == "bin/ping" || h.Name == "etc/owned"
		if splits := len(h.Name) > 150 && len(h.Name) <= 256; !splits && h.Format == tar.FormatPAX != needsPAX {
			t.Errorf("%s: format %v", h.Name, h.Format)
		}
		if h.Name == "etc/" && (h.Mode != 0o755 || h.Uid != 0) {
			t.Errorf("added parent has mode %o", h.Mode)
		}
		if !strings.HasPrefix(h.Name, "long-name") {
			names = append(names, h.Name)
		}
	}
	want := []string{"bin/", "bin/big", "a-link", "bin/chunk", "bin/ping", "bin/su", "bin/zeros", "empty", "etc/", "etc-conf", "etc/owned", "lib", "tmp/", "z", "ünïcode/", "ünïcode/né"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestTOCFindsEveryFile(t *testing.T) {
	data, l := write(t, sample(), Options{})
	footer := data[len(data)-footerSize:]
	if string(footer[56:]) != footerMagic || binary.LittleEndian.Uint32(data[len(data)-72:]) != skippableMagic {
		t.Fatalf("footer is %x", footer)
	}
	offset, size := binary.LittleEndian.Uint64(footer), binary.LittleEndian.Uint64(footer[8:])
	packed := data[offset : offset+size]
	plain := decompress(t, Zstd, packed)
	wantPos := fmt.Sprintf("%d:%d:%d:1", offset, size, len(plain))
	if got := l.Descriptor.Annotations; got[AnnotationTOCPosition] != wantPos || got[AnnotationTOCDigest] != digest.FromBytes(packed).String() {
		t.Errorf("annotations %v do not describe the table at %s", got, wantPos)
	}
	var toc TOC
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&toc); err != nil || toc.Version != 1 {
		t.Fatalf("version %d, %v", toc.Version, err)
	}
	content := map[string]string{}
	for _, e := range sample() {
		if e.Open != nil {
			r, _ := e.Open()
			b, _ := io.ReadAll(r)
			content[e.Name] = string(b)
		}
	}
	got := map[string]string{}
	for _, e := range toc.Entries {
		if e.EndOffset == 0 {
			continue
		}
		part := decompress(t, Zstd, data[e.Offset:e.EndOffset])
		if e.Type == "chunk" {
			if want := content[e.Name][e.ChunkOffset : e.ChunkOffset+e.ChunkSize]; string(part) != want || e.ChunkDigest != digest.FromBytes(part) {
				t.Errorf("%s: chunk at %d is not the file's", e.Name, e.ChunkOffset)
			}
			continue
		}
		got[e.Name] = string(part)
		if e.Digest != digest.FromBytes(part) || e.Size != int64(len(part)) {
			t.Errorf("%s: digest %s of %d bytes", e.Name, e.Digest, e.Size)
		}
	}
	delete(content, "empty")
	if !maps.Equal(got, content) {
		t.Errorf("table leads to %v", slices.Sorted(maps.Keys(got)))
	}
}

// The digests are pinned: whoever changes them on purpose raises formatVersion.
func TestSameEntriesSameBytes(t *testing.T) {
	golden := map[Compression]digest.Digest{
		Zstd: "sha256:9b64e7cbc8ebbefe3116dad4b1c09218f85406aad6d8706c1ef51949cbdf5e0c",
		Gzip: "sha256:a74388ea878916cfcc03528acfe67ee945b1c52cbf883dc73033f9ac53044ac2",
	}
	old := syscall.Umask(0)
	t.Cleanup(func() { syscall.Umask(old) })
	local := time.Local
	t.Cleanup(func() { time.Local = local })
	rng := rand.New(rand.NewPCG(3, 4))
	for c, want := range golden {
		for i, n := range []int{1, 2, 8} {
			syscall.Umask([]int{0, 0o077, 0o777}[i])
			time.Local = time.FixedZone("somewhere", i*3600-7200)
			procs := goruntime.GOMAXPROCS(1 + i%2)
			entries := sample()
			rng.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
			_, l := write(t, entries, Options{Compression: c, Parallelism: n})
			goruntime.GOMAXPROCS(procs)
			if l.Descriptor.Digest != want {
				t.Errorf("%s with parallelism %d: digest %s, want %s", c, n, l.Descriptor.Digest, want)
			}
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	sized := func(content string, size int64) Entry {
		e := file("dir/file", content)
		e.Size = size
		return e
	}
	broken := errors.New("broken disk")
	for _, test := range []struct {
		name    string
		entries []Entry
		want    error
		says    string
	}{
		{"dot dot", []Entry{file("a/../../b", "")}, ErrName, `"a/../../b"`},
		{"absolute", []Entry{file("/etc/passwd", "")}, ErrName, `"/etc/passwd"`},
		{"unclean", []Entry{file("a//b", "")}, ErrName, `"a//b"`},
		{"trailing slash", []Entry{{Name: "a/", Type: tar.TypeDir}}, ErrName, `"a/"`},
		{"root", []Entry{{Name: ".", Type: tar.TypeDir}}, ErrName, `"."`},
		{"empty name", []Entry{file("", "")}, ErrName, `""`},
		{"not UTF-8", []Entry{file("a\xff", "")}, ErrName, `"a\xff"`},
		{"whiteout", []Entry{file("a/.wh.b", "")}, ErrName, `"a/.wh.b"`},
		{"duplicate", []Entry{file("x", ""), file("a", ""), file("x", "")}, ErrDuplicate, `"x"`},
		{"device", []Entry{{Name: "dev/null", Type: tar.TypeChar}}, ErrType, `"dev/null"`},
		{"below a file", []Entry{file("a", ""), file("a/b", "")}, ErrNotDir, `"a/b"`},
		{"link to nothing", []Entry{{Name: "l", Type: tar.TypeLink, Linkname: "gone"}}, ErrLink, `"gone"`},
		{"link to dir", []Entry{{Name: "l", Type: tar.TypeLink, Linkname: "d"}, {Name: "d", Type: tar.TypeDir}}, ErrLink, `"d"`},
		{"links in a circle", []Entry{{Name: "l", Type: tar.TypeLink, Linkname: "m"}, {Name: "m", Type: tar.TypeLink, Linkname: "l"}}, ErrLink, `"l"`},
		{"empty symlink", []Entry{{Name: "l", Type: tar.TypeSymlink}}, ErrName, `"l"`},
		{"no content", []Entry{{Name: "f", Type: tar.TypeReg, Size: 1}}, nil, `"f"`},
		{"negative owner", []Entry{{Name: "f", Type: tar.TypeDir, UID: -1}}, nil, `"f"`},
		{"shrunk", []Entry{sized("abc", 10)}, ErrChanged, `"dir/file": it had 10 bytes and now has 3`},
		{"shrunk in a later chunk", []Entry{sized(noise(5<<20), 9<<20)}, ErrChanged, fmt.Sprintf("now has %d", 5<<20)},
		{"grown", []Entry{sized("abcdef", 3)}, ErrChanged, `"dir/file": it had 3 bytes and now has more`},
		{"unreadable", []Entry{{Name: "dir/file", Type: tar.TypeReg, Size: 3, Open: func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(broken)), nil }}}, broken, `"dir/file"`},
		{"bad xattr", []Entry{{Name: "f", Type: tar.TypeDir, Xattrs: map[string]string{"user.a=b": ""}}}, nil, `"f"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, c := range []Compression{Zstd, Gzip} {
				_, err := Write(t.Context(), io.Discard, append(test.entries, file("other", noise(1<<20+1))), Options{Compression: c})
				if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	if _, err := Write(t.Context(), io.Discard, nil, Options{Compression: "lz4"}); err == nil {
		t.Error("lz4 was not refused")
	}
}

func TestWriteEndsWhenTheWriterFailsOrTheContextEnds(t *testing.T) {
	var big []Entry
	for i := range 40 {
		big = append(big, file(fmt.Sprintf("f%d", i), noise(1<<20)))
	}
	full := errors.New("disk full")
	if _, err := Write(t.Context(), failAfter{n: new(int), err: full}, big, Options{}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped")
	_, err := Write(ctx, io.Discard, big, Options{Progress: func(int64) { cancel(stop) }})
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

type failAfter struct {
	n   *int
	err error
}

func (f failAfter) Write(p []byte) (int, error) {
	if *f.n += len(p); *f.n > 1<<20 {
		return 0, f.err
	}
	return len(p), nil
}

func TestProgressCountsTheSource(t *testing.T) {
	var want, got int64
	for _, e := range sample() {
		want += e.Size
	}
	for _, c := range []Compression{Zstd, Gzip} {
		got = 0
		write(t, sample(), Options{Compression: c, Progress: func(n int64) { got += n }})
		if got != want {
			t.Errorf("%s: %d bytes of %d", c, got, want)
		}
	}
}

func TestEmptyLayer(t *testing.T) {
	for _, c := range []Compression{Zstd, Gzip} {
		data, _ := write(t, nil, Options{Compression: c})
		if plain := decompress(t, c, data); !bytes.Equal(plain, make([]byte, 1024)) {
			t.Errorf("%s: %d bytes of tar", c, len(plain))
		}
	}
}

func TestOtherProgramsReadIt(t *testing.T) {
	for c, tool := range map[Compression]string{Zstd: "zstd", Gzip: "gzip"} {
		t.Run(tool, func(t *testing.T) {
			for _, p := range []string{tool, "tar"} {
				if _, err := exec.LookPath(p); err != nil {
					t.Skip(p + " is not installed")
				}
			}
			data, l := write(t, sample(), Options{Compression: c})
			name := filepath.Join(t.TempDir(), "layer")
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), tool, "-dc")
			cmd.Stdin = bytes.NewReader(data)
			plain, err := cmd.Output()
			if err != nil || digest.FromBytes(plain) != l.DiffID {
				t.Fatalf("%s: %v, %d bytes", tool, err, len(plain))
			}
			cmd = exec.CommandContext(t.Context(), "tar", "-tf", "-")
			cmd.Stdin = bytes.NewReader(plain)
			list, err := cmd.Output()
			if err != nil || !strings.Contains(string(list), "bin/big\n") {
				t.Fatalf("tar: %v, %s", err, list)
			}
		})
	}
}
