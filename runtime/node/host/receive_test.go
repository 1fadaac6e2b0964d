package host

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/runtime/node"
)

// stream is a tar archive of entries; one without a digest as its name is hostile.
func stream(t testing.TB, entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := h.Uname // the content rides here
		h.Uname = ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = io.WriteString(w, text)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func good(text string) *tar.Header {
	return &tar.Header{Name: digest.FromString(text).String(), Uname: text}
}

func kind(err error) node.Kind {
	var e *node.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return "untyped"
}

func TestReceiveHostile(t *testing.T) {
	large := strings.Repeat("x", 300<<10)
	whole := stream(t, good("first"), good(large))
	outside := filepath.Join(t.TempDir(), "outside")
	for _, tc := range []struct {
		name   string
		stream []byte
		want   node.Kind
		text   string
	}{
		{"truncated in content", whole[:len(whole)-100<<10], node.KindArchive, "ends too early"},
		{"truncated in header", whole[:1024+100], node.KindArchive, "ends too early"},
		{"no archive", bytes.Repeat([]byte("garbage "), 1000), node.KindArchive, "no tar archive"},
		{"wrong digest", stream(t, &tar.Header{Name: digest.FromString("other").String(), Uname: "content"}), node.KindDigest, "sha256:"},
		{"name outside", stream(t, &tar.Header{Name: outside, Uname: "x"}), node.KindArchive, "not named by"},
		{"dots", stream(t, &tar.Header{Name: "sha256:../../../../etc/x", Uname: "x"}), node.KindArchive, "not named by"},
		{"short digest", stream(t, &tar.Header{Name: "sha256:abc", Uname: "x"}), node.KindArchive, "not named by"},
		{"upper case digest", stream(t, &tar.Header{Name: strings.ToUpper(digest.FromString("x").Encoded()), Uname: "x"}), node.KindArchive, "not named by"},
		{"other algorithm", stream(t, &tar.Header{Name: digest.SHA512.FromString("x").String(), Uname: "x"}), node.KindArchive, "not named by"},
		{"symlink", stream(t, &tar.Header{Typeflag: tar.TypeSymlink, Name: digest.FromString("x").String(), Linkname: "/etc/shadow"}), node.KindArchive, "no regular file"},
		{"device", stream(t, &tar.Header{Typeflag: tar.TypeBlock, Name: digest.FromString("x").String()}), node.KindArchive, "no regular file"},
		{"hard link", stream(t, &tar.Header{Typeflag: tar.TypeLink, Name: digest.FromString("x").String(), Linkname: outside}), node.KindArchive, "no regular file"},
		{"directory", stream(t, &tar.Header{Typeflag: tar.TypeDir, Name: "sha256:x/"}), node.KindArchive, "no regular file"},
		{"more than fits", stream(t, &tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "t", PAXRecords: map[string]string{node.ReceiveTotal: "4611686018427387904"}}), node.KindDiskFull, "needed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := &Host{Root: t.TempDir()}
			_, err := h.Receive(t.Context(), bytes.NewReader(tc.stream))
			if kind(err) != tc.want || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error is %v (%s), want %s: %s", err, kind(err), tc.want, tc.text)
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Error("it wrote outside")
			}
			left, _ := os.ReadDir(h.path(node.StoreDir + "/ingest"))
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestReceiveKeepsWhatCameBeforeTheCut(t *testing.T) {
	h := &Host{Root: t.TempDir()}
	whole := stream(t, good("first"), good("second"), good("third"))
	if _, err := h.Receive(t.Context(), bytes.NewReader(whole[:2*1024+512+3])); kind(err) != node.KindArchive {
		t.Errorf("error is %v", err)
	}
	m, err := h.Missing(t.Context(), node.MissingRequest{Blobs: []digest.Digest{digest.FromString("first"), digest.FromString("second"), digest.FromString("third")}})
	if err != nil || len(m.Missing) != 1 || m.Missing[0] != digest.FromString("third") {
		t.Errorf("missing: %v, %v", m, err)
	}
	r, err := h.Receive(t.Context(), bytes.NewReader(whole))
	if err != nil || r.Blobs != 1 || r.Bytes != 5 {
		t.Errorf("the rest: %+v, %v", r, err)
	}
}

func FuzzReceive(f *testing.F) {
	whole := stream(f, good("first"), good("second"))
	f.Add(whole)
	f.Add(whole[:700])
	f.Add([]byte{})
	f.Add(stream(f, &tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "t", PAXRecords: map[string]string{node.ReceiveTotal: "12"}}, good("x")))
	f.Add(stream(f, &tar.Header{Name: "../../x", Uname: "x"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		root := t.TempDir()
		h := &Host{Root: root}
		_, err := h.Receive(t.Context(), bytes.NewReader(data))
		var known *node.Error
		if err != nil && !errors.As(err, &known) && !strings.HasPrefix(err.Error(), "reading stream: ") {
			t.Errorf("error without a kind: %v", err)
		}
		blobs, _ := os.ReadDir(filepath.Join(root, node.StoreDir, "blobs/sha256"))
		for _, b := range blobs {
			data, err := os.ReadFile(filepath.Join(root, node.StoreDir, "blobs/sha256", b.Name()))
			if err != nil || digest.FromBytes(data).Encoded() != b.Name() {
				t.Errorf("blob %s is of other content: %v", b.Name(), err)
			}
		}
		if top, _ := os.ReadDir(root); len(top) > 1 {
			t.Errorf("it wrote outside of %s: %v", node.Dir, top)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"cluster":"c","uid":"u","done":["x"]}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"uid":1}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := parseState(data)
		if (st == nil) == (err == nil) {
			t.Errorf("state %v and error %v", st, err)
		}
		if err != nil && kind(err) != node.KindState {
			t.Errorf("error is %v", err)
		}
	})
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"kind":"file","name":"/etc/x","before":{"type":"absent"}}` + "\n"))
	f.Add([]byte(`{"kind":"file"}` + "\n" + `{"ki`))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, end, err := readJournal(bytes.NewReader(data))
		if err == nil && (end > int64(len(data)) || end > 0 && data[end-1] != '\n' || bytes.Count(data[:end], []byte("\n")) != len(entries)) {
			t.Errorf("%d entries end at %d of %d", len(entries), end, len(data))
		}
	})
}

