package host

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/runtime/node"
)

// TestUndoAfterCrash does random changes to a pretended host in a process that kills itself at a random step,
// goes on in another, undoes in one that kills itself as well, and undoes to the end: the tree
// must be what it was.
func TestUndoAfterCrash(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			makeHost(t, root)
			before := treeOf(t, root)
			r := rand.New(rand.NewPCG(uint64(seed), 7))
			killed := 0
			for range 2 {
				if child(t, crashJob{Root: root, Seed: r.Uint64(), Ops: 12, Die: 1 + r.IntN(120)}) {
					killed++
				}
			}
			changed := cmp.Diff(before, treeOf(t, root))
			for range 2 {
				if child(t, crashJob{Root: root, Die: 1 + r.IntN(40)}) {
					killed++
				}
			}
			h := &Host{Root: root}
			resp, err := h.Undo(t.Context())
			if err != nil || len(resp.Residue) > 0 {
				t.Fatalf("undo: %+v, %v", resp, err)
			}
			if d := cmp.Diff(before, treeOf(t, root)); d != "" {
				t.Errorf("killed %d times; after undo (-before +after):\n%s\nafter the changes it was:\n%s", killed, d, changed)
			}
			if again, err := h.Undo(t.Context()); err != nil || again.Restored != 0 {
				t.Errorf("undoing again: %+v, %v", again, err)
			}
			if left, err := h.Residue(t.Context()); err != nil || len(left.Residue) > 0 {
				t.Errorf("residue: %+v, %v", left, err)
			}
			// A second life of the host is recorded afresh.
			put(t, h, "/etc/hosts", "second life")
			if resp, err := h.Undo(t.Context()); err != nil || resp.Restored != 1 {
				t.Errorf("undoing the second life: %+v, %v", resp, err)
			}
			if d := cmp.Diff(before, treeOf(t, root)); d != "" {
				t.Errorf("after the second life:\n%s", d)
			}
		})
	}
}

// crashJob is what a child does: Ops random changes, or undo if there are none.
type crashJob struct {
	Root string
	Seed uint64
	Ops  int
	Die  int // at which step
}

const crashEnv = "KEG_CRASH_JOB"

// child runs a job in a process of its own and says whether it was killed.
func child(t *testing.T, job crashJob) (killed bool) {
	t.Helper()
	data, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashEnv+"="+string(data))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	t.Fatalf("child: %v\n%s", err, out)
	return false
}

func TestCrashChild(t *testing.T) {
	text := os.Getenv(crashEnv)
	if text == "" {
		t.Skip("it is a part of TestUndoAfterCrash")
	}
	var job crashJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		t.Fatal(err)
	}
	steps := 0
	h := &Host{Root: job.Root, at: func(string) {
		if steps++; steps == job.Die {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}}
	if job.Ops == 0 {
		if _, err := h.Undo(t.Context()); err != nil {
			t.Fatal(err)
		}
		return
	}
	r := rand.New(rand.NewPCG(job.Seed, 1))
	for range job.Ops {
		if err := randomChange(t.Context(), h, r); err != nil {
			t.Fatal(err)
		}
	}
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// claimable are places that a runtime fills by itself; some exist before, see makeHost.
var claimable = []string{"/var/lib/kubelet", "/var/lib/containerd", "/etc/cni/net.d", "/opt/cni/bin", "/run/containerd", "/etc/kubernetes", "/var/lib/linked"}

func randomChange(ctx context.Context, h *Host, r *rand.Rand) error {
	text := strings.Repeat(fmt.Sprintln(r.IntN(4)), r.IntN(3))
	var err error
	switch r.IntN(7) {
	case 0, 1:
		var stream bytes.Buffer
		w := tar.NewWriter(&stream)
		for range 1 + r.IntN(3) {
			to := pick(r, "/etc/hosts", "/etc/containerd/config.toml", "/etc/containerd/certs.d/_default/hosts.toml", "/usr/local/bin/kubelet",
				"/etc/resolv.conf", "/var/lib/kubelet/config.yaml", "/opt/cni/bin/bridge", "/etc/kubernetes/x/y/z", "/etc/cni/net.d/10-x.conf", "/etc/dangling")
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: to, Size: int64(len(text)), Mode: pick[int64](r, 0o644, 0o600, 0o4755)})
			_, _ = w.Write([]byte(text))
		}
		_ = w.Close()
		_, err = h.Put(ctx, &stream)
	case 2:
		_, err = h.Install(ctx, node.InstallRequest{Items: []node.InstallItem{
			{From: "bin", To: pick(r, "/usr/local/bin", "/opt/cni/bin", "/opt/new/place"), Mode: 0o755},
			{From: "etc", To: "/etc"}, {From: "absent", To: "/etc/absent", Optional: true},
		}})
	case 3:
		_, err = h.Block(ctx, node.BlockRequest{
			Path: pick(r, "/etc/hosts", "/etc/resolv.conf", "/etc/new/hosts", "/etc/noend"), Marker: pick(r, "keg", "other"), Text: text,
		})
	case 4, 5:
		if err = h.Claim(ctx, node.ClaimRequest{Paths: []string{pick(r, claimable...), pick(r, claimable...)}}); err == nil {
			err = runtimeWrites(h, r)
		}
	case 6:
		_, err = h.Sysctl(ctx, node.SysctlRequest{Settings: map[string]string{"net.ipv4.ip_forward": pick(r, "0", "1"), "kernel.panic": pick(r, "10", "20")}})
	}
	return err
}

