package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore/transfer"
)

func newPullCommand(a *app) *cobra.Command {
	var out output
	var platforms []string
	var missing string
	c := &cobra.Command{
		Use:   "pull NAME...",
		Short: "Fetch images from their registries",
		Long: `Fetch images, with everything embedded in them, into the store. Only what is missing moves, in
parallel, and an interrupted pull goes on where it stopped. Nothing is named before all of it is there.`,
		Example: `  keg pull reg.example.com/shop:v1
  keg pull reg.example.com/shop@sha256:3f2a...`,
		Args:              minArgs(1, "at least one name"),
		ValidArgsFunction: a.completeImages(0),
		RunE: func(c *cobra.Command, args []string) error {
			opts := transfer.PullOptions{Platforms: platforms}
			var err error
			if opts.Missing, err = readMissing(missing); err != nil {
				return err
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
			client := a.client(show)
			type line struct {
				Name   string `json:"name"`
				Digest string `json:"digest"`
			}
			list := []line{}
			for _, arg := range args {
				ref, err := parseName(arg)
				if err != nil {
					return err
				}
				target, err := pullAndTag(c.Context(), s, client, ref, opts)
				if err != nil {
					return err
				}
				list = append(list, line{fullName(ref), target.Digest.String()})
			}
			show.close()
			return out.write(a.stdout, list, func(w io.Writer) {
				for _, l := range list {
					fmt.Fprintf(w, "pulled %s %s\n", l.Name, l.Digest)
				}
			})
		},
	}
	c.Flags().StringSliceVar(&platforms, "platform", nil, "platforms to fetch of an image that has several (default: all)")
	registerMissing(c, &missing)
	out.register(c)
	return c
}
