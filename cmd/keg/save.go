package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/internal/lockfile"
	"github.com/clusterimage/keg/internal/progress"
)

func newSaveCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "save -o FILE IMAGE...",
		Short: "Write images to one file, an OCI layout in a tar",
		Long: `Write images, with everything embedded in them, to one file: an OCI layout in a tar, which
skopeo, podman and keg load read. The same images give the same bytes.`,
		Example: `  keg save -o shop.tar reg.example.com/shop:v1
  keg save reg.example.com/shop:v1 | ssh far-side keg load`,
		Args:              minArgs(1, "at least one image"),
		ValidArgsFunction: a.completeImages(0),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.store()
			if err != nil {
				return err
			}
			var images []imagestore.Tagged
			for _, arg := range args {
				t, err := s.Resolve(arg)
				if err != nil {
					return err
				}
				images = append(images, t)
			}
			toStdout := file == "" || file == "-"
			if f, ok := a.stdout.(*os.File); toStdout && ok && term.IsTerminal(int(f.Fd())) {
				return usageErrorf("an image is not for a terminal: give -o FILE, or redirect")
			}
			show, err := a.display()
			if err != nil {
				return err
			}
			defer show.close()
			written := &writtenBytes{emit: show.event}
			for _, t := range images {
				i, err := s.Inspect(c.Context(), t)
				if err != nil {
					return err
				}
				written.total += i.Size
			}
			write := func(w io.Writer) error {
				written.w = w
				return archive.Save(c.Context(), written, s, images)
			}
			if toStdout {
				err = saveStdout(a.stdout, write)
			} else {
				err = saveFile(file, write)
			}
			written.end(err)
			return err
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "", "the file to write (default standard output)")
	return c
}

func saveStdout(stdout io.Writer, write func(io.Writer) error) error {
	w := bufio.NewWriterSize(stdout, 1<<20)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	return nil
}

// writtenBytes tells how much was written, about every megabyte. The total is what the images take: little
// less than the archive, and more where they share blobs.
type writtenBytes struct {
	w                  io.Writer
	emit               progress.Func
	done, shown, total int64
}

// Write implements io.Writer.
func (b *writtenBytes) Write(p []byte) (int, error) {
	n, err := b.w.Write(p)
	b.count(int64(n))
	return n, err
}

// ReadFrom implements io.ReaderFrom: files copy from each other faster than by Write.
func (b *writtenBytes) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(b.w, r)
	b.count(n)
	return n, err
}

func (b *writtenBytes) count(n int64) {
	b.done += n
	if b.done-b.shown >= 1<<20 {
		b.shown = b.done
		b.emit.Emit(b.event())
	}
}

func (b *writtenBytes) event() progress.Event {
	return progress.Event{ID: "save", Name: "writing archive", Done: b.done, Total: max(b.total, b.done)}
}

func (b *writtenBytes) end(err error) {
	e := b.event()
	e.Err, e.End = err, true
	b.emit.Emit(e)
}

// saveFile leaves either a whole file or none. What is no regular file (/dev/stdout, a pipe) is written to
// as it is.
func saveFile(file string, write func(io.Writer) error) error {
	fi, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return saveWhole(file, write)
	case err != nil:
		return fmt.Errorf("writing archive: %w", err)
	case fi.IsDir():
		return usageErrorf("-o %s: this is a directory; the name of a file is wanted", file)
	case fi.Mode().IsRegular():
		if file, err = filepath.EvalSymlinks(file); err != nil { // a link stays one
			return fmt.Errorf("writing archive: %w", err)
		}
		return saveWhole(file, write)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	return nil
}

// errSaving says that two kegs would write one file.
var errSaving = errors.New("another keg is writing this file")

// saveWhole writes beside the file and renames. The part has one name, and a lock, so that a save after
// one that was killed takes its place and no remains pile up.
func saveWhole(file string, write func(io.Writer) error) error {
	fail := func(err error) error { return fmt.Errorf("writing archive %s: %w", file, err) }
	part := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".part")
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o666) // less the umask
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	locked, err := lockfile.TryLock(f, lockfile.Exclusive)
	if err != nil {
		return fail(err)
	}
	if !locked || !stillNamed(f, part) {
		return fail(errSaving)
	}
	whole := false
	defer func() {
		if !whole {
			_ = os.Remove(part)
		}
	}()
	if err := f.Truncate(0); err != nil {
		return fail(err)
	}
	if err := write(f); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if err := os.Rename(part, file); err != nil {
		return fail(err)
	}
	whole = true
	return nil
}

// stillNamed says whether nobody renamed or removed an open file.
func stillNamed(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(open, named)
}
