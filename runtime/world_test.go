package runtime_test

import (
	"archive/tar"
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

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
	"github.com/clusterimage/keg/runtime/runtimetest"
)

var errKilled = errors.New("keg was killed")

// world is some machines and the cluster of a pretended runtime, in memory. keg dies at a given operation,
// before or after its effect, and stays dead until it is revived.
type world struct {
	mu       sync.Mutex
	machines map[string]*machine // by address
	order    []string
	kubelets map[string]string // nodes of the API and the versions of their kubelets, by name
	notReady string            // name of a node
	api      string            // version
	members  map[string]bool   // of etcd, by address
	broken   []string          // what no cluster would survive
	log      []string          // what changed, in order

	failOn   string          // an operation that fails
	cordoned map[string]bool // nodes, by name
	silent   bool            // the next uncordon does nothing, and says that it did
	away     string          // an operation during which the API goes away, once
	refuse   int             // how many questions it refuses from then on
	ops      int
	killAt   int // 0 is never
	after    bool
	dead     bool
}

// machine is a host of a world: part of it is the pretended runtime, and keg-node in memory the rest.
type machine struct {
	*runtimetest.Host
	world    *world
	ip, name string
	master   bool // its control plane runs
	worker   bool
	off      bool
}

// newWorld has machines h1, h2, ... at 10.0.0.1, 10.0.0.2, ...
func newWorld(n int) *world {
	w := &world{machines: map[string]*machine{}, kubelets: map[string]string{}, cordoned: map[string]bool{}, members: map[string]bool{}, api: "v1.37.2"}
	for i := range n {
		ip, name := fmt.Sprintf("10.0.0.%d", i+1), fmt.Sprintf("h%d", i+1)
		w.order = append(w.order, ip)
		w.machines[ip] = &machine{world: w, ip: ip, name: name, Host: &runtimetest.Host{
			Machine: node.Facts{
				Hostname: name, MachineID: name, Arch: "amd64", Init: "systemd", Cgroup: 2, CPUs: 4, Memory: 8 << 30, DiskFree: 100 << 30,
				Addresses: []string{ip}, DefaultRoute: true, UnixNano: time.Now().UnixNano(),
			},
			Rootfs: map[string]string{"bin/fake": "v1.37.2"},
			Before: func(string) error { return w.op("", nil) },
		}}
	}
	return w
}

// op counts an operation, and dies at the chosen one. What it changes is in the log, if it has a name.
func (w *world) op(name string, effect func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errKilled
	}
	w.ops++
	w.dead = w.killAt == w.ops
	if w.dead && !w.after {
		return errKilled
	}
	if name != "" && name == w.failOn {
		return errors.New("it broke")
	}
	if name != "" {
		w.log = append(w.log, name)
	}
	if effect != nil {
		effect()
	}
	if w.dead {
		return errKilled
	}
	return nil
}

// revive lets the next keg work; the locks of the dead one are gone with its connections.
func (w *world) revive() {
	w.dead, w.killAt, w.ops = false, 0, 0
	for _, m := range w.machines {
		m.Drop()
	}
}

// fresh empties the log and returns what it had.
func (w *world) fresh() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	log := w.log
	w.log = nil
	return log
}

// quorum says whether etcd answers.
func (w *world) quorum() bool {
	healthy := 0
	for ip := range w.members {
		if m := w.machines[ip]; m.master && !m.off {
			healthy++
		}
	}
	return healthy > len(w.members)/2
}

func (m *machine) fail(text string) error {
	return &remote.ExitError{Host: m.ip, Args: []string{"x"}, Code: 1, Stderr: text}
}

