package kubernetes

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
	"github.com/clusterimage/keg/runtime/runtimetest"
)

var errKilled = errors.New("keg was killed")

// sim is some hosts and the cluster that kubeadm makes of them, in memory. It dies at a given
// operation, before it or in its middle, and stays dead until it is revived.
type sim struct {
	mu       sync.Mutex
	machines map[string]*machine
	nodes    map[string]int // of the API, name to index
	secrets  map[string]bool
	ca       []byte
	inits    int
	joins    int
	members  map[string]*simMember // of etcd, by address
	lastID   uint64
	broken   []string       // what no cluster would survive
	api      map[string]int // minor versions of control planes and kubelets, by name of the machine
	kubelet  map[string]int
	sans     []any
	minor    int // of the programs in the rootfs
	killed   string
	unsigned bool     // kubeadm makes no certificate
	guarded  bool     // a reset of a member that etcd counts is told in broken
	ran      []string // commands of apps and CMDS
	leaked   []string // secrets seen in arguments

	ops    int
	cuts   int // operations so far that can be cut in their middle
	killAt int // 0 is never
	mode   killMode
	dead   bool
}

// killMode is when keg dies. After an operation is before the next one.
type killMode string

const (
	before killMode = "before" // the operation of the number killAt
	midway killMode = "midway" // what kubeadm does is cut in its middle, the one of that number
)

type simMember struct {
	id      uint64
	learner bool
}

type machine struct {
	off  bool
	sim  *sim
	ip   string
	name string
	host *runtimetest.Host
}

func newSim(t *testing.T, ips ...string) *sim {
	t.Helper()
	s := &sim{machines: map[string]*machine{}, nodes: map[string]int{}, secrets: map[string]bool{}, ca: testCA(t)}
	s.minor, s.guarded = 37, true
	s.members, s.api, s.kubelet = map[string]*simMember{}, map[string]int{}, map[string]int{}
	for i, ip := range ips {
		m := &machine{sim: s, ip: ip, name: fmt.Sprintf("h%d", i+1)}
		m.host = &runtimetest.Host{
			Machine: node.Facts{
				Hostname: m.name, MachineID: m.name, Arch: "amd64", Init: "systemd", Cgroup: 2, CPUs: 4,
				Memory: 8 << 30, DiskFree: 100 << 30, Addresses: []string{ip}, DefaultRoute: true,
				UnixNano: time.Now().UnixNano(), OOMScoreAdj: true, Existing: []string{"/usr/sbin/iptables"},
			},
			Rootfs: map[string]string{
				"bin/kubeadm": "x", "bin/containerd": "x", "etc/containerd/config.toml": "x",
				"etc/systemd/system/containerd.service": "x",
				"etc/kubeadm.yaml":                      "kind: InitConfiguration\n---\nkind: ClusterConfiguration\n",
				"etc/kubeadm-join.yaml":                 "kind: JoinConfiguration\n",
				"etc/kubeadm-upgrade.yaml":              "kind: UpgradeConfiguration\n",
				conflist:                                "{}",
			},
			Before: func(op string) error {
				return s.op(m.name+": "+op, func() error {
					if op == "restart kubelet.service" {
						s.mu.Lock()
						s.kubelet[m.name] = s.minor
						s.mu.Unlock()
					}
					return nil
				})
			},
		}
		s.machines[ip] = m
	}
	return s
}

func testCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// op counts an operation, and dies at the chosen one.
func (s *sim) op(what string, effect func() error) error {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return errKilled
	}
	s.ops++
	kill := s.mode == before && s.killAt == s.ops
	s.dead = kill
	if kill {
		s.killed = what
	}
	s.mu.Unlock()
	if kill {
		return errKilled
	}
	if effect == nil {
		return nil
	}
	err := effect()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errKilled
	}
	return err
}

// cut says whether the operation under way, which can be cut in its middle, is; s is locked.
func (s *sim) cut() bool {
	s.cuts++
	now := s.mode == midway && s.cuts == s.killAt
	s.dead = s.dead || now
	return now
}

// reaching connects to machines that are not off.
func (s *sim) reaching(connect func(context.Context, runtime.Address) (remote.Runner, error)) func(context.Context, runtime.Address) (remote.Runner, error) {
	return func(ctx context.Context, a runtime.Address) (remote.Runner, error) {
		if m := s.machines[a.Host]; m != nil && m.off {
			return nil, fmt.Errorf("%s: no route to host", a.Host)
		}
		return connect(ctx, a)
	}
}

// revive lets the next keg work; the locks of the dead one are gone with its connections.
func (s *sim) revive() {
	s.dead, s.killAt = false, 0
	for _, m := range s.machines {
		m.host.Drop()
	}
}

