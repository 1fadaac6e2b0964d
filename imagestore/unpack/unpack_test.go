package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/internal/progress"
)

// entry is a header with its content; Size follows from that.
type entry struct {
	tar.Header
	content string
}

func f(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, content}
}
func d(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}
func sym(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}}
}
func hard(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}}
}
func special(name string, t byte) entry { return entry{Header: tar.Header{Name: name, Typeflag: t}} }

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if e.ModTime.IsZero() && e.Typeflag != tar.TypeXGlobalHeader {
			e.ModTime = time.Unix(0, 0)
		}
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// packings are the ways a layer can be compressed in.
var packings = map[string]func(t testing.TB, plain []byte) []byte{
	"tar": func(_ testing.TB, plain []byte) []byte { return plain },
	"gzip": func(t testing.TB, plain []byte) []byte {
		var buf bytes.Buffer
		for half := range slices.Chunk(plain, len(plain)/2+1) { // two members
			w := gzip.NewWriter(&buf)
			_, err := w.Write(half)
			if err := errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
		}
		return buf.Bytes()
	},
	"zstd stream": func(t testing.TB, plain []byte) []byte {
		var buf bytes.Buffer
		w, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{bytes.NewReader(plain)})
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	},
	"zstd frames": func(t testing.TB, plain []byte) []byte { return frame(t, plain, 700, true) },
	// Skippable frames in front and behind, frames of several sizes, one too large for a block.
	"zstd mixed": func(t testing.TB, plain []byte) []byte {
		skip := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
		third := len(plain) / 3
		return slices.Concat(skip, frame(t, plain[:third], 300, false), skip, frame(t, plain[third:2*third], 2<<20, true),
			frame(t, plain[2*third:], len(plain), false), skip)
	},
}

func frame(t testing.TB, plain []byte, size int, crc bool) []byte {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(crc))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for part := range slices.Chunk(plain, size) {
		out = enc.EncodeAll(part, out)
	}
	return out
}

func raw(packed []byte, diffID digest.Digest) Layer {
	return Layer{MediaType: ocispec.MediaTypeImageLayerZstd, DiffID: diffID, Size: int64(len(packed)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed)), nil
	}}
}

func layer(t testing.TB, entries ...entry) Layer {
	plain := tarOf(t, entries...)
	return raw(packings["zstd frames"](t, plain), digest.FromBytes(plain))
}

