package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// version is what this program says it is; another is linked in with -ldflags "-X main.version=v1.36.3+k0s.0".
var version = "v1.37.2+k0s.0"

// rootEnv moves everything that the stand-in touches (/etc, /run, /var, /usr) below a directory: for tests
// without a payload, several "hosts" on one machine.
const rootEnv = "FAKE_K0S_ROOT"

func under(path string) string { return filepath.Join("/", os.Getenv(rootEnv), path) }

// kubernetesVersion is v1.37.2 of v1.37.2+k0s.0, minor 1.37.
func kubernetesVersion() string {
	v, _, _ := strings.Cut(version, "+")
	return v
}

func minor() string {
	parts := strings.SplitN(strings.TrimPrefix(kubernetesVersion(), "v"), ".", 3)
	return parts[0] + "." + parts[1]
}

// vars are the places where k0s keeps things: all below the data directory but for /run/k0s and /etc/k0s.
type vars struct {
	data, run, bin, pki, etcdPKI, etcd, images, manifests, kubeletRoot string
	kubeletConf, adminConf, runtimeConfig, statusSocket, startupConfig string
}

// newVars reads --data-dir, --kubelet-root-dir, --status-socket and --config of a command that has them. A
// running k0s is asked for its own, as the real one does.
func newVars(cmd *cobra.Command) (*vars, error) {
	get := func(name string) string {
		if cmd == nil {
			return ""
		}
		value, err := cmd.Flags().GetString(name)
		if err != nil {
			return ""
		}
		return value
	}
	data := get("data-dir")
	if data == "" || data == "/var/lib/k0s" {
		data = under("/var/lib/k0s")
	}
	data, err := filepath.Abs(data)
	if err != nil {
		return nil, err
	}
	v := &vars{
		data: data, run: under("/run/k0s"), bin: filepath.Join(data, "bin"), pki: filepath.Join(data, "pki"), etcdPKI: filepath.Join(data, "pki", "etcd"),
		etcd: filepath.Join(data, "etcd"), images: filepath.Join(data, "images"), manifests: filepath.Join(data, "manifests"),
		kubeletRoot: filepath.Join(data, "kubelet"), kubeletConf: filepath.Join(data, "kubelet.conf"), adminConf: filepath.Join(data, "pki", "admin.conf"),
		startupConfig: under("/etc/k0s/k0s.yaml"),
	}
	if root := get("kubelet-root-dir"); root != "" {
		v.kubeletRoot = root
	}
	v.runtimeConfig = filepath.Join(v.run, "k0s.yaml")
	v.statusSocket = filepath.Join(v.run, "status.sock")
	if socket := get("status-socket"); socket != "" {
		v.statusSocket = socket
	}
	if config := get("config"); config != "" {
		v.startupConfig = config
	}
	return v, nil
}

// local is the URL of this host's own API.
func (c *ClusterConfig) local() string {
	host := "localhost"
	if c.Spec.API.OnlyBindToAddress || os.Getenv(rootEnv) != "" {
		host = c.Spec.API.Address
	}
	return "https://" + joinHostPort(host, c.Spec.API.Port)
}

func joinHostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func splitHostPort(address string) (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(address)
	return host, port, err == nil
}

// localAddresses are this host's public addresses, those of bridges of pods left out.
func localAddresses() []string {
	var list []string
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 || i.Name == "kube-bridge" || i.Name == "cni0" || i.Name == "docker0" || strings.HasPrefix(i.Name, "veth") {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addresses {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
				list = append(list, ip.IP.String())
			}
		}
	}
	return list
}

func firstAddress() string {
	if list := localAddresses(); len(list) > 0 {
		return list[0]
	}
	return "127.0.0.1"
}

// hostname is the kernel's, or that of a "host" of a test.
func hostname() (string, error) {
	if name := os.Getenv("FAKE_K0S_HOSTNAME"); name != "" {
		return name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("asking for the host name: %w", err)
	}
	return name, nil
}

// nodeName is the Node's: --hostname-override of --kubelet-extra-args, or the host's, in lower case.
func nodeName(kubeletArgs []string) (string, error) {
	name, err := hostname()
	for _, a := range kubeletArgs {
		if override, ok := strings.CutPrefix(a, "--hostname-override="); ok {
			name = override
		}
	}
	return strings.ToLower(strings.TrimSpace(name)), err
}
