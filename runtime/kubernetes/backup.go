package kubernetes

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// A backup is a tar stream of the snapshot of etcd and of the authorities in pki/.
const (
	snapshotFile = "snapshot.db"
	backupDir    = node.Dir + "/backup"
	restoreDir   = node.Dir + "/restore"
)

const (
	makeDir  = `umask 077 && rm -rf "$1" && mkdir -p "$1"`
	packTree = `cd "$1" && umask 077 && mkdir -p pki/etcd && shift &&
for f; do cp -p "` + pkiDir + `/$f" "pki/$f" || exit; done && exec tar -cf - snapshot.db pki`
	unpackTree = `umask 077 && rm -rf "$1" && mkdir -p "$1" && exec tar -xf - -C "$1"`
)

// Backup writes a snapshot of etcd, taken on First, and the keys by which a cluster made of it is the same one.
func (Driver) Backup(ctx context.Context, c *runtime.Cluster, w io.Writer) (err error) {
	first := c.First()
	shell := func(script string, args ...string) remote.Cmd {
		return remote.Cmd{Args: append([]string{"/bin/sh", "-c", script, "sh", backupDir}, args...)}
	}
	defer func() {
		if !errors.Is(err, remote.ErrDisconnected) {
			err = errors.Join(err, first.Runner.Run(context.WithoutCancel(ctx), remote.Cmd{Args: []string{"rm", "-rf", backupDir}}))
		}
	}()
	if err := first.Runner.Run(ctx, shell(makeDir)); err != nil {
		return err
	}
	if _, err := etcdctl(ctx, first, backupDir, localEtcd, "--command-timeout=10m", "snapshot", "save", backupDir+"/"+snapshotFile); err != nil {
		return fmt.Errorf("taking a snapshot of etcd: %w", err)
	}
	pack := shell(packTree, authorities...)
	pack.Stdout = w
	return first.Runner.Run(ctx, pack)
}

// onlyBackup copies of a tar stream what a backup of this runtime holds, and refuses one that is not whole.
func onlyBackup(w io.Writer, r io.Reader) error {
	wanted := map[string]bool{snapshotFile: true}
	for _, a := range authorities {
		wanted["pki/"+a] = true
	}
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading backup: %w", err)
		}
		name := path.Clean(strings.TrimPrefix(hdr.Name, "./"))
		if hdr.Typeflag != tar.TypeReg || !wanted[name] {
			continue
		}
		delete(wanted, name)
		if err := out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: hdr.Size, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return fmt.Errorf("reading backup: %w", err)
		}
	}
	for _, name := range append([]string{snapshotFile}, authorities...) {
		if wanted[name] || wanted["pki/"+name] {
			return fmt.Errorf("reading backup: it has no %s", name)
		}
	}
	return out.Close()
}
