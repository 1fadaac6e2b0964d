package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore/transfer"
)

func newPushCommand(a *app) *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "push IMAGE [NAME]",
		Short: "Send an image to its registry",
		Long: `Send an image, with everything embedded in it, to the registry that its name says, or to NAME.
Only what the registry has not yet moves; blobs go in parallel.`,
		Example: `  keg push reg.example.com/shop:v1
  keg push shop:v1 reg.example.com/shop:v1`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return usageErrorf("%s wants an image, and a name if it is to have another there; got %s", c.CommandPath(), quoteAll(args))
			}
			return nil
		},
		ValidArgsFunction: a.completeImages(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, t, err := a.find(args[0])
			if err != nil {
				return err
			}
			to := t.Name
			if len(args) == 2 {
				to = args[1]
			}
			ref, err := parseTag(to)
			if err != nil {
				return err
			}
			show, err := a.display()
			if err != nil {
				return err
			}
			defer show.close()
			client := a.client(show)
			result, err := client.Push(c.Context(), s, t.Target, ref, transfer.PushOptions{})
			show.close()
			if err != nil {
				return err
			}
			v := struct {
				Name   string `json:"name"`
				Digest string `json:"digest"`
				transfer.PushResult
			}{fullName(ref), t.Target.Digest.String(), result}
			return out.write(a.stdout, v, func(w io.Writer) {
				fmt.Fprintf(w, "pushed %s %s\n", v.Name, v.Digest)
			})
		},
	}
	out.register(c)
	return c
}
