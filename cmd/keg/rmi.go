package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
)

func newRmiCommand(a *app) *cobra.Command {
	var out output
	var keep bool
	c := &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove images from the store",
		Long: `Remove images from the store, and the blobs that no other image needs.
A name takes away that name alone; a digest or a short ID takes away every name of the image.`,
		Example: `  keg rmi reg.example.com/shop:v1
  keg rmi 3f2a9c01b7d4`,
		Args:              minArgs(1, "at least one image"),
		ValidArgsFunction: a.completeImages(0),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.store()
			if err != nil {
				return err
			}
			var names []string
			for _, arg := range args { // all are found before any is removed
				found, err := namesOf(s, arg)
				if err != nil {
					return err
				}
				for _, n := range found {
					if !slices.Contains(names, n) {
						names = append(names, n)
					}
				}
			}
			for _, n := range names {
				if err := s.Untag(c.Context(), n); err != nil {
					return err
				}
				if out.format == "table" {
					fmt.Fprintln(a.stdout, "untagged:", n)
				}
			}
			v := struct {
				Untagged []string `json:"untagged"`
				imagestore.PruneResult
			}{Untagged: names}
			if !keep {
				if v.PruneResult, err = s.Prune(c.Context(), imagestore.PruneOptions{Waiting: a.waiting}); err != nil {
					return err
				}
			}
			return out.write(a.stdout, v, func(w io.Writer) {
				if !keep {
					fmt.Fprintf(w, "removed: %d blobs, %s\n", v.Blobs, size(v.Bytes))
				}
			})
		},
	}
	out.register(c)
	c.Flags().BoolVar(&keep, "no-prune", false, "keep the blobs; keg prune removes them later")
	return c
}

// namesOf lists the names that an argument of rmi takes away.
func namesOf(s *imagestore.Store, arg string) ([]string, error) {
	t, err := s.Resolve(arg)
	if err != nil {
		return nil, err
	}
	if ref, err := imagestore.ParseName(arg); err == nil && imagestore.FullName(ref) == t.Name {
		return []string{t.Name}, nil
	}
	all, err := s.Images()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, other := range all {
		if other.Target.Digest == t.Target.Digest {
			names = append(names, other.Name)
		}
	}
	return names, nil
}
