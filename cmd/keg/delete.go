package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

func newDeleteCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var masters, workers string
	var force, yes bool
	c := &cobra.Command{
		Use:   "delete",
		Short: "Take hosts off a cluster that goes on",
		Long: `Take hosts off a cluster that goes on without them: pods move away, a control plane's member leaves etcd,
and the host is put back as it was. It is refused where the cluster would not bear it.

--force gives up hosts that cannot be reached: the cluster forgets them, and what is on them stays.
Wipe such a host before it is connected to the network again.`,
		Example: `  keg delete --name shop --nodes 10.0.0.7
  keg delete --name shop --masters 10.0.0.2 --yes
  keg delete --name shop --masters 10.0.0.3 --force`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cluster, err := a.recorded(c, flags.name, &flags.ssh)
			if err != nil {
				return err
			}
			leaving, err := pickNodes(cluster, masters, workers)
			if err != nil {
				return err
			}
			if !yes {
				warning := fmt.Sprintf("This takes %s off cluster %s. What pods keep on them is lost.", hostList(leaving), cluster.Name)
				if err := a.confirm(c.Context(), cluster, "deleting", warning); err != nil {
					return err
				}
			}
			if err := a.onCluster(c, cluster, runtime.RemovePhases(leaving, runtime.RemoveOptions{Dead: force})); err != nil {
				if !force && errors.Is(err, remote.ErrUnreachable) {
					return &hintedError{err: err, hint: "bring the host back and try again; one that will not come back is given up with --force"}
				}
				return err
			}
			v := struct {
				Cluster string   `json:"cluster"`
				Removed []string `json:"removed"`
			}{Cluster: cluster.Name}
			for _, n := range leaving {
				v.Removed = append(v.Removed, n.Address.String())
			}
			return flags.out.write(a.stdout, v, func(w io.Writer) { fmt.Fprintf(w, "cluster %s goes on without %s\n", cluster.Name, hostList(leaving)) })
		},
	}
	flags.register(a, c)
	f := c.Flags()
	f.StringVarP(&masters, "masters", "m", "", "control planes to take off")
	f.StringVarP(&workers, "nodes", "n", "", "workers to take off")
	f.BoolVar(&force, "force", false, "also hosts that cannot be reached")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// pickNodes finds the nodes of a cluster that --masters and --nodes name.
func pickNodes(cluster *runtime.Cluster, masters, workers string) ([]*runtime.Node, error) {
	if masters == "" && workers == "" {
		return nil, usageErrorf("name the hosts to take off with --masters and --nodes")
	}
	var picked []*runtime.Node
	for _, list := range []struct {
		flag, hosts string
		role        runtime.Role
	}{{"--masters", masters, runtime.Master}, {"--nodes", workers, runtime.Worker}} {
		if list.hosts == "" {
			continue
		}
		hosts, err := remote.ParseHosts(list.hosts)
		if err != nil {
			return nil, usageErrorf("%s: %s", list.flag, err)
		}
		for _, h := range hosts {
			i := slices.IndexFunc(cluster.Nodes, func(n *runtime.Node) bool {
				return n.Address.Host == h.Name && (h.Port == 0 || h.Port == n.Address.Port)
			})
			switch {
			case i < 0:
				return nil, &refusedError{fmt.Sprintf("cluster %q has no host %s; it has %s", cluster.Name, h.Name, hostList(cluster.Nodes))}
			case cluster.Nodes[i].Role != list.role:
				return nil, &refusedError{fmt.Sprintf("%s is a %s of cluster %q, not a %s: name it with the other flag", h.Name, cluster.Nodes[i].Role, cluster.Name, list.role)}
			}
			if !slices.Contains(picked, cluster.Nodes[i]) {
				picked = append(picked, cluster.Nodes[i])
			}
		}
	}
	return picked, nil
}
