package k0s

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
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
	oldVersion = "v1.36.3+k0s.0"
	newVersion = "v1.37.2+k0s.0"
)

// sim is some hosts and the cluster that k0s makes of them, in memory. keg dies at a given operation,
// before it or in its middle, and stays dead until it is revived.
type sim struct {
	mu       sync.Mutex
	machines map[string]*machine

	ca      string // of the cluster; "" is no cluster
	members map[string]*simMember
	known   map[string]string // EtcdMembers: name to peer address of those that joined
	nodes   map[string]*simNode
	tokens  map[string]string // bootstrap tokens that are valid, with their role
	made    []string          // all that were ever made
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

type simMember struct{ name string }

type simNode struct {
	name, ip, version string
	cordoned          bool
}

// killMode is when keg dies. After an operation is before the next one.
type killMode string

const (
	before killMode = "before" // the operation of the number killAt
	midway killMode = "midway" // the host loses power in the middle of what k0s does, the one of that number
)

type machine struct {
	sim     *sim
	ip      string
	name    string
	host    *runtimetest.Host
	unit    string   // that runs
	version string   // that runs
	args    []string // that it runs with
	crashed string   // the unit that a loss of power ended
}

func newSim(ips ...string) *sim {
	s := &sim{machines: map[string]*machine{}, members: map[string]*simMember{}, known: map[string]string{}, nodes: map[string]*simNode{}, tokens: map[string]string{}}
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
		"bin/k0s":          version,
		"etc/k0s/k0s.yaml": "kind: ClusterConfig\nspec:\n  network: {podCIDR: 10.244.0.0/16, provider: kuberouter}\n",
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
		if unit, ok := strings.CutPrefix(op, verb); ok && strings.HasPrefix(unit, "k0s") {
			if verb == "restart " || m.unit == "" {
				return m.start(unit)
			}
		}
	}
	return nil
}

// join is whether the token on the host lets it in.
func (m *machine) join(role, server string) bool {
	doc, err := unpackToken(m.host.File(tokenFile))
	if err != nil {
		return false
	}
	bearer, _ := one(doc, "users", "user")["token"].(string)
	return m.sim.tokens[bearer] == role && one(doc, "clusters", "cluster")["server"] == server
}

// start is what k0s does by itself once it runs.
func (m *machine) start(unit string) error {
	s := m.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	m.unit, m.crashed = "", ""
	text := string(m.host.File("/etc/systemd/system/" + unit))
	if text == "" {
		return fmt.Errorf("%s: there is no unit %s", m.name, unit)
	}
	args := strings.Fields(text)
	joins := slices.Contains(args, "--token-file="+tokenFile)
	if _, err := unpackToken(m.host.File(tokenFile)); joins && err != nil {
		return fmt.Errorf("%s: failed to decode token: %w", m.name, err)
	}
	cut := s.cut()
	if cut {
		m.crashed = unit
	}
	m.host.Write(dataDir+"/bin/kubelet", "x")
	if unit == "k0sworker.service" {
		if cut {
			return errKilled
		}
		if m.host.File(kubeletConf) == nil && !m.join("worker", "https://apiserver.cluster.local:6443") {
			return nil // it asks for ever
		}
		m.host.Write(kubeletConf, "x")
		m.run(unit, args)
		return nil
	}
	var config map[string]any
	if err := yaml.Unmarshal(m.host.File(configFile), &config); err != nil {
		return err
	}
	if within(config, "spec", "api")["address"] != m.ip || within(config, "spec", "storage", "etcd")["peerAddress"] != m.ip {
		return fmt.Errorf("%s: started without its configuration", m.name)
	}
	switch {
	case m.host.File(etcdData) != nil && s.members[m.ip] == nil:
		return nil // etcd says that it was removed, again and again
	case m.host.File(etcdData) != nil:
	case joins:
		if !m.joinAny() {
			return nil
		}
		m.host.Write(caCert, s.ca)
		if s.members[m.ip] != nil {
			return nil // etcd: peer URL exists
		}
		s.members[m.ip] = &simMember{}
		if cut {
			return errKilled
		}
	default:
		m.host.Write(caCert, "half")
		if cut {
			return errKilled
		}
		s.creates++
		clear(s.nodes)
		clear(s.members)
		clear(s.known)
		clear(s.tokens)
		s.objects = nil
		s.ca = fmt.Sprintf("ca %d", s.creates)
		s.members[m.ip] = &simMember{}
		m.host.Write(caCert, s.ca)
	}
	m.host.Write(etcdData, "x")
	if cut {
		return errKilled
	}
	s.members[m.ip].name = m.name
	s.known[m.name] = m.ip
	m.host.Write(adminConf, "clusters: [{cluster: {server: https://localhost:6443}}]\nusers: [{user: {}}]\ncontexts: [{context: {}}]\n")
	m.run(unit, args)
	return nil
}

