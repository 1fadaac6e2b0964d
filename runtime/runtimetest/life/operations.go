package life

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/labtest"
)

// The parts of hosts in a life: first, second and third are control planes, the others workers.
func (l *life) first() labtest.Host { return l.h[0] }

func (l *life) workers() []labtest.Host {
	if l.small {
		return l.h[1:2]
	}
	return l.h[3:5]
}

// masters are those after grow.
func (l *life) masters() []labtest.Host {
	if l.small {
		return l.h[:1]
	}
	return l.h[:3]
}

func (l *life) all() []labtest.Host {
	return append(append([]labtest.Host{}, l.masters()...), l.workers()...)
}

func (l *life) refuse() {
	worker := l.workers()[0]
	l.lab.Exec(l.T, worker.Name, "sh", "-c", `mkdir -p "${1%/*}" && echo somebody >"$1"`, "sh", l.Foreign)
	args := l.run(l.Old, l.h[:1], l.workers()[:1])
	l.refused(args, worker.Addr, filepath.Dir(l.Foreign))
	l.lab.Exec(l.T, worker.Name, "rm", "-rf", filepath.Dir(l.Foreign))
	bad := filepath.Join(l.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte(l.BadConfig), 0o600); err != nil {
		l.Fatal(err)
	}
	l.refused(append(args, "--config", bad), l.BadKey, bad+":")
	l.untouched(l.first(), worker)
}

func (l *life) make() {
	l.keg(l.run(l.Old, l.h[:1], l.workers()[:1])...)
	l.ready(l.OldVersion, l.first(), l.workers()[0])
	l.shop()
	l.mustKubectl("create", "namespace", "before-backup")
}

func (l *life) grow() {
	// Hosts that the cluster has need not be named.
	args := l.run(l.Old, l.h[1:3], l.workers()[1:])
	l.killed("join control planes", 4*time.Second, args...)
	l.killed("join workers", time.Second, args...)
	l.keg(args...)
	l.ready(l.OldVersion, l.all()...)
}

func (l *life) pods() {
	l.mustKubectl("rollout", "restart", "deployment", "shop")
	l.mustKubectl("rollout", "status", "deployment", "shop", "--timeout=180s")
	l.shop()
	var out string
	l.eventually("the old pods to go", 3*time.Minute, func() error { // those that end are "Running" too
		out = l.mustKubectl("get", "pods", "-l", "app=shop", "--field-selector=status.phase=Running", "-o", `jsonpath={range .items[*]}{.status.podIP} {end}`)
		if len(strings.Fields(out)) != 2 {
			return fmt.Errorf("pods %s", out)
		}
		return nil
	})
	for _, ip := range strings.Fields(out) {
		for _, h := range l.all() {
			l.eventually("the answer of pod "+ip+" on "+h.Name, time.Minute, func() error {
				out, err := l.lab.TryExec(l.Context(), h.Name, "curl", "-sS", "--max-time", "3", "http://"+net.JoinHostPort(ip, "8080")+"/")
				if err != nil || !strings.HasPrefix(out, "hello from") {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			})
		}
	}
	var s struct {
		Nodes []struct{ Ready bool }
		API   string
	}
	l.decode(l.keg(l.on("status", "-o", "json")...), &s)
	if len(s.Nodes) != len(l.all()) || s.API != "" {
		l.Errorf("keg status: %+v", s)
	}
}

func (l *life) decode(text string, v any) {
	l.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		l.Fatalf("%v\n%s", err, text)
	}
}

func (l *life) app() {
	l.refused([]string{"run", l.TooNew, "--cluster", cluster}, "it wants Kubernetes")
	args := []string{"run", l.App, "--cluster", cluster}
	l.killed("apps", 100*time.Millisecond, args...)
	l.keg(args...)
	l.more()
}

