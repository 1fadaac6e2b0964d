package main

import (
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/builder/buildkit"
)

// newGuardCommand is run by keg build beside itself: it ends what a RUN started when keg build is killed.
func newGuardCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "guard-build DIR",
		Short:  "End what a build started, when the build is killed",
		Hidden: true,
		Args:   oneArg("the state directory of BuildKit"),
		RunE: func(c *cobra.Command, args []string) error {
			return buildkit.Guard(c.Context(), a.stdin, args[0])
		},
	}
}

// guardCommand is the process for a state directory.
func guardCommand(dir string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return exec.Command(self, "guard-build", dir) //nolint:noctx // it outlives this process
}
