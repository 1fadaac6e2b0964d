package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
)

func newPruneCommand(a *app) *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what no image in the store needs",
		Long: `Remove blobs that no name reaches, what caches know of them, and the remains of
interrupted work. Base images that a build pulled, and files that ADD downloaded,
have no name: the next build brings them again. keg pull gives a base image a
name, so that it stays. What a running keg is writing is left alone: prune waits
for it.`,
		Example: `  keg prune
  keg prune -o json | jq .bytes`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.store()
			if err != nil {
				return err
			}
			result, err := s.Prune(c.Context(), imagestore.PruneOptions{Waiting: a.waiting})
			if err != nil {
				return err
			}
			return out.write(a.stdout, result, func(w io.Writer) {
				fmt.Fprintf(w, "removed: %d blobs, %s\n", result.Blobs, size(result.Bytes))
			})
		},
	}
	out.register(c)
	return c
}

// waiting says why nothing seems to happen.
func (a *app) waiting() {
	fmt.Fprintln(a.stderr, "keg: waiting for another keg that works on this store")
}