// Run implements remote.Runner.
func (m *machine) Run(ctx context.Context, c remote.Cmd) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for _, a := range append(slices.Clone(c.Args), c.Env...) {
		for word := range strings.FieldsSeq(a) {
			if id, secret, ok := strings.Cut(word, "."); ok && len(id) == 6 && len(secret) == 16 {
				m.sim.leaked = append(m.sim.leaked, word)
			}
		}
	}
	var stdin []byte
	if c.Stdin != nil {
		stdin, _ = io.ReadAll(c.Stdin)
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	if m.off {
		return fmt.Errorf("%s: no route to host", m.ip)
	}
	return m.sim.op(m.name+": "+fmt.Sprint(c.Args), func() error { return m.run(c.Args, string(stdin), c.Dir, c.Stdout) })
}

func (m *machine) fail(args []string, text string) error {
	return &remote.ExitError{Host: m.ip, Args: args, Code: 1, Stderr: text}
}

func (m *machine) run(args []string, stdin, dir string, out io.Writer) error {
	has := func(p string) bool { return m.host.File(p) != nil }
	switch {
	case args[0] == "/bin/sh" && slices.Contains([]string{
		stopPods, endProgram, mendManifests, restartStatic, renewKubelet, makeDir, restartStale,
	}, args[2]):
		return nil
	case args[0] == "true", args[0] == "test", args[0] == "ctr":
		return nil
	case args[0] == "cat":
		data := m.host.File(args[1])
		if data == nil {
			return m.fail(args, "no such file")
		}
		_, err := out.Write(data)
		return err
	case args[0] == "rm":
		m.host.Remove(args[len(args)-1])
		return nil
	case args[0] == "systemctl":
		fmt.Fprintln(out, "active")
		return nil
	case strings.HasSuffix(args[0], "/kubeadm"):
		return m.kubeadm(args)
	case args[0] == binDir+"/kubectl":
		return m.kubectl(args, stdin, out)
	case args[0] == "/bin/sh" && strings.Contains(args[2], "for p;"):
		for _, p := range args[4:] {
			if has(p) {
				fmt.Fprintln(out, p)
			}
		}
		return nil
	case args[0] == "/bin/sh" && strings.Contains(args[2], "[ ! -e "):
		_, err := out.Write(m.host.File(args[4]))
		return err
	case args[0] == "/bin/sh" && strings.Contains(args[2], ".conf;"):
		fmt.Fprintln(out, "# nothing")
		return nil
	case args[0] == "/bin/sh" && strings.Contains(args[2], "kubeadm reset"):
		m.sim.mu.Lock()
		defer m.sim.mu.Unlock()
		if len(m.sim.members) > 1 && m.sim.members[m.ip] != nil && m.sim.guarded {
			m.sim.broken = append(m.sim.broken, m.name+" was reset while etcd still counted it")
		}
		for _, dir := range []string{"/etc/kubernetes", "/var/lib/etcd", "/var/lib/kubelet"} {
			m.host.Remove(dir)
		}
		return nil
	case args[0] == "/bin/sh" && args[2] == runEtcdTool:
		return m.etcdTool(args[5:], out)
	case args[0] == "/bin/sh" && args[2] == packTree:
		return m.packTree(out)
	case args[0] == "/bin/sh" && args[2] == unpackTree:
		return m.unpackTree(stdin)
	case args[0] == "/bin/sh" && args[2] == placeState:
		for _, f := range m.host.Files() {
			if rest, ok := strings.CutPrefix(f, restoreDir+"/pki/"); ok {
				m.host.Write(pkiDir+"/"+rest, string(m.host.File(f)))
			}
		}
		m.host.Write("/var/lib/etcd/member", string(m.host.File(restoreDir+"/etcd/member")))
		return nil
	case args[0] == "/bin/sh" && args[2] == beginSign:
		m.host.Write(signDir+"/ca.key", "the cluster's")
		return nil
	case args[0] == "/bin/sh" && args[2] == endSign:
		m.host.Write(pkiDir+"/apiserver.crt", string(m.host.File(signDir+"/apiserver.crt")))
		return nil
	case args[0] == "/bin/sh" && strings.Contains(args[2], "eval"):
		lines := strings.Split(strings.TrimSpace(stdin), "\n")
		m.sim.mu.Lock()
		m.sim.ran = append(m.sim.ran, lines[len(lines)-1])
		m.sim.mu.Unlock()
		return nil
	}
	return m.fail(args, "the simulation does not know this command")
}