// runtimeWrites does what a runtime does in the places that were claimed.
func runtimeWrites(h *Host, r *rand.Rand) error {
	rec, err := h.openRecorder()
	if err != nil {
		return err
	}
	for _, c := range claimable {
		if !rec.has(entry{Kind: kindClaim, Name: c}) {
			continue
		}
		dir := filepath.Join(h.path(h.real(c)), pick(r, "a", "b/c", "old/new", "."))
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
		name := filepath.Join(dir, fmt.Sprint("made-", r.IntN(5)))
		if err := os.WriteFile(name, []byte("x"), 0o400); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		_ = os.Symlink("/etc", name+".link")
	}
	return nil
}

// makeHost makes a host as it may be before keg comes.
func makeHost(t *testing.T, root string) {
	t.Helper()
	old := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	for name, text := range map[string]string{
		"/etc/hosts": "127.0.0.1 localhost\n", "/etc/noend": "no newline at the end", "/etc/containerd/config.toml": "old = true\n",
		"/usr/local/bin/kubelet": "ELF old", "/run/resolv.conf": "nameserver 1.1.1.1\n", "/etc/cni/net.d/10-x.conf": "{}", "/etc/cni/net.d/old/x": "x",
		"/var/lib/kubelet/old/file": "precious", "/srv/linked/old/file": "precious",
		"/proc/sys/net/ipv4/ip_forward": "0\n", "/proc/sys/kernel/panic": "0\n",
		node.Rootfs + "/bin/kubelet": "ELF new", node.Rootfs + "/bin/bridge": "ELF bridge", node.Rootfs + "/etc/containerd/conf.d/x.toml": "x",
		node.Rootfs + "/etc/hosts": "from the rootfs\n", node.Rootfs + "/etc/hosts.tmpl": "{{ .X }}",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(root, "/etc/containerd/config.toml"), 12, 34); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Setxattr(filepath.Join(root, "/usr/local/bin/kubelet"), "user.note", []byte("old"), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		"/etc/resolv.conf": "/run/resolv.conf", "/etc/dangling": "nowhere", "/var/lib/linked": "/srv/linked", node.Rootfs + "/etc/link": "containerd/conf.d",
	} {
		if err := os.Symlink(to, filepath.Join(root, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, node.Rootfs, "etc/empty"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// treeOf is everything below root but what is keg-node's own, and not the times of directories.
func treeOf(t *testing.T, root string) map[string]snapshot {
	t.Helper()
	tree := map[string]snapshot{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, root)
		if below(rel, node.Dir) {
			return nil
		}
		s, err := take(p, nil)
		if s.Type != regular || below(rel, "/proc") {
			s.MTime = 0
		}
		tree[rel] = s
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func put(t *testing.T, h *Host, to, text string) {
	t.Helper()
	var stream bytes.Buffer
	w := tar.NewWriter(&stream)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: to, Size: int64(len(text)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	if _, err := h.Put(t.Context(), &stream); err != nil {
		t.Fatal(err)
	}
}
