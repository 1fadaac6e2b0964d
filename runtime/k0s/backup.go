package k0s

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

const backupDir = workDir + "/backup"

// takeBackup has k0s write its archive to stdout. What it needs on disk meanwhile is nobody else's to
// read; a file of its own would be everybody's.
const takeBackup = `umask 077; rm -rf "$1" && mkdir -p "$1" && TMPDIR="$1" exec ` + program + ` backup --save-path=-`

// Backup has k0s take a backup on First: etcd's snapshot, the keys of the cluster, the configuration.
func (Driver) Backup(ctx context.Context, c *runtime.Cluster, w io.Writer) (err error) {
	n := c.First()
	defer func() {
		if !errors.Is(err, remote.ErrDisconnected) { // else the next backup removes it
			err = errors.Join(err, n.Remove(context.WithoutCancel(ctx), backupDir))
		}
	}()
	packed, into := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", takeBackup, "sh", backupDir}, Stdout: into})
		into.CloseWithError(err)
		ended <- err
	}()
	err = unzip(w, packed)
	packed.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if runErr := <-ended; runErr != nil && !errors.Is(runErr, io.ErrClosedPipe) {
		err = runErr
	}
	if err != nil {
		return fmt.Errorf("taking a backup with k0s: %w", err)
	}
	return nil
}

// unzip writes what is packed, which ends with the archive.
func unzip(w io.Writer, packed io.Reader) error {
	r, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil { //nolint:gosec // it is as large as the cluster's state
		return err
	}
	_, err = io.Copy(io.Discard, packed)
	return err
}
