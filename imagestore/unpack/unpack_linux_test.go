package unpack

import (
	"archive/tar"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestRootfsOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	owned := func(name string, typ byte) entry {
		return entry{Header: tar.Header{Name: name, Typeflag: typ, Linkname: "x", Mode: 0o4755, Uid: 12, Gid: 3_000_000}}
	}
	for owner, want := range map[bool][2]uint32{true: {12, 3_000_000}, false: {0, 0}} {
		dir := filepath.Join(t.TempDir(), "rootfs")
		l := layer(t, owned("d", tar.TypeDir), owned("f", tar.TypeReg), owned("l", tar.TypeSymlink))
		if err := Rootfs(t.Context(), []Layer{l}, dir, Options{Owner: owner}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"d", "f", "l"} {
			var st syscall.Stat_t
			if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			if st.Uid != want[0] || st.Gid != want[1] || name != "l" && st.Mode&0o7777 != 0o4755 {
				t.Errorf("%s: %d:%d, mode %o", name, st.Uid, st.Gid, st.Mode)
			}
		}
	}
}

func TestRootfsXattrs(t *testing.T) {
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(probe, "user.keg", []byte("x"), 0); err != nil {
		t.Skip("no extended attributes here: " + err.Error())
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	records := map[string]string{xattrPrefix + "user.keg": "a\x00b", xattrPrefix + "trusted.overlay.opaque": "y"}
	e := f("f", "x")
	e.PAXRecords = records
	if err := Rootfs(t.Context(), []Layer{layer(t, e)}, dir, Options{Owner: os.Getuid() == 0}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := syscall.Getxattr(filepath.Join(dir, "f"), "user.keg", buf)
	if err != nil || string(buf[:n]) != "a\x00b" {
		t.Errorf("%q, %v", buf[:max(n, 0)], err)
	}
	if n, _ := syscall.Listxattr(filepath.Join(dir, "f"), buf); string(buf[:max(n, 0)]) != "user.keg\x00" {
		t.Errorf("attributes are %q", buf[:max(n, 0)])
	}
}
