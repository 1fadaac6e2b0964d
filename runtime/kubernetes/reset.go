package kubernetes

import (
	"context"
	"fmt"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// resetLimit bounds kubeadm reset, which waits for things that may be gone.
const resetLimit = 3 * time.Minute

// stopPods ends every container, also where containerd is dead: kubelet first, which would start them
// again; then whatever is in the pods' control groups; then containerd with its shims, which its unit
// leaves alone (KillMode=process); then what they had mounted.
const stopPods = `
# $1 is "theirs" where containerd is not ours.
systemctl stop kubelet.service
systemctl kill -s KILL kubepods.slice
systemctl stop kubepods.slice
if [ "$1" != theirs ]; then
systemctl stop containerd.service
for p in /proc/[0-9]*; do
  case "$(readlink "$p/exe")" in
  /usr/local/bin/containerd-shim-runc-v2|/usr/local/bin/containerd-shim-runc-v2\ *) kill -KILL "${p#/proc/}" ;;
  esac
done
fi
run=/run/containerd lib=/var/lib/containerd
[ "$1" != theirs ] || run=/nowhere lib=/nowhere
set --
while read -r _ m _; do
  case $m in
  /var/lib/kubelet/*|$run/*|/run/netns/cni-*|$lib/*) set -- "$m" "$@" ;;
  esac
done </proc/self/mounts
for m; do umount -l "$m"; done
exit 0
`

// Reset stops everything that kubeadm, kubelet and containerd started on a host. What they left on
// disk was claimed and goes with the rest.
func (Driver) Reset(_ *runtime.Cluster, n *runtime.Node) []runtime.Step {
	ours := func(do func(ctx context.Context, out writer) error) func(ctx context.Context, out writer) error {
		return func(ctx context.Context, out writer) error {
			if n.State.UID == "" { // nothing there is ours
				return runtime.ErrAlready
			}
			return do(ctx, out)
		}
	}
	return []runtime.Step{
		n.On("take the node off with kubeadm", ours(func(ctx context.Context, out writer) error {
			paths, err := existing(ctx, n.Runner, append(traces, binDir+"/kubeadm")...)
			if err != nil {
				return err
			}
			if len(paths) < 2 { // kubeadm is not there, or has done nothing
				return runtime.ErrAlready
			}
			limited, cancel := context.WithTimeout(ctx, resetLimit)
			defer cancel()
			if err := kubeadmReset(limited, n, out); err != nil {
				if ctx.Err() != nil {
					return err
				}
				fmt.Fprintf(out, "kubeadm reset failed, going on without: %v\n", err)
			}
			return nil
		})),
		n.On("stop pods, kubelet and containerd", ours(func(ctx context.Context, _ writer) error {
			whose := "ours"
			if theirsOn(n) {
				whose = "theirs"
			}
			return n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", stopPods, "sh", whose}})
		})),
	}
}
