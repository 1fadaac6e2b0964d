package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/labtest"
)

const (
	baseName = "registry.keg.test/kubernetes:v1.37.2"
	appName  = "registry.keg.test/shop:v1"
)

func TestMain(m *testing.M) {
	labtest.Main(m, 2)
}

// bench is one operator's machine: a keg, a store, a home directory and the hosts of the lab.
type bench struct {
	*testing.T
	lab   *labtest.Lab
	home  string
	store string
	bin   string
	keg   string
}

func open(t *testing.T) *bench {
	t.Helper()
	if os.Getenv("KEG_E2E_BIN") == "" {
		t.Skip("SKIP e2e: make e2e runs this with real Kubernetes binaries")
	}
	b := newBench(t, os.Getenv("KEG_E2E_KEG"))
	b.bin = os.Getenv("KEG_E2E_BIN")
	return b
}

func newBench(t *testing.T, keg string) *bench {
	t.Helper()
	lab := labtest.Open(t)
	if len(lab.Hosts) < 2 {
		t.Fatalf("the lab has %d hosts, want 2", len(lab.Hosts))
	}
	home := t.TempDir()
	return &bench{T: t, lab: lab, home: home, store: filepath.Join(home, "store"), keg: keg}
}

func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.keg, args...)
	cmd.Env = []string{"HOME=" + b.home, "KEG_ROOT=" + b.store, "PATH=" + os.Getenv("PATH")}
	return cmd
}