// Run implements remote.Runner.
func (m *machine) Run(ctx context.Context, c remote.Cmd) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if m.off {
		return fmt.Errorf("%s: no route to host", m.ip)
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	var stdin []byte
	if c.Stdin != nil {
		stdin, _ = io.ReadAll(c.Stdin)
	}
	shell := ""
	if c.Args[0] == "/bin/sh" {
		shell = c.Args[2]
	}
	switch {
	case c.Args[0] == "true":
		return m.world.op("", nil)
	case c.Args[0] == "kubectl":
		return m.kubectl(c.Args[1:], c.Stdout)
	case c.Args[0] == "cat":
		data := m.File(c.Args[1])
		if data == nil {
			return m.fail("no such file")
		}
		_, err := c.Stdout.Write(data)
		return err
	case c.Args[0] == "rm":
		return m.world.op("", func() { m.Remove(c.Args[len(c.Args)-1]) })
	case strings.Contains(shell, "[ ! -e "):
		_, err := c.Stdout.Write(m.File(c.Args[4]))
		return err
	case strings.Contains(shell, ".conf;"):
		return nil
	case strings.HasPrefix(shell, "set -- "):
		for f := range strings.FieldsSeq(strings.SplitN(shell, "\n", 2)[0]) {
			if data := m.File(f); data != nil {
				fmt.Fprintf(c.Stdout, "== %s\n%s", f, data)
			}
		}
		return nil
	case strings.Contains(shell, "eval"):
		lines := strings.Split(strings.TrimSpace(string(stdin)), "\n")
		return m.world.op(m.name+" runs "+lines[len(lines)-1], nil)
	}
	return m.fail(fmt.Sprintf("the world does not know %q", c.Args))
}

func (m *machine) kubectl(args []string, out io.Writer) error {
	w := m.world
	w.mu.Lock()
	up := m.master && w.members[m.ip] && w.quorum()
	if w.away == args[0]+" "+args[1] {
		w.away, w.refuse = "", 5
	}
	refused := w.refuse > 0
	if refused {
		w.refuse--
	}
	w.mu.Unlock()
	if !up || refused {
		return m.fail("the API does not answer")
	}
	switch line := strings.Join(args, " "); {
	case strings.HasPrefix(line, "get --raw /readyz"):
		return nil
	case strings.HasPrefix(line, "get --raw /version"):
		return json.NewEncoder(out).Encode(map[string]string{"gitVersion": w.api})
	case strings.HasPrefix(line, "get nodes"):
		w.mu.Lock()
		defer w.mu.Unlock()
		var list []any
		for name, version := range w.kubelets {
			ready := "True"
			if name == w.notReady {
				ready = "False"
			}
			list = append(list, map[string]any{
				"metadata": map[string]any{"name": name},
				"spec":     map[string]any{"unschedulable": w.cordoned[name]},
				"status": map[string]any{
					"nodeInfo": map[string]any{"kubeletVersion": version}, "conditions": []any{map[string]any{"type": "Ready", "status": ready, "reason": "Because"}},
				},
			})
		}
		return json.NewEncoder(out).Encode(map[string]any{"items": list})
	case args[0] == "drain":
		return w.op(args[0]+" "+args[1], func() { w.cordoned[args[1]] = true })
	case args[0] == "uncordon":
		w.mu.Lock()
		silent := w.silent
		w.silent = false
		w.mu.Unlock()
		if silent {
			return nil
		}
		return w.op(args[0]+" "+args[1], func() { w.cordoned[args[1]] = false })
	case args[0] == "delete":
		return w.op("delete node "+args[2], func() { delete(w.kubelets, args[2]) })
	}
	return m.fail(fmt.Sprintf("the world's kubectl does not know %q", args))
}

// fakeDriver makes clusters of a world.
type fakeDriver struct{ *world }

var _ runtime.Driver = fakeDriver{}

