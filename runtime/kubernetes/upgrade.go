package kubernetes

import (
	"context"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// newBin is where the programs of a rootfs lie that is about to be installed.
const newBin = node.Rootfs + "/bin"

// mendManifests puts static pods back that a kubeadm upgrade had moved out of the way when it was killed.
const mendManifests = `
cd /etc/kubernetes/manifests || exit
for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
  [ ! -e $name.yaml ] || continue
  last=
  for f in /etc/kubernetes/tmp/kubeadm-backup-manifests*/$name.yaml; do
    [ ! -e "$f" ] || [ -n "$last" ] && [ ! "$f" -nt "$last" ] || last=$f
  done
  [ -n "$last" ] || continue
  echo "putting back $name.yaml"
  cp -p "$last" /etc/kubernetes/tmp/$name.keg && mv /etc/kubernetes/tmp/$name.keg $name.yaml || exit
done
`

// UpgradeControlPlane brings the control plane's pods on n to the new version, with the new kubeadm: of the
// cluster on the first one, where kubeadm also changes what is the cluster's, and of the host alone on the others.
func (d Driver) UpgradeControlPlane(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	args := []string{"upgrade", "node"}
	if n == c.First() {
		args = []string{"upgrade", "apply", "--yes"}
	}
	return []runtime.Step{
		n.On("get the control plane ready to be upgraded", func(ctx context.Context, out writer) error {
			if err := clearWay(ctx, n); err != nil {
				return err
			}
			if err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", mendManifests}, Stdout: out, Stderr: out}); err != nil {
				return err
			}
			if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}}); err != nil {
				return err
			}
			return waitAlive(ctx, d, c, n)
		}),
		n.On("upgrade the control plane with kubeadm", func(ctx context.Context, out writer) error {
			return kubeadmUpgrade(ctx, newBin, c, n, out, args...)
		}),
	}
}

func kubeadmUpgrade(ctx context.Context, dir string, c *runtime.Cluster, n *runtime.Node, out writer, args ...string) error {
	base, err := rendered(ctx, n, "etc/kubeadm-upgrade.yaml")
	if err != nil {
		return err
	}
	config, err := upgradeConfig(base, c.Options.Config)
	if err != nil {
		return err
	}
	return kubeadmFrom(ctx, dir, n, "upgrade.yaml", config, out, args...)
}

// Restart brings kubelet's configuration up to date on a worker, as UpgradeControlPlane did on a control
// plane, and restarts what was exchanged. A run that was killed does not know any more what had changed, so
// both are restarted: pods live on without containerd, and the host is drained.
func (Driver) Restart(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	var steps []runtime.Step
	if n.Role == runtime.Worker {
		steps = append(steps, n.On("upgrade kubelet's configuration with kubeadm", func(ctx context.Context, out writer) error {
			if err := clearWay(ctx, n); err != nil {
				return err
			}
			return kubeadmUpgrade(ctx, binDir, c, n, out, "upgrade", "node")
		}))
	}
	return append(steps,
		n.On("restart containerd", func(ctx context.Context, _ writer) error {
			if theirs(c) {
				return runtime.ErrAlready
			}
			if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{"containerd.service"}, Restart: true}); err != nil {
				return err
			}
			return waitContainerd(ctx, n)
		}),
		n.On("restart kubelet", func(ctx context.Context, _ writer) error {
			return n.Host.Units(ctx, node.UnitRequest{Units: []string{"kubelet.service"}, Restart: true})
		}),
	)
}
