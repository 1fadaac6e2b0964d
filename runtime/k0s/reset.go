package k0s

import (
	"context"

	"github.com/clusterimage/keg/runtime"
)

// stopEverything ends k0s and all that it started, also where k0s is dead or its program gone: the units
// first, which would start it again; then what the units leave alone (KillMode=process), with the containers
// below it; then what they had mounted, without which no directory can go (k0s issue 8048). `k0s reset` is
// not used: it deletes accounts of its names also where others made them, it fails where a mount is left, and
// what else it takes away is claimed. Links of Cilium go first: with its programs dead and its links
// there, the host's own network stands still.
const stopEverything = `
for l in cilium_host cilium_net cilium_vxlan; do
  [ ! -e "/sys/class/net/$l" ] || ip link delete "$l"
done
for u in k0scontroller.service k0sworker.service; do
  systemctl stop "$u" 2>/dev/null || systemctl kill -s KILL "$u" 2>/dev/null
  systemctl reset-failed "$u" 2>/dev/null
done
systemctl kill -s KILL kubepods.slice 2>/dev/null
systemctl stop kubepods.slice 2>/dev/null
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
