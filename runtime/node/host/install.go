package host

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/clusterimage/keg/runtime/node"
)

// Install copies files and directories of Rootfs to their places. A template "x.tmpl" is left out where
// "x" lies beside it.
func (h *Host) Install(ctx context.Context, req node.InstallRequest) (node.InstallResponse, error) {
	release, err := h.alone(ctx)
	if err != nil {
		return node.InstallResponse{}, err
	}
	defer release()
	root, err := os.OpenRoot(h.path(node.Rootfs))
	if err != nil {
		return node.InstallResponse{}, fmt.Errorf("opening rootfs: %w", err)
	}
	defer root.Close()
	var items []item
	for _, it := range req.Items {
		if err := checkTarget(it.To); err != nil {
			return node.InstallResponse{}, err
		}
		more, err := collect(root, it)
		if errors.Is(err, fs.ErrNotExist) && it.Optional {
			continue
		}
		if err != nil {
			return node.InstallResponse{}, fmt.Errorf("installing %s: %w", it.From, err)
		}
		items = append(items, more...)
	}
	if req.OnlyLook {
		changed, err := h.differing(ctx, items)
		return node.InstallResponse{Changed: changed}, err
	}
	rec, err := h.openRecorder()
	if err != nil {
		return node.InstallResponse{}, err
	}
	defer rec.close()
	changed, err := h.place(ctx, rec, items)
	return node.InstallResponse{Changed: changed}, err
}

// differing lists the items that the host does not have as they are.
func (h *Host) differing(ctx context.Context, items []item) (changed []string, err error) {
	for _, it := range items {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		same, err := h.same(it)
		if err != nil {
			return nil, err
		}
		if !same {
			changed = append(changed, it.to)
		}
	}
	return changed, nil
}

// checkTarget is checkPath for files: those of keg-node's own state are not for anybody to write.
func checkTarget(to string) error {
	if err := checkPath(to); err != nil {
		return err
	}
	for _, own := range []string{node.Recorder, node.StoreDir, node.State, node.Binary} {
		if below(to, own) || to == node.Dir {
			return node.Errorf(node.KindRequest, "path %s is keg-node's own", to)
		}
	}
	return nil
}

// collect lists what an InstallItem stands for, directories before what is in them.
func collect(root *os.Root, it node.InstallItem) ([]item, error) {
	from := path.Clean(it.From)
	if !filepath.IsLocal(from) {
		return nil, node.Errorf(node.KindRequest, "path %q is not inside the rootfs", it.From)
	}
	st, err := root.Stat(from)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		one, err := itemOf(root, from, it.To, st, it.Mode)
		return []item{one}, err
	}
	var items []item
	err = fs.WalkDir(root.FS(), from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := root.Lstat(p)
		if err != nil {
			return err
		}
		if name, ok := strings.CutSuffix(p, ".tmpl"); ok && st.Mode().IsRegular() {
			if _, err := root.Lstat(name); err == nil {
				return nil
			}
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		one, err := itemOf(root, p, filepath.Join(it.To, rel), st, it.Mode)
		items = append(items, one)
		return err
	})
	return items, err
}

func itemOf(root *os.Root, from, to string, st fs.FileInfo, mode int64) (item, error) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return item{}, fmt.Errorf("looking at %s: no owner", from)
	}
	it := item{to: to, mode: sys.Mode & 0o7777, uid: int(sys.Uid), gid: int(sys.Gid)}
	switch {
	case st.IsDir():
		it.typ = folder
	case st.Mode().IsRegular():
		it.typ, it.size = regular, st.Size()
		it.open = func() (io.ReadCloser, error) { return root.Open(from) }
		if mode != 0 {
			it.mode = uint32(mode) & 0o7777
		}
	case st.Mode()&fs.ModeSymlink != 0:
		it.typ = symlink
		target, err := root.Readlink(from)
		if err != nil {
			return item{}, err
		}
		it.target = target
	default:
		return item{}, node.Errorf(node.KindRequest, "%s of the rootfs is a device, a socket or a pipe", from)
	}
	return it, nil
}

// Put writes the regular files of a tar stream. Each is in place before the next is read.
func (h *Host) Put(ctx context.Context, stream io.Reader) (node.InstallResponse, error) {
	var resp node.InstallResponse
	rec, done, err := h.recording(ctx)
	if err != nil {
		return resp, err
	}
	defer done()
	in := tar.NewReader(stream)
	for {
		if err := context.Cause(ctx); err != nil {
			return resp, err
		}
		hdr, err := nextEntry(in)
		if errors.Is(err, io.EOF) {
			return resp, nil
		}
		if err != nil {
			return resp, err
		}
		changed, err := h.putOne(ctx, rec, hdr, in)
		resp.Changed = append(resp.Changed, changed...)
		if err != nil {
			return resp, err
		}
	}
}

// nextEntry is the next regular file of a tar stream from the network.
func nextEntry(in *tar.Reader) (*tar.Header, error) {
	hdr, err := in.Next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are checked by who knows them
		return nil, streamError(err)
	}
	if hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeXGlobalHeader {
		return nil, node.Errorf(node.KindArchive, "entry %q is no regular file", hdr.Name)
	}
	return hdr, nil
}

// streamError says that a stream ended early or is no tar archive.
func streamError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return node.Errorf(node.KindArchive, "the stream ends too early")
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		return node.Errorf(node.KindArchive, "the stream is no tar archive: %v", err)
	}
	return fmt.Errorf("reading stream: %w", err)
}

func (h *Host) putOne(ctx context.Context, rec *recorder, hdr *tar.Header, content io.Reader) ([]string, error) {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil
	}
	if err := checkTarget(hdr.Name); err != nil {
		return nil, err
	}
	// A file without a name goes with the process; nothing secret stays if it dies.
	spool, err := os.CreateTemp(h.path(node.Dir), "put-*")
	if err != nil {
		return nil, fmt.Errorf("receiving %s: %w", hdr.Name, h.diskFull(err, node.Dir, hdr.Size))
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil {
		return nil, fmt.Errorf("receiving %s: %w", hdr.Name, err)
	}
	if _, err := io.Copy(spool, content); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("receiving %s: %w", hdr.Name, streamError(err))
		}
		return nil, fmt.Errorf("receiving %s: %w", hdr.Name, h.diskFull(err, node.Dir, hdr.Size))
	}
	return h.place(ctx, rec, []item{{
		to: hdr.Name, typ: regular, mode: uint32(hdr.Mode) & 0o7777, uid: os.Geteuid(), gid: os.Getegid(), size: hdr.Size,
		open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(spool, 0, hdr.Size)), nil
		},
	}})
}
