package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
)

func newKubeconfigCommand(a *app) *cobra.Command {
	var flags clusterFlags
	c := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig of a cluster",
		Long:  `Print the administrator's kubeconfig of a cluster, asked from the cluster itself. It is a secret.`,
		Example: `  keg kubeconfig --name shop > ~/.kube/shop
  keg kubeconfig --name shop --root /srv/keg`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cluster, err := a.recorded(c, flags.name, &flags.ssh)
			if err != nil {
				return err
			}
			data, err := runtime.Kubeconfig(c.Context(), cluster)
			if err != nil {
				return err
			}
			if _, err := a.stdout.Write(data); err != nil {
				return fmt.Errorf("writing output: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&flags.name, "name", "default", "name of the cluster")
	flags.ssh.register(c)
	_ = c.RegisterFlagCompletionFunc("name", a.completeClusters)
	return c
}
