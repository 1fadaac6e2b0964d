package main

import (
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
)

func newTagCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME...",
		Short:             "Give an image more names",
		Example:           `  keg tag reg.example.com/shop:v1 reg.example.com/shop:latest`,
		Args:              minArgs(2, "an image and at least one new name"),
		ValidArgsFunction: a.completeImages(0),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.store()
			if err != nil {
				return err
			}
			var names []string
			for _, arg := range args[1:] { // all are read before any is given
				ref, err := parseTag(arg)
				if err != nil {
					return err
				}
				names = append(names, fullName(ref))
			}
			t, err := s.Resolve(args[0])
			if err != nil {
				return err
			}
			var list []imagestore.Tagged
			for _, n := range names {
				list = append(list, imagestore.Tagged{Name: n, Target: t.Target})
			}
			return s.TagAll(c.Context(), list...)
		},
	}
}
