package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/builder/buildkit"
	"github.com/clusterimage/keg/imagestore"
)

type pruneFlags struct {
	dryRun       bool
	builderCache bool
	keepStorage  string
	out          output
}

func newPruneCommand(a *app) *cobra.Command {
	var flags pruneFlags
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what no image in the store needs",
		Long: `Remove blobs that no name reaches, what caches know of them, and the remains of
interrupted work. Base images that a build pulled, and files that ADD downloaded,
have no name: the next build brings them again. keg pull gives a base image a
name, so that it stays. What a running keg is writing is left alone: prune waits
for it.

The state of the BuildKit inside of keg, which makes RUN quick, is counted and left.
--builder-cache removes it, or with --keep-storage what of it was used longest ago.`,
		Example: `  keg prune
  keg prune --dry-run --builder-cache
  keg prune --keep-storage 5GB
  keg prune -o json | jq .bytes`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.prune(c.Context(), flags)
		},
	}
	f := c.Flags()
	f.BoolVar(&flags.dryRun, "dry-run", false, "tell what would be removed, and remove nothing")
	f.BoolVar(&flags.builderCache, "builder-cache", false, "remove the state of the BuildKit inside of keg as well")
	f.StringVar(&flags.keepStorage, "keep-storage", "", "leave so much of that state, such as 5GB (implies --builder-cache)")
	flags.out.register(c)
	return c
}

func (a *app) prune(ctx context.Context, flags pruneFlags) error {
	var keep int64
	if flags.keepStorage != "" {
		var err error
		if keep, err = units.FromHumanSize(flags.keepStorage); err != nil {
			return usageErrorf("--keep-storage %q is no size; write 5GB or 500MB", flags.keepStorage)
		}
		flags.builderCache = true
	}
	s, err := a.store()
	if err != nil {
		return err
	}
	var v struct {
		imagestore.PruneResult
		// Builder is the state of BuildKit: what went of it, and what is left.
		Builder buildkit.PruneResult `json:"builder"`
		DryRun  bool                 `json:"dryRun"`
	}
	v.DryRun = flags.dryRun
	if v.PruneResult, err = s.Prune(ctx, imagestore.PruneOptions{DryRun: flags.dryRun, Waiting: a.waiting}); err != nil {
		return err
	}
	dir := filepath.Join(s.Dir(), builderDir)
	if flags.builderCache {
		v.Builder, err = buildkit.Prune(ctx, buildkit.PruneOptions{Dir: dir, Keep: keep, DryRun: flags.dryRun, Waiting: a.waitingForBuild})
	} else {
		v.Builder.Left, err = buildkit.Usage(ctx, dir)
	}
	if err != nil {
		return err
	}
	return flags.out.write(a.stdout, v, func(w io.Writer) {
		what := "removed"
		if flags.dryRun {
			what = "would remove"
		}
		fmt.Fprintf(w, "%s: %d blobs, %s\n", what, v.Blobs, size(v.Bytes))
		if flags.builderCache {
			fmt.Fprintf(w, "%s of the builder's state: %s\n", what, size(v.Builder.Bytes))
		}
		if v.Builder.Left > 0 {
			fmt.Fprintf(w, "the builder's state that is left: %s\n", size(v.Builder.Left))
		}
	})
}

// waiting says why nothing seems to happen.
func (a *app) waiting() {
	fmt.Fprintln(a.stderr, "keg: waiting for another keg that works on this store")
}

// waitingForBuild says it of a build that executes something.
func (a *app) waitingForBuild(dir string) {
	fmt.Fprintf(a.stderr, "keg: waiting for another build that uses %s\n", dir)
}
