package main

import (
	"github.com/spf13/cobra"
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
			t, err := s.Resolve(args[0])
			if err != nil {
				return err
			}
			for _, arg := range args[1:] {
				ref, err := parseTag(arg)
				if err != nil {
					return err
				}
				if err := s.Tag(c.Context(), ref, t.Target); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
