package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
)

func newStatusCommand(a *app) *cobra.Command {
	var flags clusterFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how a cluster is",
		Long:  `Show how a cluster is: its hosts, its nodes as Kubernetes sees them, and its registry. Exits with 1 if something is not well.`,
		Example: `  keg status --name shop
  keg status --name shop -o json | jq .nodes`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cluster, err := a.recorded(c, flags.name, &flags.ssh)
			if err != nil {
				return err
			}
			s, err := runtime.Status(c.Context(), cluster)
			if err != nil {
				return err
			}
			if err := flags.out.write(a.stdout, s, func(w io.Writer) { writeStatus(w, s) }); err != nil {
				return err
			}
			if !s.Healthy() {
				return errNotWell
			}
			return nil
		},
	}
	flags.register(a, c)
	return c
}

func writeStatus(w io.Writer, s runtime.ClusterStatus) {
	row(w, "Cluster:", s.Cluster)
	row(w, "Image:", s.Image)
	row(w, "Runtime:", s.Runtime)
	row(w, "API:", orElse(s.API, "answers"))
	row(w, "Registry:", s.Registry)
	if !s.Complete {
		row(w, "Last run:", "did not end well; the same keg run goes on")
	}
	row(w)
	row(w, "HOST", "ROLE", "OS", "STATE")
	for _, h := range s.Hosts {
		row(w, h.Host, h.Role, dash(h.OS), orElse(h.Error, "reachable"))
	}
	row(w)
	row(w, "NODE", "READY", "ROLES", "VERSION", "ENGINE", "ADDRESS")
	for _, n := range s.Nodes {
		ready := "yes"
		if !n.Ready {
			ready = "no: " + n.Reason
		}
		row(w, n.Name, ready, dash(strings.Join(n.Roles, ",")), n.Version, n.Engine, n.Address)
	}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
