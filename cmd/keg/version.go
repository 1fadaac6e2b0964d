package main

import (
	"fmt"
	"io"
	goruntime "runtime"

	"github.com/spf13/cobra"
)

func newVersionCommand(a *app) *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  keg version
  keg version -o json | jq -r .version`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version, goruntime.Version(), goruntime.GOOS + "/" + goruntime.GOARCH}
			return out.write(a.stdout, v, func(w io.Writer) { fmt.Fprintf(w, "keg %s %s %s\n", v.Version, v.Go, v.Platform) })
		},
	}
	out.register(c)
	return c
}
