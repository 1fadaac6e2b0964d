package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/internal/lockfile"
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
			if file == "" || file == "-" {
				if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
					return usageErrorf("an image is not for a terminal: give -o FILE, or redirect")
				}
				w := bufio.NewWriterSize(a.stdout, 1<<20)
				if err := archive.Save(c.Context(), w, s, images); err != nil {
					return err
				}
				if err := w.Flush(); err != nil {
					return fmt.Errorf("writing archive: %w", err)
				}
				return nil
			}
			return saveFile(c.Context(), s, file, images)
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "", "the file to write (default standard output)")
	return c
}

// saveFile leaves either a whole file or none. What is no regular file (/dev/stdout, a pipe) is written to
// as it is.
func saveFile(ctx context.Context, s *imagestore.Store, file string, images []imagestore.Tagged) error {
	fi, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return saveWhole(ctx, s, file, images)
	case err != nil:
		return fmt.Errorf("writing archive: %w", err)
	case fi.IsDir():
		return usageErrorf("-o %s: this is a directory; the name of a file is wanted", file)
	case fi.Mode().IsRegular():
		if file, err = filepath.EvalSymlinks(file); err != nil { // a link stays one
			return fmt.Errorf("writing archive: %w", err)
		}
		return saveWhole(ctx, s, file, images)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	if err := archive.Save(ctx, f, s, images); err != nil {
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
func saveWhole(ctx context.Context, s *imagestore.Store, file string, images []imagestore.Tagged) error {
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
	if err := archive.Save(ctx, f, s, images); err != nil {
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