// smallDisk mounts a file system of a megabyte at root/dir.
func smallDisk(t *testing.T, root, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: a file system that is full needs root to mount one")
	}
	p := filepath.Join(root, dir)
	if err := os.MkdirAll(p, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", p, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIP: a file system that is full needs mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(p, unix.MNT_DETACH) })
}

func TestDiskFull(t *testing.T) {
	wantFull := func(t *testing.T, err error, path string) {
		t.Helper()
		var e *node.Error
		if !errors.As(err, &e) || e.Kind != node.KindDiskFull || e.Path != path || e.Need == 0 || e.Free >= math.MaxInt32 ||
			!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "needed") {
			t.Errorf("error is %v (%#v)", err, e)
		}
	}
	text := strings.Repeat("x", 2<<20)
	t.Run("receive", func(t *testing.T) {
		h := &Host{Root: t.TempDir()}
		smallDisk(t, h.Root, node.Dir)
		_, err := h.Receive(t.Context(), bytes.NewReader(stream(t, good(text))))
		wantFull(t, err, node.StoreDir)
	})
	t.Run("put", func(t *testing.T) {
		h := &Host{Root: t.TempDir()}
		smallDisk(t, h.Root, "/etc")
		if err := os.WriteFile(h.path("/etc/x"), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(h.path("/etc/x"), time.Unix(5, 0), time.Unix(5, 0)); err != nil {
			t.Fatal(err)
		}
		if err := h.ownDir(); err != nil {
			t.Fatal(err)
		}
		before := treeOf(t, h.Root)
		_, err := h.Put(t.Context(), bytes.NewReader(stream(t, &tar.Header{Name: "/etc/x", Uname: text, Mode: 0o644})))
		wantFull(t, err, "/etc/x")
		if data, err := os.ReadFile(h.path("/etc/x")); err != nil || string(data) != "old" {
			t.Errorf("the old file: %q, %v", data, err)
		}
		if r, err := h.Undo(t.Context()); err != nil || len(r.Residue) > 0 {
			t.Errorf("undo: %+v, %v", r, err)
		}
		if after := treeOf(t, h.Root); len(after) != len(before) {
			t.Errorf("left behind: %v", after)
		}
	})
}

func tarFile(to, text string, mode int64) *tar.Header {
	return &tar.Header{Name: to, Uname: text, Mode: mode}
}
