package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// action is what is left to do on a host.
type action string

const (
	skip   action = "skip"   // it is done, or was done and has to come up again
	create action = "create" // nothing was begun
	redo   action = "redo"   // something was begun and not ended: take it back first
)

// decideInit says what is left to do for the control plane. marked is whether keg wrote down that it
// was made, paths what kubeadm left on the host. A control plane that was made and does not answer is
// not taken for half made: it may hold somebody's data, and comes back by itself or needs a person.
func decideInit(marked bool, paths []string) action {
	switch {
	case len(paths) == 0:
		return create
	case marked && slices.Contains(paths, adminConf) && slices.Contains(paths, kubeletConf):
		return skip
	}
	return redo
}

// traces are paths that kubeadm makes, from its first change on.
var traces = []string{
	adminConf, kubeletConf, "/etc/kubernetes/bootstrap-kubelet.conf", "/etc/kubernetes/pki/ca.crt",
	"/etc/kubernetes/manifests/kube-apiserver.yaml", etcdManifest, "/var/lib/etcd/member",
	"/var/lib/kubelet/config.yaml",
}

// Init makes the first control plane.
func (d Driver) Init(c *runtime.Cluster) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{
		startContainerd(c, first),
		first.On("make the control plane with kubeadm", func(ctx context.Context, out writer) error {
			if err := first.Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}, EnableOnly: true}); err != nil {
				return err
			}
			if err := clearWay(ctx, first); err != nil {
				return err
			}
			paths, err := existing(ctx, first.Runner, traces...)
			if err != nil {
				return err
			}
			what := decideInit(first.Done(runtime.DoneInit) || first.Done(runtime.DoneJoin), paths)
			if what == skip {
				return runtime.ErrAlready
			}
			if other := c.OtherMaster(first); other != nil {
				return fmt.Errorf("making the control plane: %s was made one and is none any more, and the cluster goes on without it on %s; take it out with keg delete --force, and add it again", first.Address, other.Address)
			}
			if what == redo {
				fmt.Fprintln(out, "taking back what an earlier run began")
				if err := kubeadmReset(ctx, first, out); err != nil {
					return err
				}
			}
			return d.makeControlPlane(ctx, c, out, nil)
		}),
		first.On("wait for the API", func(ctx context.Context, _ writer) error { return d.comeUp(ctx, c) }),
	}}
}

// comeUp waits for the API, which comes up with kubelet.
func (Driver) comeUp(ctx context.Context, c *runtime.Cluster) error {
	if err := c.First().Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}}); err != nil {
		return err
	}
	return runtime.Wait(ctx, 5*time.Minute, "the API", func(ctx context.Context) error {
		_, err := kubectl(ctx, c, "get", "--raw", "/readyz")
		return err
	})
}

// makeControlPlane runs kubeadm init, after prepare, if there is one, has seen the same configuration; ignore
// are kubeadm's checks that would find what prepare made.
func (Driver) makeControlPlane(ctx context.Context, c *runtime.Cluster, out writer, prepare func(ctx context.Context, config []byte) error, ignore ...string) error {
	first := c.First()
	// What ran on a cluster that was there before runs on this one again.
	if err := c.Restart(ctx); err != nil {
		return err
	}
	base, err := rendered(ctx, first, "etc/kubeadm.yaml")
	if err != nil {
		return err
	}
	t := newToken()
	config, err := initConfig(base, c.Options.Config, t, ignore...)
	if err != nil {
		return err
	}
	if prepare != nil {
		if err := prepare(ctx, config); err != nil {
			return err
		}
	}
	if err := kubeadm(ctx, first, "init.yaml", config, out, "init", "--skip-token-print", "--skip-certificate-key-print"); err != nil {
		return err
	}
	// kubeadm makes a token of its own if it is given none; ours was for that alone.
	if err := deleteToken(ctx, c, t); err != nil {
		return err
	}
	return first.Mark(ctx, runtime.DoneInit)
}

func deleteToken(ctx context.Context, c *runtime.Cluster, t token) error {
	_, err := kubectl(ctx, c, "-n", "kube-system", "delete", "secret", "bootstrap-token-"+t.id(), "--ignore-not-found")
	return err
}

// endProgram ends the processes of a program by its path, since nothing else tells them surely.
const endProgram = `
for signal in TERM KILL; do
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    pids=
    for p in /proc/[0-9]*; do
      case "$(readlink "$p/exe" 2>/dev/null)" in
      "$1"|"$1 (deleted)") pids="$pids ${p#/proc/}" ;;
      esac
    done
    [ -n "$pids" ] || exit 0
    kill -$signal $pids 2>/dev/null
    sleep 1
  done
done
echo "$1 does not end" >&2
exit 1
`

// clearWay ends a kubeadm that still runs for a keg that was killed, and removes its secret files.
func clearWay(ctx context.Context, n *runtime.Node) error {
	for _, dir := range []string{binDir, node.Rootfs + "/bin"} {
		if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", endProgram, "sh", dir + "/kubeadm"}}); err != nil {
			return err
		}
	}
	return n.Runner.Run(ctx, remote.Cmd{Args: []string{"rm", "-rf", secretDir}})
}
