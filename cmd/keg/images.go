package main

import (
	"context"
	"errors"
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
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.store()
			if err != nil {
				return err
			}
			list, unreadable := summaries(c.Context(), s)
			if quiet {
				for _, i := range list {
					fmt.Fprintln(a.stdout, i.Digest)
				}
				return unreadable
			}
			err = out.write(a.stdout, list, func(w io.Writer) {
				row(w, "NAME", "DIGEST", "TYPE", "RUNTIME", "VERSION", "IMAGES", "SIZE")
				for _, i := range list {
					row(w, i.Name, short(i.Digest.String()), i.Type, dash(i.Runtime), dash(i.KubeVersion), len(i.Images), size(i.Size))
				}
			})
			return errors.Join(unreadable, err)
		},
	}
	out.register(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print digests only")
	return group(c, newImagesFindCommand(a))
}

// summaries lists what can be read, and says what cannot: one damaged image does not hide the others.
func summaries(ctx context.Context, s *imagestore.Store) ([]imagestore.Summary, error) {
	list := []imagestore.Summary{} // "[]" rather than "null" in JSON
	tags, err := s.Images()
	if err != nil {
		return list, err
	}
	var unreadable []error
	for _, t := range tags {
		i, err := s.Inspect(ctx, t)
		switch {
		case errors.Is(err, imagestore.ErrNotFound) && !named(s, t.Name):
			continue // removed a moment ago
		case err != nil:
			unreadable = append(unreadable, err)
		default:
			list = append(list, i)
		}
	}
	return list, errors.Join(unreadable...)
}

func named(s *imagestore.Store, name string) bool {
	_, err := s.Resolve(name)
	return err == nil
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
