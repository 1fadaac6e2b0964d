package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore/storetest"
)

type header = tar.Header

func compressed(t *testing.T, w func(io.Writer) (io.WriteCloser, error), data []byte) string {
	t.Helper()
	var buf bytes.Buffer
	zw, err := w(&buf)
	if err == nil {
		_, err = zw.Write(data)
	}
	if err == nil {
		err = zw.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestAddArchives(t *testing.T) {
	data := tarOf(t,
		header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
		header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 3},
		header{Name: "./bin/tool", Linkname: "tool", Mode: 0o4755, Uid: 3, Gid: 4},
		header{Name: "bin/again", Typeflag: tar.TypeLink, Linkname: "./bin/tool"},
		header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "/usr/bin/tool"},
		header{Name: "bin/up", Typeflag: tar.TypeSymlink, Linkname: "../bin/tool"},
		header{Name: "etc/x", Linkname: "first"},
		header{Name: "etc/x", Linkname: "second"},
	)
	members := []string{
		"0711 3:0 o/bin/", "o/bin/again => o/bin/tool", "o/bin/sh -> /usr/bin/tool", "4755 3:4 o/bin/tool tool", "o/bin/up -> ../bin/tool",
		"0755 0:0 o/etc/", "0644 0:0 o/etc/x second",
	}
	ctx := files{
		"a.tar": string(data), "a.tgz": string(gz(t, data)), "notar.gz": string(gz(t, []byte("text"))),
		"a.txz": compressed(t, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }, data),
		"a.bin": compressed(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, data),
	}
	for _, tt := range []struct {
		line string
		want []string
	}{
		{"ADD a.tar /o", append([]string{"0755 0:0 o/"}, members...)},
		{"ADD a.tgz /o/", append([]string{"0755 0:0 o/"}, members...)},
		{"ADD a.txz /o/", append([]string{"0755 0:0 o/"}, members...)},
		{"ADD a.bin /o/", append([]string{"0755 0:0 o/"}, members...)},
		{"ADD --chown=9:9 a.tar /o", []string{
			"0755 9:9 o/", "0711 9:9 o/bin/", "o/bin/again => o/bin/tool", "o/bin/sh -> /usr/bin/tool", "4755 9:9 o/bin/tool tool",
			"o/bin/up -> ../bin/tool", "0755 0:0 o/etc/", "0644 9:9 o/etc/x second",
		}},
	} {
		tb := &testBuild{kubefile: "FROM scratch\n" + tt.line + "\n", files: ctx}
		got := tb.layers(t, tb.must(t))[0]
		// A hard link follows its file in a layer, wherever its name stands.
		if indexOf(got, "=>") < indexOf(got, "/tool tool") {
			t.Errorf("%s: link before its file: %q", tt.line, got)
		}
		if diff := cmp.Diff(sorted(tt.want), sorted(got)); diff != "" {
			t.Errorf("%s: %s", tt.line, diff)
		}
	}
	bz, err := os.ReadFile("testdata/hello.tar.bz2")
	if err != nil {
		t.Fatal(err)
	}
	tb := &testBuild{kubefile: "FROM scratch\nADD x /\n", files: files{"x": string(bz)}}
	if diff := cmp.Diff([]string{"0755 0:0 hello/", "0640 0:0 hello/f hi\n"}, tb.layers(t, tb.must(t))[0]); diff != "" {
		t.Error(diff)
	}
	for _, line := range []string{"ADD --unpack=false a.tgz /", "COPY a.tgz /", "ADD notar.gz /"} {
		tb := &testBuild{kubefile: "FROM scratch\n" + line + "\n", files: ctx}
		if got := tb.layers(t, tb.must(t))[0]; len(got) != 1 {
			t.Errorf("%s: %q", line, got)
		}
	}
}