// run runs keg and returns its standard output; what it says on standard error goes into the log.
func (b *bench) run(args ...string) string {
	b.Helper()
	began := time.Now()
	cmd := b.command(b.Context(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	b.Logf("keg %s (%.1fs)\n%s", strings.Join(args, " "), time.Since(began).Seconds(), stderr.String())
	if err != nil {
		b.Fatalf("keg %s: %v\n%s", args[0], err, stdout.String())
	}
	return stdout.String()
}

// clusterFlags are those of keg run for a control plane on h1 and a worker on h2.
func (b *bench) clusterFlags() []string {
	return []string{
		"--name", "e2e", "--masters", b.lab.Hosts[0].Addr, "--nodes", b.lab.Hosts[1].Addr,
		"--pk", b.lab.Key, "--host-key-policy", "accept-new",
		"--env", "KUBE_DNS=disabled", "--env", "KUBE_PROXY=disabled",
	}
}

// built is the one cluster image of all tests.
var built struct {
	once sync.Once
	file string
}

// file builds the base image, the app image on top of it and saves that as one file.
func (b *bench) file() string {
	b.Helper()
	built.once.Do(func() {
		dir := b.lab.Scratch()
		builder := *b
		builder.store = filepath.Join(dir, "builder")
		base := filepath.Join(dir, "base")
		if err := KubernetesContext(b.Context(), base, NewPrograms(b.bin, KubeVersion)); err != nil {
			b.Fatal(err)
		}
		builder.run("build", "-t", baseName, "--build-arg", "SOURCE=local", base)
		shop := filepath.Join(dir, "shop")
		if err := shopContext(b.Context(), shop, b.bin, baseName); err != nil {
			b.Fatal(err)
		}
		builder.run("build", "-t", appName, shop)
		file := filepath.Join(dir, "shop.tar")
		builder.run("save", "-o", file, appName)
		if err := errors.Join(os.RemoveAll(builder.store), os.RemoveAll(base)); err != nil {
			b.Fatal(err)
		}
		built.file = file
	})
	if built.file == "" {
		b.Fatal("building the image has failed before")
	}
	return built.file
}

func (b *bench) kubectl(args ...string) string {
	b.Helper()
	out, err := b.tryKubectl(b.Context(), args...)
	if err != nil {
		b.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (b *bench) tryKubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "kubectl"), append([]string{"--kubeconfig", filepath.Join(b.home, ".kube", "keg-e2e.config")}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// eventually polls until f gives nil.
func (b *bench) eventually(what string, limit time.Duration, f func(context.Context) error) {
	b.Helper()
	ctx, cancel := context.WithTimeoutCause(b.Context(), limit, errors.New("time is up"))
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			b.Fatalf("waiting for %s: %v", what, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// checkCluster asserts what a user wants: two nodes Ready, and the pod whose image is nowhere else
// Running on the worker and answering.
func (b *bench) checkCluster() {
	b.Helper()
	var nodes struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal([]byte(b.kubectl("get", "nodes", "-o", "json")), &nodes); err != nil {
		b.Fatal(err)
	}
	if len(nodes.Items) != 2 {
		b.Fatalf("%d nodes, want 2: %s", len(nodes.Items), b.kubectl("get", "nodes"))
	}
	for _, n := range nodes.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == "Ready" && c.Status != "True" {
				b.Errorf("node %s is not Ready", n.Metadata.Name)
			}
		}
	}
	var ip string
	b.eventually("the pod to run on the worker", 2*time.Minute, func(ctx context.Context) error {
		out, err := b.tryKubectl(ctx, "get", "pod", "web", "-o", "jsonpath={.status.phase} {.spec.nodeName} {.status.podIP}")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		f := strings.Fields(out)
		if len(f) != 3 || f[0] != "Running" || f[1] != b.lab.Hosts[1].Name {
			events, _ := b.tryKubectl(ctx, "get", "events", "--sort-by=.lastTimestamp")
			return fmt.Errorf("pod is %q\n%s", out, events)
		}
		ip = f[2]
		return nil
	})
	for _, h := range b.lab.Hosts { // also from the other host: pods are reachable over the cluster's network
		b.eventually("the pod's answer on "+h.Name, time.Minute, func(ctx context.Context) error {
			out, err := b.lab.TryExec(ctx, h.Name, "curl", "-sS", "--max-time", "3", "http://"+ip+":8080/")
			if err != nil || strings.TrimSpace(out) != "hello from web" {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
}

// status is what keg status -o json says, as far as tests look at it.
type status struct {
	Hosts []struct{ Host, Error string }
	Nodes []struct {
		Name  string
		Ready bool
	}
	API, Registry string
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

// TestCluster is the main job: a file that was carried across an air gap becomes a cluster, and the
// hosts are afterwards as they were before.
func TestCluster(t *testing.T) {
	b := open(t)
	file := b.file()
	before := b.snapshots()

	b.run(append([]string{"run", file}, b.clusterFlags()...)...)
	b.checkCluster()
	if leaks := b.lab.Leaks(t); len(leaks) > 0 {
		t.Errorf("packets left for %v", leaks)
	}

	var s status
	out := b.run("status", "--name", "e2e", "-o", "json")
	decode(t, out, &s)
	if len(s.Nodes) != 2 || !s.Nodes[0].Ready || !s.Nodes[1].Ready {
		t.Errorf("keg status: %s", out)
	}

	// The same command again changes nothing and succeeds.
	uid := b.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	b.run(append([]string{"run", file}, b.clusterFlags()...)...)
	if again := b.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"); again != uid {
		t.Error("a second run made another cluster")
	}

	b.run("reset", "--name", "e2e", "--yes")
	b.compare(before, b.snapshots())
}

// snapshots are what keg may not leave changed on each host.
func (b *bench) snapshots() []labtest.Snapshot {
	b.Helper()
	var all []labtest.Snapshot
	for _, h := range b.lab.Hosts {
		all = append(all, b.lab.Snapshot(b.T, h.Name))
	}
	return all
}

func (b *bench) compare(before, after []labtest.Snapshot) {
	b.Helper()
	for i, h := range b.lab.Hosts {
		if left := before[i].Diff(after[i]); len(left) > 0 {
			b.Errorf("%s is not as it was before:\n%s", h.Name, strings.Join(left, "\n"))
		}
	}
}
