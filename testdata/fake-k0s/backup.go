package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/internal/standin"
)

const snapshotName = "etcd-snapshot.db"

func backupCommand() *cobra.Command {
	var savePath string
	cmd := &cobra.Command{Use: "backup", Short: "Back-Up k0s configuration. Must be run as root (or with sudo)", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		if err := requireRoot(); err != nil {
			return err
		}
		config, err := v.runningConfig(cmd)
		if err != nil {
			return err
		}
		if fi, err := os.Stat(savePath); savePath != "-" && (err != nil || !fi.IsDir()) {
			return fmt.Errorf("the save-path directory (%s) does not exist", savePath)
		}
		status, err := readStatus(cmd.Context(), v)
		if err != nil {
			return fmt.Errorf("unable to detect cluster status %w", err)
		}
		if status.Role != roleController {
			return fmt.Errorf("backup command must be run on the controller node, have `%s`", status.Role)
		}
		if savePath == "-" {
			return v.backup(cmd.Context(), config, cmd.OutOrStdout())
		}
		file := filepath.Join(savePath, "k0s_backup_"+strings.ReplaceAll(time.Now().UTC().Format("2006-01-02T15_04_05.000Z"), ".", "_")+".tar.gz")
		// The mode is k0s', although the keys of the cluster are in it.
		out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // see above
		if err != nil {
			return err
		}
		return errors.Join(v.backup(cmd.Context(), config, out), out.Close())
	}}
	debugFlags(cmd.PersistentFlags())
	dataFlags(cmd.Flags())
	cmd.Flags().StringVar(&savePath, "save-path", "", "destination directory path for backup assets, use '-' for stdout")
	return cmd
}

// etcdFor is this host's etcd, for commands beside a running controller.
func (v *vars) etcdFor(config *ClusterConfig) (standin.Etcd, *standin.Supervisor, error) {
	name, err := hostname()
	return standin.Etcd{
		Name: name, DataDir: v.etcd, Address: config.Spec.Storage.Etcd.PeerAddress,
		Server: v.tls("etcd/ca", "etcd/server"), Peer: v.tls("etcd/ca", "etcd/peer"), Client: v.tls("etcd/ca", "apiserver-etcd-client"),
	}, standin.NewSupervisor(v.bin, os.Stderr), err
}

// backup writes the archive: the snapshot, pki, manifests, images, and the configuration.
func (v *vars) backup(ctx context.Context, config *ClusterConfig, out io.Writer) error {
	dir, err := os.MkdirTemp("", "k0s-backup")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	snapshot := filepath.Join(dir, snapshotName)
	if v.light() {
		err = v.lightSnapshot(snapshot)
	} else {
		etcd, s, hostErr := v.etcdFor(config)
		err = errors.Join(hostErr, etcd.EtcdClient(s).Save(ctx, snapshot))
	}
	if err != nil {
		return fmt.Errorf("failed to create backup on step `etcd`: %w", err)
	}
	packed := gzip.NewWriter(out)
	archive := tar.NewWriter(packed)
	add := func(root, name string) error {
		return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			fi, err := e.Info()
			if err != nil {
				return err
			}
			if !fi.Mode().IsRegular() && !fi.IsDir() {
				return nil
			}
			header, err := tar.FileInfoHeader(fi, "")
			if err != nil {
				return err
			}
			below, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			header.Name = filepath.Join(name, below)
			if err := archive.WriteHeader(header); err != nil || fi.IsDir() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(archive, f)
			return err
		})
	}
	for _, step := range [][2]string{{snapshot, snapshotName}, {v.pki, "pki"}, {v.manifests, "manifests"}, {v.images, "images"}, {v.startupConfig, "k0s.yaml"}} {
		if err := add(step[0], step[1]); err != nil {
			return fmt.Errorf("failed to create backup: %w", err)
		}
	}
	return errors.Join(archive.Close(), packed.Close())
}

