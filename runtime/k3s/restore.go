package k3s

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

const (
	restoreDir = workDir + "/restore"
	// resetLimit bounds a cluster-reset, which starts an etcd and the parts that it needs, and ends.
	resetLimit = 10 * time.Minute
	// maxToken bounds what is read of a backup into memory.
	maxToken = 1 << 20
)

// Restore makes First the only server of a cluster with the state of a backup. A host where that was cut
// off begins again from its begin: until DoneInit, nothing there is worth keeping.
func (d Driver) Restore(c *runtime.Cluster, backup func() (io.ReadCloser, error)) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{
		checkVersion(c, first),
		first.On("name kubectl, crictl and ctr, where there are none", func(ctx context.Context, _ writer) error { return nameTools(ctx, first) }),
		first.On("restore the state with k3s", func(ctx context.Context, out writer) error {
			if first.Made() {
				return d.keepRunning(ctx, c, first)
			}
			if err := wipe(ctx, first); err != nil {
				return err
			}
			if err := c.Restart(ctx); err != nil {
				return err
			}
			return d.restore(ctx, c, backup, out)
		}),
		first.On("wait for the API", func(ctx context.Context, _ writer) error { return d.waitRestored(ctx, c) }),
	}}
}

func (d Driver) restore(ctx context.Context, c *runtime.Cluster, backup func() (io.ReadCloser, error), out writer) error {
	first := c.First()
	s, err := unpackBackup(ctx, first, backup)
	if err != nil {
		return err
	}
	if _, err := d.write(ctx, c, first, true, s.files()...); err != nil {
		return err
	}
	// The token is in the file that config.yaml names.
	limited, cancel := context.WithTimeoutCause(ctx, resetLimit, fmt.Errorf("not done after %s", resetLimit))
	defer cancel()
	err = first.Runner.Run(limited, remote.Cmd{Args: []string{
		program, "server", "--cluster-reset", "--cluster-reset-restore-path=" + restoreDir + "/" + backupSnapshot,
	}})
	if err != nil {
		return fmt.Errorf("restoring the snapshot with k3s: %w", err)
	}
	fmt.Fprintln(out, "the state of the backup is there")
	return start(ctx, first, true)
}

// unpackBackup sends the snapshot to the host and returns the tokens of the cluster that was.
func unpackBackup(ctx context.Context, n *runtime.Node, backup func() (io.ReadCloser, error)) (secrets, error) {
	var s secrets
	r, err := backup()
	if err != nil {
		return s, err
	}
	defer r.Close()
	sent := false
	for in := tar.NewReader(r); ; {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s, fmt.Errorf("reading the backup: %w", err)
		}
		switch hdr.Name {
		case backupSnapshot:
			err = n.Runner.Run(ctx, remote.Cmd{
				Args:  []string{"/bin/sh", "-c", `umask 077; rm -rf "$1"; mkdir -p "$1" && cat >"$1/$2.part" && mv -f "$1/$2.part" "$1/$2"`, "sh", restoreDir, backupSnapshot},
				Stdin: in,
			})
			sent = err == nil
		case backupToken, backupAgentToken:
			var data []byte
			data, err = io.ReadAll(io.LimitReader(in, maxToken))
			word, _ := password(data)
			if hdr.Name == backupToken {
				s.server = word
			} else {
				s.agent = word
			}
		}
		if err != nil {
			return s, fmt.Errorf("reading the backup: %w", err)
		}
	}
	if !sent || s.server == "" || s.agent == "" {
		return s, errors.New("reading the backup: it has no snapshot of k3s, or lacks its tokens")
	}
	return s, nil
}

// waitRestored lets the host have its old name: the state has the password of its node, which went when
// the host was made free, and k3s stays out until that is forgotten.
func (d Driver) waitRestored(ctx context.Context, c *runtime.Cluster) error {
	first := c.First()
	if !first.Made() {
		err := runtime.Wait(ctx, startLimit, "the API on "+first.Name, func(ctx context.Context) error {
			if err := d.Alive(ctx, c, first); err != nil {
				return whyNot(ctx, first, err)
			}
			return forgetPassword(ctx, c, first)
		})
		if err != nil {
			return err
		}
	}
	if err := waitServer(ctx, c, first); err != nil {
		return err
	}
	if err := first.Remove(ctx, restoreDir); err != nil {
		return err
	}
	return first.Mark(ctx, runtime.DoneInit)
}
