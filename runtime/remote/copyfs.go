package remote

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	_ "embed"
)

// treeScript is POSIX sh, busybox's too.
//
//go:embed tree.sh
var treeScript string

// CopyFS makes dir (absolute) a copy of tree: regular files, directories and symbolic links, with their
// permission bits, owned by root. It goes over as one tar stream into a directory beside dir, where the
// host checks each file by sha256; then that directory takes dir's name. Whatever was in dir is gone
// then; if anything fails, dir is as it was.
func CopyFS(ctx context.Context, r Runner, dir string, tree fs.FS) error {
	if err := checkTarget(dir); err != nil {
		return fmt.Errorf("copying to %s: %w", dir, err)
	}
	part := path.Join(path.Dir(dir), "."+path.Base(dir)+"."+rand.Text()+".part")
	stream, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_ = w.CloseWithError(writeTree(ctx, w, tree))
	}()
	err := r.Run(ctx, Cmd{Args: []string{"sh", "-c", treeScript, "sh", dir, part}, Stdin: stream})
	_ = stream.Close()
	<-written
	if err != nil {
		return fmt.Errorf("copying to %s: %w", dir, err)
	}
	return nil
}

// writeTree writes tree below "tree/", and after it the file "sums" for sha256sum -c.
func writeTree(ctx context.Context, w io.Writer, tree fs.FS) error {
	tw := tar.NewWriter(w)
	var sums bytes.Buffer
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return writeEntry(tw, &sums, tree, name, info)
	})
	if err != nil {
		return err
	}
	end := &tar.Header{Typeflag: tar.TypeReg, Name: "sums", Mode: 0o600, Size: int64(sums.Len()), ModTime: earliest}
	if err := tw.WriteHeader(end); err != nil {
		return err
	}
	if _, err := tw.Write(sums.Bytes()); err != nil {
		return err
	}
	return tw.Close()
}

// earliest stands for no time at all: tar warns of times about 1970.
var earliest = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

func writeEntry(tw *tar.Writer, sums io.Writer, tree fs.FS, name string, info fs.FileInfo) error {
	if strings.ContainsAny(name, "\n\r\\") {
		return fmt.Errorf("%q: names with line breaks or backslashes cannot be copied", name)
	}
	head := &tar.Header{Name: path.Join("tree", name), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime().Truncate(time.Second), Format: tar.FormatPAX}
	if head.ModTime.Before(earliest) {
		head.ModTime = earliest
	}
	switch kind := info.Mode().Type(); kind {
	case fs.ModeDir:
		head.Typeflag, head.Name = tar.TypeDir, head.Name+"/"
		return tw.WriteHeader(head)
	case fs.ModeSymlink:
		target, err := fs.ReadLink(tree, name)
		if err != nil {
			return err
		}
		head.Typeflag, head.Linkname, head.Mode = tar.TypeSymlink, target, 0o777
		return tw.WriteHeader(head)
	case 0:
	default:
		return fmt.Errorf("%s: only files, directories and symbolic links can be copied, this is %s", name, info.Mode())
	}
	head.Typeflag, head.Size = tar.TypeReg, info.Size()
	if err := tw.WriteHeader(head); err != nil {
		return err
	}
	f, err := tree.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(tw, sum), f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if n != head.Size {
		return fmt.Errorf("%s: it changed while it was read", name)
	}
	_, err = fmt.Fprintf(sums, "%s  %s\n", hex.EncodeToString(sum.Sum(nil)), name)
	return err
}
