package kubernetes

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/pelletier/go-toml/v2"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

const (
	// bundled is the CONTAINERD that comes with the image; "existing" is one that hosts have already.
	bundled          = "bundled"
	containerdSocket = "/run/containerd/containerd.sock"
	// theirsMark is on hosts whose containerd is not ours.
	theirsMark = node.Dir + "/containerd-is-theirs"
	certsDir   = "/etc/containerd/certs.d"
)

// theirs says whether the cluster is to use a containerd that its hosts have already.
func theirs(c *runtime.Cluster) bool { return setting(c, "CONTAINERD", bundled) == "existing" }

// theirsOn says whether the containerd of a host is not ours, by its facts alone: a reset does not know
// the cluster's settings. One that ran before keg came is refused unless it is to be used.
func theirsOn(n *runtime.Node) bool {
	has := func(path string) bool { return slices.Contains(n.Facts.Existing, path) }
	return has(theirsMark) || has(containerdSocket) && (n.Facts.State == nil || n.Facts.State.UID == "")
}

// itemsBesideTheirs are what is installed where containerd is there.
func itemsBesideTheirs() []node.InstallItem {
	var list []node.InstallItem
	for _, name := range []string{"kubeadm", "kubelet", "kubectl"} {
		list = append(list, node.InstallItem{From: "bin/" + name, To: binDir + "/" + name, Mode: 0o755})
	}
	for _, name := range []string{"crictl", "helm", "etcdctl", "etcdutl"} {
		list = append(list, node.InstallItem{From: "bin/" + name, To: binDir + "/" + name, Mode: 0o755, Optional: true})
	}
	const units = "etc/systemd/system/"
	return append(list,
		node.InstallItem{From: "opt/cni/bin", To: "/opt/cni/bin", Mode: 0o755, Optional: true},
		node.InstallItem{From: units + "kubelet.service", To: "/" + units + "kubelet.service", Mode: 0o644},
		node.InstallItem{From: units + "kubelet.service.d", To: "/" + units + "kubelet.service.d", Mode: 0o644},
		node.InstallItem{From: "etc/crictl.yaml", To: "/etc/crictl.yaml", Mode: 0o644, Optional: true},
	)
}

var containerdVersion = regexp.MustCompile(`\bv?(\d+\.\d+\.\d+\S*)`)

// Inspect judges a containerd that is there by what it says itself.
func (Driver) Inspect(ctx context.Context, c *runtime.Cluster, n *runtime.Node) ([]runtime.Finding, error) {
	if !theirs(c) {
		return nil, nil
	}
	var list []runtime.Finding
	add := func(text, cure string) {
		list = append(list, runtime.Finding{Host: n.Address.String(), ID: "containerd", Severity: runtime.Fatal, Text: text, Cure: cure})
	}
	if !slices.Contains(n.Facts.Existing, containerdSocket) {
		add("no containerd runs there ("+containerdSocket+")", "start it, or leave CONTAINERD=existing out")
		return list, nil
	}
	out, err := remote.Output(ctx, n.Runner, "containerd", "--version")
	if err != nil {
		return nil, err
	}
	found := containerdVersion.FindStringSubmatch(string(out))
	if found == nil {
		return nil, fmt.Errorf("reading containerd's version: it says %.100q", out)
	}
	if v, err := semver.NewVersion(found[1]); err != nil || v.Major() < 2 {
		add("its containerd is "+found[1], "install containerd 2 or newer, or leave CONTAINERD=existing out")
		return list, nil
	}
	config, err := remote.Output(ctx, n.Runner, "containerd", "config", "dump")
	if err != nil {
		return nil, err
	}
	return judgeConfig(n, config, c.Env(n)["PAUSE_IMAGE"])
}

// containerdConfig is what is judged of containerd's own configuration: version 3, which containerd 2 dumps whatever
// version its file has.
type containerdConfig struct {
	Plugins struct {
		Images struct {
			PinnedImages struct {
				Sandbox string `toml:"sandbox"`
			} `toml:"pinned_images"`
			Registry struct {
				ConfigPath string `toml:"config_path"`
			} `toml:"registry"`
		} `toml:"io.containerd.cri.v1.images"`
		Runtime struct {
			Containerd struct {
				Default  string `toml:"default_runtime_name"`
				Runtimes map[string]struct {
					Options struct {
						SystemdCgroup bool
					} `toml:"options"`
				} `toml:"runtimes"`
			} `toml:"containerd"`
		} `toml:"io.containerd.cri.v1.runtime"`
	} `toml:"plugins"`
}

// judgeConfig finds what `containerd config dump` lacks.
func judgeConfig(n *runtime.Node, dump []byte, pause string) ([]runtime.Finding, error) {
	var config containerdConfig
	if err := toml.Unmarshal(dump, &config); err != nil {
		return nil, fmt.Errorf("reading containerd's configuration: %w", err)
	}
	var list []runtime.Finding
	lacks := func(text string) {
		list = append(list, runtime.Finding{
			Host: n.Address.String(), ID: "containerd", Severity: runtime.Fatal,
			Text: "its containerd has " + text, Cure: "set it in /etc/containerd/config.toml and restart containerd",
		})
	}
	images, engine := config.Plugins.Images, config.Plugins.Runtime.Containerd
	if !slices.Contains(filepath.SplitList(images.Registry.ConfigPath), certsDir) {
		lacks(fmt.Sprintf("config_path %q, not %q, to pull from the cluster's registry", images.Registry.ConfigPath, certsDir))
	}
	if !engine.Runtimes[engine.Default].Options.SystemdCgroup {
		lacks(fmt.Sprintf("SystemdCgroup = false for its runtime %q, and kubelet's control groups are systemd's", engine.Default))
	}
	if images.PinnedImages.Sandbox != pause {
		lacks(fmt.Sprintf("sandbox %q, not %q, which is the image that there is", images.PinnedImages.Sandbox, pause))
	}
	return list, nil
}

// startContainerd is a step of every node.
func startContainerd(c *runtime.Cluster, n *runtime.Node) runtime.Step {
	if theirs(c) {
		return n.On("see that containerd runs", func(ctx context.Context, _ writer) error {
			if _, err := n.Host.Put(ctx, []runtime.File{{Path: theirsMark, Mode: 0o600}}); err != nil {
				return err
			}
			return waitContainerd(ctx, n)
		})
	}
	return n.On("start containerd", func(ctx context.Context, _ writer) error {
		restart := n.Changed("/etc/containerd/config.toml", binDir+"/containerd", "/etc/systemd/system/containerd.service")
		if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{"containerd.service"}, Restart: restart}); err != nil {
			return err
		}
		return waitContainerd(ctx, n)
	})
}

func waitContainerd(ctx context.Context, n *runtime.Node) error {
	return runtime.Wait(ctx, 2*time.Minute, "containerd", func(ctx context.Context) error {
		return n.Runner.Run(ctx, remote.Cmd{Args: []string{"ctr", "version"}})
	})
}
