package kubernetes

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// placeState puts the authorities and etcd's data to their places. Certificates are not put back: they are
// of hosts that were, and kubeadm makes them anew.
const placeState = `
set -e
cd "$1"
mkdir -p ` + pkiDir + `/etcd /var/lib/etcd
chmod 700 /var/lib/etcd
(cd pki && find . -type f) | while read -r f; do
  mode=600
  case $f in *.crt|*.pub) mode=644 ;; esac
  cp "pki/$f" "` + pkiDir + `/$f" && chmod $mode "` + pkiDir + `/$f" || exit
done
rm -rf /var/lib/etcd/member
mv etcd/member /var/lib/etcd/member
`

// Restore makes First a control plane with the state of a backup: etcd comes up as the only member with
// the snapshot, its revisions far ahead of any that a client has seen, and kubeadm makes the rest around
// both. Other names and addresses than the old ones do not matter.
func (d Driver) Restore(c *runtime.Cluster, backup func() (io.ReadCloser, error)) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{
		startContainerd(c, first),
		first.On("send the backup", func(ctx context.Context, out writer) error {
			if err := clearWay(ctx, first); err != nil {
				return err
			}
			paths, err := existing(ctx, first.Runner, traces...)
			if err != nil {
				return err
			}
			if len(paths) > 0 {
				fmt.Fprintln(out, "taking back what an earlier run began")
				if err := kubeadmReset(ctx, first, out); err != nil {
					return err
				}
			}
			c.Defer(func(ctx context.Context) error {
				if first.Runner == nil {
					return nil
				}
				return first.Runner.Run(ctx, remote.Cmd{Args: []string{"rm", "-rf", restoreDir}})
			})
			return sendBackup(ctx, first, backup)
		}),
		first.On("make the control plane of it with kubeadm", func(ctx context.Context, out writer) error {
			if err := first.Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}, EnableOnly: true}); err != nil {
				return err
			}
			return d.makeControlPlane(ctx, c, out, func(ctx context.Context, config []byte) error {
				// The programs of etcd come in its image.
				if err := kubeadm(ctx, first, "images.yaml", config, out, "config", "images", "pull"); err != nil {
					return err
				}
				return restoreEtcd(ctx, first, c.UID)
			}, "DirAvailable--var-lib-etcd")
		}),
		first.On("wait for the API", func(ctx context.Context, _ writer) error { return d.comeUp(ctx, c) }),
	}}
}

func sendBackup(ctx context.Context, n *runtime.Node, backup func() (io.ReadCloser, error)) error {
	in, err := backup()
	if err != nil {
		return fmt.Errorf("opening backup: %w", err)
	}
	defer in.Close()
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := onlyBackup(w, in)
		_ = w.CloseWithError(err)
		read <- err
	}()
	err = n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", unpackTree, "sh", restoreDir}, Stdin: r})
	_ = r.Close() // ends the goroutine, if tar ended early
	if readErr := <-read; readErr != nil && err == nil {
		err = readErr
	}
	return err
}

// restoreEtcd makes etcd's data of the snapshot. Clients have seen revisions since the backup was taken;
// those that follow must be larger, and asking for any before must fail (kubernetes/kubernetes#118501).
func restoreEtcd(ctx context.Context, n *runtime.Node, uid string) error {
	peer := "https://" + net.JoinHostPort(n.IP, "2380")
	if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"rm", "-rf", restoreDir + "/etcd"}}); err != nil {
		return err
	}
	if _, err := etcdTool(ctx, n, restoreDir, io.Discard, "etcdutl", "snapshot", "restore", restoreDir+"/"+snapshotFile,
		"--name", n.Name, "--initial-cluster", n.Name+"="+peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster-token", "keg-"+uid, "--data-dir", restoreDir+"/etcd",
		"--bump-revision", "1000000000", "--mark-compacted"); err != nil {
		return fmt.Errorf("making etcd's data of the snapshot: %w", err)
	}
	return n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", placeState, "sh", restoreDir}})
}
