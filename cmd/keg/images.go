package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
)

func newImagesCommand(a *app) *cobra.Command {
	var out output
	var quiet bool
	c := &cobra.Command{
		Use:   "images",
		Short: "List the images in the store",
		Example: `  keg images
  keg images -o json | jq '.[].name'`,
		Aliases: []string{"ls"},
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.store()
			if err != nil {
				return err
			}
			list, err := summaries(c.Context(), s)
			if err != nil {
				return err
			}
			if quiet {
				for _, i := range list {
					fmt.Fprintln(a.stdout, i.Digest)
				}
				return nil
			}
			return out.write(a.stdout, list, func(w io.Writer) {
				row(w, "NAME", "DIGEST", "TYPE", "RUNTIME", "VERSION", "IMAGES", "SIZE")
				for _, i := range list {
					row(w, i.Name, short(i.Digest.String()), i.Type, dash(i.Runtime), dash(i.KubeVersion), len(i.Images), size(i.Size))
				}
			})
		},
	}
	out.register(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print digests only")
	return c
}

func summaries(ctx context.Context, s *imagestore.Store) ([]imagestore.Summary, error) {
	tags, err := s.Images()
	if err != nil {
		return nil, err
	}
	list := []imagestore.Summary{} // "[]" rather than "null" in JSON
	for _, t := range tags {
		i, err := s.Inspect(ctx, t)
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, nil
}

// short is the beginning of a digest that people copy: 12 hex digits.
func short(digest string) string {
	if len(digest) < len("sha256:")+12 {
		return digest
	}
	return digest[len("sha256:") : len("sha256:")+12]
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
