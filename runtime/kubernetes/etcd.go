package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

const etcdManifest = "/etc/kubernetes/manifests/etcd.yaml"

// runEtcdTool runs one of etcd's programs on a control plane: that of the tree if it has one, else the one in
// the image that etcd itself runs from, which is in containerd. Its arguments are a directory that the
// program may use, or "", and then the program with its arguments. No secret is among them.
const runEtcdTool = `
dir=$1 program=$2
shift 2
if [ -x "/usr/local/bin/$program" ]; then exec "/usr/local/bin/$program" "$@"; fi
image=$(sed -n 's/^ *image: *//p' ` + etcdManifest + ` 2>/dev/null | head -n 1)
[ -n "$image" ] || image=$(ctr -n k8s.io images ls -q | grep '/etcd:' | tail -n 1)
[ -n "$image" ] || { echo "neither $program nor an image of etcd is here" >&2; exit 1; }
pki=/etc/kubernetes/pki/etcd
mkdir -p "$pki"
[ -n "$dir" ] || dir=$pki
id=keg-$program-$$
ctr -n k8s.io containers rm "$id" 2>/dev/null
exec ctr -n k8s.io run --rm --net-host --cgroup "" \
  --mount "type=bind,src=$pki,dst=$pki,options=rbind:ro" --mount "type=bind,src=$dir,dst=$dir,options=rbind:rw" \
  "$image" "$id" "$program" "$@"
`

func etcdTool(ctx context.Context, n *runtime.Node, dir string, stderr io.Writer, program string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := n.Runner.Run(ctx, remote.Cmd{
		Args: append([]string{"/bin/sh", "-c", runEtcdTool, "sh", dir, program}, args...), Stdout: &out, Stderr: stderr,
	})
	return out.Bytes(), err
}

// etcdctl asks members of etcd; each that does not answer costs no more than three seconds.
func etcdctl(ctx context.Context, n *runtime.Node, dir string, endpoints []string, args ...string) ([]byte, error) {
	const pki = pkiDir + "/etcd"
	return etcdTool(ctx, n, dir, io.Discard, "etcdctl", append([]string{
		"--endpoints=" + strings.Join(endpoints, ","), "--dial-timeout=3s",
		"--cacert=" + pki + "/ca.crt", "--cert=" + pki + "/healthcheck-client.crt", "--key=" + pki + "/healthcheck-client.key",
	}, args...)...)
}

var localEtcd = []string{"https://127.0.0.1:2379"}

// etcdMember is one of `etcdctl member list -w json`.
type etcdMember struct {
	ID         uint64
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	IsLearner  bool     `json:"isLearner"`
}

// Members lists the members by what the one on First says, and asks each whether it is well.
func (Driver) Members(ctx context.Context, c *runtime.Cluster) ([]runtime.Member, error) {
	first := c.First()
	out, err := etcdctl(ctx, first, "", localEtcd, "--command-timeout=8s", "member", "list", "-w", "json")
	if err != nil && ctx.Err() == nil {
		// Where there is no majority, it still knows whom it had (etcd 3.6 or newer).
		var stale error
		if out, stale = etcdctl(ctx, first, "", localEtcd, "--command-timeout=3s", "member", "list", "-w", "json", "--consistency=s"); stale == nil {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing the members of etcd: %w", err)
	}
	var list struct {
		Members []etcdMember `json:"members"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("listing the members of etcd: %w", err)
	}
	var endpoints []string
	for _, m := range list.Members {
		endpoints = append(endpoints, m.ClientURLs...)
	}
	well, err := wellMembers(ctx, first, endpoints)
	if err != nil {
		return nil, err
	}
	var members []runtime.Member
	for _, m := range list.Members {
		o := runtime.Member{ID: strconv.FormatUint(m.ID, 16), Name: m.Name, Learner: m.IsLearner, Healthy: slices.Contains(well, m.ID)}
		for _, peer := range m.PeerURLs {
			if u, err := url.Parse(peer); err == nil && o.Address == "" {
				o.Address = u.Hostname()
			}
		}
		if o.Name == "" { // it has never started
			o.Name = o.Address
		}
		members = append(members, o)
	}
	return members, nil
}

// wellMembers are those that answer on their own endpoint and follow a leader.
func wellMembers(ctx context.Context, n *runtime.Node, endpoints []string) ([]uint64, error) {
	if len(endpoints) == 0 {
		return nil, nil
	}
	// It fails if one of them does not answer, and says what the others said all the same.
	out, err := etcdctl(ctx, n, "", endpoints, "--command-timeout=3s", "endpoint", "status", "-w", "json")
	var exit *remote.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("asking the members of etcd: %w", err)
	}
	var list []struct {
		Status struct {
			Header struct {
				Member uint64 `json:"member_id"`
			} `json:"header"`
			Leader uint64   `json:"leader"`
			Errors []string `json:"errors"`
		}
	}
	if len(bytes.TrimSpace(out)) > 0 {
		if err := json.Unmarshal(out, &list); err != nil {
			return nil, fmt.Errorf("asking the members of etcd: %w", err)
		}
	}
	var well []uint64
	for _, s := range list {
		if s.Status.Leader != 0 && len(s.Status.Errors) == 0 {
			well = append(well, s.Status.Header.Member)
		}
	}
	return well, nil
}

// RemoveMember makes m leave.
func (d Driver) RemoveMember(ctx context.Context, c *runtime.Cluster, m runtime.Member, _ io.Writer) error {
	// The leader waits for itself to step down, or for the dead one to be forgotten.
	_, err := etcdctl(ctx, c.First(), "", localEtcd, "--command-timeout=30s", "member", "remove", m.ID)
	if err == nil {
		return nil
	}
	if members, listErr := d.Members(ctx, c); listErr == nil && !slices.ContainsFunc(members, func(o runtime.Member) bool { return o.ID == m.ID }) {
		return nil
	}
	return fmt.Errorf("removing member %s of etcd: %w", m.Name, err)
}

// Left stops kubelet, so that nothing starts etcd again over a member that is gone.
func (Driver) Left(_ *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{n.On("stop kubelet", func(ctx context.Context, _ writer) error {
		return n.Runner.Run(ctx, remote.Cmd{Args: []string{"systemctl", "stop", "kubelet.service"}})
	})}
}

// Alive asks the API server on n, with the administrator's kubeconfig of that host.
func (Driver) Alive(ctx context.Context, _ *runtime.Cluster, n *runtime.Node) error {
	server := "https://" + net.JoinHostPort(n.IP, "6443")
	return n.Runner.Run(ctx, remote.Cmd{Args: []string{
		binDir + "/kubectl", "--kubeconfig", adminConf, "--server", server, "get", "--raw", "/readyz", "--request-timeout=10s",
	}})
}

func sameAddress(a, b string) bool {
	x, err := netip.ParseAddr(a)
	if err != nil {
		return false
	}
	y, err := netip.ParseAddr(b)
	return err == nil && x.Unmap() == y.Unmap()
}
