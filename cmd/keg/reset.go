package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
)

func newResetCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var yes bool
	c := &cobra.Command{
		Use:   "reset",
		Short: "Take a cluster off its hosts and put them back as they were",
		Long: `Take a cluster off its hosts: everything that keg changed on them is put back, and what could not
be is listed. All data in the cluster is lost.`,
		Example: `  keg reset --name shop
  keg reset --name shop --yes -o json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cluster, err := a.recorded(c, flags.name, &flags.ssh)
			if err != nil {
				return err
			}
			if !yes {
				if err := a.confirm(c.Context(), cluster, "resetting", fmt.Sprintf("This takes cluster %s off %s. All its data is lost.", cluster.Name, hostList(cluster.Nodes))); err != nil {
					return err
				}
			}
			show, err := a.display()
			if err != nil {
				return err
			}
			defer show.close()
			cluster.Options.Progress = show.event
			report, err := runtime.Reset(c.Context(), cluster)
			show.close()
			printErr := flags.out.write(a.stdout, report, func(w io.Writer) { writeResetReport(w, report) })
			if err != nil {
				return err
			}
			return printErr
		},
	}
	flags.register(a, c)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func hostList(nodes []*runtime.Node) string {
	var hosts []string
	for _, n := range nodes {
		hosts = append(hosts, n.Address.String())
	}
	return strings.Join(hosts, ", ")
}

// confirm warns and asks for the cluster's name.
func (a *app) confirm(ctx context.Context, cluster *runtime.Cluster, doing, warning string) error {
	fmt.Fprintln(a.stderr, warning)
	answer, err := a.ask(ctx, "Type the name of the cluster to go on: ")
	if errors.Is(err, errNoTerminal) {
		return usageErrorf("%s asks first, and there is no terminal: give --yes", doing)
	}
	if err != nil {
		return err
	}
	if answer != cluster.Name {
		return &refusedError{"not confirmed: nothing was done"}
	}
	return nil
}

func writeResetReport(w io.Writer, report runtime.ResetReport) {
	for _, h := range report.Hosts {
		if h.Error != "" {
			fmt.Fprintf(w, "%s: not done: %s\n", h.Host, h.Error)
			continue
		}
		fmt.Fprintf(w, "%s: %d changes put back, nothing left\n", h.Host, h.Restored)
	}
}