// configOf is the configuration file of a kubeadm command, and its bootstrap token.
func (m *machine) configOf(args []string) (map[string]any, error) {
	data := m.host.File(args[len(args)-1])
	if data == nil {
		return nil, m.fail(args, "no configuration")
	}
	var doc map[string]any
	first, _, _ := strings.Cut(string(data), "\n---")
	return doc, yaml.Unmarshal([]byte(first), &doc)
}

func (m *machine) kubeadm(args []string) error {
	s := m.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	switch args[1] {
	case "init":
		doc, err := m.configOf(args)
		if args[2] == "phase" && s.unsigned {
			return m.fail(args, "no space left on device")
		}
		if args[2] == "phase" { // of a certificate
			m.host.Write(signDir+"/apiserver.crt", string(s.ca))
			return err
		}
		registration, _ := doc["nodeRegistration"].(map[string]any)
		restored := strings.Contains(fmt.Sprint(registration["ignorePreflightErrors"]), "DirAvailable--var-lib-etcd")
		if m.host.File("/etc/kubernetes/manifests/etcd.yaml") != nil || !restored && m.host.File("/var/lib/etcd/member") != nil {
			return m.fail(args, "[ERROR DirAvailable--var-lib-etcd]: /var/lib/etcd is not empty")
		}
		m.writeAuthorities()
		m.host.Write("/etc/kubernetes/manifests/etcd.yaml", "x")
		if !restored {
			m.host.Write("/var/lib/etcd/member", "x")
		}
		clear(s.members)
		s.addMember(m.ip, false)
		if s.cut() {
			return errKilled
		}
		m.host.Write(kubeletConf, "x")
		m.host.Write(adminConf, "clusters: [{cluster: {server: https://apiserver.cluster.local:6443}}]\nusers: [{user: {}}]\ncontexts: [{context: {}}]\n")
		clear(s.nodes)
		clear(s.secrets)
		if restored {
			for name := range strings.FieldsSeq(string(m.host.File("/var/lib/etcd/member"))) {
				s.nodes[name] = len(s.nodes)
			}
		}
		s.nodes[m.name] = len(s.nodes)
		s.api[m.name], s.kubelet[m.name] = s.minor, s.minor
		s.inits++
		s.ran = append(s.ran, "init")
		return nil
	case "token":
		doc, err := m.configOf(args)
		if err != nil {
			return err
		}
		list := doc["bootstrapTokens"].([]any)
		s.secrets[list[0].(map[string]any)["token"].(string)] = true
		return nil
	case "join":
		doc, err := m.configOf(args)
		if err != nil {
			return err
		}
		if m.host.File(kubeletConf) != nil {
			return m.fail(args, "[ERROR FileAvailable--etc-kubernetes-kubelet.conf]")
		}
		b := doc["discovery"].(map[string]any)["bootstrapToken"].(map[string]any)
		if !s.secrets[b["token"].(string)] {
			return m.fail(args, "the token is not valid")
		}
		if doc["controlPlane"] != nil {
			if err := m.joinMaster(args); err != nil {
				return err
			}
		}
		if s.cut() {
			m.host.Write("/etc/kubernetes/bootstrap-kubelet.conf", "x")
			return errKilled
		}
		m.host.Write(kubeletConf, "x")
		s.nodes[m.name] = len(s.nodes)
		s.kubelet[m.name] = s.minor
		s.joins++
		return nil
	case "config", "certs":
		return nil
	case "upgrade":
		if s.cut() {
			return errKilled
		}
		if m.host.File(etcdManifest) != nil {
			s.api[m.name] = s.minor
		}
		return nil
	}
	return m.fail(args, "unknown")
}

