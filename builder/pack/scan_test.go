package pack

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// tree makes files below a new directory: "x/" is a directory, "x -> y" a symlink, "x = y" a hard link.
func tree(t *testing.T, lines ...string) (dir string, root *os.Root) {
	t.Helper()
	dir = t.TempDir()
	for _, line := range lines {
		var err error
		switch {
		case strings.Contains(line, " -> "):
			name, target, _ := strings.Cut(line, " -> ")
			err = os.Symlink(target, filepath.Join(dir, name))
		case strings.Contains(line, " = "):
			name, target, _ := strings.Cut(line, " = ")
			err = os.Link(filepath.Join(dir, target), filepath.Join(dir, name))
		case strings.HasSuffix(line, "/"):
			err = os.MkdirAll(filepath.Join(dir, line), 0o750)
		default:
			err = os.WriteFile(filepath.Join(dir, line), []byte("content of "+line), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return dir, root
}

var ignoreContent = cmpopts.IgnoreFields(Entry{}, "Open", "Identity", "Xattrs")

func TestScannerDir(t *testing.T) {
	dir, root := tree(t, "d/", "d/sub/", "d/sub/f", "d/a", "d/b = d/a", "d/out -> /etc", "d-x", "d/skip/", "d/skip/kept", "d/pruned/", "d/pruned/f")
	if err := os.Chmod(filepath.Join(dir, "d/sub/f"), fs.ModeSetuid|0o755); err != nil {
		t.Fatal(err)
	}
	s := Scanner{Root: root, Filter: func(rel string, d fs.DirEntry) (bool, bool) {
		if d.IsDir() != (rel == "d/sub" || rel == "d/skip" || rel == "d/pruned") {
			t.Errorf("%s: IsDir is %v", rel, d.IsDir())
		}
		return rel != "d/skip" && rel != "d/pruned", rel != "d/pruned"
	}}
	got, err := s.Dir(t.Context(), "d")
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{Name: "d/a", Type: tar.TypeReg, Mode: 0o640, Size: 14},
		{Name: "d/b", Type: tar.TypeLink, Mode: 0o640, Linkname: "d/a"},
		{Name: "d/out", Type: tar.TypeSymlink, Mode: 0o777, Linkname: "/etc"},
		{Name: "d/skip/kept", Type: tar.TypeReg, Mode: 0o640, Size: 22},
		{Name: "d/sub", Type: tar.TypeDir, Mode: 0o750},
		{Name: "d/sub/f", Type: tar.TypeReg, Mode: 0o4755, Size: 18},
	}
	if diff := cmp.Diff(want, got, ignoreContent); diff != "" {
		t.Error(diff)
	}
	r, err := got[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "content of d/a" {
		t.Errorf("content %q, %v", b, err)
	}
}

func TestScannerFileAndOwner(t *testing.T) {
	_, root := tree(t, "d/", "d/f", "l -> d")
	s := Scanner{Root: root, KeepOwner: true}
	e, err := s.File("d/f")
	if err != nil || e.UID != os.Getuid() || e.Name != "d/f" {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err = s.File("l"); err != nil || e.Type != tar.TypeSymlink {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err = s.File("gone"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "gone") {
		t.Errorf("got %v", err)
	}
}

func TestScannerStaysInside(t *testing.T) {
	_, root := tree(t, "out -> /etc", "up -> ..")
	for _, name := range []string{"out", "up", "../x", "/etc"} {
		if list, err := (&Scanner{Root: root}).Dir(t.Context(), name); err == nil {
			t.Errorf("%s: %d entries", name, len(list))
		}
	}
}

func TestScannerRefusesSpecialFiles(t *testing.T) {
	dir, root := tree(t, "p/", "s/")
	if err := syscall.Mkfifo(filepath.Join(dir, "p/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s/sock"))
	if err != nil {
		t.Skip("no unix socket can be made here: " + err.Error())
	}
	defer l.Close()
	for d, want := range map[string]SpecialFileError{"p": {Path: "p/pipe", Kind: "named pipe"}, "s": {Path: "s/sock", Kind: "socket"}} {
		_, err := (&Scanner{Root: root}).Dir(t.Context(), d)
		var special *SpecialFileError
		if !errors.As(err, &special) || *special != want {
			t.Errorf("%s: got %v", d, err)
		}
	}
}

func TestOpenNoticesAnotherFile(t *testing.T) {
	dir, root := tree(t, "f", "g")
	e, err := (&Scanner{Root: root}).File("f")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "g"), filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Open(); !errors.Is(err, ErrChanged) {
		t.Errorf("got %v", err)
	}
}

func TestIdentity(t *testing.T) {
	dir, root := tree(t, "f")
	name := filepath.Join(dir, "f")
	if e, err := (&Scanner{Root: root}).File("f"); err != nil || e.Identity != "" {
		t.Errorf("a file of this moment has identity %q, %v", e.Identity, err)
	}
	fi, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	st, err := statOf(fi)
	if err != nil {
		t.Fatal(err)
	}
	later := fi.ModTime().Add(time.Minute)
	first := identity(fi, st, later)
	if first == "" || first != identity(fi, st, later) {
		t.Errorf("identity is %q", first)
	}
	changed := st
	changed.ctime = st.ctime.Add(time.Nanosecond)
	if identity(fi, changed, later) == first {
		t.Error("identity does not know the ctime")
	}
	changed.ctime = later
	if got := identity(fi, changed, later); got != "" {
		t.Errorf("identity of a racy file is %q", got)
	}
}

func TestKey(t *testing.T) {
	base := func() []Entry {
		f, g := file("f", "abc"), file("g", "")
		f.Identity = "1"
		f.Xattrs = map[string]string{"user.a": "1", "user.b": "2"}
		return []Entry{f, g, {Name: "l", Type: tar.TypeSymlink, Linkname: "f"}}
	}
	key, ok := Key(base(), Options{})
	if !ok || len(key) != 64 {
		t.Fatalf("key %q, %v", key, ok)
	}
	list := base()
	list[0], list[2] = list[2], list[0]
	for name, same := range map[string]func() (string, bool){
		"order":       func() (string, bool) { return Key(list, Options{}) },
		"parallelism": func() (string, bool) { return Key(base(), Options{Parallelism: 3, Compression: Zstd}) },
		"nanoseconds": func() (string, bool) { return Key(base(), Options{ModTime: time.Unix(0, 5)}) },
	} {
		if got, ok := same(); !ok || got != key {
			t.Errorf("%s changes the key", name)
		}
	}
	seen := map[string]string{key: "base"}
	for name, change := range map[string]func(e *Entry){
		"name": func(e *Entry) { e.Name = "ff" }, "mode": func(e *Entry) { e.Mode = 1 }, "uid": func(e *Entry) { e.UID = 1 },
		"gid": func(e *Entry) { e.GID = 1 }, "size": func(e *Entry) { e.Size = 1 }, "identity": func(e *Entry) { e.Identity = "2" },
		"xattr": func(e *Entry) { e.Xattrs["user.a"] = "x" }, "xattr name": func(e *Entry) { delete(e.Xattrs, "user.a"); e.Xattrs["user.c"] = "1" },
		"type": func(e *Entry) { e.Type = tar.TypeDir }, "linkname": func(e *Entry) { e.Linkname = "g" },
	} {
		list := base()
		change(&list[0])
		got, _ := Key(list, Options{})
		if seen[got] != "" {
			t.Errorf("%s gives the key of %s", name, seen[got])
		}
		seen[got] = name
	}
	for _, o := range []Options{{Compression: Gzip}, {ModTime: time.Unix(1, 0)}} {
		if got, _ := Key(base(), o); seen[got] != "" {
			t.Errorf("%+v does not change the key", o)
		}
	}
	list = base()
	list[0].Identity = ""
	if _, ok := Key(list, Options{}); ok {
		t.Error("a file without identity has a key")
	}
}
