package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
)

func newBackupCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var keys backupKeys
	var file string
	c := &cobra.Command{
		Use:   "backup",
		Short: "Write a cluster's state into one encrypted file",
		Long: `Write a cluster's state into one file: a snapshot of etcd, the keys and certificates without which it
is useless, and what the cluster was made with. Volumes of pods are not in it.

The file is encrypted by age (age-encryption.org) for --recipient or with a passphrase, and otherwise with a
key that keg makes for this operator. It is worth as much as the cluster: without the key it is nothing.`,
		Example: `  keg backup --name shop -f shop.age
  keg backup --name shop -f shop.age --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  keg backup --name shop -f shop.age --passphrase-file pass`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usageErrorf("name the file to write with --file")
			}
			recipients, err := keys.recipients(c.Context(), a)
			if err != nil {
				return err
			}
			cluster, err := a.recorded(c, flags.name, &flags.ssh)
			if err != nil {
				return err
			}
			err = writeBackup(file, func(w io.Writer) error {
				return a.onCluster(c, cluster, runtime.BackupPhases(w, recipients...))
			})
			if err != nil {
				return err
			}
			fi, err := os.Stat(file)
			if err != nil {
				return fmt.Errorf("looking at the backup: %w", err)
			}
			v := struct {
				Cluster string `json:"cluster"`
				File    string `json:"file"`
				Size    int64  `json:"size"`
			}{cluster.Name, file, fi.Size()}
			return flags.out.write(a.stdout, v, func(w io.Writer) { fmt.Fprintf(w, "%s: %s\n", v.File, size(v.Size)) })
		},
	}
	flags.register(a, c)
	keys.registerRecipients(c)
	c.Flags().StringVarP(&file, "file", "f", "", "file to write")
	return c
}

// writeBackup writes a file for its owner alone, which appears whole or not at all.
func writeBackup(name string, write func(w io.Writer) error) (err error) {
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() { // it would be replaced, also /dev/stdout
		return usageErrorf("--file %s is no file", name)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // 0600
	if err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	return f.Close()
}