func (m *machine) kubectl(args []string, stdin string, out io.Writer) error {
	s := m.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.host.File(adminConf) == nil {
		return m.fail(args, "no kubeconfig")
	}
	line := strings.Join(args, " ")
	if !s.quorum() || s.members[m.ip] == nil {
		return m.fail(args, "etcd does not answer")
	}
	switch {
	case strings.Contains(line, "--raw /readyz"):
		return nil
	case strings.Contains(line, "--raw /version"):
		return json.NewEncoder(out).Encode(map[string]any{"gitVersion": fmt.Sprintf("v1.%d.0", s.api[m.name])})
	case strings.Contains(line, " drain "), strings.Contains(line, " uncordon "):
		return nil
	case strings.Contains(line, "get configmap kubeadm-config"):
		text, err := yaml.Marshal(map[string]any{"kind": kindCluster, "apiServer": map[string]any{"certSANs": s.sans}})
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(map[string]any{"kind": "ConfigMap", "data": map[string]any{kindCluster: string(text)}})
	case strings.Contains(line, "replace -f -"):
		var m configMap
		var doc map[string]any
		if err := errors.Join(json.Unmarshal([]byte(stdin), &m), yaml.Unmarshal([]byte(within(m, "data")[kindCluster].(string)), &doc)); err != nil {
			return err
		}
		s.sans = within(doc, "apiServer")["certSANs"].([]any)
		return nil
	case strings.Contains(line, "delete secret --field-selector type=bootstrap.kubernetes.io/token"):
		clear(s.secrets)
		return nil
	case strings.Contains(line, "get nodes"):
		var list []any
		for name, i := range s.nodes {
			ip := ""
			for _, m := range s.machines {
				if m.name == name {
					ip = m.ip
				}
			}
			list = append(list, map[string]any{
				"metadata": map[string]any{"name": name}, "spec": map[string]any{"podCIDR": fmt.Sprintf("10.244.%d.0/24", i)},
				"status": map[string]any{
					"nodeInfo":   map[string]any{"kubeletVersion": fmt.Sprintf("v1.%d.2", s.kubelet[name])},
					"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
					"addresses":  []any{map[string]any{"type": "InternalIP", "address": ip}},
				},
			})
		}
		return json.NewEncoder(out).Encode(map[string]any{"items": list})
	case strings.Contains(line, "delete secret"):
		for t := range s.secrets {
			if strings.Contains(line, "bootstrap-token-"+t[:6]) {
				delete(s.secrets, t)
			}
		}
		return nil
	case strings.Contains(line, "delete node"):
		delete(s.nodes, args[slices.Index(args, "node")+1])
		return nil
	}
	return m.fail(args, "unknown")
}

// blobs are contents by digest.
type blobs map[digest.Digest]string

func (b blobs) Open(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	text, ok := b[d]
	if !ok {
		return nil, fmt.Errorf("no blob %s", d)
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func (b blobs) add(text string) ocispec.Descriptor {
	d := digest.FromString(text)
	b[d] = text
	return ocispec.Descriptor{Digest: d, Size: int64(len(text))}
}

// testImage embeds what kubeadm needs, and runs one app and two commands.
func testImage() (*runtime.Image, blobs) {
	b := blobs{}
	img := &runtime.Image{
		Name: "reg.example.com/shop:v1", Target: b.add("index"),
		Platforms: map[string]runtime.Rootfs{"linux/amd64": {
			Descriptor: b.add("rootfs manifest"),
			Manifest:   ocispec.Manifest{Config: b.add("rootfs config"), Layers: []ocispec.Descriptor{b.add("rootfs layer")}},
			Metadata:   basefs.Metadata{Version: "v1.37.2", Arch: "amd64", Runtime: "kubernetes"},
		}},
		Spec: clusterimage.Spec{
			Apps:   []clusterimage.App{{Name: "web", Type: "kube", Files: []string{"web.yaml"}}},
			Launch: []string{"web"}, Cmds: []string{"one", "two"},
		},
		Documents: map[digest.Digest]ocispec.Manifest{},
	}
	for _, name := range []string{
		"kube-apiserver:v1.37.2", "kube-controller-manager:v1.37.2", "kube-scheduler:v1.37.2", "kube-proxy:v1.37.2",
		"etcd:3.7.0-0", "pause:3.10.2", "coredns/coredns:v1.14.6",
	} {
		m := b.add("manifest of " + name)
		img.Index.Embedded = append(img.Index.Embedded, clusterimage.Embedded{Name: "registry.k8s.io/" + name, Platform: "linux/amd64", Manifest: m})
		img.Documents[m.Digest] = ocispec.Manifest{Config: b.add("config of " + name), Layers: []ocispec.Descriptor{b.add("layer")}}
	}
	return img, b
}

// cluster is a new keg's view of the hosts: the first is the control plane.
func (s *sim) cluster(dir string, ips ...string) *runtime.Cluster {
	img, content := testImage()
	c := &runtime.Cluster{
		Name: "shop", Image: img, Content: content, Driver: Driver{}, Dir: dir, Kubeconfig: dir + "/kubeconfig",
		Connect: func(_ context.Context, a runtime.Address) (remote.Runner, error) {
			m, ok := s.machines[a.Host]
			if !ok {
				return nil, fmt.Errorf("%s: no route to host", a.Host)
			}
			return m, nil
		},
		Agent: func(_ context.Context, r remote.Runner) (runtime.Host, error) { return r.(*machine).host, nil },
	}
	for i, ip := range ips {
		role := runtime.Worker
		if i == 0 {
			role = runtime.Master
		}
		c.Nodes = append(c.Nodes, &runtime.Node{Address: runtime.Address{Host: ip}, Role: role})
	}
	return c
}
