package k3s

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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

const (
	oldVersion = "v1.36.3+k3s1"
	newVersion = "v1.37.2+k3s1"
)

// sim is some hosts and the cluster that k3s makes of them, in memory. keg dies at a given operation,
// before it or in its middle, and stays dead until it is revived.
type sim struct {
	mu       sync.Mutex
	machines map[string]*machine

	ca      string // of the cluster, hex; "" is no cluster
	server  string // the token that is valid, and that encrypts
	agent   string
	nodes   map[string]*simNode
	creates int
	objects []string // what the state of the cluster holds
	ran     []string // commands of apps and CMDS
	leaked  []string // secrets seen in arguments

	ops    int
	cuts   int // operations so far that can be cut in their middle
	killAt int // 0 is never
	mode   killMode
	dead   bool
}

// simNode is a Node with what belongs to it.
type simNode struct {
	name, ip, password, version string
	member                      string // of etcd, "" if there is none
	removed                     string // annotation
	registered, cordoned        bool
}

// killMode is when keg dies. After an operation is before the next one.
type killMode string

const (
	before killMode = "before" // the operation of the number killAt
	midway killMode = "midway" // the host loses power in the middle of a start of k3s, the one of that number
)

type machine struct {
	sim     *sim
	ip      string
	name    string
	host    *runtimetest.Host
	unit    string // that runs
	version string // that runs
	token   string // that it started with
	crashed string // the unit that a loss of power ended
}

func newSim(ips ...string) *sim {
	s := &sim{machines: map[string]*machine{}, nodes: map[string]*simNode{}}
	for i, ip := range ips {
		s.add(ip, fmt.Sprintf("h%d", i+1))
	}
	return s
}

// add makes a host, or a new one in an old one's place.
func (s *sim) add(ip, name string) {
	m := &machine{sim: s, ip: ip, name: name}
	m.host = &runtimetest.Host{
		Machine: node.Facts{
			Hostname: name, MachineID: name, Arch: "amd64", Init: "systemd", Cgroup: 2, CPUs: 4,
			Memory: 8 << 30, DiskFree: 100 << 30, Addresses: []string{ip}, DefaultRoute: true, UnixNano: time.Now().UnixNano(),
		},
		Rootfs: rootfs(oldVersion),
		Before: func(op string) error { return s.op(func() error { return m.verb(op) }) },
	}
	m.host.Asked = func(q node.UnitQuery) node.UnitStatus {
		if m.unit == q.Unit {
			return node.UnitStatus{Active: "active"}
		}
		return node.UnitStatus{Active: "failed", Restarts: 9}
	}
	s.machines[ip] = m
}

func rootfs(version string) map[string]string {
	return map[string]string{
		"bin/k3s":      version,
		serverTemplate: "cluster-cidr: 10.42.0.0/16\nservice-cidr: 10.43.0.0/16\nsecrets-encryption: true\n",
		agentTemplate:  "kubelet-arg: [max-pods=110]\n",
	}
}

// op counts an operation, and dies at the chosen one.
func (s *sim) op(effect func() error) error {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return errKilled
	}
	s.ops++
	kill := s.mode == before && s.killAt == s.ops
	s.dead = kill
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

// revive lets the next keg work; the locks of the dead one are gone with its connections.
func (s *sim) revive() {
	s.dead, s.killAt = false, 0
	for _, m := range s.machines {
		m.host.Drop()
		if m.crashed != "" { // systemd starts it again
			_ = m.start(m.crashed)
		}
	}
}

// verb is what a verb of keg-node does besides.
func (m *machine) verb(op string) error {
	if units, ok := strings.CutPrefix(op, "stop "); ok && slices.Contains(strings.Fields(units), m.unit) {
		m.unit, m.crashed = "", ""
	}
	for _, verb := range []string{"start ", "restart "} {
		if unit, ok := strings.CutPrefix(op, verb); ok && strings.HasPrefix(unit, "k3s") {
			if verb == "restart " || m.unit == "" {
				return m.start(unit)
			}
		}
	}
	return nil
}

