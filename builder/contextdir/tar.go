// Package contextdir makes directories of build contexts that are something else: a tar stream, a git
// repository.
package contextdir

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/internal/ctxio"
)

// ErrTar says that a stream cannot be a build context.
var ErrTar = errors.New("not a tar archive that can be a build context")

// blockSize is that of a tar archive.
const blockSize = 512

// IsTar looks at the beginning of a stream: whether it is a tar archive, plain or compressed. The returned reader
// has the whole stream.
func IsTar(r io.Reader) (bool, io.Reader) {
	b := bufio.NewReaderSize(r, 4096)
	head, _ := b.Peek(blockSize) // a shorter one says what it is as well
	if compression.Detect(head) != compression.None {
		return true, b
	}
	if len(head) < blockSize {
		return false, b
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next() // a header of several blocks ends early
	return !errors.Is(err, tar.ErrHeader) && !errors.Is(err, io.EOF), b
}

// Tar unpacks a stream, plain or compressed, into dir, which is empty. Names and links stay inside of it. Owners
// and times are not kept: an image has its own.
func Tar(ctx context.Context, r io.Reader, dir string) error {
	if err := unpackTar(ctx, r, dir); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("reading build context: %w", err)
	}
	return nil
}

func unpackTar(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	plain, err := compression.NewReader(ctxio.Reader(ctx, r))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTar, err)
	}
	defer plain.Close()
	modes := map[string]fs.FileMode{} // of directories, which are set when all is in them
	tail := &tailReader{r: plain}
	tr := tar.NewReader(tail)
	var end int64 // where the last entry ended, with its padding
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTar, err)
		}
		if err := unpackEntry(root, tr, h, modes); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return fmt.Errorf("%w: %w", ErrTar, err)
		}
		end = (tail.n + blockSize - 1) &^ (blockSize - 1)
	}
	// Without the zeros at its end an archive whose writer was killed between two files looks whole.
	if tail.n-end < 2*blockSize || tail.zeros < 2*blockSize {
		return fmt.Errorf("%w: it is cut off: %w", ErrTar, io.ErrUnexpectedEOF)
	}
	// What follows is read, so that whoever writes it does not fail.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return fmt.Errorf("%w: %w", ErrTar, err)
	}
	for name, mode := range modes {
		if err := root.Chmod(name, mode); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func unpackEntry(root *os.Root, content io.Reader, h *tar.Header, modes map[string]fs.FileMode) error {
	if h.Typeflag == tar.TypeXGlobalHeader { // git archive writes one
		return nil
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	if h.Typeflag == tar.TypeDir {
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		modes[name] = mode & ^fs.ModeDir
		return nil
	}
	if name == "." {
		return fmt.Errorf("%s: %w", h.Name, ErrTar)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.RemoveAll(name); err != nil { // the last of a name counts
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return unpackFile(root, content, name, mode)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		to, err := inside(h.Linkname)
		if err != nil {
			return err
		}
		return root.Link(to, name)
	}
	return fmt.Errorf("%s: %w: it is neither a file, a directory nor a link", h.Name, ErrTar)
}

func unpackFile(root *os.Root, content io.Reader, name string, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	return root.Chmod(name, mode)
}

// tailReader counts what was read, and the zeros at its end.
type tailReader struct {
	r        io.Reader
	n, zeros int64
}

// Read implements io.Reader.
func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	i := n
	for i > 0 && p[i-1] == 0 {
		i--
	}
	if i > 0 {
		t.zeros = 0
	}
	t.zeros += int64(n - i)
	t.n += int64(n)
	return n, err
}

// inside makes a name one below the root, or fails.
func inside(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%s leads out of the build context: %w", name, ErrTar)
	}
	return clean, nil
}
