package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
)

func newCertsCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "certs",
		Short: "Show and renew a cluster's certificates, and rotate its join secrets",
	}, newCertsShowCommand(a), newCertsRenewCommand(a), newCertsAddSANCommand(a), newCertsRotateTokensCommand(a))
}

func newCertsShowCommand(a *app) *cobra.Command {
	var flags clusterFlags
	c := &cobra.Command{
		Use:   "show",
		Short: "List the certificates on all hosts, soonest to expire first",
		Example: `  keg certs show --name shop
  keg certs show --name shop -o json | jq '.[0].expires'`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cluster, err := a.recorded(c, flags.name, &flags.ssh)
			if err != nil {
				return err
			}
			list, err := runtime.Certificates(c.Context(), cluster)
			if err != nil {
				return err
			}
			return flags.out.write(a.stdout, list, func(w io.Writer) {
				row(w, "EXPIRES", "DAYS", "HOST", "FILE", "SUBJECT")
				for _, cert := range list {
					row(w, cert.Expires.Format(time.DateOnly), int(time.Until(cert.Expires).Hours()/24), cert.Host, cert.File, cert.Subject)
				}
			})
		},
	}
	flags.register(a, c)
	return c
}

func newCertsRenewCommand(a *app) *cobra.Command {
	return a.newServiceCommand(&cobra.Command{
		Use:   "renew",
		Short: "Issue all certificates anew, host by host",
		Long: `Issue all certificates of a cluster anew, but for those of its authorities: control planes one by one,
then workers. They are valid for as long as the runtime makes them, usually a year.`,
		Example: `  keg certs renew --name shop`,
		Args:    noArgs,
	}, "the certificates are renewed", func([]string) []runtime.Phase { return runtime.RenewPhases() })
}

func newCertsAddSANCommand(a *app) *cobra.Command {
	return a.newServiceCommand(&cobra.Command{
		Use:     "add-san NAME|ADDRESS...",
		Short:   "Make the API's certificate valid for more names and addresses",
		Example: `  keg certs add-san --name shop api.example.com 10.0.0.100`,
		Args:    minArgs(1, "names or addresses"),
	}, "the API's certificate is valid for them", runtime.SANPhases)
}

func newCertsRotateTokensCommand(a *app) *cobra.Command {
	return a.newServiceCommand(&cobra.Command{
		Use:     "rotate-tokens",
		Short:   "Make all join secrets that were ever given out worthless",
		Example: `  keg certs rotate-tokens --name shop`,
		Args:    noArgs,
	}, "the join secrets are new", func([]string) []runtime.Phase { return runtime.RotatePhases() })
}

// newServiceCommand is a command that runs phases on a recorded cluster and says done.
func (a *app) newServiceCommand(c *cobra.Command, done string, phases func(args []string) []runtime.Phase) *cobra.Command {
	var flags clusterFlags
	c.RunE = func(c *cobra.Command, args []string) error {
		cluster, err := a.recorded(c, flags.name, &flags.ssh)
		if err != nil {
			return err
		}
		if err := a.onCluster(c, cluster, phases(args)); err != nil {
			return err
		}
		v := struct {
			Cluster string `json:"cluster"`
		}{cluster.Name}
		return flags.out.write(a.stdout, v, func(w io.Writer) { fmt.Fprintf(w, "cluster %s: %s\n", v.Cluster, done) })
	}
	flags.register(a, c)
	return c
}
