package main

import (
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
)

// completeImages offers the names in the store; more than max of them are not asked for.
func (a *app) completeImages(limit int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if limit > 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		dir, err := a.dataDir()
		if err != nil || !exists(filepath.Join(dir, ocispec.ImageLayoutFile)) { // a key pressed makes no store
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := imagestore.Open(dir)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := s.Images()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []cobra.Completion
		for _, t := range list {
			for _, n := range spellings(t.Name) {
				if strings.HasPrefix(n, prefix) {
					names = append(names, n)
					break
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// spellings are the ways to write a full name, the full one first.
func spellings(full string) []string {
	names := []string{full}
	if short, ok := strings.CutPrefix(full, "docker.io/"); ok {
		names = append(names, short)
		if short, ok = strings.CutPrefix(short, "library/"); ok {
			names = append(names, short)
		}
	}
	return names
}

// completeDirs offers directories, for the one argument.
func completeDirs(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeClusters offers the clusters that are recorded.
func (a *app) completeClusters(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	entries, err := os.ReadDir(filepath.Join(dir, "clusters"))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && clusterName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