func (m *machine) config() map[string]any {
	var doc map[string]any
	_ = yaml.Unmarshal(m.host.File(configFile), &doc)
	return doc
}

// start is what k3s does by itself once it runs.
func (m *machine) start(unit string) error {
	s := m.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	m.unit, m.crashed = "", ""
	cut := s.cut()
	if cut {
		m.crashed = unit
	}
	doc := m.config()
	word, hash := password(m.host.File(tokenFile))
	if doc["node-name"] != m.name || word == "" {
		return fmt.Errorf("%s: started without its configuration", m.name)
	}
	if unit == agentUnit {
		if cut {
			return errKilled
		}
		if hash != s.ca || word != s.agent {
			return nil // it asks for ever
		}
		m.run(unit, word)
		return nil
	}
	member := string(m.host.File(etcdMember))
	switch {
	case member == "" && doc["cluster-init"] == true:
		m.host.Write(serverCA, "half")
		if cut {
			return errKilled
		}
		s.creates++
		clear(s.nodes)
		s.objects = nil
		s.ca, s.server = hexOf(fmt.Sprintf("ca %d", s.creates)), word
		s.agent, _ = password(m.host.File(agentTokenFile))
		member = fmt.Sprintf("%s-%d", m.name, s.creates)
	case member == "":
		if hash != s.ca || word != s.server {
			return fmt.Errorf("%s: token rejected", m.name)
		}
		if n := s.nodes[m.name]; n != nil && n.member != "" {
			return fmt.Errorf("%s: duplicate node name found", m.name)
		}
		member = fmt.Sprintf("%s-%d", m.name, len(s.objects)+len(s.nodes))
		m.host.Write(etcdMember, member)
		m.host.Write(serverCA, s.ca)
		if cut {
			return errKilled
		}
	case word != s.server:
		return fmt.Errorf("%s: bootstrap data already found and encrypted with different token", m.name)
	case cut:
		return errKilled
	}
	m.host.Write(etcdMember, member)
	m.host.Write(serverCA, s.ca)
	m.host.Write(fullToken, "K10"+s.ca+"::server:"+s.server+"\n")
	m.host.Write(kubeconfigFile, "clusters: [{cluster: {server: https://127.0.0.1:6443}}]\nusers: [{user: {}}]\ncontexts: [{context: {}}]\n")
	s.agent, _ = password(m.host.File(agentTokenFile))
	m.run(serverUnit, word)
	if n := s.nodes[m.name]; n != nil {
		n.member = member
	}
	return nil
}

// run registers the node, if its password is right.
func (m *machine) run(unit, token string) {
	s := m.sim
	m.unit, m.version, m.token = unit, string(m.host.File(program)), token
	own := string(m.host.File(nodePassword))
	if own == "" {
		own = hexOf(m.name + fmt.Sprint(s.ops))
		m.host.Write(nodePassword, own)
	}
	n := s.nodes[m.name]
	if n == nil {
		n = &simNode{name: m.name}
		s.nodes[m.name] = n
	}
	if n.password != "" && n.password != own {
		return // 403: Node password rejected
	}
	n.password, n.ip, n.version, n.registered, n.removed = own, m.ip, m.version, true, ""
}

func hexOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Run implements remote.Runner.
func (m *machine) Run(ctx context.Context, c remote.Cmd) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	s := m.sim
	for _, a := range append(slices.Clone(c.Args), c.Env...) {
		if s.server != "" && strings.Contains(a, s.server) || s.agent != "" && strings.Contains(a, s.agent) {
			s.leaked = append(s.leaked, a)
		}
	}
	var stdin []byte
	if c.Stdin != nil {
		stdin, _ = io.ReadAll(c.Stdin)
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	return s.op(func() error { return m.command(c.Args, stdin, c.Stdout) })
}

func (m *machine) fail(args []string, text string) error {
	return &remote.ExitError{Host: m.ip, Args: args, Code: 1, Stderr: text}
}

func (m *machine) has(path string) bool {
	return slices.ContainsFunc(m.host.Files(), func(f string) bool { return f == path || strings.HasPrefix(f, path+"/") })
}