// joinAny is join by way of any controller that is at work.
func (m *machine) joinAny() bool {
	for _, other := range m.sim.machines {
		if other.unit == "k0scontroller.service" && m.join("controller", "https://"+other.ip+":9443") {
			return true
		}
	}
	return false
}

func (m *machine) run(unit string, args []string) {
	m.unit, m.version, m.args = unit, string(m.host.File(program)), args
	n := m.sim.nodes[m.name]
	if n == nil {
		n = &simNode{name: m.name}
		m.sim.nodes[m.name] = n
	}
	n.ip, n.version = m.ip, m.version
}

// Run implements remote.Runner.
func (m *machine) Run(ctx context.Context, c remote.Cmd) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	s := m.sim
	s.mu.Lock()
	for _, a := range append(slices.Clone(c.Args), c.Env...) {
		for _, secret := range s.made {
			if strings.Contains(a, secret) || strings.Contains(a, "H4sI") {
				s.leaked = append(s.leaked, a)
			}
		}
	}
	s.mu.Unlock()
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
	case "true", "grep":
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
	case node.Rootfs + "/bin/k0s":
		switch args[1] {
		case "version":
			fmt.Fprintln(out, m.host.Rootfs["bin/k0s"])
		case "config":
			if strings.Contains(string(stdin), "unheard") {
				return m.fail(args, `Error: unknown field "unheard"`)
			}
		case "airgap":
			fmt.Fprintln(out, "quay.io/k0sproject/pause:3.10\nquay.io/k0sproject/coredns:1.14")
		}
		return nil
	case program:
		return m.k0s(args, out)
	case "/bin/sh":
		return m.shell(args, stdin, out)
	}
	return m.fail(args, "the simulation does not know this command")
}

func (m *machine) shell(args []string, stdin []byte, out io.Writer) error {
	s := m.sim
	script, rest := args[2], args[min(4, len(args)):]
	switch {
	case script == dropLinks:
	case script == stopEverything:
		m.unit, m.crashed = "", ""
	case script == wipeData:
		for _, d := range rest {
			m.host.Remove(d)
		}
	case script == installScript:
		return m.install(rest)
	case script == takeBackup:
		if m.unit == "" {
			return m.fail(args, "k0s is down")
		}
		return m.backup(out)
	case script == restoreScript:
		return m.restore(args, stdin)
	case strings.Contains(script, "--tls-server-name"):
	case strings.Contains(script, "command -v"):
		fmt.Fprintln(out, "missing")
	case strings.Contains(script, "sha256sum"):
		for _, p := range rest {
			if data := m.host.File(p); data != nil {
				fmt.Fprintf(out, "%s  %s\n", sum(data), p)
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
		s.mu.Lock()
		s.ran = append(s.ran, lines[len(lines)-1])
		s.objects = append(s.objects, lines[len(lines)-1])
		s.mu.Unlock()
	default:
		return m.fail(args, "the simulation does not know this script")
	}
	return nil
}

// install is `k0s install --force`: the old unit goes first.
func (m *machine) install(args []string) error {
	m.sim.mu.Lock()
	defer m.sim.mu.Unlock()
	file, unit, command := args[0], args[1], args[2:]
	m.host.Remove(unit)
	if m.sim.cut() {
		return errKilled
	}
	text := strings.Join(append([]string{"ExecStart=" + program, command[2]}, command[4:]...), " ")
	m.host.Write(unit, text)
	m.host.Write(file, fmt.Sprintf("%s  %s\n%s\n", sum([]byte(text)), unit, strings.Join(command, "\n")))
	return nil
}

// state is what a backup holds.
type state struct {
	CA      string
	Objects []string
	Tokens  map[string]string
	Known   map[string]string
}

func (m *machine) backup(out io.Writer) error {
	s := m.sim
	data, err := json.Marshal(state{CA: s.ca, Objects: s.objects, Tokens: s.tokens, Known: s.known})
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(out)
	w := tar.NewWriter(zip)
	for name, data := range map[string][]byte{archivedState: data, archivedConfig: m.host.File(configFile), "pki/ca.crt": []byte(s.ca)} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data))}); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), zip.Close())
}

