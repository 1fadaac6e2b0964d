// Package life is the conformance suite of runtime drivers: one cluster's whole life on hosts of the lab,
// the same for every runtime, by the commands that a user types. What it finds becomes the table in
// docs/runtimes.md.
package life

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/labtest"
)

// Subject is a runtime to be tried.
type Subject struct {
	// Runtime is the name of its driver.
	Runtime string
	// Against says what was tried, such as "Kubernetes v1.36.3 to v1.37.2, real".
	Against string
	// Keg is the program, and Home the operator's home directory with a store that has the images.
	Keg, Home string
	// Kubectl is a program on this machine.
	Kubectl string
	// Old and New are cluster images with the app of AppFiles, of one minor version after the other, and
	// Far is one that leaves a minor version out after Old. It need not run.
	Old, New, Far string
	// App is an app image made of AppImageFiles, and TooNew one that wants a later version of Kubernetes.
	App, TooNew string
	// AppImage is the container image that App embeds.
	AppImage string
	// OldVersion and NewVersion are what kubelets say, such as "v1.36.3".
	OldVersion, NewVersion string
	// Env are values of --env that the runtime needs here.
	Env []string
	// BadConfig is a document of the runtime's own configuration with a key that there is not, and BadKey
	// that key.
	BadConfig, BadKey string
	// Foreign is a file that tells of another installation of the runtime.
	Foreign string
}

// AppFiles are the Kubefile of an app image on top of base, and what it needs: a Deployment of image,
// which serves HTTP on port 8080.
func AppFiles(base, image string) map[string]string {
	return map[string]string{
		"Kubefile": "FROM " + base + "\nCOPY images images\nAPP shop local://shop.yaml\nLAUNCH shop\n" +
			`CMDS ["kubectl rollout status deployment/shop --timeout=300s"]` + "\n",
		"shop.yaml": `apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels: {app: shop}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      containers:
      - name: shop
        image: ` + image + `
        ports: [{containerPort: 8080}]
`,
	}
}

// AppImageFiles are the Kubefile of an app image, which has no runtime, and what it needs: a pod of
// image. It wants Kubernetes of a range of versions.
func AppImageFiles(image, versions string) map[string]string {
	return map[string]string{
		"Kubefile": "FROM scratch\nKUBEVERSION " + versions + "\nCOPY images images\nAPP more local://more.yaml.tmpl\nAPPENV more NAME=more\nLAUNCH more\n" +
			`CMDS ["kubectl wait --for=condition=Ready --timeout=180s pod/more"]` + "\n",
		"more.yaml.tmpl": `apiVersion: v1
kind: Pod
metadata:
  name: {{ .NAME }}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
  - name: more
    image: ` + image + `
    imagePullPolicy: Always
`,
	}
}

// life is one under way.
type life struct {
	*testing.T
	Subject
	lab     *labtest.Lab
	h       []labtest.Host
	clean   map[string]labtest.Snapshot
	small   bool // one control plane and one worker
	backup  string
	results []Result
	broken  bool
}

// Result is how one operation went.
type Result struct {
	Operation string  `json:"operation"`
	Seconds   float64 `json:"seconds"`
	OK        bool    `json:"ok"`
}

// operation is one part of a life. Those that need several control planes are left out of a small one.
type operation struct {
	name string
	ha   bool
	do   func(l *life)
}

