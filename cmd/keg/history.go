package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newHistoryCommand(a *app) *cobra.Command {
	var out output
	var platform string
	c := &cobra.Command{
		Use:   "history IMAGE",
		Short: "Show the instructions that made an image",
		Example: `  keg history shop:v1
  keg history --platform linux/arm64 shop:v1`,
		Args:              oneArg("one image"),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, t, err := a.find(args[0])
			if err != nil {
				return err
			}
			list, err := s.History(c.Context(), t, platform)
			if err != nil {
				return err
			}
			return out.write(a.stdout, list, func(w io.Writer) {
				row(w, "LAYER", "SIZE", "CREATED BY")
				for _, h := range list {
					row(w, dash(short(h.Digest.String())), size(h.Size), firstLine(h.CreatedBy))
				}
			})
		},
	}
	c.Flags().StringVar(&platform, "platform", "", "of an image that has several (default: the first)")
	out.register(c)
	return c
}