func (m *machine) command(args []string, stdin []byte, out io.Writer) error {
	switch args[0] {
	case "true":
		return nil
	case "cat":
		data := m.host.File(args[1])
		if data == nil {
			return m.fail(args, "no such file")
		}
		_, err := out.Write(data)
		return err
	case "rm":
		for _, a := range args[2:] {
			m.host.Remove(a)
		}
		return nil
	case "tar":
		w := tar.NewWriter(out)
		for _, name := range args[5:] {
			data := m.host.File(backupDir + "/" + name)
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data))}); err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		return w.Close()
	case node.Rootfs + "/bin/k3s":
		fmt.Fprintf(out, "k3s version %s (simulated)\n", m.host.Rootfs["bin/k3s"])
		return nil
	case program:
		return m.k3s(args, stdin, out)
	case "/bin/sh":
		return m.shell(args, stdin, out)
	}
	return m.fail(args, "the simulation does not know this command")
}

func (m *machine) shell(args []string, stdin []byte, out io.Writer) error {
	script, rest := args[2], args[min(4, len(args)):]
	switch {
	case script == dropLinks:
	case script == stopEverything:
		m.unit, m.crashed = "", ""
	case strings.Contains(script, "--tls-server-name"):
	case script == rotateToken:
		if m.unit == "" {
			return m.fail(args, "k3s is down")
		}
		m.sim.server = hexOf(m.sim.server)
		m.host.Write(fullToken, "K10"+m.sim.ca+"::server:"+m.sim.server+"\n")
	case script == takeSnapshot:
		if m.unit == "" {
			return m.fail(args, "k3s is down")
		}
		m.host.Write(backupDir+"/"+backupSnapshot, m.sim.snapshot())
		for _, f := range []string{backupToken, backupAgentToken, backupConfig} {
			m.host.Write(backupDir+"/"+f, string(m.host.File(configDir+"/"+f)))
		}
	case strings.Contains(script, ".part"):
		m.host.Write(restoreDir+"/"+backupSnapshot, string(stdin))
	case strings.Contains(script, "command -v"):
		for _, tool := range tools {
			fmt.Fprintln(out, tool)
		}
	case strings.Contains(script, "sha256sum"):
		for _, p := range rest {
			if data := m.host.File(p); data != nil {
				fmt.Fprintf(out, "%s  %s\n", hexOf(string(data)), p)
			}
		}
	case strings.Contains(script, `for p; do [ ! -e`):
		for _, p := range rest {
			if m.has(p) {
				fmt.Fprintln(out, p)
			}
		}
	case strings.Contains(script, `[ ! -e "$1" ] || cat`):
		_, err := out.Write(m.host.File(rest[0]))
		return err
	case strings.Contains(script, ".conf;"):
		fmt.Fprintln(out, "# nothing")
	case strings.Contains(script, "eval"):
		lines := strings.Split(strings.TrimSpace(string(stdin)), "\n")
		m.sim.mu.Lock()
		m.sim.ran = append(m.sim.ran, lines[len(lines)-1])
		m.sim.objects = append(m.sim.objects, lines[len(lines)-1])
		m.sim.mu.Unlock()
	default:
		return m.fail(args, "the simulation does not know this script")
	}
	return nil
}

// state is what a snapshot holds.
type state struct {
	CA, Server, Agent string
	Objects           []string
	Passwords         map[string]string
}

func (s *sim) snapshot() string {
	st := state{CA: s.ca, Server: s.server, Agent: s.agent, Objects: s.objects, Passwords: map[string]string{}}
	for name, n := range s.nodes {
		st.Passwords[name] = n.password
	}
	data, _ := json.Marshal(st)
	return string(data)
}