// look is a tree as a map: "dir", "-> target" or content, by name; with modes if they are not the usual ones.
func look(t testing.TB, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	type named struct {
		name string
		fi   os.FileInfo
	}
	var files []named
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fi, err := e.Info()
		if err != nil {
			return err
		}
		usual := fs.FileMode(0o644)
		switch {
		case e.IsDir():
			tree[rel], usual = "dir", fs.ModeDir|0o755
		case e.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			tree[rel], usual = "-> "+to, fi.Mode()
			if err != nil {
				return err
			}
		default:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			tree[rel] = string(data)
			if i := slices.IndexFunc(files, func(n named) bool { return os.SameFile(n.fi, fi) }); i >= 0 {
				tree[rel] += " =" + files[i].name
			}
			files = append(files, named{rel, fi})
		}
		if fi.Mode() != usual {
			tree[rel] += fmt.Sprintf(" %v", fi.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestRootfs(t *testing.T) {
	opq := f("d/.wh..wh..opq", "")
	for _, test := range []struct {
		name   string
		layers [][]entry
		want   map[string]string
	}{
		{"nothing", nil, map[string]string{}},
		{"one layer", [][]entry{{d("./"), d("a/"), f("./a/f", "1"), sym("a/s", "/nowhere"), hard("a/h", "a/f"), f("b/c/d", "2")}},
			map[string]string{"a": "dir", "a/f": "1", "a/s": "-> /nowhere", "a/h": "1 =a/f", "b": "dir", "b/c": "dir", "b/c/d": "2"}},
		{"replace", [][]entry{{f("f", "1"), f("keep", "k")}, {f("f", "2")}}, map[string]string{"f": "2", "keep": "k"}},
		{"whiteout", [][]entry{{f("d/a", "1"), f("d/b", "2"), f("e/x/y", "3")}, {f("d/.wh.a", ""), f(".wh.e", ""), f("d/.wh.nothing", "")}},
			map[string]string{"d": "dir", "d/b": "2"}},
		{"whiteout spares its own layer", [][]entry{{f("d/a", "1")}, {f("d/a", "2"), f("d/.wh.a", "")}}, map[string]string{"d": "dir", "d/a": "2"}},
		{"whiteout in the lowest layer", [][]entry{{f("d/.wh.a", ""), f("d/a", "1")}}, map[string]string{"d": "dir", "d/a": "1"}},
		{"opaque", [][]entry{{f("d/a", "1"), f("d/sub/x", "2"), f("e", "")}, {f("d/b", "3"), opq}, {f("d/c", "4")}},
			map[string]string{"d": "dir", "d/b": "3", "d/c": "4", "e": ""}},
		{"aufs", [][]entry{{f("f", ""), f(".wh..wh.plnk", "x"), f(".wh..wh.orph/x", "")}}, map[string]string{"f": ""}},
		{"directory becomes file", [][]entry{{f("d/a", "1")}, {f("d", "2")}}, map[string]string{"d": "2"}},
		{"file becomes directory", [][]entry{{f("d", "1")}, {f("d/a", "2")}}, map[string]string{"d": "dir", "d/a": "2"}},
		{"symlink becomes directory", [][]entry{{f("r/x", ""), sym("d", "r")}, {d("d/"), f("d/a", "2")}}, map[string]string{"r": "dir", "r/x": "", "d": "dir", "d/a": "2"}},
		{"directory becomes symlink", [][]entry{{f("d/x", "")}, {sym("d", "r")}}, map[string]string{"d": "-> r"}},
		{"below a symlink of a lower layer", [][]entry{{f("usr/lib/x", ""), sym("lib", "usr/lib"), sym("abs", "/lib")}, {f("lib/a", "2"), f("abs/.wh.x", ""), f("abs/b", "3")}},
			map[string]string{"usr": "dir", "usr/lib": "dir", "lib": "-> usr/lib", "abs": "-> /lib", "usr/lib/a": "2", "usr/lib/b": "3"}},
		{"below a symlink of its own layer", [][]entry{{d("usr/lib"), sym("lib", "usr/lib"), f("lib/a", "2"), hard("lib/h", "lib/a")}},
			map[string]string{"usr": "dir", "usr/lib": "dir", "lib": "-> usr/lib", "usr/lib/a": "2", "usr/lib/h": "2 =usr/lib/a"}},
		{"an absolute symlink is one in the tree", [][]entry{{sym("e", "/etc"), f("e/passwd", "x")}}, map[string]string{"e": "-> /etc", "etc": "dir", "etc/passwd": "x"}},
		{"hard link to a lower layer", [][]entry{{f("a", "1")}, {hard("d/b", "a"), hard("c", "d/b")}}, map[string]string{"a": "1", "c": "1 =a", "d": "dir", "d/b": "1 =a"}},
		{"hard link before its target", [][]entry{{hard("b", "c"), f("c", "1")}}, map[string]string{"b": "1", "c": "1 =b"}},
		{"hard link that a file replaces", [][]entry{{f("a", "1")}, {hard("b", "a"), f("b", "2")}}, map[string]string{"a": "1", "b": "2"}},
		{"hard link to a symlink", [][]entry{{sym("s", "gone"), hard("h", "s")}}, map[string]string{"s": "-> gone", "h": "-> gone"}},
		{"twice in a layer", [][]entry{{f("x", "1"), d("x"), f("x/y", ""), f("x", "2"), f("z/a", ""), sym("z", "x"), f("x", "3")}},
			map[string]string{"x": "3", "z": "-> x"}},
		{"directory twice keeps its content", [][]entry{{d("x"), f("x/y", ""), d("x")}}, map[string]string{"x": "dir", "x/y": ""}},
		{"global header", [][]entry{{entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}, f("a", "")}}, map[string]string{"a": ""}},
		{"modes", [][]entry{{
			entry{tar.Header{Name: "su", Typeflag: tar.TypeReg, Mode: 0o4755}, "x"},
			entry{tar.Header{Name: "ro/", Typeflag: tar.TypeDir, Mode: 0o555}, ""}, f("ro/f", ""),
			entry{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, ""},
		}, {f("ro/g", "")}}, map[string]string{"su": "x urwxr-xr-x", "ro": "dir dr-xr-xr-x", "ro/f": "", "ro/g": "", "tmp": "dir dtrwxrwxrwx"}},
		{"last says the mode", [][]entry{
			{d("a"), f("a/x", "")}, {entry{tar.Header{Name: "a", Typeflag: tar.TypeDir, Mode: 0o700}, ""}}, {f("a/y", "")},
		}, map[string]string{"a": "dir drwx------", "a/x": "", "a/y": ""}},
		{"a directory removed and made again forgets", [][]entry{
			{entry{tar.Header{Name: "a", Typeflag: tar.TypeDir, Mode: 0o700}, ""}}, {f(".wh.a", "")}, {f("a/y", "")},
		}, map[string]string{"a": "dir", "a/y": ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, pack := range packings {
				var layers []Layer
				for _, entries := range test.layers {
					plain := tarOf(t, entries...)
					layers = append(layers, raw(pack(t, plain), digest.FromBytes(plain)))
				}
				parent := t.TempDir()
				dir := filepath.Join(parent, "rootfs")
				t.Cleanup(func() { _ = removeAll(dir) }) // t.TempDir cannot remove what is in read-only directories
				if err := Rootfs(t.Context(), layers, dir, Options{Parallelism: 2, NoSync: true}); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if diff := cmp.Diff(test.want, look(t, dir)); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
				only(t, parent, "rootfs")
			}
		})
	}
}

// only checks what is in a directory, hidden files too.
func only(t testing.TB, dir string, want ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has %q, want %q", dir, got, want)
	}
}

func TestRootfsRefuses(t *testing.T) {
	up := strings.Repeat("../", 12)
	deep := strings.Repeat("d/", 300) + "f"
	for _, test := range []struct {
		name    string
		entries []entry
		want    error
		says    string
	}{
		{"dot dot", []entry{f("a/../../evil", "x")}, ErrUnsafe, "a/../../evil"},
		{"dot dot that stays inside", []entry{f("a/../evil", "x")}, ErrUnsafe, "a/../evil"},
		{"absolute", []entry{f("/evil", "x")}, ErrUnsafe, "/evil"},
		{"through a symlink up", []entry{sym("l", up+"tmp"), f("l/evil", "x")}, ErrUnsafe, "l/evil"},
		{"through symlinks, each short", []entry{d("a"), sym("a/b", ".."), sym("a/c", "b/../.."), f("a/c/evil", "x")}, ErrUnsafe, "a/c/evil"},
		{"directory through a symlink", []entry{sym("l", "../.."), d("l/evil")}, ErrUnsafe, "l/evil"},
		{"whiteout through a symlink", []entry{sym("l", "../.."), f("l/.wh.secret", "")}, ErrUnsafe, "l/.wh.secret"},
		{"symlinks in a circle", []entry{sym("a", "b"), sym("b", "a"), f("a/x", "")}, ErrUnsafe, "a/x"},
		{"hard link up", []entry{hard("h", "../secret")}, ErrUnsafe, "../secret"},
		{"hard link to absolute", []entry{hard("h", "/etc/passwd")}, ErrUnsafe, "/etc/passwd"},
		{"hard link through a symlink", []entry{sym("l", "../.."), hard("h", "l/secret")}, ErrUnsafe, "l/secret"},
		{"hard link to nothing", []entry{hard("h", "gone")}, fs.ErrNotExist, "gone"},
		{"hard link to a directory", []entry{d("d"), hard("h", "d")}, ErrUnsafe, `"d"`},
		{"hard link to itself", []entry{f("h", ""), hard("h", "./h")}, ErrUnsafe, `"h"`},
		{"hard link to nothing that is itself", []entry{hard("h", "h")}, ErrUnsafe, `"h"`},
		{"hard links in a circle", []entry{hard("h", "i"), hard("i", "h")}, fs.ErrNotExist, `"h"`},
		{"device", []entry{special("dev/null", tar.TypeChar)}, ErrType, "dev/null"},
		{"block device", []entry{special("sda", tar.TypeBlock)}, ErrType, "sda"},
		{"named pipe", []entry{special("p", tar.TypeFifo)}, ErrType, "named pipe"},
		{"unknown type", []entry{special("x", 'Z')}, ErrType, "'Z'"},
		{"below a file", []entry{f("a", ""), f("a/b", "")}, ErrUnsafe, "a/b"},
		{"file as the top", []entry{f(".", "x")}, ErrUnsafe, "."},
		{"symlink as the top", []entry{sym("./", "/")}, ErrUnsafe, "."},
		{"whiteout of dot dot", []entry{f("a/.wh...", "")}, ErrUnsafe, ".wh..."},
		{"whiteout of dot", []entry{f("a/.wh..", "")}, ErrUnsafe, ".wh.."},
		{"whiteout of nothing", []entry{f(".wh.", "")}, ErrUnsafe, ".wh."},
		{"whiteout as directory", []entry{f("a/.wh.b/c", "")}, ErrUnsafe, ".wh.b"},
		{"deep", []entry{f(deep, "")}, ErrLimit, "256"},
		{"long name", []entry{f(strings.Repeat("x/", 3000)+"f", "")}, ErrUnsafe, "6001"},
		{"owner", []entry{{Header: tar.Header{Name: "x", Typeflag: tar.TypeReg, Uid: 1 << 40}}}, ErrUnsafe, "owner"},
		{"too many entries", []entry{f("a", ""), f("b", ""), f("c", ""), f("d", ""), f("e", ""), f("f", "")}, ErrLimit, "5 entries"},
		{"bomb", []entry{f("zeros", string(make([]byte, 33<<20)))}, ErrLimit, "33554432"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, pack := range packings {
				plain := tarOf(t, test.entries...)
				bad := raw(pack(t, plain), digest.FromBytes(plain))
				refused(t, name, []Layer{bad}, test.want, test.says)
			}
		})
	}
	// The same, where a lower layer has the symlink, and a layer above is unpacked at the same time.
	for name, layers := range map[string][]Layer{
		"file":          {layer(t, sym("l", "../..")), layer(t, f("l/evil", "x")), layer(t, f("ok", ""))},
		"whiteout":      {layer(t, sym("l", "../..")), layer(t, f("l/.wh.secret", ""))},
		"hard link":     {layer(t, sym("l", "../..")), layer(t, hard("h", "l/secret"))},
		"link's parent": {layer(t, sym("l", "../.."), f("x", "")), layer(t, hard("l/evil", "x"))},
	} {
		refused(t, name+" through a lower layer's symlink", layers, ErrUnsafe, "l")
	}
}

