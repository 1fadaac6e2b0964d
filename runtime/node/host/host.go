// Package host does on a host what keg asks for: it is keg-node without its main function. Every
// change outside node.Dir goes through a recorder that knows what was there before, so that undo puts
// it back.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/lockfile"
	"github.com/clusterimage/keg/runtime/node"
)

// Host is the machine that keg-node runs on.
type Host struct {
	// Root is put before every path: "" is the machine itself, a directory makes it a pretended one.
	Root string
	// Programs runs programs of the machine, such as systemctl.
	Programs Programs
	// Log receives the output of hooks.
	Log io.Writer
	// Ready is told when the registry listens, and where; nil tells nobody.
	Ready func(net.Addr)

	// at is called before each durable step; tests end the process there.
	at func(step string)
}

// path is where an absolute path of the host lies.
func (h *Host) path(p string) string {
	if h.Root == "" {
		return p
	}
	return filepath.Join(h.Root, p)
}

func (h *Host) step(format string, args ...any) {
	if h.at != nil {
		h.at(fmt.Sprintf(format, args...))
	}
}

func (h *Host) log() io.Writer {
	if h.Log == nil {
		return io.Discard
	}
	return h.Log
}

// store opens the host's image store.
func (h *Host) store() (*imagestore.Store, error) {
	if err := h.ownDir(); err != nil {
		return nil, err
	}
	return imagestore.Open(h.path(node.StoreDir))
}

// ownDir makes node.Dir.
func (h *Host) ownDir() error {
	if err := os.MkdirAll(h.path(node.Dir), 0o700); err != nil {
		return fmt.Errorf("making %s: %w", node.Dir, h.diskFull(err, node.Dir, 0))
	}
	return nil
}

// alone waits until no other keg-node changes this host. It is not the lock of a whole run, which is
// gone when a connection breaks, but that of one verb, which may still be at work then.
func (h *Host) alone(ctx context.Context) (release func(), err error) {
	if err := h.ownDir(); err != nil {
		return nil, err
	}
	return lockfile.Acquire(ctx, h.path(node.Dir+"/"+verbLock), lockfile.Exclusive, nil)
}

// verbLock is the file of alone, in node.Dir.
const verbLock = "verb.lock"

// checkPath refuses what cannot be a place for a file of keg's on a host.
func checkPath(p string) error {
	switch {
	case !filepath.IsAbs(p) || filepath.Clean(p) != p || strings.ContainsRune(p, 0):
		return node.Errorf(node.KindRequest, "path %q is not absolute and clean", p)
	case p == "/" || below(p, "/proc") || below(p, "/sys") || below(p, "/dev"):
		return node.Errorf(node.KindRequest, "path %s is not for keg to change", p)
	}
	return nil
}

// below says whether p is dir or lies in it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// diskFull makes a node.Error of err if it says that the file system of path is full. need is the
// number of bytes wanted, 0 where that is not known.
func (h *Host) diskFull(err error, path string, need int64) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	free, inodes, _ := h.left(path)
	e := noRoom(path, need, free)
	if inodes == 0 && free > need {
		e.Text = fmt.Sprintf("no room in %s: %d bytes are free, but there is no room for more files (inodes)", path, free)
	}
	return e
}

func noRoom(path string, need, free int64) *node.Error {
	e := node.Errorf(node.KindDiskFull, "no room in %s: %d bytes are free", path, free)
	if need > 0 {
		e.Text = fmt.Sprintf("no room in %s: %d bytes are needed, %d are free", path, need, free)
	}
	e.Path, e.Need, e.Free = path, need, free
	return e
}

// free is the number of bytes that may be written to the file system on which path lies or will lie.
func (h *Host) free(path string) (int64, error) {
	bytes, _, err := h.left(path)
	return bytes, err
}

// left is free, and the number of files that may be made there, -1 where the file system has no limit.
func (h *Host) left(path string) (bytes, files int64, err error) {
	for p := path; ; p = filepath.Dir(p) {
		var st unix.Statfs_t
		err := unix.Statfs(h.path(p), &st)
		if errors.Is(err, fs.ErrNotExist) && p != "/" {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("asking for free space of %s: %w", p, err)
		}
		files = int64(st.Ffree)
		if st.Files == 0 { // btrfs and others
			files = -1
		}
		return int64(st.Bavail) * st.Bsize, files, nil
	}
}