func indexOf(list []string, part string) int {
	return slices.IndexFunc(list, func(s string) bool { return strings.Contains(s, part) })
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

func TestHostileArchives(t *testing.T) {
	many := func() string {
		one := tarPrefix(t, header{Name: "f", Typeflag: tar.TypeReg}, 0)
		return compressed(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, bytes.Repeat(one, maxMembers+1))
	}
	bomb := func() string { // the headers of a large file, and then zeros, compressed a thousand times
		return compressed(t, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }, tarPrefix(t, header{Name: "bomb", Typeflag: tar.TypeReg, Size: 1 << 40}, 8<<20))
	}
	good := tarOf(t, header{Name: "a", Linkname: strings.Repeat("x", 5000)})
	random := make([]byte, 5000)
	rand.NewChaCha8([32]byte{}).Read(random)
	noise := gz(t, tarOf(t, header{Name: "a", Linkname: string(random)}))
	tests := []struct{ name, data, want string }{
		{"absolute", string(tarOf(t, header{Name: "/etc/passwd", Linkname: "x"})), `"/etc/passwd" is an absolute path`},
		{"dots", string(tarOf(t, header{Name: "a/../../x", Linkname: "x"})), `"a/../../x" leads out of the tree`},
		{"link out", string(tarOf(t, header{Name: "a/l", Typeflag: tar.TypeSymlink, Linkname: "../../x"})), `"a/l" is a link to "../../x"`},
		{"hard link out", string(tarOf(t, header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"})), `"l" is a hard link to`},
		{"hard link to the host", string(tarOf(t, header{Name: "l", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"})), `"l" is a hard link to`},
		{"through a link", string(tarOf(t, header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, header{Name: "l/passwd", Linkname: "x"})), `"l/passwd" leads through "l"`},
		{"device", string(tarOf(t, header{Name: "sda", Typeflag: tar.TypeBlock})), `"sda" is a device`},
		{"pipe", string(tarOf(t, header{Name: "p", Typeflag: tar.TypeFifo})), `"p" is a device, a pipe`},
		{"whiteout", string(tarOf(t, header{Name: "etc/.wh.passwd"})), ".wh.passwd"},
		{"too many members", many(), "more than 500000 members"},
		{"bomb", bomb(), `"bomb": unpacked it would be more than`},
		{"cut", string(good[:3000]), "unexpected EOF"},
		{"cut and compressed", string(noise[:len(noise)-300]), "unexpected EOF"},
		{"cut behind the end", string(noise[:len(noise)-5]), "unexpected EOF"},
		{"broken", string(slices.Concat(noise[:len(noise)/2], []byte("xxxxxxx"), noise[len(noise)/2+7:])), "a.tar"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tb := &testBuild{kubefile: "FROM scratch\nADD a.tar /x/\n", files: files{"a.tar": tt.data}}
			_, err := tb.run(t)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range []string{tt.want, "a.tar", "Kubefile:2:1"} {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error does not say %q: %v", w, err)
				}
			}
			if tt.name != "whiteout" && !errors.Is(err, ErrArchive) {
				t.Errorf("error is no ErrArchive: %v", err)
			}
		})
	}
}

// tarPrefix is a header and zeros.
func tarPrefix(t *testing.T, h header, zeros int) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	buf.Write(make([]byte, zeros))
	return buf.Bytes()
}

func FuzzArchive(f *testing.F) {
	var t testing.T
	f.Add(tarOf(&t, header{Name: "a", Linkname: "x"}, header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}))
	f.Add(gz(&t, tarOf(&t, header{Name: "../a", Linkname: "x"})))
	scratch := storetest.New(f).Scratch
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &tarball{name: "fuzz", size: int64(len(data)), scratch: scratch, open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
		defer a.close()
		list, err := a.members(t.Context())
		if err != nil {
			return
		}
		tree := newTree()
		k := &copier{l: newLayer(tree)}
		if err := k.extract(t.Context(), a, list, "x"); err != nil {
			return
		}
		for _, e := range k.l.list() {
			if e.Name != "x" && !strings.HasPrefix(e.Name, "x/") {
				t.Errorf("%q is outside", e.Name)
			}
		}
		if _, err := pack.Write(t.Context(), io.Discard, k.l.list(), pack.Options{Parallelism: 1}); err != nil && !errors.Is(err, pack.ErrName) && !errors.Is(err, pack.ErrLink) {
			t.Errorf("packing what was extracted: %v", err)
		}
	})
}

func TestDownloads(t *testing.T) {
	content := tarOf(t, header{Name: "x", Linkname: "x"})
	sum := sha256.Sum256(content)
	requests := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		switch r.URL.Path {
		case "/dir/file.tar":
			_, _ = w.Write(content)
		case "/cut":
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("short"))
		case "/slow":
			_, _ = w.Write([]byte("a"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/app.yaml":
			_, _ = w.Write([]byte("kind: x"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	for _, tt := range []struct{ line, want string }{
		{"ADD URL/dir/file.tar /o/", "0755 0:0 o/\n0600 0:0 o/file.tar"},
		{"ADD --chmod=0644 URL/dir/file.tar?q=1 /name", "0644 0:0 name"},
		{"ADD --unpack=true URL/dir/file.tar /o/", "0755 0:0 o/\n0644 0:0 o/x x"},
		{"APP a URL/app.yaml", "0755 0:0 application/\n0755 0:0 application/apps/\n0755 0:0 application/apps/a/\n0644 0:0 application/apps/a/app.yaml kind: x"},
	} {
		tb := &testBuild{kubefile: "FROM scratch\n" + strings.ReplaceAll(tt.line, "URL", srv.URL) + "\n"}
		var got []string
		for _, l := range tb.layers(t, tb.must(t))[0] {
			if strings.Contains(l, "file.tar") || strings.Contains(l, " name ") {
				l = strings.Join(strings.Fields(strings.ReplaceAll(l, "\x00", " "))[:3], " ")
				l, _, _ = strings.Cut(l, "\x00")
			}
			got = append(got, l)
		}
		if diff := cmp.Diff(lines(tt.want), got); diff != "" {
			t.Errorf("%s: %s", tt.line, diff)
		}
	}
	tb := &testBuild{kubefile: "FROM scratch\nADD --checksum=sha256:" + hex.EncodeToString(sum[:]) + " " + srv.URL + "/dir/file.tar /\n"}
	first := tb.must(t)
	before := requests
	tb.builder = func(b *Builder) { b.Fetch = nil }
	if again := tb.must(t); again.Target.Digest != first.Target.Digest || requests != before {
		t.Error("a file with a known checksum was downloaded again")
	}
	for _, tt := range []struct{ line, want string }{
		{"ADD URL/none /", "404 Not Found"},
		{"ADD URL/cut /", "unexpected EOF"},
		{"ADD URL/slow /", "nothing came"},
		{"ADD URL/ /o/", "no file name"},
		{"ADD --checksum=sha256:" + strings.Repeat("0", 64) + " URL/dir/file.tar /", "does not have the given checksum"},
		{"APP a URL/app.yaml#sha256=" + strings.Repeat("0", 64), "does not have the given checksum"},
	} {
		tb := &testBuild{kubefile: "FROM scratch\n" + strings.ReplaceAll(tt.line, "URL", srv.URL) + "\n", builder: func(b *Builder) {
			b.Fetch = HTTP{Stall: 200 * time.Millisecond}
		}}
		_, err := tb.run(t)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "Kubefile:2:1") {
			t.Errorf("%s: got %v", tt.line, err)
		}
		var status *StatusError
		if errors.As(err, &status) != strings.Contains(tt.want, "404") {
			t.Errorf("%s: status of %v", tt.line, err)
		}
	}
}

func TestCancelled(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	fs := files{}
	for i := range 8 {
		fs[fmt.Sprintf("f%d", i)] = big + fmt.Sprint(i)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	tb := &testBuild{kubefile: "FROM scratch\nCOPY . /\n", files: fs, ctx: ctx, request: func(*Request) {}}
	tb.builder = func(b *Builder) {
		b.Parallelism = 1
		b.Progress = cancelAt(2, func() { cancel(stop) })
	}
	if _, err := tb.run(t); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(tb.store.Dir() + "/ingest")
	if err != nil || len(left) != 0 {
		t.Errorf("left in ingest: %v, %v", left, err)
	}
}
