package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
)

func newUpgradeCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var batch int
	var noBackup, dryRun bool
	c := &cobra.Command{
		Use:   "upgrade IMAGE|FILE",
		Short: "Bring a cluster to another cluster image",
		Long: `Bring a cluster to another cluster image: of the next minor version of Kubernetes, of another patch
version, or of the same version with other apps.

All hosts are checked and get what they need first. A backup of the cluster's state is taken. Then control
planes are drained, changed and let go on one by one, and workers in batches. The first failure stops the
upgrade and leaves the other hosts as they are; the same command goes on where it stopped. There is no
way back but keg restore with the backup and the image before.`,
		Example: `  keg upgrade shop-v2.tar --name shop
  keg upgrade reg.example.com/shop:v2 --name shop --batch 5
  keg upgrade shop-v2.tar --name shop --dry-run`,
		Args: oneArg("an image or a file"),
		ValidArgsFunction: func(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			names, _ := a.completeImages(1)(c, args, prefix)
			return names, cobra.ShellCompDirectiveDefault
		},
		RunE: func(c *cobra.Command, args []string) error {
			cluster, err := a.recorded(c, flags.name, &flags.ssh)
			if err != nil {
				return err
			}
			show, err := a.display()
			if err != nil {
				return err
			}
			defer show.close()
			release, err := a.attachImage(c.Context(), cluster, args[0], show)
			if err != nil {
				return err
			}
			defer release()
			if err := wantRuntime(cluster.Image); err != nil {
				return err
			}
			var backup string
			if batch < 0 {
				return usageErrorf("--batch %d is no number of workers", batch)
			}
			options := runtime.UpgradeOptions{Workers: batch}
			if !noBackup {
				options.Backup = func(ctx context.Context, cluster *runtime.Cluster) (err error) {
					backup, err = a.upgradeBackup(ctx, cluster)
					return err
				}
			}
			phases := runtime.UpgradePhases(options)
			if dryRun {
				show.close()
				return a.printPlan(cluster, phases, &flags.out)
			}
			cluster.Options.Progress = show.event
			err = runtime.Run(c.Context(), cluster, phases)
			show.close()
			if err != nil {
				if backup != "" {
					return &hintedError{err: err, hint: fmt.Sprintf("the same command goes on where it stopped; to go back, give keg restore the image before and the backup %s", backup)}
				}
				return err
			}
			v := struct {
				Cluster     string `json:"cluster"`
				Image       string `json:"image"`
				KubeVersion string `json:"kubeVersion"`
				Backup      string `json:"backup,omitempty"`
			}{cluster.Name, cluster.Image.Name, cluster.KubeVersion(), backup}
			return flags.out.write(a.stdout, v, func(w io.Writer) {
				fmt.Fprintf(w, "cluster %s runs %s (%s)\n", v.Cluster, v.Image, v.KubeVersion)
				if v.Backup != "" {
					fmt.Fprintf(w, "backup from before: %s\n", v.Backup)
				}
			})
		},
	}
	flags.register(a, c)
	f := c.Flags()
	f.IntVar(&batch, "batch", 0, "how many workers to change at the same time (default a tenth of them, and at least 1)")
	f.BoolVar(&noBackup, "no-backup", false, "take no backup before")
	f.BoolVar(&dryRun, "dry-run", false, "print the plan and connect to no host")
	return c
}

// upgradeBackup writes a backup for this operator's own key, and returns its name.
func (a *app) upgradeBackup(ctx context.Context, cluster *runtime.Cluster) (string, error) {
	keys := backupKeys{}
	recipients, err := keys.recipients(ctx, a)
	if err != nil {
		return "", err
	}
	dir, err := a.dataDir()
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "backups", fmt.Sprintf("%s-%s.age", cluster.Name, time.Now().UTC().Format("20060102T150405Z")))
	return name, writeBackup(name, func(w io.Writer) error { return cluster.Backup(ctx, w, recipients...) })
}