// more runs the pod of the app image once more, so that its image is pulled again.
func (l *life) more() {
	l.Helper()
	l.mustKubectl("delete", "pod", "more", "--ignore-not-found", "--wait")
	l.mustKubectl("run", "more", "--image="+strings.TrimSpace(l.AppImage), "--image-pull-policy=Always", "--restart=Never", "--overrides", `{"spec":{"terminationGracePeriodSeconds":1,"automountServiceAccountToken":false}}`)
	l.mustKubectl("wait", "--for=condition=Ready", "--timeout=180s", "pod/more")
}

func (l *life) kubeconfig() {
	text := l.keg(l.on("kubeconfig")...)
	file := filepath.Join(l.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		l.Fatal(err)
	}
	cmd := exec.CommandContext(l.Context(), l.Kubectl, "--kubeconfig", file, "get", "nodes") // its certificate may be another than that of keg run
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Errorf("what keg kubeconfig prints does not work: %v\n%s", err, out)
	}
	if fi, err := os.Stat(l.kubeconfigFile()); err != nil || fi.Mode().Perm() != 0o600 {
		l.Errorf("the kubeconfig is not its owner's alone: %v, %v", fi, err)
	}
}

type certificate struct {
	Host, File, Subject string
	CA                  bool
	Expires             time.Time
	SANs                []string
}

func (l *life) listCertificates() []certificate {
	l.Helper()
	var list []certificate
	l.decode(l.keg(l.on("certs", "show", "-o", "json")...), &list)
	return list
}

func (l *life) certificates() {
	list := l.listCertificates()
	seen := map[string]bool{}
	for _, c := range list {
		seen[c.Host] = true
		days := int(time.Until(c.Expires).Hours() / 24)
		limit := 370 // of what the runtime issues
		if c.CA || strings.HasPrefix(c.File, "/var/lib/keg-node/") {
			limit = 11 * 366
		}
		if days < 1 || days > limit {
			l.Errorf("%s %s (%s) is valid for %d days", c.Host, c.File, c.Subject, days)
		}
	}
	for _, h := range l.masters() {
		if !seen[h.Addr] {
			l.Errorf("no certificate of %s is listed", h.Addr)
		}
	}
}

// soonest is when the first certificate of the runtime itself expires on a host.
func soonest(list []certificate, host string) time.Time {
	var first time.Time
	for _, c := range list {
		if c.Host == host && !c.CA && !strings.HasPrefix(c.File, "/var/lib/keg-node/") && (first.IsZero() || c.Expires.Before(first)) {
			first = c.Expires
		}
	}
	return first
}

func (l *life) renew() {
	before := l.listCertificates()
	time.Sleep(time.Second) // times in certificates are in seconds
	l.keg(l.on("certs", "renew")...)
	after := l.listCertificates()
	for _, h := range l.masters() {
		if was, is := soonest(before, h.Addr), soonest(after, h.Addr); !is.After(was) {
			l.Errorf("%s: certificates expire at %s as before (%s)", h.Addr, is, was)
		}
	}
	l.ready(l.OldVersion, l.all()...)
	l.shop()
}

func (l *life) addSAN() {
	const name = "api.life.example"
	l.keg(l.on("certs", "add-san", name)...)
	for _, h := range l.masters() {
		l.eventually("the new certificate on "+h.Name, time.Minute, func() error { return l.verify(h, name) })
	}
}

// verify connects to the API on a host by a name, as the kubeconfig's CA has it.
func (l *life) verify(h labtest.Host, name string) error {
	ca := l.mustKubectl("config", "view", "--raw", "-o", `jsonpath={.clusters[0].cluster.certificate-authority-data}`)
	pem, err := decodeBase64(ca)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return errors.New("the kubeconfig has no CA")
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: name}}
	conn, err := d.DialContext(l.Context(), "tcp", net.JoinHostPort(h.Addr, "6443"))
	if err != nil {
		return err
	}
	return conn.Close()
}

func (l *life) rotate() {
	l.keg(l.on("certs", "rotate-tokens")...)
	l.ready(l.OldVersion, l.all()...)
}

