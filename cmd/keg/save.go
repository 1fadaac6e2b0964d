package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
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
			return saveFile(c, s, file, images)
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "", "the file to write (default standard output)")
	return c
}

// saveFile leaves either a whole file or none.
func saveFile(c *cobra.Command, s *imagestore.Store, file string, images []imagestore.Tagged) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*.part")
	if err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // gone already after the rename
	}()
	if err := archive.Save(c.Context(), f, s, images); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	return nil
}