func (fakeDriver) Name() string { return "kubernetes" }
func (fakeDriver) Env(*runtime.Cluster, *runtime.Node) map[string]string {
	return map[string]string{"POD_CIDR": "10.244.0.0/16", "SERVICE_CIDR": "10.96.0.0/12", "CERT_SANS": ""}
}
func (fakeDriver) Signs() []string                                             { return nil }
func (fakeDriver) CheckRequest(*runtime.Cluster) []runtime.Finding             { return nil }
func (fakeDriver) Preflight(*runtime.Cluster, *runtime.Node) []runtime.Finding { return nil }
func (fakeDriver) Items(*runtime.Cluster, *runtime.Node) []node.InstallItem {
	return []node.InstallItem{{From: "bin", To: "/usr/local/bin"}}
}
func (fakeDriver) Mirror(r runtime.Registry) []runtime.File {
	return []runtime.File{{Path: "/etc/fake/mirror", Data: []byte(r.URL())}}
}
func (fakeDriver) Claim(*runtime.Node) node.ClaimRequest { return node.ClaimRequest{} }
func (fakeDriver) Remember() []string                    { return nil }
func (fakeDriver) Kubectl() []string                     { return []string{"kubectl"} }
func (fakeDriver) CommandEnv() map[string]string {
	return map[string]string{"KUBECONFIG": "/etc/fake/admin.conf"}
}
func (fakeDriver) Network(*runtime.Cluster) []runtime.Batch { return nil }
func (d fakeDriver) at(n *runtime.Node) *machine            { return d.machines[n.IP] }
func (fakeDriver) CertificateFiles(*runtime.Node) []string  { return []string{"/etc/fake/api.crt"} }
func (d fakeDriver) version(c *runtime.Cluster) string      { return c.KubeVersion() }
func (d fakeDriver) Left(_ *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{d.step(n, "stop ", func(m *machine) { m.master = false })}
}

// step is one that changes a machine.
func (d fakeDriver) step(n *runtime.Node, what string, effect func(m *machine)) runtime.Step {
	return n.On(strings.TrimSpace(what), func(context.Context, io.Writer) error {
		return d.op(what+d.at(n).name, func() {
			if effect != nil {
				effect(d.at(n))
			}
		})
	})
}

func (d fakeDriver) Init(c *runtime.Cluster) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{first.On("init", func(ctx context.Context, _ io.Writer) error {
		m := d.at(first)
		if m.master && first.Made() {
			return runtime.ErrAlready
		}
		if err := c.Restart(ctx); err != nil {
			return err
		}
		if err := d.op("init "+m.name, func() {
			clear(d.members)
			clear(d.kubelets)
			m.master, d.members[m.ip], d.kubelets[m.name] = true, true, d.version(c)
		}); err != nil {
			return err
		}
		return first.Mark(ctx, runtime.DoneInit)
	})}}
}

func (d fakeDriver) join(c *runtime.Cluster, n *runtime.Node, part func(m *machine) *bool) runtime.Step {
	return n.On("join", func(ctx context.Context, _ io.Writer) error {
		m := d.at(n)
		d.mu.Lock()
		_, there := d.kubelets[m.name]
		there = there && *part(m)
		d.mu.Unlock()
		if there && n.Done(runtime.DoneJoin) {
			return runtime.ErrAlready
		}
		if err := d.op("join "+m.name, func() {
			*part(m), d.kubelets[m.name] = true, d.version(c)
			if m.master {
				d.members[m.ip] = true
			}
		}); err != nil {
			return err
		}
		return n.Mark(ctx, runtime.DoneJoin)
	})
}

func (d fakeDriver) JoinMaster(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{d.join(c, n, func(m *machine) *bool { return &m.master })}
}

func (d fakeDriver) JoinWorkers(c *runtime.Cluster, workers []*runtime.Node) []runtime.Batch {
	var b runtime.Batch
	for _, n := range workers {
		b = append(b, d.join(c, n, func(m *machine) *bool { return &m.worker }))
	}
	return []runtime.Batch{b}
}

func (d fakeDriver) Alive(_ context.Context, _ *runtime.Cluster, n *runtime.Node) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.at(n); !m.master || m.off || !d.quorum() {
		return errors.New("it does not answer")
	}
	return nil
}

func (fakeDriver) Kubeconfig(context.Context, *runtime.Cluster) ([]byte, error) {
	return []byte(`{"clusters": [{"cluster": {}}], "users": [{"user": {}}], "contexts": [{"context": {}}]}`), nil
}

func (d fakeDriver) Reset(_ *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{d.step(n, "reset ", func(m *machine) {
		if d.members[m.ip] && len(d.members) > 1 && m.master {
			d.broken = append(d.broken, m.name+" was reset while etcd counted it")
		}
		m.master, m.worker = false, false
	})}
}

