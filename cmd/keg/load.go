package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
)

func newLoadCommand(a *app) *cobra.Command {
	var file, name string
	var out output
	c := &cobra.Command{
		Use:   "load [-i FILE]",
		Short: "Read images from a file into the store",
		Long: `Read images from a file (or standard input) into the store: OCI layouts and docker archives,
plain or compressed by gzip, zstd, bzip2 or xz. An image that the archive does not name gets the one
given by --name.`,
		Example: `  keg load -i shop.tar
  keg load -i image.tar --name reg.example.com/web:v3
  docker save nginx:1.27 | keg load`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if name != "" {
				if _, err := parseTag(name); err != nil {
					return err
				}
			}
			if _, err := a.terminal(); err == nil && (file == "" || file == "-") {
				return usageErrorf("an archive does not come from a terminal: give -i FILE, or redirect")
			}
			s, err := a.store()
			if err != nil {
				return err
			}
			show, err := a.display()
			if err != nil {
				return err
			}
			defer show.close()
			loaded, err := a.load(c.Context(), s, file, name, show)
			show.close()
			if err != nil {
				return err
			}
			type line struct {
				Name   string `json:"name"`
				Digest string `json:"digest"`
			}
			list := []line{}
			for _, t := range loaded {
				list = append(list, line{t.Name, t.Target.Digest.String()})
			}
			return out.write(a.stdout, list, func(w io.Writer) {
				for _, l := range list {
					fmt.Fprintf(w, "loaded %s %s\n", l.Name, l.Digest)
				}
			})
		},
	}
	c.Flags().StringVarP(&file, "input", "i", "", "the file to read (default standard input)")
	c.Flags().StringVar(&name, "name", "", "name for an image that the archive does not name")
	out.register(c)
	return c
}

func (a *app) load(ctx context.Context, s *imagestore.Store, file, name string, show *display) ([]imagestore.Tagged, error) {
	r := a.input(ctx)
	if file != "" && file != "-" {
		f, err := unlessDone(ctx, func() (*os.File, error) { return os.Open(file) }) // a pipe waits for its writer
		if err != nil {
			return nil, fmt.Errorf("opening archive: %w", err)
		}
		defer f.Close()
		r = interruptible(ctx, f)
	}
	loaded, err := archive.Load(ctx, s, r, archive.Options{Progress: show.event, Name: name})
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", nameOr(file, "standard input"), err)
	}
	return loaded, nil
}

func nameOr(name, otherwise string) string {
	if name == "" || name == "-" {
		return otherwise
	}
	return name
}