func (l *life) passphrase() string {
	l.Helper()
	file := filepath.Join(l.Home, "passphrase")
	if err := os.WriteFile(file, []byte("correct horse\n"), 0o600); err != nil {
		l.Fatal(err)
	}
	return file
}

func (l *life) backUp() {
	l.backup = filepath.Join(l.Home, "life.age")
	l.keg(l.on("backup", "-f", l.backup, "--passphrase-file", l.passphrase())...)
	fi, err := os.Stat(l.backup)
	if err != nil || fi.Mode().Perm() != 0o600 {
		l.Fatalf("the backup is not its owner's alone: %v, %v", fi, err)
	}
	f, err := os.Open(l.backup)
	if err != nil {
		l.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 21)
	if _, err := io.ReadFull(f, head); err != nil || string(head) != "age-encryption.org/v1" {
		l.Errorf("the backup is not encrypted by age: %q, %v", head, err)
	}
	own := filepath.Join(l.Home, "own.age") // with the operator's own key
	l.keg(l.on("backup", "-f", own)...)
	l.mustKubectl("create", "namespace", "after-backup")
}

func (l *life) refuseUpgrade() {
	l.refused(l.on("upgrade", l.Far), "leaves out a minor version")
	l.ready(l.OldVersion, l.all()...)
}

func (l *life) upgrade() {
	args := l.on("upgrade", l.New, "--batch", "2")
	l.killed("upgrade control planes", 8*time.Second, args...)
	l.keg(args...)
	l.ready(l.NewVersion, l.all()...)
	l.shop()
	l.more()       // its image is served still
	l.keg(args...) // once more changes nothing
	l.refused(l.on("upgrade", l.Old), "is older than")
}

func (l *life) removeWorker() {
	gone := l.h[4]
	l.keg(l.on("delete", "--nodes", gone.Addr, "--yes")...)
	l.ready(l.NewVersion, l.h[0], l.h[1], l.h[2], l.h[3])
	l.shop()
	l.untouched(gone)
}

func (l *life) loseFirst() {
	l.lab.Verb(l.T, "kill", l.first().Name)
	_, errs, code := l.try(l.on("delete", "--masters", l.first().Addr, "--yes")...)
	if code == 0 || !strings.Contains(errs, l.first().Addr) {
		l.Errorf("a host that does not answer was removed without --force (code %d): %s", code, errs)
	}
	l.keg(l.on("delete", "--masters", l.first().Addr, "--yes", "--force")...)
	l.ready(l.NewVersion, l.h[1], l.h[2], l.h[3])
	l.shop()
}

func (l *life) replaceFirst() {
	l.lab.Verb(l.T, "wipe", l.first().Name)
	l.clean[l.first().Name] = l.lab.Snapshot(l.T, l.first().Name)
	l.forgetHostKey(l.first())
	l.keg(l.run(l.New, l.h[:1], nil)...)
	l.ready(l.NewVersion, l.h[0], l.h[1], l.h[2], l.h[3])
	if err := l.verify(l.first(), "api.life.example"); err != nil { // what was added once stays
		l.Errorf("the certificate of the new control plane: %v", err)
	}
}

// forgetHostKey lets a host that was made anew be trusted at first sight again.
func (l *life) forgetHostKey(h labtest.Host) {
	l.Helper()
	file := filepath.Join(l.Home, ".ssh", "known_hosts")
	data, err := os.ReadFile(file)
	if err != nil {
		l.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, h.Addr+" ") {
			kept = append(kept, line)
		}
	}
	if err := os.WriteFile(file, []byte(strings.Join(kept, "")), 0o600); err != nil {
		l.Fatal(err)
	}
}

func (l *life) refuseQuorum() {
	l.lab.Verb(l.T, "kill", l.h[2].Name)
	_, errs, code := l.try(l.on("delete", "--masters", l.h[1].Addr, "--yes", "--force")...)
	if code == 0 {
		l.Errorf("a healthy control plane was removed beside a dead one: %s", errs)
	}
	l.lab.Verb(l.T, "start", l.h[2].Name)
	l.ready(l.NewVersion, l.h[0], l.h[1], l.h[2], l.h[3])
	l.well(l.h[:3])
}

