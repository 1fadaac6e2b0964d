package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/basefs"
)

func newBasefsCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "basefs",
		Short: "Work on the tree of a base image",
	}, newBasefsCheckCommand(a), newBasefsInitCommand(a), newBasefsChecksumsCommand(a), newBasefsExportRegistryCommand(a))
}

func newBasefsCheckCommand(a *app) *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "check DIR",
		Short: "Say what is wrong with the tree of a base image",
		Long: `Say what is wrong with the tree of a base image: its Metadata, programs for another architecture,
scripts that cannot run, templates and image lists that cannot be read. Exits with 3 if there are errors.`,
		Example:           `  keg basefs check ./rootfs`,
		Args:              oneArg("a directory"),
		ValidArgsFunction: completeDirs,
		RunE: func(_ *cobra.Command, args []string) error {
			if fi, err := os.Stat(args[0]); err != nil || !fi.IsDir() {
				return fmt.Errorf("checking tree: %s is no directory", args[0])
			}
			findings := basefs.Check(os.DirFS(args[0]))
			if findings == nil {
				findings = []basefs.Finding{}
			}
			failed := 0
			for _, f := range findings {
				if f.Level == basefs.LevelError {
					failed++
				}
			}
			err := out.write(a.stdout, findings, func(w io.Writer) {
				for _, f := range findings {
					fmt.Fprintf(w, "%s: %s: %s\n", f.Level, f.Path, f.Text)
					if f.Cure != "" {
						fmt.Fprintf(w, "  %s\n", f.Cure)
					}
				}
				if len(findings) == 0 {
					fmt.Fprintln(w, "the tree is fine")
				}
			})
			if err != nil {
				return err
			}
			if failed > 0 {
				return &refusedError{fmt.Sprintf("checking tree %s: %d errors", args[0], failed)}
			}
			return nil
		},
	}
	out.register(c)
	return c
}
