package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
)

func newRestoreCommand(a *app) *cobra.Command {
	var flags runFlags
	var keys backupKeys
	var image string
	var yes bool
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a cluster anew with the state of a backup",
		Long: `Make a cluster anew with the state of a backup that keg backup or keg upgrade wrote: on the hosts it was
on, whose present state is lost with that, or on others. It is also the way back from an upgrade: with the
image from before.

The image must be of the version of Kubernetes that the backup is of; without --image it is the one that the
backup names. App images that came to the cluster after it was made must be run again.`,
		Example: `  keg restore shop.age
  keg restore shop.age --image shop-v1.tar --masters 10.0.1.1 --nodes 10.0.1.4-10.0.1.9 --yes
  keg restore shop.age --identity key.txt`,
		Args: oneArg("a backup"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.restore(c, args[0], image, &flags, keys, yes)
		},
	}
	f := c.Flags()
	f.StringVar(&image, "image", "", "image or file to restore with (default: the one that the backup names)")
	f.StringVarP(&flags.masters, "masters", "m", "", "hosts of the control plane (default: those of the backup)")
	f.StringVarP(&flags.nodes, "nodes", "n", "", "hosts that become workers")
	f.StringArrayVarP(&flags.env, "env", "e", nil, "value for templates and commands, K=V; overrides the backup's")
	f.StringVar(&flags.kubeconfig, "kubeconfig", "", "where to write the kubeconfig (default ~/.kube/keg-NAME.config)")
	f.BoolVar(&flags.dryRun, "dry-run", false, "print the plan and connect to no host")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	keys.registerIdentities(c)
	flags.ssh.register(c)
	flags.out.register(c)
	return c
}

// unreadBackup adds to the error of a backup that cannot be read what to do about it.
func unreadBackup(err error) error {
	var key *age.NoIdentityMatchError
	var file *fs.PathError
	switch {
	case errors.As(err, &key):
		return &hintedError{err, "give the key that it was encrypted for with --identity, or its passphrase with --passphrase-file; without either, keg tries the key of the operator who made it (backup.key)"}
	case errors.As(err, &file):
		return err
	}
	return &hintedError{err, "it is no backup of keg's, or it was changed: compare size and checksum with where it was copied from"}
}

func (a *app) restore(c *cobra.Command, file, image string, flags *runFlags, keys backupKeys, yes bool) error {
	ctx := c.Context()
	if _, err := os.Stat(file); err != nil { // before anybody is asked for a passphrase
		return fmt.Errorf("opening backup: %w", err)
	}
	identities, err := keys.identities(ctx, a)
	if err != nil {
		return err
	}
	archive, err := runtime.ReadBackup(file, identities...)
	if err != nil {
		return unreadBackup(err)
	}
	flags.name = archive.Header.Cluster
	if err := a.recallLogin(c, flags.name, &flags.ssh); err != nil {
		return err
	}
	cluster, err := a.newCluster(flags)
	if err != nil {
		return err
	}
	if flags.masters == "" && flags.nodes == "" {
		cluster.Nodes = archive.Header.Hosts()
	} else if cluster.Nodes, err = parseNodes(flags.masters, flags.nodes); err != nil {
		return err
	}
	show, err := a.display()
	if err != nil {
		return err
	}
	defer show.close()
	if image == "" {
		image = archive.Header.Image
	}
	release, err := a.attachImage(ctx, cluster, image, show)
	if err != nil {
		return err
	}
	defer release()
	if err := wantRuntime(cluster.Image); err != nil {
		return err
	}
	phases := runtime.RestorePhases(archive)
	if flags.dryRun {
		if err := archive.Prepare(cluster); err != nil {
			return err
		}
		show.close()
		return a.printPlan(cluster, phases, &flags.out)
	}
	if !yes {
		warning := fmt.Sprintf("This makes cluster %s of %s on %s. What it has there now is lost.", cluster.Name, archive.Header.Time.Format("2006-01-02 15:04:05 MST"), hostList(cluster.Nodes))
		if err := a.confirm(ctx, cluster, "restoring", warning); err != nil {
			return err
		}
	}
	cluster.Options.Progress = show.event
	err = runtime.Run(ctx, cluster, phases)
	show.close()
	if err != nil {
		return err
	}
	v := struct {
		Cluster    string `json:"cluster"`
		UID        string `json:"uid"`
		Kubeconfig string `json:"kubeconfig"`
	}{cluster.Name, cluster.UID, cluster.Kubeconfig}
	return flags.out.write(a.stdout, v, func(w io.Writer) {
		fmt.Fprintf(w, "cluster %s is as it was at %s\nexport KUBECONFIG=%s\n", v.Cluster, archive.Header.Time.Format("2006-01-02 15:04:05 MST"), v.Kubeconfig)
	})
}