func (m *machine) k3s(args []string, stdin []byte, out io.Writer) error {
	s := m.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	switch args[1] {
	case "server": // --cluster-reset
		var st state
		path := strings.TrimPrefix(args[3], "--cluster-reset-restore-path=")
		if err := json.Unmarshal(m.host.File(path), &st); err != nil {
			return m.fail(args, "no snapshot")
		}
		if word, _ := password(m.host.File(tokenFile)); m.unit != "" || word != st.Server || m.config()["server"] != nil {
			return m.fail(args, "it runs, or the token is wrong, or a server is named")
		}
		m.host.Write(serverCA, st.CA)
		if s.cut() {
			return errKilled
		}
		m.host.Write(etcdMember, m.name+"-restored")
		s.ca, s.server, s.agent, s.objects = st.CA, st.Server, st.Agent, st.Objects
		clear(s.nodes)
		for name, p := range st.Passwords {
			s.nodes[name] = &simNode{name: name, password: p, registered: true, ip: "192.0.2.9"}
		}
		return nil
	case "kubectl":
		if m.unit != serverUnit || m.host.File(kubeconfigFile) == nil {
			return m.fail(args, "connection refused")
		}
		return m.kubectl(args[6:], out)
	}
	return m.fail(args, "the simulation does not know this command of k3s")
}

func (m *machine) kubectl(args []string, out io.Writer) error {
	s := m.sim
	line := strings.Join(args, " ")
	switch {
	case strings.HasPrefix(line, "get --raw /readyz"):
	case strings.HasPrefix(line, "get --raw /version"):
		fmt.Fprintf(out, `{"gitVersion": %q}`, m.version)
	case strings.HasPrefix(line, "get nodes"):
		var items []any
		for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
			if n := s.nodes[name]; n.registered && (!strings.Contains(line, "-l ") || n.member != "" || n.removed != "") {
				items = append(items, n.object())
			}
		}
		return json.NewEncoder(out).Encode(map[string]any{"items": items})
	case strings.HasPrefix(line, "get node "):
		if n := s.nodes[args[2]]; n != nil {
			return json.NewEncoder(out).Encode(n.object())
		}
	case strings.HasPrefix(line, "annotate node "):
		n := s.nodes[args[2]]
		if n == nil {
			return m.fail(args, "NotFound")
		}
		n.removed, n.member = "was", ""
	case strings.HasPrefix(line, "delete node "):
		delete(s.nodes, args[2]) // and its member and its password
	case strings.Contains(line, "delete secret "):
		if n := s.nodes[strings.TrimSuffix(args[4], ".node-password.k3s")]; n != nil {
			n.password = ""
			for _, m := range s.machines { // k3s that was refused tries again
				if m.name == n.name && m.unit != "" {
					m.run(m.unit, m.token)
					if m.unit == serverUnit {
						n.member = string(m.host.File(etcdMember))
					}
				}
			}
		}
	case strings.HasPrefix(line, "drain "):
		s.nodes[args[1]].cordoned = true
	case strings.HasPrefix(line, "uncordon "):
		s.nodes[args[1]].cordoned = false
	default:
		return m.fail(args, "the simulation does not know this question: "+line)
	}
	return nil
}

func (n *simNode) object() map[string]any {
	notes := map[string]string{}
	conditions := []any{map[string]any{"type": "Ready", "status": "True"}}
	if n.member != "" {
		notes[nameAnnotation], notes[addressAnnotation] = n.member, n.ip
		conditions = append(conditions, map[string]any{"type": voterCondition, "status": "True", "reason": "MemberNotLearner"})
	}
	if n.removed != "" {
		notes[removedAnnotation] = n.removed
	}
	return map[string]any{
		"metadata": map[string]any{"name": n.name, "annotations": notes},
		"status": map[string]any{
			"conditions": conditions, "addresses": []any{map[string]any{"type": "InternalIP", "address": n.ip}},
			"nodeInfo": map[string]any{"kubeletVersion": n.version},
		},
	}
}

// blobs are contents by digest.
type blobs map[digest.Digest]string

func (b blobs) Open(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	text, ok := b[d]
	if !ok {
		return nil, fmt.Errorf("no blob %s", d)
	}
	return io.NopCloser(bytes.NewReader([]byte(text))), nil
}

func (b blobs) add(text string) ocispec.Descriptor {
	d := digest.FromString(text)
	b[d] = text
	return ocispec.Descriptor{Digest: d, Size: int64(len(text))}
}

// testImage embeds what k3s starts, and runs one app and a command.
func testImage() (*runtime.Image, blobs) { return testImageOf(oldVersion) }