func restoreCommand() *cobra.Command {
	var configOut string
	cmd := &cobra.Command{Use: "restore filename", Short: "restore k0s state from given backup archive. Use '-' as filename to read from stdin. Must be run as root (or with sudo)", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		if err := requireRoot(); err != nil {
			return err
		}
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		if _, err := readStatus(cmd.Context(), v); err == nil {
			return errors.New("k0s seems to be running! k0s must be down during the restore operation.") //nolint:staticcheck,revive // k0s' words
		}
		input := cmd.InOrStdin()
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("given file %s does not exist", args[0])
			}
			defer f.Close()
			input = f
			if configOut == "" {
				name, _, _ := strings.Cut(filepath.Base(args[0]), ".")
				configOut = "k0s_" + strings.TrimPrefix(name, "k0s_backup_") + ".yaml"
			}
		}
		return v.restore(cmd.Context(), input, configOut, cmd.OutOrStdout())
	}}
	debugFlags(cmd.PersistentFlags())
	dataFlags(cmd.Flags())
	cmd.Flags().StringVar(&configOut, "config-out", "", "Specify desired name and full path for the restored k0s.yaml file (default: k0s_<archive timestamp>.yaml")
	return cmd
}

// restore unpacks an archive, then makes etcd's data of the snapshot. Where there are data already it fails before
// anything is changed. A version is not in the archive, so none is compared.
func (v *vars) restore(ctx context.Context, input io.Reader, configOut string, out io.Writer) error {
	dir, err := os.MkdirTemp("", "k0s-backup")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := unpackBackup(input, dir); err != nil {
		return fmt.Errorf("failed to unpack backup archive: %w", err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "k0s.yaml"))
	if err != nil {
		return fmt.Errorf("failed to parse backed-up configuration file, check the backup archive: %w", err)
	}
	config, err := parseConfig(data, defaultConfig())
	if err != nil {
		return fmt.Errorf("failed to parse backed-up configuration file, check the backup archive: %w", err)
	}
	if entries, err := os.ReadDir(v.etcd); err == nil && len(entries) > 0 {
		return fmt.Errorf("failed to restore on step `etcd`: data-dir %q not empty or could not be read", v.etcd)
	}
	if err := v.makeDirs(map[string]os.FileMode{v.data: 0o755}); err != nil {
		return err
	}
	if err := v.restoreSnapshot(ctx, config, filepath.Join(dir, snapshotName)); err != nil {
		return fmt.Errorf("failed to restore on step `etcd`: %w", err)
	}
	for _, name := range []string{"pki", "manifests", "images"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			continue
		}
		if err := copyTree(filepath.Join(dir, name), filepath.Join(v.data, name)); err != nil {
			return fmt.Errorf("failed to restore: %w", err)
		}
	}
	if configOut == "" || configOut == "-" {
		_, err := out.Write(data)
		return err
	}
	return os.WriteFile(configOut, data, 0o600)
}

func (v *vars) restoreSnapshot(ctx context.Context, config *ClusterConfig, snapshot string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	payload, err := standin.OpenPayload(self)
	if errors.Is(err, standin.ErrNoPayload) {
		return v.lightRestore(config, snapshot)
	}
	if err != nil {
		return err
	}
	bin, err := payload.Unpack(ctx, filepath.Join(v.bin, ".payload"))
	if err != nil {
		return err
	}
	etcd, _, err := v.etcdFor(config)
	if err != nil {
		return err
	}
	return standin.RestoreEtcd(ctx, standin.NewSupervisor(bin, os.Stderr), etcd, snapshot)
}

func unpackBackup(input io.Reader, dir string) error {
	packed, err := gzip.NewReader(input)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(packed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(header.Name) {
			return fmt.Errorf("entry %q is outside of the archive", header.Name)
		}
		file := filepath.Join(dir, header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(file, 0o755)
		case tar.TypeReg:
			if err = os.MkdirAll(filepath.Dir(file), 0o755); err == nil {
				err = writeAs(file, archive, header.FileInfo().Mode().Perm())
			}
		default:
			err = fmt.Errorf("entry %q is neither a file nor a directory", header.Name)
		}
		if err != nil {
			return err
		}
	}
}

func writeAs(file string, r io.Reader, mode fs.FileMode) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close(), os.Chmod(file, mode))
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, below)
		if e.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return writeAs(target, f, fi.Mode().Perm())
	})
}