// well waits until every control plane answers by itself. A node that was off for a moment is taken for ready
// before that.
func (l *life) well(masters []labtest.Host) {
	l.Helper()
	for _, h := range masters {
		l.eventually("the control plane on "+h.Name, 3*time.Minute, func() error {
			out, err := l.kubectl("--server", "https://"+net.JoinHostPort(h.Addr, "6443"), "get", "--raw", "/readyz")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	time.Sleep(10 * time.Second) // members of etcd that were gone are judged anew
}

func (l *life) removeMaster() {
	l.keg(l.on("delete", "--masters", l.h[0].Addr, "--yes")...)
	l.ready(l.NewVersion, l.h[1], l.h[2], l.h[3])
	l.shop()
	l.untouched(l.h[0])
}

// rest are who is left in the cluster before the restore.
func (l *life) rest() (masters, workers []labtest.Host) {
	if l.small {
		return l.h[:1], l.h[1:2]
	}
	return l.h[1:3], l.h[3:4]
}

func (l *life) refuseLast() {
	masters, _ := l.rest()
	l.refused(l.on("delete", "--masters", addresses(masters), "--yes"), "no control plane would be left")
}

func (l *life) restore() {
	masters, workers := l.rest()
	hosts := append(append([]labtest.Host{}, masters...), workers...)
	args := []string{"restore", l.backup, "--image", l.Old, "--passphrase-file", l.passphrase(), "--masters", addresses(masters), "--nodes", addresses(workers), "--yes"}
	l.refusedBackup(args)
	l.killed("make the control plane", 3*time.Second, args...)
	l.keg(args...)
	l.ready(l.OldVersion, hosts...)
	l.shop()
	l.mustKubectl("get", "namespace", "before-backup")
	if out, err := l.kubectl("get", "namespace", "after-backup"); err == nil {
		l.Errorf("what came after the backup is there: %s", out)
	}
}

// refusedBackup tries one that was cut off, one with the wrong passphrase, and the wrong image.
func (l *life) refusedBackup(args []string) {
	l.Helper()
	data, err := os.ReadFile(l.backup)
	if err != nil {
		l.Fatal(err)
	}
	cut := filepath.Join(l.TempDir(), "cut.age")
	if err := os.WriteFile(cut, data[:len(data)-1000], 0o600); err != nil {
		l.Fatal(err)
	}
	with := func(i int, value string) []string {
		changed := append([]string{}, args...)
		changed[i] = value
		return changed
	}
	if _, errs, code := l.try(with(1, cut)...); code == 0 {
		l.Errorf("half a backup was taken: %s", errs)
	}
	if _, errs, code := l.try(with(5, cut)...); code == 0 {
		l.Errorf("a wrong passphrase was taken: %s", errs)
	}
	l.refused(with(3, l.New), "backup-version")
	masters, workers := l.rest()
	l.ready(l.NewVersion, append(append([]labtest.Host{}, masters...), workers...)...)
}

func (l *life) reset() {
	args := l.on("reset", "--yes")
	l.killed("take the runtime off", 0, args...)
	l.keg(args...)
	l.untouched(l.all()...)
}

func (l *life) again() {
	l.keg(l.run(l.New, l.h[:1], l.workers()[:1])...)
	l.ready(l.NewVersion, l.first(), l.workers()[0])
	l.shop()
}

func (l *life) refuseBackup() {
	l.refused([]string{"restore", l.backup, "--image", l.Old, "--passphrase-file", l.passphrase(), "--masters", l.first().Addr, "--yes"}, "other-cluster")
	l.ready(l.NewVersion, l.first(), l.workers()[0])
	l.keg(l.on("reset", "--yes")...)
	l.untouched(l.first(), l.workers()[0])
}

func (l *life) leaks() {
	if leaks := l.lab.Leaks(l.T); len(leaks) > 0 {
		l.Errorf("packets left for %v", leaks)
	}
}
