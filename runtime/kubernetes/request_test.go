package kubernetes

import (
	"slices"
	"strings"
	"testing"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

func TestCheckRequest(t *testing.T) {
	const adm = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: "
	for _, tt := range []struct {
		name, doc string
		env       map[string]string
		want      []string // in text and cure of the one finding; none is no finding
	}{
		{"nothing", "", nil, nil},
		{"free maps and lists", adm + "ClusterConfiguration\nfeatureGates: {Any: true}\netcd: {local: {extraArgs: [{name: quota-backend-bytes, value: \"1\"}]}}\n", nil, nil},
		{"a key that there is not", adm + "ClusterConfiguration\nnetworking:\n  podSubnett: 10.1.0.0/16\n", nil, []string{"user.yaml:1", "networking.podSubnett", "did you mean podSubnet?"}},
		{"in a list", adm + "InitConfiguration\nnodeRegistration:\n  kubeletExtraArgs: [{nam: x, value: z}]\n", nil, []string{"nodeRegistration.kubeletExtraArgs.nam", "did you mean name?"}},
		{"keg's own", adm + "ClusterConfiguration\nnetworking: {podSubnet: 10.1.0.0/16}\n", nil, []string{"networking.podSubnet of ClusterConfiguration is keg's own", "POD_CIDR"}},
		{"keg's own as a whole", adm + "JoinConfiguration\ndiscovery: {bootstrapToken: {token: x}}\n", nil, []string{"discovery of JoinConfiguration is keg's own"}},
		{"another kind", "apiVersion: v1\nkind: Pod\n", nil, []string{"Pod is no kind that kubeadm takes", "KubeletConfiguration"}},
		{"a kind mistyped", adm + "ClusterConfigurations\n", nil, []string{"did you mean ClusterConfiguration?"}},
		{"no kind", "a: b\n", nil, []string{"no kind"}},
		{"an old version", "apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\n", nil, []string{"v1beta3", "use apiVersion kubeadm.k8s.io/v1beta4"}},
		{"ResetConfiguration", adm + "ResetConfiguration\n", nil, []string{"keg reset"}},
		{"kubelet's", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncgroupDriver: cgroupfs\n", nil, []string{"cgroupDriver", "systemd"}},
		{"text for a number", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: \"200\"\n", nil, []string{`maxPods of KubeletConfiguration is "200", and must be a whole number`}},
		{"a number for text", adm + "ClusterConfiguration\napiServer: {extraArgs: [{name: v, value: 4}]}\n", nil, []string{"apiServer.extraArgs.value", "is 4, and must be text"}},
		{"text for a switch", adm + "ClusterConfiguration\nfeatureGates: {A: \"yes\"}\n", nil, []string{"featureGates.A", "true or false"}},
		{"a mapping for a list", adm + "ClusterConfiguration\napiServer: {extraArgs: {v: \"4\"}}\n", nil, []string{"apiServer.extraArgs of ClusterConfiguration is a mapping, and must be a list"}},
		{"text for a mapping", adm + "ClusterConfiguration\nnetworking: x\n", nil, []string{`networking of ClusterConfiguration is "x", and must be a mapping`}},
		{"half a number", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 1.5\n", nil, []string{"must be a whole number"}},
		{"values of every type", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 200\nsystemReserved: {cpu: 100m}\nevictionHard: null\nsyncFrequency: 1m\nfailSwapOn: false\nallowedUnsafeSysctls: [a]\nlogging: {flushFrequency: 5, options: {json: {infoBufferSize: 0}}}\n", nil, nil},
		{"two families", "", map[string]string{"POD_CIDR": "10.244.0.0/16,fd00:1::/56", "SERVICE_CIDR": "10.96.0.0/16,fd00:2::/112"}, nil},
		{"one family twice", "", map[string]string{"POD_CIDR": "10.244.0.0/16,10.245.0.0/16", "SERVICE_CIDR": "10.96.0.0/16,fd00:2::/112"}, []string{"POD_CIDR", "neither one range"}},
		{"families that differ", "", map[string]string{"POD_CIDR": "10.244.0.0/16,fd00:1::/56"}, []string{"same families"}},
		{"containerd", "", map[string]string{"CONTAINERD": "theirs"}, []string{"CONTAINERD"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := scene(1, 2, tt.env)
			var err error
			if c.Options.Config, err = runtime.ParseDocuments("user.yaml", []byte(tt.doc)); err != nil {
				t.Fatal(err)
			}
			list := Driver{}.CheckRequest(c)
			if len(tt.want) == 0 {
				if len(list) > 0 {
					t.Errorf("findings %v", list)
				}
				return
			}
			if len(list) != 1 || list[0].Severity != runtime.Fatal {
				t.Fatalf("findings %v, want one", list)
			}
			for _, text := range tt.want {
				if !strings.Contains(list[0].Text+"\n"+list[0].Cure, text) {
					t.Errorf("finding %v does not say %q", list[0], text)
				}
			}
		})
	}
}

// TestNewerVersion: a Kubernetes newer than this keg may have fields that it has not heard of.
func TestNewerVersion(t *testing.T) {
	c := scene(0, 2, nil)
	r := c.Image.Platforms["linux/amd64"]
	r.Metadata.Version = "v1.38.0"
	c.Image.Platforms["linux/amd64"] = r
	c.Options.Config = []runtime.Document{{Source: "f:1", Value: map[string]any{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": kindKubelet, "new": true}}}
	if list := (Driver{}).CheckRequest(c); len(list) != 1 || list[0].Severity != runtime.Warning {
		t.Errorf("findings %v, want a warning", list)
	}
}

func TestJudgeContainerd(t *testing.T) {
	const config = `version = 3
[plugins]
  [plugins.'io.containerd.cri.v1.images']
    [plugins.'io.containerd.cri.v1.images'.pinned_images]
      sandbox = 'registry.k8s.io/pause:3.10.2'
    [plugins.'io.containerd.cri.v1.images'.registry]
      config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = true
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other.options]
      SystemdCgroup = false
`
	n := scene(0, 2, nil).First()
	for _, tt := range []struct {
		name, old, new, pause string
		want                  []string
	}{
		{"good", "", "", "registry.k8s.io/pause:3.10.2", nil},
		{"all wrong", "'runc'\n", "'other'\n", "registry.k8s.io/pause:3.10", []string{`SystemdCgroup = false for its runtime "other"`, "sandbox"}},
		{"no certs.d", "config_path = '/etc/containerd/certs.d:", "config_path = '", "registry.k8s.io/pause:3.10.2", []string{`config_path "/etc/docker/certs.d"`}},
	} {
		list, err := judgeConfig(n, []byte(strings.Replace(config, tt.old, tt.new, 1)), tt.pause)
		if err != nil || len(list) != len(tt.want) {
			t.Errorf("%s: findings %v, %v", tt.name, list, err)
			continue
		}
		for i, text := range tt.want {
			if !strings.Contains(list[i].Text, text) {
				t.Errorf("%s: %q does not say %q", tt.name, list[i].Text, text)
			}
		}
	}
	if _, err := judgeConfig(n, []byte("version = "), "p"); err == nil {
		t.Error("broken TOML is taken")
	}
}

func TestTheirContainerd(t *testing.T) {
	n := scene(0, 2, nil).First()
	n.Facts.Existing = []string{containerdSocket}
	for _, path := range (Driver{}).Claim(n).Paths {
		if strings.Contains(path, "containerd") {
			t.Errorf("%s is claimed of a containerd that is not ours", path)
		}
	}
	n.Facts.State = &node.HostState{UID: "1"} // ours is running
	if !slices.Contains((Driver{}).Claim(n).Paths, "/var/lib/containerd") {
		t.Error("our own containerd is not claimed")
	}
	c := scene(0, 2, map[string]string{"CONTAINERD": "existing"})
	for _, i := range (Driver{}).Items(c, c.First()) {
		if i.From == "bin" || strings.Contains(i.To, "containerd") || strings.Contains(i.To, "runc") {
			t.Errorf("%s is installed beside a containerd that is there", i.From)
		}
	}
}