// refused checks the error, and that nothing is left of the layers and nothing beside them was touched.
func refused(t testing.TB, name string, layers []Layer, want error, says string) {
	t.Helper()
	outer := t.TempDir()
	parent := filepath.Join(outer, "parent")
	if err := os.Mkdir(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{outer, parent} {
		if err := os.WriteFile(filepath.Join(p, "secret"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := Rootfs(t.Context(), layers, filepath.Join(parent, "rootfs"), Options{MaxEntries: 5, MaxBytes: 32 << 20, NoSync: true})
	if err == nil || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %v", name, err)
	}
	only(t, outer, "parent", "secret")
	only(t, parent, "secret")
}

func TestRootfsChecksDigests(t *testing.T) {
	plain := tarOf(t, f("a", strings.Repeat("content", 1000)))
	for name, pack := range packings {
		refused(t, name, []Layer{layer(t, f("b", "")), raw(pack(t, plain), digest.FromString("other"))}, ErrDigest, "")
		// What follows the end of the tar counts too.
		longer := append(slices.Clip(plain), make([]byte, 4096)...)
		refused(t, name, []Layer{raw(pack(t, longer), digest.FromBytes(plain))}, ErrDigest, digest.FromBytes(longer).String())
	}
	l := layer(t)
	l.MediaType = "application/vnd.oci.image.layer.v1.tar+encrypted"
	refused(t, "media type", []Layer{l}, ErrMediaType, "encrypted")
	l.MediaType, l.DiffID = ocispec.MediaTypeImageLayer, "sha256:12"
	refused(t, "digest", []Layer{l}, digest.ErrDigestInvalidLength, "sha256:12")
}

// A sparse file of 8 GiB, of which the tar holds one block; archive/tar does not write such.
func TestRootfsRefusesSparseBomb(t *testing.T) {
	h := make([]byte, 512)
	for at, field := range map[int]string{
		0: "sparse", 100: "0000644\x00", 108: "0000000\x00", 116: "0000000\x00", 124: "00000001000\x00", 136: "00000000000\x00",
		148: "        ", 156: "S", 257: "ustar  \x00", 386: "00000000000\x00", 398: "00000001000\x00", 483: "77777777777\x00",
	} {
		copy(h[at:], field)
	}
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	plain := append(h, make([]byte, 3*512)...)
	refused(t, "sparse", []Layer{raw(plain, digest.FromBytes(plain))}, ErrLimit, "sparse")
}

func TestRootfsOfCutOrChangedLayers(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	noise := make([]byte, 20_000)
	for i := range noise {
		noise[i] = byte(rng.IntN(7))
	}
	plain := tarOf(t, f("a", string(noise)), f("b", "x"), d("c"))
	id := digest.FromBytes(plain)
	for name, pack := range packings {
		packed := pack(t, plain)
		for i := 0; i < len(packed); i += 1 + len(packed)/50 {
			if name == "zstd mixed" && i > len(packed)-11 {
				continue // within the last frame that is skipped whatever it is
			}
			refused(t, fmt.Sprintf("%s cut at %d of %d", name, i, len(packed)), []Layer{raw(packed[:i], id)}, nil, "")
		}
		for range 50 {
			changed := slices.Clone(packed)
			changed[rng.IntN(len(changed))] ^= byte(1 + rng.IntN(255))
			dir := filepath.Join(t.TempDir(), "rootfs")
			if err := Rootfs(t.Context(), []Layer{raw(changed, id)}, dir, Options{NoSync: true}); err != nil {
				only(t, filepath.Dir(dir))
			} else if got := look(t, dir); got["a"] != string(noise) || len(got) != 3 {
				t.Errorf("%s: a changed layer was taken", name)
			}
		}
	}
}

func TestRootfsNeedsAFreeName(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "rootfs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Rootfs(t.Context(), nil, dir, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	only(t, parent, "rootfs")
	if err := Rootfs(t.Context(), nil, filepath.Join(parent, "no", "rootfs"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := rename(filepath.Join(parent, "rootfs"), parent); err == nil {
		t.Error("renamed over a directory")
	}
}

func TestRootfsCleansUpAfterTheDead(t *testing.T) {
	parent := t.TempDir()
	for _, name := range []string{".rootfs.unpack-dead/0/ro", ".rootfs.unpack-alive", ".other.unpack-dead"} {
		if err := os.MkdirAll(filepath.Join(parent, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(parent, ".rootfs.unpack-dead/0"), 0o500); err != nil {
		t.Fatal(err)
	}
	alive, err := lock(filepath.Join(parent, ".rootfs.unpack-alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if err := Rootfs(t.Context(), nil, filepath.Join(parent, "rootfs"), Options{}); err != nil {
		t.Fatal(err)
	}
	only(t, parent, ".other.unpack-dead", ".rootfs.unpack-alive", "rootfs")
}

func TestRootfsEndsWithItsContext(t *testing.T) {
	stop := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	parent := t.TempDir()
	var layers []Layer
	for i := range 8 {
		layers = append(layers, layer(t, f(fmt.Sprint(i), strings.Repeat("x", 4<<20))))
	}
	err := Rootfs(ctx, layers, filepath.Join(parent, "rootfs"), Options{Progress: func(e progress.Event) {
		if e.Done > 500 {
			cancel(stop)
		}
	}})
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	only(t, parent)
}

func TestRootfsReportsWhatOpenAndReadSay(t *testing.T) {
	broken := errors.New("broken disk")
	l := layer(t, f("a", ""))
	l.Open = func() (io.ReadCloser, error) { return nil, broken }
	refused(t, "open", []Layer{l}, broken, l.DiffID.String())
	l.Open = func() (io.ReadCloser, error) {
		return io.NopCloser(readFunc(func([]byte) (int, error) { return 0, broken })), nil
	}
	refused(t, "read", []Layer{layer(t), l, layer(t)}, broken, l.DiffID.String())
}

func TestRootfsProgress(t *testing.T) {
	layers := []Layer{layer(t, f("a", "1")), layer(t, f("b", "2"))}
	events := make(chan progress.Event, 100)
	if err := Rootfs(t.Context(), layers, filepath.Join(t.TempDir(), "rootfs"), Options{Progress: func(e progress.Event) { events <- e }}); err != nil {
		t.Fatal(err)
	}
	close(events)
	ended := map[string]int64{}
	for e := range events {
		if e.End && e.Done == e.Total {
			ended[e.ID] = e.Done
		}
	}
	want := map[string]int64{layers[0].DiffID.String(): layers[0].Size, layers[1].DiffID.String(): layers[1].Size}
	if !maps.Equal(want, ended) {
		t.Errorf("got %v", ended)
	}
}

func TestRootfsOfManyLayers(t *testing.T) {
	var layers []Layer
	want := map[string]string{"d": "dir"}
	for i := range 60 {
		name := fmt.Sprintf("d/%d", i)
		want[name] = strings.Repeat(name, 1+i*3000)
		layers = append(layers, layer(t, f(name, want[name]), f("d/last", fmt.Sprint(i))))
	}
	want["d/last"] = "59"
	for _, n := range []int{1, 2, 16} {
		dir := filepath.Join(t.TempDir(), "rootfs")
		if err := Rootfs(t.Context(), layers, dir, Options{Parallelism: n}); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(want, look(t, dir)) {
			t.Errorf("with parallelism %d the tree is another", n)
		}
	}
}

func TestRootfsTimes(t *testing.T) {
	when := time.Unix(1_500_000_000, 0)
	e := []entry{d("d"), f("d/f", "x"), sym("d/s", "f")}
	for i := range e {
		e[i].ModTime = when
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := Rootfs(t.Context(), []Layer{layer(t, e...), layer(t, f("d/g/h", ""))}, dir, Options{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Time{"d": when, "d/f": when, "d/s": when, "d/g": time.Unix(0, 0), "": time.Unix(0, 0)} {
		fi, err := os.Lstat(path.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !fi.ModTime().Equal(want) {
			t.Errorf("%q is of %v", name, fi.ModTime())
		}
	}
}