func (d fakeDriver) Members(_ context.Context, c *runtime.Cluster) ([]runtime.Member, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.at(c.First()).master || !d.quorum() {
		return nil, errors.New("etcd does not answer")
	}
	var list []runtime.Member
	for _, ip := range slices.Sorted(maps.Keys(d.members)) {
		m := d.machines[ip]
		list = append(list, runtime.Member{ID: ip, Name: m.name, Address: ip, Healthy: m.master && !m.off})
	}
	return list, nil
}

func (d fakeDriver) RemoveMember(_ context.Context, _ *runtime.Cluster, m runtime.Member, _ io.Writer) error {
	return d.op("leave "+m.Name, func() {
		delete(d.members, m.Address)
		if !d.quorum() {
			d.broken = append(d.broken, "no quorum without "+m.Name)
		}
	})
}

func (d fakeDriver) UpgradeControlPlane(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{d.step(n, "upgrade ", func(*machine) { d.api = d.version(c) })}
}

func (d fakeDriver) Restart(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{d.step(n, "restart ", func(m *machine) { d.kubelets[m.name] = d.version(c) })}
}

func (d fakeDriver) RenewCertificates(_ *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{d.step(n, "renew ", nil)}
}

func (d fakeDriver) ApplySANs(c *runtime.Cluster, n *runtime.Node) []runtime.Step {
	return []runtime.Step{d.step(n, "sans "+strings.Join(c.Options.SANs, ",")+" ", nil)}
}

func (d fakeDriver) RotateTokens(c *runtime.Cluster) []runtime.Batch {
	return []runtime.Batch{{d.step(c.First(), "rotate ", nil)}}
}

func (d fakeDriver) Backup(_ context.Context, _ *runtime.Cluster, w io.Writer) error {
	out := tar.NewWriter(w)
	text := strings.Join(slices.Sorted(maps.Keys(d.kubelets)), " ")
	err := out.WriteHeader(&tar.Header{Name: "nodes", Mode: 0o600, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(out, text)
	}
	return errors.Join(err, out.Close())
}

func (d fakeDriver) Restore(c *runtime.Cluster, backup func() (io.ReadCloser, error)) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{first.On("restore", func(ctx context.Context, _ io.Writer) error {
		r, err := backup()
		if err != nil {
			return err
		}
		defer r.Close()
		in := tar.NewReader(r)
		if _, err := in.Next(); err != nil {
			return err
		}
		text, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		if err := c.Restart(ctx); err != nil {
			return err
		}
		m := d.at(first)
		if err := d.op("restore "+m.name, func() {
			clear(d.members)
			clear(d.kubelets)
			for name := range strings.FieldsSeq(string(text)) {
				d.kubelets[name] = "v1.36.0"
			}
			m.master, d.members[m.ip], d.kubelets[m.name], d.api = true, true, d.version(c), d.version(c)
		}); err != nil {
			return err
		}
		return first.Mark(ctx, runtime.DoneInit)
	})}}
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

// document adds v as JSON.
func (b blobs) document(v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{} // nothing here fails to be JSON
	}
	return b.add(string(data))
}

// image is a cluster image of a version, with an app and a command.
func image(version string) (*runtime.Image, blobs) {
	b := blobs{}
	manifest := ocispec.Manifest{Config: b.add("config " + version), Layers: []ocispec.Descriptor{b.add("layer " + version)}}
	img := &runtime.Image{
		Name: "shop:" + version,
		Platforms: map[string]runtime.Rootfs{"linux/amd64": {
			Descriptor: b.document(manifest), Manifest: manifest,
			Metadata: basefs.Metadata{Version: version, Arch: "amd64", Runtime: "kubernetes"},
		}},
		Spec: clusterimage.Spec{
			Apps:   []clusterimage.App{{Name: "web", Type: "kube", Files: []string{"web.yaml"}}},
			Launch: []string{"web"}, Cmds: []string{"one"},
		},
		Documents: map[digest.Digest]ocispec.Manifest{},
	}
	web := ocispec.Manifest{Config: b.add("config of web " + version), Layers: []ocispec.Descriptor{b.add("layer of web")}}
	m := b.document(web)
	img.Documents[m.Digest] = web
	img.Index.Embedded = append(img.Index.Embedded,
		clusterimage.Embedded{Name: "reg.example.com/web:v1", Platform: "linux/amd64", Manifest: m},
		// That of another architecture is sent to nobody.
		clusterimage.Embedded{Name: "reg.example.com/web:v1", Platform: "linux/arm64", Manifest: blobs{}.add("for arm64 " + version)})
	root := img.Platforms["linux/amd64"].Descriptor
	root.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	img.Index.Rootfs = []ocispec.Descriptor{root}
	img.Target = b.document(img.Index.Index())
	return img, b
}