func (m *machine) restore(args []string, stdin []byte) error {
	s := m.sim
	zip, err := gzip.NewReader(bytes.NewReader(stdin))
	if err != nil {
		return m.fail(args, err.Error())
	}
	var st state
	var config map[string]any
	for in := tar.NewReader(zip); ; {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m.fail(args, err.Error())
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		switch hdr.Name {
		case archivedState:
			err = json.Unmarshal(data, &st)
		case archivedConfig:
			err = yaml.Unmarshal(data, &config)
		}
		if err != nil {
			return err
		}
	}
	if m.unit != "" || m.has(etcdDir) {
		return m.fail(args, "k0s seems to be running, or data-dir not empty")
	}
	m.host.Write(caCert, st.CA)
	if s.cut() {
		return errKilled
	}
	address, _ := within(config, "spec", "storage", "etcd")["peerAddress"].(string)
	m.host.Write(etcdData, "x")
	s.ca, s.objects, s.tokens, s.known = st.CA, st.Objects, maps.Clone(st.Tokens), maps.Clone(st.Known)
	if s.tokens == nil {
		s.tokens = map[string]string{}
	}
	clear(s.nodes)
	clear(s.members)
	s.members[address] = &simMember{name: m.name}
	for name, ip := range s.known {
		s.nodes[name] = &simNode{name: name, ip: ip}
	}
	return nil
}

func (m *machine) k0s(args []string, out io.Writer) error {
	s := m.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	line := strings.Join(args[1:], " ")
	if line == "version" {
		fmt.Fprintln(out, string(m.host.File(program)))
		return nil
	}
	if m.unit == "" {
		return m.fail(args, "k0s is down")
	}
	if line == "status -o json" {
		fmt.Fprintf(out, `{"Role": %q, "Version": %q}`, strings.TrimSuffix(strings.TrimPrefix(m.unit, "k0s"), ".service"), m.version)
		return nil
	}
	if m.unit != "k0scontroller.service" {
		return m.fail(args, "connection refused")
	}
	switch {
	case args[1] == "kubectl":
		return m.kubectl(args[6:], out)
	case line == "etcd member-list":
		list := map[string]string{}
		for ip, member := range s.members {
			list[member.name] = "https://" + ip + ":2380"
		}
		return json.NewEncoder(out).Encode(map[string]any{"members": list})
	case strings.HasPrefix(line, "etcd leave --peer-address "):
		if s.members[args[4]] == nil {
			return m.fail(args, "no such member")
		}
		delete(s.members, args[4])
	case strings.HasPrefix(line, "token create "):
		bearer := fmt.Sprintf("t%05d.%016d", len(s.made), len(s.made))
		s.made = append(s.made, bearer)
		s.tokens[bearer] = args[4]
		named := func(key string, v map[string]any) []any { return []any{map[string]any{"name": "k0s", key: v}} }
		text, err := packToken(map[string]any{
			"clusters": named("cluster", map[string]any{"server": "https://" + m.ip + ":1"}), "users": named("user", map[string]any{"token": bearer}),
		})
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	case strings.HasPrefix(line, "token list --role "):
		fmt.Fprintln(out, "ID       ROLE     EXPIRES AT")
		for bearer, role := range s.tokens {
			if role == args[4] {
				fmt.Fprintf(out, "%s   %s\n", bearer[:6], role)
			}
		}
	case strings.HasPrefix(line, "token invalidate "):
		maps.DeleteFunc(s.tokens, func(bearer, _ string) bool { return slices.Contains(args[3:], bearer[:6]) })
	default:
		return m.fail(args, "the simulation does not know this command of k0s")
	}
	return nil
}

