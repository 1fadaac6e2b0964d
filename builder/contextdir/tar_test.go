package contextdir_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/builder/contextdir"
)

func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.Uname // carried in a field that is of no use here
		h.Uname = ""
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Uname: content}
}

// tree is a directory, a line for each path.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text = string(data)
		case fi.Mode()&fs.ModeSymlink != 0:
			if text, err = os.Readlink(name); err != nil {
				return err
			}
			out[strings.TrimPrefix(name, dir+"/")] = "-> " + text
			return nil
		}
		out[strings.TrimPrefix(name, dir+"/")] = fmt.Sprintf("%s %s", fi.Mode(), text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTar(t *testing.T) {
	plain := archive(t,
		tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}},
		tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}, tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o500},
		file("./d/f", "f", 0o640), file("/x/y", "y", 0o4755), file("twice", "one", 0o644), file("twice", "two", 0o600),
		tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "/etc/passwd"}, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "./d/f"},
	)
	want := map[string]string{
		"d": "dr-x------ ", "d/f": "-rw-r----- f", "x": "drwxr-xr-x ", "x/y": "urwxr-xr-x y", "twice": "-rw------- two", "s": "-> /etc/passwd", "h": "-rw-r----- f",
	}
	for name, data := range map[string][]byte{"plain": plain, "gzip": gz(t, plain), "more behind it": append(append([]byte(nil), plain...), make([]byte, 1<<20)...)} {
		t.Run(name, func(t *testing.T) {
			is, r := contextdir.IsTar(bytes.NewReader(data))
			if !is {
				t.Error("it is taken for none")
			}
			dir := t.TempDir()
			if err := contextdir.Tar(t.Context(), r, dir); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTarHostile(t *testing.T) {
	good := archive(t, file("a", "content", 0o644))
	for name, data := range map[string][]byte{
		"name leads out":          archive(t, file("../out", "x", 0o644)),
		"name leads out later":    archive(t, file("d/../../out", "x", 0o644)),
		"through a link":          archive(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "d", Linkname: ".."}, file("d/out", "x", 0o644)),
		"through an absolute one": archive(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "d", Linkname: "/tmp"}, file("d/out", "x", 0o644)),
		"hard link out":           archive(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "../../etc/passwd"}),
		"hard link to nothing":    archive(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "none"}),
		"device":                  archive(t, tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}),
		"pipe":                    archive(t, tar.Header{Typeflag: tar.TypeFifo, Name: "p"}),
		"cut":                     good[:600],
		"cut between two":         archive(t, file("a", "content", 0o644), file("b", "content", 0o644))[:1024],
		"cut in gzip":             gz(t, good)[:30],
		"text":                    []byte("FROM scratch\n"),
		"a file as the root":      archive(t, file(".", "x", 0o644)),
	} {
		t.Run(name, func(t *testing.T) {
			above := t.TempDir()
			dir := filepath.Join(above, "dir")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := contextdir.Tar(t.Context(), bytes.NewReader(data), dir); err == nil {
				t.Error("it was unpacked")
			}
			if list, err := os.ReadDir(above); err != nil || len(list) != 1 {
				t.Errorf("it left %v, %v", list, err)
			}
		})
	}
}

func TestIsTar(t *testing.T) {
	for text, want := range map[string]bool{"": false, "FROM scratch\n": false, strings.Repeat("# comment\n", 500): false, strings.Repeat("\x00", 600): false} {
		is, r := contextdir.IsTar(strings.NewReader(text))
		if rest, err := io.ReadAll(r); is != want || err != nil || string(rest) != text {
			t.Errorf("%.20q: %v, and %d bytes of it, %v", text, is, len(rest), err)
		}
	}
}

func FuzzTar(f *testing.F) {
	f.Add(archive(f, file("a/b", "x", 0o644), tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "../.."}, file("s/x", "y", 0o644)))
	f.Add(gz(f, archive(f, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "../x"})))
	f.Add([]byte("FROM scratch\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		above := t.TempDir()
		dir := filepath.Join(above, "dir")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_, r := contextdir.IsTar(bytes.NewReader(data))
		err := contextdir.Tar(t.Context(), r, dir)
		if list, lerr := os.ReadDir(above); lerr != nil || len(list) != 1 {
			t.Errorf("%v: it left %v, %v", err, list, lerr)
		}
		if errors.Is(err, fs.ErrInvalid) {
			return
		}
		_ = os.Chmod(dir, 0o700) //nolint:gosec // so that it can be removed
	})
}
