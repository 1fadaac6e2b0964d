package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime/node"
)

// fake answers for programs and remembers what was run.
type fake struct {
	answers map[string]string // by command line; "!text" is a failure
	ran     []string
	stdin   map[string]string
}

func (f *fake) Run(_ context.Context, p Program) error {
	line := strings.Join(p.Args, " ")
	f.ran = append(f.ran, line)
	if p.Stdin != nil {
		data, _ := io.ReadAll(p.Stdin)
		if f.stdin == nil {
			f.stdin = map[string]string{}
		}
		f.stdin[line] = string(data)
	}
	answer, ok := f.answers[line]
	if !ok && strings.Contains(p.Args[0], "tables") || p.Args[0] == "nft" && !ok {
		return ErrNoProgram
	}
	if text, bad := strings.CutPrefix(answer, "!"); bad {
		_, _ = io.WriteString(p.Stderr, text)
		return errors.New("exit status 1")
	}
	_, err := io.WriteString(p.Stdout, answer)
	return err
}

// newHost is a pretended host with systemd.
func newHost(t *testing.T, files map[string]string) (*Host, *fake) {
	t.Helper()
	f := &fake{answers: map[string]string{}}
	h := &Host{Root: t.TempDir(), Programs: f}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.path(name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(h.path("/run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	return h, f
}

func TestUnits(t *testing.T) {
	h, f := newHost(t, nil)
	f.answers["systemctl is-enabled new.service"] = "!no such unit"
	f.answers["systemctl is-active new.service"] = "inactive\n"
	f.answers["systemctl is-enabled old.service"] = "enabled\n"
	f.answers["systemctl is-active old.service"] = "active\n"
	if err := h.Units(t.Context(), node.UnitRequest{Units: []string{"new.service", "old.service"}, Restart: true}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"systemctl daemon-reload",
		"systemctl is-enabled new.service", "systemctl is-active new.service", "systemctl enable new.service", "systemctl restart new.service",
		"systemctl is-enabled old.service", "systemctl is-active old.service", "systemctl restart old.service",
	}
	if d := cmp.Diff(want, f.ran); d != "" {
		t.Errorf("units (-want +got):\n%s", d)
	}
	f.ran = nil
	f.answers["systemctl is-enabled new.service"] = "enabled\n"
	f.answers["systemctl is-active new.service"] = "active\n"
	r, err := h.Undo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// This systemctl never changes its mind: the residue must say so.
	if d := cmp.Diff([]string{"unit new.service: is active and was inactive"}, r.Residue); d != "" {
		t.Error(d)
	}
	want = []string{
		"systemctl is-active old.service", "systemctl stop old.service", "systemctl reset-failed old.service",
		"systemctl is-active new.service", "systemctl stop new.service", "systemctl is-enabled new.service", "systemctl disable new.service", "systemctl reset-failed new.service",
		"systemctl daemon-reload",
		"systemctl daemon-reload", "systemctl is-enabled old.service", "systemctl is-active old.service",
		"systemctl is-active new.service", "systemctl is-active old.service", "systemctl is-enabled old.service",
	}
	if d := cmp.Diff(want, f.ran); d != "" {
		t.Errorf("undo (-want +got):\n%s", d)
	}
	f.answers["systemctl restart new.service"] = "!Job for new.service failed."
	f.answers["journalctl -q --no-pager -o cat -n 300 -u new.service"] = "port is taken\n"
	err = h.Units(t.Context(), node.UnitRequest{Units: []string{"new.service"}, Restart: true})
	if kind(err) != node.KindProgram || !strings.Contains(err.Error(), "Job for new.service failed.") || !strings.Contains(err.Error(), "port is taken") {
		t.Errorf("error is %v", err)
	}
	for _, bad := range []string{"--now", "a b.service", "x", "../x.service", "-x.service"} {
		if err := h.Units(t.Context(), node.UnitRequest{Units: []string{bad}}); kind(err) != node.KindRequest {
			t.Errorf("%q: error is %v", bad, err)
		}
	}
}

func TestSysctl(t *testing.T) {
	h, f := newHost(t, map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "0\n", "/proc/sys/kernel/panic": "0\n", "/proc/sys/net/ipv4/conf/eth0.1/x": "1\n",
		"/proc/sys/net/ipv4/tcp_mem": "1\t2\t3\n",
	})
	if err := os.MkdirAll(h.path("/sys/module/overlay"), 0o755); err != nil {
		t.Fatal(err)
	}
	req := node.SysctlRequest{
		Settings: map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf.eth0/1.x": "0", "net.ipv4.tcp_mem": "1 2 3"},
		Modules:  []string{"overlay", "br_netfilter"}, Remember: []string{"kernel.panic", "vm.absent"},
	}
	for i := range 2 {
		r, err := h.Sysctl(t.Context(), req)
		if err != nil || len(r.Changed) != 2-2*i {
			t.Fatalf("time %d: %+v, %v", i, r, err)
		}
	}
	if h.text("/proc/sys/net/ipv4/ip_forward") != "1\n" || h.text("/proc/sys/net/ipv4/conf/eth0.1/x") != "0\n" {
		t.Error("settings were not made")
	}
	if got := h.text(sysctlFile); got != "net.ipv4.conf.eth0/1.x = 0\nnet.ipv4.ip_forward = 1\nnet.ipv4.tcp_mem = 1 2 3\n" {
		t.Errorf("%s is %q", sysctlFile, got)
	}
	if d := cmp.Diff([]string{"modprobe br_netfilter", "modprobe br_netfilter"}, f.ran); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(h.path("/proc/sys/kernel/panic"), []byte("10\n"), 0o644); err != nil { // kubelet
		t.Fatal(err)
	}
	r, err := h.Undo(t.Context())
	if err != nil || len(r.Residue) > 0 {
		t.Fatalf("undo: %+v, %v", r, err)
	}
	if h.text("/proc/sys/net/ipv4/ip_forward") != "0\n" || h.text("/proc/sys/kernel/panic") != "0\n" || h.text("/proc/sys/net/ipv4/conf/eth0.1/x") != "1\n" {
		t.Error("settings were not put back")
	}
	if _, err := h.Sysctl(t.Context(), node.SysctlRequest{Settings: map[string]string{"net.absent": "1"}}); err == nil || !strings.Contains(err.Error(), "no setting net.absent") {
		t.Errorf("a setting that is not there: %v", err)
	}
	f.answers["modprobe ip_vs"] = "!modprobe: FATAL: Module ip_vs not found"
	if _, err := h.Sysctl(t.Context(), node.SysctlRequest{Modules: []string{"ip_vs"}}); kind(err) != node.KindProgram || !strings.Contains(err.Error(), "ip_vs not found") {
		t.Errorf("a module that is not there: %v", err)
	}
	for _, bad := range []node.SysctlRequest{
		{Settings: map[string]string{"../../etc/passwd": "x"}}, {Settings: map[string]string{"a/../../../etc/x": "1"}}, {Settings: map[string]string{"a.b": "1\nc.d=2"}},
		{Modules: []string{"-r"}, Remember: []string{"/etc/shadow"}}, {Modules: []string{"x y"}},
	} {
		if _, err := h.Sysctl(t.Context(), bad); kind(err) != node.KindRequest {
			t.Errorf("%v: error is %v", bad, err)
		}
	}
}

const listing = `# Generated
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SVC-X - [0:0]
:KUBE-OLD - [0:0]
:CNI-abc - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "kube \"service\" -j DOCKER" -j KUBE-SVC-X
-A PREROUTING -j KUBE-OLD
-A PREROUTING -j DOCKER
-A POSTROUTING -s 10.1.0.0/16 -g CNI-abc
-A CNI-abc -j KUBE-SVC-X
-A DOCKER -j CNI-abc
COMMIT
*filter
:INPUT ACCEPT [0:0]
COMMIT
`

func TestFilterRemoval(t *testing.T) {
	if d := cmp.Diff([]string{"nat KUBE-SVC-X", "nat KUBE-OLD", "nat CNI-abc"}, chains(listing)); d != "" {
		t.Error(d)
	}
	want := `*nat
:KUBE-SVC-X - [0:0]
:CNI-abc - [0:0]
-D PREROUTING -m comment --comment "kube \"service\" -j DOCKER" -j KUBE-SVC-X
-D POSTROUTING -s 10.1.0.0/16 -g CNI-abc
-D DOCKER -j CNI-abc
-X KUBE-SVC-X
-X CNI-abc
COMMIT
`
	if d := cmp.Diff(want, chainRemoval(listing, []string{"nat KUBE-SVC-X", "nat CNI-abc"})); d != "" {
		t.Error(d)
	}
	h, f := newHost(t, nil)
	f.answers["iptables-save"] = "*nat\n:KUBE-OLD - [0:0]\nCOMMIT\n"
	f.answers["nft list tables"] = "table inet filter\n"
	if err := h.Claim(t.Context(), node.ClaimRequest{}); err != nil {
		t.Fatal(err)
	}
	f.answers["iptables-save"] = listing
	f.answers["iptables-restore --noflush"] = ""
	f.answers["nft list tables"] = "table inet filter\ntable ip kube-proxy\n"
	r, err := h.Undo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, f.stdin["iptables-restore --noflush"]); d != "" {
		t.Error(d)
	}
	if got := f.stdin["nft -f -"]; got != "delete table ip kube-proxy\n" {
		t.Errorf("nft is told %q", got)
	}
	if len(r.Residue) != 3 || !strings.Contains(r.Residue[0], "nat KUBE-SVC-X was not there before") {
		t.Errorf("residue: %q", r.Residue)
	}
}

func TestBlock(t *testing.T) {
	for _, tc := range []struct{ name, old, block, want, other, undone string }{
		{"appended", "a\n", "x\ny", "a\n# BEGIN k\nx\ny\n# END k\n", "", "a\n"},
		{"no newline at the end", "a", "x\n", "a\n# BEGIN k\nx\n# END k\n", "", "a"},
		{"into nothing", "", "x\n", "# BEGIN k\nx\n# END k\n", "", ""},
		{"others may change the rest", "a\n", "x\n", "a\n# BEGIN k\nx\n# END k\n", "b\n# BEGIN k\nx\n# END k\nc", "b\nc"},
		{"others may take it out", "a\n", "x\n", "a\n# BEGIN k\nx\n# END k\n", "b\n", "b\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, _ := newHost(t, map[string]string{"/etc/hosts": tc.old})
			req := node.BlockRequest{Path: "/etc/hosts", Marker: "k", Text: "first version"}
			for _, text := range []string{"first version", tc.block} {
				req.Text = text
				if _, err := h.Block(t.Context(), req); err != nil {
					t.Fatal(err)
				}
			}
			if got := h.text("/etc/hosts"); got != tc.want {
				t.Errorf("the file is %q, want %q", got, tc.want)
			}
			if r, err := h.Block(t.Context(), req); err != nil || len(r.Changed) > 0 {
				t.Errorf("once more: %v, %v", r, err)
			}
			if tc.other != "" {
				if err := os.WriteFile(h.path("/etc/hosts"), []byte(tc.other), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := h.Undo(t.Context()); err != nil || len(r.Residue) > 0 {
				t.Errorf("undo: %v, %v", r, err)
			}
			if got := h.text("/etc/hosts"); got != tc.undone {
				t.Errorf("undone it is %q, want %q", got, tc.undone)
			}
		})
	}
	h, _ := newHost(t, map[string]string{"/etc/hosts": "a\n# BEGIN k\nx\n"})
	for _, bad := range []node.BlockRequest{
		{Path: "/etc/hosts", Marker: "k", Text: "y"},
		{Path: "/etc/hosts", Marker: "j", Text: "y\n# END j\nz"},
		{Path: "/etc/hosts", Marker: "j\nk", Text: "y"},
		{Path: "etc/hosts", Marker: "j", Text: "y"},
		{Path: "/etc", Marker: "j", Text: "y"},
		{Path: node.State, Marker: "j", Text: "y"},
	} {
		if _, err := h.Block(t.Context(), bad); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
	if got := h.text("/etc/hosts"); got != "a\n# BEGIN k\nx\n" {
		t.Errorf("the file is %q", got)
	}
}

func TestRefusedPaths(t *testing.T) {
	h, _ := newHost(t, map[string]string{node.Rootfs + "/x": "x", "/etc/dir/x": "x"})
	for _, to := range []string{"relative", "/", "/etc/../x", "/etc/", "/proc/sys/x", "/dev/null", "/sys/x", node.Dir, node.State, node.Recorder + "/journal", node.Binary, node.StoreDir + "/x", "/etc/dir", "/etc/dir/x/below"} {
		if _, err := h.Install(t.Context(), node.InstallRequest{Items: []node.InstallItem{{From: "x", To: to}}}); kind(err) != node.KindRequest {
			t.Errorf("install to %q: %v", to, err)
		}
	}
	for _, from := range []string{"../x", "/etc/passwd", "a/../../x"} {
		if _, err := h.Install(t.Context(), node.InstallRequest{Items: []node.InstallItem{{From: from, To: "/etc/y"}}}); kind(err) != node.KindRequest {
			t.Errorf("install from %q: %v", from, err)
		}
	}
	if err := os.Symlink("/etc/passwd", h.path(node.Rootfs+"/out")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Install(t.Context(), node.InstallRequest{Items: []node.InstallItem{{From: "out", To: "/etc/y"}}}); err == nil {
		t.Error("install followed a symlink out of the rootfs")
	}
	for _, p := range []string{"/", "/etc", "/var", "/var/lib", node.Dir, "/proc/x", "relative"} {
		if err := h.Claim(t.Context(), node.ClaimRequest{Paths: []string{p}}); kind(err) != node.KindRequest {
			t.Errorf("claim of %q: %v", p, err)
		}
	}
	for _, l := range []string{"", "*", "a/b"} {
		if err := h.Claim(t.Context(), node.ClaimRequest{Links: []string{l}}); kind(err) != node.KindRequest {
			t.Errorf("claim of link %q: %v", l, err)
		}
	}
	for _, n := range []string{"../x", "", "a/b", ".x"} {
		if _, err := h.Hook(t.Context(), node.HookRequest{Name: n}); kind(err) != node.KindRequest {
			t.Errorf("hook %q: %v", n, err)
		}
	}
	if _, err := os.Lstat(h.path(node.Recorder + "/journal")); err == nil {
		t.Error("something was recorded")
	}
}

// TestKeptEnv: a reset has neither the image nor its settings, and its script sees them all the same.
// TestOnlyLook: what would change is said, and nothing is changed, also no record made.
func TestOnlyLook(t *testing.T) {
	h, _ := newHost(t, map[string]string{node.Rootfs + "/bin/a": "one", node.Rootfs + "/bin/b": "two"})
	req := node.InstallRequest{Items: []node.InstallItem{{From: "bin", To: "/usr/local/bin", Mode: 0o755}}}
	look := func(want ...string) {
		t.Helper()
		asked := req
		asked.OnlyLook = true
		got, err := h.Install(t.Context(), asked)
		if err != nil || !slices.Equal(got.Changed, want) {
			t.Errorf("changes %v, %v; want %v", got.Changed, err, want)
		}
	}
	look("/usr/local/bin", "/usr/local/bin/a", "/usr/local/bin/b")
	if _, err := os.Lstat(h.path("/usr/local/bin/a")); err == nil {
		t.Error("looking has installed a file")
	}
	if _, err := h.Install(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	look()
	if err := os.WriteFile(h.path(node.Rootfs+"/bin/b"), []byte("three"), 0o755); err != nil {
		t.Fatal(err)
	}
	look("/usr/local/bin/b")
}

func TestKeptEnv(t *testing.T) {
	h, _ := newHost(t, map[string]string{node.Rootfs + "/scripts/clean.sh": `echo "$A $B $C"`})
	var out bytes.Buffer
	h.Programs, h.Log = System{}, &out
	clean := func(want string) {
		t.Helper()
		out.Reset()
		r, err := h.Hook(t.Context(), node.HookRequest{Name: "clean", Env: map[string]string{"A": "", "B": "now"}, Kept: true})
		if err != nil || !r.Ran || out.String() != want {
			t.Errorf("%+v, %v, %q; want %q", r, err, out.String(), want)
		}
	}
	clean(" now \n") // nothing was rendered yet
	if err := h.Render(t.Context(), node.RenderRequest{Env: map[string]string{"A": "kept", "C": "secret"}}); err != nil {
		t.Fatal(err)
	}
	clean("kept now secret\n")
	if st, err := os.Stat(h.path(node.EnvFile)); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := os.WriteFile(h.path(node.EnvFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hook(t.Context(), node.HookRequest{Name: "clean", Kept: true}); kind(err) != node.KindState {
		t.Errorf("with a broken file: %v", err)
	}
}

func TestHook(t *testing.T) {
	h, _ := newHost(t, map[string]string{
		node.Rootfs + "/scripts/init.sh": "echo $KEG_HOOK in $PWD with $A and $1; echo to stderr >&2\n",
		node.Rootfs + "/scripts/own":     "#!/bin/sh\necho by itself\n",
		node.Rootfs + "/scripts/bad.sh":  "for i in 1 2 3; do echo line $i; done; exit 7",
	})
	var out bytes.Buffer
	h.Programs, h.Log = System{}, &out
	r, err := h.Hook(t.Context(), node.HookRequest{Name: "init", Args: []string{"arg"}, Env: map[string]string{"A": "b c"}})
	if err != nil || !r.Ran || out.String() != "init in "+h.path(node.Rootfs)+" with b c and arg\nto stderr\n" {
		t.Errorf("init: %v, %v, %q", r, err, out.String())
	}
	out.Reset()
	if r, err := h.Hook(t.Context(), node.HookRequest{Name: "own"}); err != nil || !r.Ran || out.String() != "by itself\n" {
		t.Errorf("own: %v, %v, %q", r, err, out.String())
	}
	_, err = h.Hook(t.Context(), node.HookRequest{Name: "bad"})
	if kind(err) != node.KindHook || !strings.Contains(err.Error(), "exit status 7: line 1\nline 2\nline 3") {
		t.Errorf("bad: %v", err)
	}
	if r, err := h.Hook(t.Context(), node.HookRequest{Name: "none"}); err != nil || r.Ran {
		t.Errorf("none: %v, %v", r, err)
	}
	if err := os.WriteFile(h.path(node.Rootfs+"/scripts/slow.sh"), []byte("sleep 1000 & wait"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h.at = func(string) { cancel() }
	if _, err := h.Hook(ctx, node.HookRequest{Name: "slow"}); !errors.Is(err, context.Canceled) {
		t.Errorf("slow: %v", err)
	}
}

// TestEndProcesses starts a program from a place that keg installed, and looks whether undo ends it.
func TestEndProcesses(t *testing.T) {
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Skip("SKIP: needs /bin/sleep")
	}
	h, _ := newHost(t, nil)
	if err := os.Symlink("/proc", h.path("/proc")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Put(t.Context(), bytes.NewReader(stream(t, tarFile("/usr/local/bin/shim", string(sleep), 0o755)))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), h.path("/usr/local/bin/shim"), "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if r, err := h.Undo(t.Context()); err != nil || len(r.Residue) > 0 {
		t.Errorf("undo: %v, %v", r, err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("the process ended with %v", err)
	}
}

func TestResidueNamesWhatIsLeft(t *testing.T) {
	h, _ := newHost(t, map[string]string{"/etc/a": "old", "/etc/b": "old"})
	put(t, h, "/etc/a", "new")
	put(t, h, "/etc/new/dir/file", "new")
	put(t, h, "/etc/b", "new")
	if err := os.WriteFile(h.path("/etc/new/others"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// The saved copy of a and b is damaged.
	if err := os.WriteFile(filepath.Join(h.path(node.Recorder), "saved", digest.FromString("old").Encoded()), []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := h.Undo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/etc/a: has other content than before (the saved copy is damaged)",
		"/etc/new: was not there before; in it: others",
		"/etc/b: has other content than before (the saved copy is damaged)",
	}
	if d := cmp.Diff(want, r.Residue); d != "" {
		t.Error(d)
	}
	if got := h.text("/etc/a"); got != "new" {
		t.Errorf("a damaged copy was restored: %q", got)
	}
	if err := h.Forget(t.Context()); kind(err) != node.KindNotUndone {
		t.Errorf("forget: %v", err)
	}
	// A person repairs it, and undo says that all is well.
	for _, f := range []string{"/etc/a", "/etc/b"} {
		if err := os.Remove(h.path(f)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(h.path("/etc/new/others")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.path(node.Recorder), "saved", digest.FromString("old").Encoded()), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := h.Undo(t.Context()); err != nil || len(r.Residue) > 0 {
		t.Errorf("undo: %v, %v", r, err)
	}
}

func TestBrokenState(t *testing.T) {
	h, _ := newHost(t, map[string]string{node.State: "{"})
	if _, err := h.Facts(t.Context(), node.FactsRequest{}); kind(err) != node.KindState || !strings.Contains(err.Error(), node.State) {
		t.Errorf("facts: %v", err)
	}
	if err := h.SetState(t.Context(), node.HostState{Cluster: "c", UID: "u"}); kind(err) != node.KindState {
		t.Errorf("set: %v", err)
	}
}

func TestDo(t *testing.T) {
	h, _ := newHost(t, nil)
	var out bytes.Buffer
	err := h.Do(t.Context(), "dance", strings.NewReader(""), &out)
	if Fail(&out, err) != 2 || out.Len() > 0 {
		t.Errorf("unknown verb: %v, %q", err, out.String())
	}
	for _, in := range []string{"", "{", `{"blobs":[]} x`, `{"blobbs":[]}`, `[]`, `{"blobs":["sha256:../../x"]}`} {
		out.Reset()
		err := h.Do(t.Context(), node.VerbMissing, strings.NewReader(in), &out)
		if kind(err) != node.KindRequest || Fail(&out, err) != 1 || !strings.Contains(out.String(), `"kind":"bad-request"`) {
			t.Errorf("request %q: %v, %q", in, err, out.String())
		}
	}
	for _, v := range Verbs() {
		if !Known(v) {
			t.Errorf("%s is not known", v)
		}
	}
}