// cluster is a new keg's view: the first masters machines are control planes, the next workers workers.
func (w *world) cluster(version string, masters, workers int) *runtime.Cluster {
	img, content := image(version)
	c := &runtime.Cluster{
		Name: "shop", Image: img, Content: content, Driver: fakeDriver{w},
		Connect: func(_ context.Context, a runtime.Address) (remote.Runner, error) {
			m := w.machines[a.Host]
			if m.off {
				return nil, fmt.Errorf("%s: no route to host", a.Host)
			}
			return m, nil
		},
		Agent: func(_ context.Context, r remote.Runner) (runtime.Host, error) { return r.(*machine).Host, nil },
	}
	for i, ip := range w.order[:masters+workers] {
		n := &runtime.Node{Address: runtime.Address{Host: ip}, Role: runtime.Master}
		if i >= masters {
			n.Role = runtime.Worker
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

// standing is cluster as the operator's record knows it.
func (w *world) standing(masters, workers int) *runtime.Cluster {
	c := w.cluster("v1.37.2", masters, workers)
	for _, ip := range w.order {
		if s := w.machines[ip].State(); s != nil && s.Cluster == c.Name {
			c.UID = s.UID
			break
		}
	}
	return c
}

// install makes a cluster of all machines and forgets how.
func (w *world) install(t *testing.T, masters int) {
	t.Helper()
	if err := runtime.Run(t.Context(), w.cluster("v1.37.2", masters, len(w.order)-masters), runtime.RunPhases()); err != nil {
		t.Fatal(err)
	}
	w.fresh()
	w.ops = 0
}

// refused wants a finding of that name, and nothing changed.
func (w *world) refused(t *testing.T, c *runtime.Cluster, phases []runtime.Phase, id string) {
	t.Helper()
	before := w.fresh()
	err := runtime.Run(t.Context(), c, phases)
	var pre *runtime.PreflightError
	if !errors.As(err, &pre) || !slices.ContainsFunc(pre.Findings, func(f runtime.Finding) bool { return f.ID == id && f.Cure != "" }) {
		t.Errorf("want a finding %q, got %v", id, err)
	}
	if log := w.fresh(); len(log) > 0 {
		t.Errorf("it was refused, and this was done: %v", log)
	}
	w.log = before
}

// everyKill kills keg at each operation of do, before and after its effect, in a world of its own, does it
// again and has the result checked.
func everyKill(t *testing.T, prepare func(t *testing.T) *world, do func(t *testing.T, w *world) error, check func(t *testing.T, w *world)) {
	t.Helper()
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			reached := false
			inBubble(t, func(t *testing.T) {
				w := prepare(t)
				w.ops, w.killAt, w.after = 0, at, after
				err := do(t, w)
				if reached = w.dead; !reached {
					return
				}
				if err == nil {
					t.Errorf("killed at %d: no error", at)
				}
				w.revive()
				if err := do(t, w); err != nil {
					t.Fatalf("killed at %d (after its effect: %t): the second time: %v", at, after, err)
				}
				check(t, w)
				if len(w.broken) > 0 {
					t.Errorf("killed at %d: %v", at, w.broken)
				}
			})
			if !reached || t.Failed() {
				t.Logf("%d operations", at-1)
				break
			}
		}
	}
}