// operations are a life, in order: each begins where the one before ended.
var operations = []operation{
	{"refuse a foreign installation, an unknown configuration key", false, (*life).refuse},
	{"make a cluster of one control plane and one worker", false, (*life).make},
	{"add control planes and a worker, resumed after kill -9", true, (*life).grow},
	{"run pods on all workers", false, (*life).pods},
	{"run an app image, and refuse one for other versions", false, (*life).app},
	{"hand out a kubeconfig", false, (*life).kubeconfig},
	{"show certificates", false, (*life).certificates},
	{"renew certificates", false, (*life).renew},
	{"add a name to the API's certificate", false, (*life).addSAN},
	{"rotate join secrets", false, (*life).rotate},
	{"back up, encrypted", false, (*life).backUp},
	{"refuse to leave out a minor version, to go back, to change the runtime's data", false, (*life).refuseUpgrade},
	{"upgrade by one minor version, resumed after kill -9", false, (*life).upgrade},
	{"remove a worker", true, (*life).removeWorker},
	{"lose the first control plane, and remove it dead", true, (*life).loseFirst},
	{"replace the first control plane", true, (*life).replaceFirst},
	{"refuse to lose quorum", true, (*life).refuseQuorum},
	{"remove a control plane", true, (*life).removeMaster},
	{"refuse to remove the last control plane", false, (*life).refuseLast},
	{"restore the backup, which also goes back a version", false, (*life).restore},
	{"take the cluster off, resumed after kill -9", false, (*life).reset},
	{"make another on the same hosts", false, (*life).again},
	{"refuse the backup of another cluster", false, (*life).refuseBackup},
	{"send no packet out of the hosts' network", false, (*life).leaks},
}

// Live lives a whole life. With hosts for 3 control planes and 2 workers all operations are tried, else
// those that one of each can do.
func Live(t *testing.T, s Subject) []Result {
	l := &life{T: t, Subject: s, lab: labtest.Open(t), clean: map[string]labtest.Snapshot{}}
	l.h = l.lab.Hosts
	l.small = len(l.h) < 5
	if len(l.h) < 2 {
		t.Fatalf("the lab has %d hosts, a life needs 2", len(l.h))
	}
	for _, h := range l.h {
		l.clean[h.Name] = l.lab.Snapshot(t, h.Name)
	}
	for _, op := range operations {
		if op.ha && l.small {
			continue
		}
		began := time.Now()
		ok := t.Run(op.name, func(t *testing.T) {
			if l.broken {
				t.Skip("SKIP: the life ended before")
			}
			sub := *l
			sub.T = t
			op.do(&sub)
			l.backup, l.clean = sub.backup, sub.clean
		})
		l.results = append(l.results, Result{Operation: op.name, Seconds: time.Since(began).Seconds(), OK: ok && !l.broken})
		l.broken = l.broken || !ok
	}
	return l.results
}

const cluster = "life"

func (l *life) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(l.Context(), l.Keg, args...)
	cmd.Env = []string{"HOME=" + l.Home, "KEG_ROOT=" + filepath.Join(l.Home, "store"), "PATH=" + os.Getenv("PATH")}
	return cmd
}

// try runs keg and returns its exit code.
func (l *life) try(args ...string) (stdout, stderr string, code int) {
	l.Helper()
	began := time.Now()
	cmd := l.command(args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		l.Fatal(err)
	}
	code = cmd.ProcessState.ExitCode()
	l.Logf("keg %s (%.1fs, code %d)\n%s", strings.Join(args, " "), time.Since(began).Seconds(), code, errs.String())
	return out.String(), errs.String(), code
}