func testImageOf(version string) (*runtime.Image, blobs) {
	b := blobs{}
	img := &runtime.Image{
		Name: "reg.example.com/shop:" + version, Target: b.add("index " + version),
		Platforms: map[string]runtime.Rootfs{"linux/amd64": {
			Descriptor: b.add("rootfs manifest " + version),
			Manifest:   ocispec.Manifest{Config: b.add("rootfs config"), Layers: []ocispec.Descriptor{b.add("rootfs layer " + version)}},
			Metadata:   basefs.Metadata{Version: version, Arch: "amd64", Runtime: "k3s"},
		}},
		Spec: clusterimage.Spec{
			Apps:   []clusterimage.App{{Name: "web", Type: "kube", Files: []string{"web.yaml"}}},
			Launch: []string{"web"}, Cmds: []string{"one"},
		},
		Documents: map[digest.Digest]ocispec.Manifest{},
	}
	for _, name := range []string{
		"mirrored-pause:3.6", "mirrored-coredns-coredns:1.12.3", "local-path-provisioner:v0.0.32", "mirrored-metrics-server:v0.8.0",
		"mirrored-library-traefik:3.5.1", "klipper-lb:v0.4.13", "klipper-helm:v0.9.8",
	} {
		m := b.add("manifest of " + name)
		img.Index.Embedded = append(img.Index.Embedded, clusterimage.Embedded{Name: "docker.io/rancher/" + name, Platform: "linux/amd64", Manifest: m})
		img.Documents[m.Digest] = ocispec.Manifest{Config: b.add("config of " + name), Layers: []ocispec.Descriptor{b.add("layer")}}
	}
	return img, b
}

// cluster is a new keg's view of the hosts.
func (s *sim) cluster(dir, version string, masters int, ips ...string) *runtime.Cluster {
	img, content := testImageOf(version)
	for _, m := range s.machines {
		m.host.Rootfs = rootfs(version)
	}
	c := &runtime.Cluster{
		Name: "shop", Image: img, Content: content, Driver: Driver{}, Dir: dir,
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
		if i < masters {
			role = runtime.Master
		}
		c.Nodes = append(c.Nodes, &runtime.Node{Address: runtime.Address{Host: ip}, Role: role})
	}
	return c
}

// problems are what is wrong with the hosts that should be a cluster.
func (s *sim) problems(t *testing.T, version string, masters int, ips ...string) {
	t.Helper()
	if len(s.nodes) != len(ips) {
		t.Errorf("nodes %v, want %d", slices.Sorted(maps.Keys(s.nodes)), len(ips))
	}
	if len(s.leaked) > 0 {
		t.Errorf("secrets in arguments: %v", s.leaked)
	}
	uid := ""
	for i, ip := range ips {
		m := s.machines[ip]
		st := m.host.State()
		if st == nil || uid != "" && st.UID != uid {
			t.Fatalf("%s: state %+v, the others' UID %s", m.name, st, uid)
		}
		uid = st.UID
		n := s.nodes[m.name]
		if n == nil || !n.registered || n.cordoned || n.removed != "" {
			t.Fatalf("%s: node %+v", m.name, n)
		}
		unit, token := serverUnit, s.server
		if i >= masters {
			unit, token = agentUnit, s.agent
		}
		if m.unit != unit || m.version != version || n.version != version || m.token != token {
			t.Errorf("%s runs %q %s (node: %s), want %s %s; its token is right: %t", m.name, m.unit, m.version, n.version, unit, version, m.token == token)
		}
		if (i < masters) != (n.member != "") {
			t.Errorf("%s has member %q", m.name, n.member)
		}
		if m.host.Locked() {
			t.Errorf("%s is still locked", m.name)
		}
		if m.host.File(staleFile) != nil {
			t.Errorf("%s: its k3s was not restarted", m.name)
		}
		for _, f := range m.host.Files() {
			if strings.HasPrefix(f, backupDir) || strings.HasPrefix(f, restoreDir) {
				t.Errorf("%s: %s is left", m.name, f)
			}
		}
	}
}
