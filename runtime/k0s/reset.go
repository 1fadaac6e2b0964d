package k0s

import (
	"context"

	"github.com/clusterimage/keg/runtime"
)

// dropLinks takes Cilium's links away: with its programs dead and its links there, the host's own network stands
// still.
const dropLinks = `
for l in cilium_host cilium_net cilium_vxlan; do
  [ ! -e "/sys/class/net/$l" ] || ip link delete "$l"
done
`

// stopEverything ends all that k0s started, also where k0s is dead or its program gone: the pods, then what the units
// leave alone (KillMode=process), with the containers below it; then what they had mounted, without which no directory
// can go (k0s issue 8048). `k0s reset` is not used: it deletes accounts of its names also where others made them, it
// fails where a mount is left, and what else it takes away is claimed.
const stopEverything = `
for g in /sys/fs/cgroup/kubepods* /sys/fs/cgroup/*/kubepods*; do
  [ ! -d "$g" ] || find "$g" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -KILL 2>/dev/null
done
for round in 1 2 3; do
  pids=
  for p in /proc/[0-9]*; do
    case "$(readlink "$p/exe" 2>/dev/null)" in
    /usr/local/bin/k0s|/usr/local/bin/k0s\ *|/var/lib/k0s/bin/*) pids="$pids ${p#/proc/}" ;;
    esac
  done
  [ -n "$pids" ] || break
  more=1
  while [ -n "$more" ]; do
    more=
    for s in /proc/[0-9]*/status; do
      p=${s#/proc/} p=${p%/status}
      case " $pids " in *" $p "*) continue ;; esac
      parent=$(sed -n 's/^PPid:[^0-9]*//p' "$s" 2>/dev/null)
      case " $pids " in *" ${parent:-none} "*) pids="$pids $p" more=1 ;; esac
    done
  done
  kill -KILL $pids 2>/dev/null
  sleep 1
done
set --
while read -r _ m _; do
  case $m in
  /var/lib/k0s/*|/run/k0s/*|/var/lib/kubelet/*|/run/netns/cni-*|/run/containerd/*) set -- "$m" "$@" ;;
  esac
done </proc/self/mounts
for m; do umount -l "$m"; done
exit 0
`

// Reset stops everything that k0s started on a host. What it left on disk, and the accounts that it made,
// were claimed and go with the rest.
func (Driver) Reset(_ *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{n.On("stop k0s and all containers", func(ctx context.Context, _ writer) error {
		if n.State.UID == "" { // nothing there is ours
			return runtime.ErrAlready
		}
		return stopAll(ctx, n)
	})}
}