// keg must succeed.
func (l *life) keg(args ...string) string {
	l.Helper()
	out, errs, code := l.try(args...)
	if code != 0 {
		l.Fatalf("keg %s ended with code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// refused must end with the exit code of a check, say all of the texts, and name a cure.
func (l *life) refused(args []string, texts ...string) {
	l.Helper()
	_, errs, code := l.try(args...)
	if code != 3 {
		l.Errorf("keg %s ended with code %d, want 3\n%s", strings.Join(args, " "), code, errs)
	}
	for _, text := range texts {
		if !strings.Contains(errs, text) {
			l.Errorf("keg %s does not say %q:\n%s", strings.Join(args, " "), text, errs)
		}
	}
}

// killed starts keg and ends it by kill -9 some time after a phase began.
func (l *life) killed(phase string, after time.Duration, args ...string) {
	l.Helper()
	cmd := l.command(append([]string{"--progress", "json"}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		l.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.Fatal(err)
	}
	text, seen := watch(stderr, phase, func() { time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) })
	if err := cmd.Wait(); !seen || err == nil {
		l.Fatalf("keg %s ended before it could be killed in phase %q: %v %s", args[0], phase, err, text)
	}
	l.Logf("keg %s was killed in phase %q", args[0], phase)
}

// on are the flags by which keg finds the cluster.
func (l *life) on(args ...string) []string { return append(args, "--name", cluster) }

// run are the arguments of keg run.
func (l *life) run(image string, masters, workers []labtest.Host) []string {
	args := []string{"run", image, "--name", cluster, "--pk", l.lab.Key, "--host-key-policy", "accept-new", "--masters", addresses(masters)}
	if len(workers) > 0 {
		args = append(args, "--nodes", addresses(workers))
	}
	for _, e := range l.Env {
		args = append(args, "--env", e)
	}
	return args
}

func addresses(hosts []labtest.Host) string {
	var list []string
	for _, h := range hosts {
		list = append(list, h.Addr)
	}
	return strings.Join(list, ",")
}

func (l *life) kubectl(args ...string) (string, error) {
	cmd := exec.CommandContext(l.Context(), l.Kubectl, append([]string{"--kubeconfig", l.kubeconfigFile(), "--request-timeout=20s"}, args...)...)
	cmd.Env = []string{"HOME=" + l.Home, "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (l *life) mustKubectl(args ...string) string {
	l.Helper()
	out, err := l.kubectl(args...)
	if err != nil {
		l.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (l *life) kubeconfigFile() string {
	return filepath.Join(l.Home, ".kube", "keg-"+cluster+".config")
}

// eventually asks until f gives nil.
func (l *life) eventually(what string, limit time.Duration, f func() error) {
	l.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("waiting for %s: %v", what, err)
		}
		time.Sleep(time.Second)
	}
}

// untouched says that a host is as it was at the beginning.
func (l *life) untouched(hosts ...labtest.Host) {
	l.Helper()
	for _, h := range hosts {
		if left := l.clean[h.Name].Diff(l.lab.Snapshot(l.T, h.Name)); len(left) > 0 {
			l.Errorf("%s is not as it was before:\n%s", h.Name, strings.Join(left, "\n"))
		}
	}
}

// nodes are as the API knows them.
func (l *life) nodes() (map[string]apiNode, error) {
	out, err := l.kubectl("get", "nodes", "-o", "json")
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return parseNodes(out)
}

// ready waits until exactly these hosts are nodes, ready and of a version.
func (l *life) ready(version string, hosts ...labtest.Host) {
	l.Helper()
	l.eventually("nodes "+addresses(hosts), 3*time.Minute, func() error {
		nodes, err := l.nodes()
		if err != nil {
			return err
		}
		if len(nodes) != len(hosts) {
			return fmt.Errorf("%d nodes, want %d: %v", len(nodes), len(hosts), nodes)
		}
		for _, h := range hosts {
			n, ok := nodes[h.Name]
			switch {
			case !ok:
				return fmt.Errorf("there is no node %s: %v", h.Name, nodes)
			case !n.ready || n.cordoned:
				return fmt.Errorf("node %s is not ready, or takes no pods: %+v", h.Name, n)
			case !strings.HasPrefix(n.version, version):
				return fmt.Errorf("node %s has version %s, want %s", h.Name, n.version, version)
			}
		}
		return nil
	})
}

// shop waits until the app runs.
func (l *life) shop() {
	l.Helper()
	l.eventually("the app", 3*time.Minute, func() error {
		out, err := l.kubectl("get", "deployment", "shop", "-o", "jsonpath={.status.readyReplicas}")
		if err != nil || strings.TrimSpace(out) != "2" {
			pods, _ := l.kubectl("get", "pods", "-o", "wide")
			return fmt.Errorf("%w: %s\n%s", err, out, pods)
		}
		return nil
	})
}
