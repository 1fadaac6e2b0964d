package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/imagestore/transfer"
)

// registerMissing adds --missing-platform, the answer to images that do not exist for a platform.
func registerMissing(c *cobra.Command, value *string) {
	c.Flags().StringVar(value, "missing-platform", string(transfer.MissingError), "of an image that a platform lacks: error, skip (leave it out), any (take what there is)")
	_ = c.RegisterFlagCompletionFunc("missing-platform", cobra.FixedCompletions([]string{"error", "skip", "any"}, cobra.ShellCompDirectiveNoFileComp))
}

func readMissing(value string) (transfer.MissingPlatform, error) {
	m := transfer.MissingPlatform(value)
	if err := m.Check(); err != nil {
		return "", usageErrorf("--missing-platform %s", err)
	}
	return m, nil
}

// warnMissing tells, after a build, which images are not in it for a platform, or for another.
func (a *app) warnMissing(result builder.Result) {
	for _, p := range result.Platforms {
		for _, m := range p.Missing {
			what := "was left out"
			if m.Taken != "" {
				what = "was embedded for " + m.Taken
			}
			fmt.Fprintf(a.stderr, "keg: warning: %s has no image for %s (it has: %s) and %s\n", m.Name, p.Platform, strings.Join(m.Have, ", "), what)
		}
	}
}
