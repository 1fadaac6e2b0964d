package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/basefs"
)

func newBasefsInitCommand(a *app) *cobra.Command {
	var runtime string
	c := &cobra.Command{
		Use:   "init --runtime RUNTIME DIR",
		Short: "Write the recipe of a base image, to change and to build",
		Long: `Write the recipe of the official base image for a runtime into a directory that is empty or not there:
its Kubefile, and the configuration that hosts get. docs/basefs.md says what stands where.`,
		Example: `  keg basefs init --runtime k3s ./base
  keg basefs checksums --runtime k3s --version v1.37.2+k3s1 ./base
  keg build -t reg.example.com/k3s:v1.37.2 ./base --build-arg VERSION=v1.37.2+k3s1`,
		Args:              oneArg("a directory"),
		ValidArgsFunction: completeDirs,
		RunE: func(_ *cobra.Command, args []string) error {
			tree, err := recipe(runtime)
			if err != nil {
				return err
			}
			dir := args[0]
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("writing recipe: %w", err)
			}
			if len(entries) > 0 {
				return fmt.Errorf("writing recipe: %s is not empty", dir)
			}
			if err := os.CopyFS(dir, tree); err != nil {
				return fmt.Errorf("writing recipe: %w", err)
			}
			fmt.Fprintf(a.stdout, "wrote the recipe for %s to %s\n", runtime, dir)
			return nil
		},
	}
	runtimeFlag(c, &runtime)
	return c
}

func runtimeFlag(c *cobra.Command, runtime *string) {
	c.Flags().StringVar(runtime, "runtime", "", strings.Join(basefs.Runtimes(), ", "))
	_ = c.RegisterFlagCompletionFunc("runtime", cobra.FixedCompletions(basefs.Runtimes(), cobra.ShellCompDirectiveNoFileComp))
}

func recipe(runtime string) (fs.FS, error) {
	if runtime == "" {
		return nil, usageErrorf("--runtime is missing: %s", strings.Join(basefs.Runtimes(), ", "))
	}
	tree, err := basefs.Recipe(runtime)
	var unknown *basefs.RuntimeError
	if errors.As(err, &unknown) {
		return nil, usageErrorf("--runtime %q is none of %s", runtime, strings.Join(unknown.Known, ", "))
	}
	return tree, err
}
