package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

func newInspectCommand(a *app) *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show what an image holds",
		Long: `Show what an image holds: runtime and Kubernetes version, platforms, layers, embedded container
images, apps, and what is started. With -o json the document has at least name, digest, type,
runtime, kubeVersion, platforms, layers, images, apps, launch, commands, env, labels and size.`,
		Example: `  keg inspect reg.example.com/shop:v1
  keg inspect -o json shop:v1 | jq -r '.images[].name'`,
		Args:              oneArg("one image"),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, t, err := a.find(args[0])
			if err != nil {
				return err
			}
			i, err := s.Inspect(c.Context(), t)
			if err != nil {
				return err
			}
			return out.write(a.stdout, i, func(w io.Writer) { writeSummary(w, i) })
		},
	}
	out.register(c)
	return c
}

func writeSummary(w io.Writer, i imagestore.Summary) {
	row(w, "Name:", i.Name)
	row(w, "Digest:", i.Digest)
	row(w, "Type:", i.Type)
	row(w, "Runtime:", dash(i.Runtime))
	row(w, "Kubernetes:", dash(i.KubeVersion))
	row(w, "Platforms:", strings.Join(i.Platforms, ", "))
	row(w, "Size:", size(i.Size))
	if len(i.Launch) > 0 {
		row(w, "Launch:", strings.Join(i.Launch, ", "))
	}
	for n, cmd := range i.Commands {
		row(w, heading(n, "Commands:"), cmd)
	}
	for n, app := range i.Apps {
		row(w, heading(n, "Apps:"), appLine(app))
	}
	for n, l := range i.Layers {
		row(w, heading(n, "Layers:"), short(l.Digest.String())+"  "+size(l.Size)+"  "+l.Platform+"  "+firstLine(l.CreatedBy))
	}
	for n, e := range i.Images {
		row(w, heading(n, "Images:"), short(e.Digest.String())+"  "+size(e.Size)+"  "+e.Platform+"  "+e.Name)
	}
}

// heading stands in front of the first line of a list only.
func heading(n int, text string) string {
	if n == 0 {
		return text
	}
	return ""
}

func appLine(app clusterimage.App) string {
	kind := app.Type
	if kind == "" {
		kind = "commands"
	}
	if app.Role != "" {
		kind += ", " + app.Role
	}
	return fmt.Sprintf("%s (%s)", app.Name, kind)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return shorten(line, 60)
}

// shorten cuts text to so many characters.
func shorten(s string, limit int) string {
	if utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit-3]) + "..."
}
