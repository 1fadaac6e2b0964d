package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newGenDocsCommand writes docs/reference, a page per command, from what --help says.
func newGenDocsCommand(_ *app) *cobra.Command {
	return &cobra.Command{
		Use:    "gen-docs DIR",
		Short:  "Write a page of Markdown for every command",
		Hidden: true,
		Args:   oneArg("a directory"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("writing docs: %w", err)
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			root.Version = "" // pages are the same for every version
			if err := doc.GenMarkdownTree(root, args[0]); err != nil {
				return fmt.Errorf("writing docs: %w", err)
			}
			return nil
		},
	}
}
