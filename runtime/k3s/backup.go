package k3s

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// Files of a backup. The snapshot holds the CAs too, encrypted by the server token.
const (
	backupSnapshot   = "snapshot"
	backupToken      = "token"
	backupAgentToken = "agent-token"
	backupConfig     = "config.yaml"

	backupDir    = workDir + "/backup"
	snapshotName = "keg-backup"
)

// takeSnapshot collects in $1 what a backup needs. The snapshot is deleted where k3s keeps it: what k3s
// takes by its own schedule is the user's, this is not. It is not compressed, whatever config.yaml says: the
// name tells k3s how to read it.
const takeSnapshot = `
umask 077
k3s=/usr/local/bin/k3s
clean() {
  for f in "$2/$3"*; do
    [ ! -e "$f" ] || "$k3s" etcd-snapshot delete "${f##*/}" >/dev/null 2>&1
    rm -f "$f"
  done
}
rm -rf "$1" && mkdir -p "$1" || exit
clean "$@"
"$k3s" etcd-snapshot save --name "$3" --snapshot-compress=false >&2 || exit
taken=
for f in "$2/$3"*; do [ ! -f "$f" ] || taken=$f; done
[ -n "$taken" ] || { echo "k3s has written no snapshot to $2" >&2; exit 1; }
ln "$taken" "$1/snapshot" 2>/dev/null || cp "$taken" "$1/snapshot" || exit
clean "$@"
cp "$4/token" "$4/agent-token" "$4/config.yaml" "$1/"
`

// Backup has k3s take a snapshot on First.
func (Driver) Backup(ctx context.Context, c *runtime.Cluster, w io.Writer) (err error) {
	n := c.First()
	defer func() {
		if !errors.Is(err, remote.ErrDisconnected) { // else the next backup removes it
			err = errors.Join(err, n.Remove(context.WithoutCancel(ctx), backupDir))
		}
	}()
	if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", takeSnapshot, "sh", backupDir, snapshots, snapshotName, configDir}}); err != nil {
		return fmt.Errorf("taking a snapshot with k3s: %w", err)
	}
	return n.Runner.Run(ctx, remote.Cmd{
		Args:   []string{"tar", "-C", backupDir, "-cf", "-", backupSnapshot, backupToken, backupAgentToken, backupConfig},
		Stdout: w,
	})
}
