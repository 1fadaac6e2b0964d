package labtest

import (
	"slices"
	"strings"
	"testing"
)

// Snapshot is how a host is, in lines: files with their content, units, mounts, processes, network
// devices, routes and the rules of the packet filter. What a running system changes by itself is left out.
type Snapshot []string

const snapshotScript = `
set -eu
# What a running system changes by itself is left out.
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/cache/ldconfig \
  -o -path /var/lib/systemd -o -path /dev \) -prune -o -printf '%y %m %U:%G %p %l\n' | sort
find /usr -xdev \( -path /usr/share -o -path '/usr/lib/modules*' \) -prune -o -printf '%y %m %U:%G %p %l\n' | sort
find /etc /opt /usr/local /root /home /srv /lib/systemd -xdev -type f -exec sha256sum {} + | sort -k 2
find /run /tmp -xdev -maxdepth 2 -not -path '/run/systemd/*' -not -path '/run/user*' -not -path '/run/udev*' -not -path '/run/sudo*' -not -path '/tmp/systemd-private*' | sort
systemctl list-unit-files --no-legend --no-pager | awk '{print $1, $2}' | sort
systemctl list-units --all --plain --no-legend --no-pager --type=service,mount,socket | awk '$3 != "inactive" {print $1, $3}' | grep -v -e ^user -e ^session- -e ^run-user -e 'tmpfiles-clean' -e systemd-hostnamed -e systemd-timedated -e systemd-networkd-wait-online | sort # the last is started by whoever first wants network-online.target
awk '{print $5}' /proc/self/mountinfo | grep -v ^/run/user | sort
ps -eo comm= | grep -v -e '^ps$' -e '^sh$' -e '^awk$' -e '^sort$' -e '^grep$' -e '^sshd$' -e '^(' -e '^systemd$' -e hostnamed -e timedated -e '^bash$' -e '^kworker' | sort
ip -o link | awk -F': ' '{print $2}' | sed 's/@.*//' | sort
ip route | sort
iptables-save | grep -E '^(-A|:[^ ]+ -)' | sed 's/\[[0-9:]*\]//' || true # rules and chains; empty tables stay loaded
sysctl net.ipv4.ip_forward net.ipv4.conf.all.forwarding vm.overcommit_memory kernel.panic 2>/dev/null
`

// Snapshot takes one of a host.
func (l *Lab) Snapshot(t testing.TB, host string) Snapshot {
	t.Helper()
	return strings.Split(l.Exec(t, host, "sh", "-c", snapshotScript), "\n")
}

// Diff lists what another has more ("+ ") and less ("- ").
func (s Snapshot) Diff(now Snapshot) []string {
	var left []string
	for _, l := range now {
		if !slices.Contains(s, l) {
			left = append(left, "+ "+l)
		}
	}
	for _, l := range s {
		if !slices.Contains(now, l) {
			left = append(left, "- "+l)
		}
	}
	return left
}
