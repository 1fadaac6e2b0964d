package pack

import (
	"path/filepath"
	"syscall"
	"testing"
)

func TestXattrs(t *testing.T) {
	dir, root := tree(t, "f")
	if err := syscall.Setxattr(filepath.Join(dir, "f"), "user.keg", []byte("a\x00b"), 0); err != nil {
		t.Skip("no extended attributes here: " + err.Error())
	}
	e, err := (&Scanner{Root: root}).File("f")
	if err != nil || e.Xattrs["user.keg"] != "a\x00b" {
		t.Errorf("%q, %v", e.Xattrs, err)
	}
}