func (m *machine) kubectl(args []string, out io.Writer) error {
	s := m.sim
	line := strings.Join(args, " ")
	encode := func(items []any) error { return json.NewEncoder(out).Encode(map[string]any{"items": items}) }
	var items []any
	switch {
	case s.members[m.ip] == nil:
		return m.fail(args, "the server was unable to return a response")
	case strings.HasPrefix(line, "get --raw /readyz"):
	case strings.HasPrefix(line, "get --raw /version"):
		version, _, _ := strings.Cut(m.version, "+")
		fmt.Fprintf(out, `{"gitVersion": %q}`, version)
	case strings.HasPrefix(line, "get nodes"):
		for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
			items = append(items, s.nodes[name].object())
		}
		return encode(items)
	case strings.HasPrefix(line, "get "+etcdMembers):
		for name, peer := range s.known {
			items = append(items, map[string]any{"metadata": map[string]any{"name": name}, "status": map[string]any{
				"peerAddress": peer, "conditions": []any{map[string]any{"type": "Joined", "status": "True"}},
			}})
		}
		return encode(items)
	case strings.HasPrefix(line, "delete "+etcdMembers):
		delete(s.known, args[2])
	case strings.HasPrefix(line, "delete "+controlNodes):
		return m.fail(args, `error: the server doesn't have a resource type "controlnodes"`)
	case strings.HasPrefix(line, "-n "+leaseSpace+" delete lease "):
	case strings.HasPrefix(line, "delete node "):
		delete(s.nodes, args[2])
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
	kubelet, _, _ := strings.Cut(n.version, "+")
	return map[string]any{
		"metadata": map[string]any{"name": n.name},
		"status": map[string]any{
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}, "addresses": []any{map[string]any{"type": "InternalIP", "address": n.ip}},
			"nodeInfo": map[string]any{"kubeletVersion": kubelet + "+k0s"},
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
	return io.NopCloser(strings.NewReader(text)), nil
}

func (b blobs) add(text string) ocispec.Descriptor {
	d := digest.FromString(text)
	b[d] = text
	return ocispec.Descriptor{Digest: d, Size: int64(len(text))}
}

// testImage embeds what k0s starts, and runs one app and a command.
func testImage(version string) (*runtime.Image, blobs) {
	b := blobs{}
	img := &runtime.Image{
		Name: "reg.example.com/shop:" + version, Target: b.add("index " + version),
		Platforms: map[string]runtime.Rootfs{"linux/amd64": {
			Descriptor: b.add("rootfs manifest " + version),
			Manifest:   ocispec.Manifest{Config: b.add("rootfs config"), Layers: []ocispec.Descriptor{b.add("rootfs layer " + version)}},
			Metadata:   basefs.Metadata{Version: version, Arch: "amd64", Runtime: "k0s"},
		}},
		Spec: clusterimage.Spec{
			Apps:   []clusterimage.App{{Name: "web", Type: "kube", Files: []string{"web.yaml"}}},
			Launch: []string{"web"}, Cmds: []string{"one"},
		},
		Documents: map[digest.Digest]ocispec.Manifest{},
	}
	for _, name := range []string{"pause:3.10", "coredns:1.14"} {
		m := b.add("manifest of " + name)
		img.Index.Embedded = append(img.Index.Embedded, clusterimage.Embedded{Name: "quay.io/k0sproject/" + name, Platform: "linux/amd64", Manifest: m})
		img.Documents[m.Digest] = ocispec.Manifest{Config: b.add("config of " + name), Layers: []ocispec.Descriptor{b.add("layer")}}
	}
	return img, b
}

// cluster is a new keg's view of the hosts.
func (s *sim) cluster(dir, version string, masters int, ips ...string) *runtime.Cluster {
	img, content := testImage(version)
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
	if len(s.nodes) != len(ips) || len(s.members) != masters || len(s.known) != masters {
		t.Errorf("nodes %v, members %v, known %v; want %d of %d", slices.Sorted(maps.Keys(s.nodes)), slices.Sorted(maps.Keys(s.members)), s.known, masters, len(ips))
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
		if n == nil || n.cordoned {
			t.Fatalf("%s: node %+v", m.name, n)
		}
		unit := "k0scontroller.service"
		if i >= masters {
			unit = "k0sworker.service"
		}
		if m.unit != unit || m.version != version || n.version != version {
			t.Errorf("%s runs %q %s (node: %s), want %s %s", m.name, m.unit, m.version, n.version, unit, version)
		}
		if got := strings.Join(m.args, " "); got != string(m.host.File("/etc/systemd/system/"+unit)) {
			t.Errorf("%s runs %s, which is not what its unit says", m.name, got)
		}
		if member := s.members[ip]; (i < masters) != (member != nil && member.name == m.name) {
			t.Errorf("%s has member %v", m.name, member)
		}
		if m.host.Locked() {
			t.Errorf("%s is still locked", m.name)
		}
		if m.host.File(staleFile) != nil {
			t.Errorf("%s: its k0s was not restarted", m.name)
		}
		if text := m.host.File(tokenFile); text != nil {
			if doc, err := unpackToken(text); err != nil || tokenID(doc) != noID {
				t.Errorf("%s: its token opens something: %v", m.name, err)
			}
		}
		for _, f := range m.host.Files() {
			if strings.HasPrefix(f, backupDir) || strings.HasPrefix(f, restoreDir) {
				t.Errorf("%s: %s is left", m.name, f)
			}
		}
	}
}
