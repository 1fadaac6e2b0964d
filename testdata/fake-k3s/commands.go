package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// arguments parses --name=value and --name value for the small commands. What is not in known is an error.
func arguments(args []string, known map[string]kind) (settings, []string, error) {
	flags := map[string]flag{"data-dir": {short: "d", env: "K3S_DATA_DIR"}, "debug": {kind: boolean}, "log": {short: "l"}, "alsologtostderr": {kind: boolean}}
	for name, k := range known {
		flags[name] = flag{kind: k}
	}
	if _, ok := known["output"]; ok {
		flags["output"] = flag{short: "o"}
	}
	s, rest, err := parseArgs(flags, args)
	if err != nil {
		return nil, nil, err
	}
	for name := range s {
		if err := check(name, flags[name], s[name]); err != nil {
			return nil, nil, err
		}
	}
	return s, rest, nil
}

func adminClient(s settings) (*standin.Client, error) {
	file := s.or("kubeconfig", hostFile("/etc/rancher/k3s/k3s.yaml"))
	if env := os.Getenv("KUBECONFIG"); env != "" && s.get("kubeconfig") == "" {
		file = env
	}
	return standin.KubeconfigClient(file, "")
}

// tokenCommand is k3s token: https://docs.k3s.io/cli/token
func tokenCommand(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return usageError("token: create, delete, generate, list or rotate")
	}
	s, rest, err := arguments(args[1:], map[string]kind{
		"kubeconfig": text, "ttl": text, "usages": list, "groups": list, "description": text, "output": text, "token": text, "new-token": text, "server": text,
	})
	if err != nil {
		return err
	}
	switch args[0] {
	case "generate":
		fmt.Println(randomBootstrapToken())
		return nil
	case "create":
		return tokenCreate(ctx, s, rest)
	case "list":
		return tokenList(ctx, s)
	case "delete":
		return tokenDelete(ctx, s, rest)
	case "rotate":
		return tokenRotate(ctx, s)
	}
	return usageError("No help topic for '" + args[0] + "'")
}

func tokenCreate(ctx context.Context, s settings, rest []string) error {
	text := randomBootstrapToken()
	if len(rest) > 0 {
		text = rest[0]
	}
	if !bootstrapToken.MatchString(text) {
		return fmt.Errorf("the bootstrap token %q was not of the form \"\\\\A([a-z0-9]{6})\\\\.([a-z0-9]{16})\\\\z\"", "<redacted>")
	}
	ttl, err := time.ParseDuration(s.or("ttl", "24h0m0s"))
	if err != nil {
		return err
	}
	client, err := adminClient(s)
	if err != nil {
		return err
	}
	id, secret, _ := strings.Cut(text, ".")
	groups := s.list("groups")
	if len(groups) == 0 {
		groups = []string{"system:bootstrappers:k3s:default-node-token"}
	}
	data := map[string]string{"token-id": id, "token-secret": secret, "auth-extra-groups": strings.Join(groups, ",")}
	usages := s.list("usages")
	if len(usages) == 0 {
		usages = []string{"signing", "authentication"}
	}
	for _, u := range usages {
		if u != "signing" && u != "authentication" {
			return fmt.Errorf("invalid bootstrap token usage %q", u)
		}
		data["usage-bootstrap-"+u] = "true"
	}
	if ttl > 0 {
		data["expiration"] = time.Now().UTC().Add(ttl).Format(time.RFC3339)
	}
	if d := s.get("description"); d != "" {
		data["description"] = d
	}
	encoded := map[string][]byte{}
	for k, v := range data {
		encoded[k] = []byte(v)
	}
	err = client.Create(ctx, secretPath(""), map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token", "metadata": map[string]string{"name": "bootstrap-token-" + id, "namespace": "kube-system"}, "data": encoded,
	})
	if err != nil {
		return err
	}
	hash, err := serverCAHash(s)
	if err != nil {
		return err
	}
	fmt.Println("K10" + hash + "::" + text)
	return nil
}

func serverCAHash(s settings) (string, error) {
	dir := filepath.Join(dataDirOf(s), "server", "tls")
	ca, err := standin.LoadCA(filepath.Join(dir, "server-ca.crt"), filepath.Join(dir, "server-ca.key"))
	if err != nil {
		return "", err
	}
	return ca.Hash(), nil
}

type tokenSecret struct {
	Metadata struct{ Name string }
	Type     string
	Data     map[string][]byte
}

func tokenList(ctx context.Context, s settings) error {
	client, err := adminClient(s)
	if err != nil {
		return err
	}
	var secrets struct{ Items []tokenSecret }
	if err := client.Get(ctx, secretPath(""), &secrets); err != nil {
		return err
	}
	type row struct {
		Token       string   `json:"token"`
		Description string   `json:"description,omitempty"`
		Expires     string   `json:"expires,omitempty"`
		Usages      []string `json:"usages"`
		Groups      []string `json:"groups"`
	}
	rows := []row{}
	for _, secret := range secrets.Items {
		if !strings.HasPrefix(secret.Metadata.Name, "bootstrap-token-") {
			continue
		}
		r := row{Token: string(secret.Data["token-id"]), Description: string(secret.Data["description"]), Expires: string(secret.Data["expiration"]), Groups: strings.Split(string(secret.Data["auth-extra-groups"]), ",")}
		for _, u := range []string{"signing", "authentication"} {
			if string(secret.Data["usage-bootstrap-"+u]) == "true" {
				r.Usages = append(r.Usages, u)
			}
		}
		rows = append(rows, r)
	}
	if s.get("output") == "json" {
		return json.NewEncoder(os.Stdout).Encode(rows)
	}
	w := tabwriter.NewWriter(os.Stdout, 10, 4, 3, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION")
	for _, r := range rows {
		ttl, expires := "<forever>", "<never>"
		if at, err := time.Parse(time.RFC3339, r.Expires); err == nil {
			ttl, expires = time.Until(at).Round(time.Minute).String(), r.Expires
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Token, ttl, expires, strings.Join(r.Usages, ","), r.Description)
	}
	return w.Flush()
}

func tokenDelete(ctx context.Context, s settings, ids []string) error {
	if len(ids) == 0 {
		return errors.New("missing argument; 'token delete' is missing token")
	}
	client, err := adminClient(s)
	if err != nil {
		return err
	}
	for _, id := range ids {
		id, _, _ = strings.Cut(id, ".")
		if err := client.Delete(ctx, secretPath("bootstrap-token-"+id)); err != nil {
			return err
		}
		fmt.Printf("bootstrap token %q deleted\n", id)
	}
	return nil
}

func tokenRotate(ctx context.Context, s settings) error {
	old := s.or("token", os.Getenv("K3S_TOKEN"))
	if old == "" {
		data, err := os.ReadFile(filepath.Join(dataDirOf(s), "server", "token"))
		if err != nil {
			return err
		}
		old = strings.TrimSpace(string(data))
	}
	t, err := parseToken(old)
	if err != nil {
		return err
	}
	next := s.get("new-token")
	if next == "" {
		next = randomHex(16)
	}
	a, err := newAccess(ctx, s.or("server", "https://127.0.0.1:6443"), t, "server")
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"newToken": next})
	if err != nil {
		return err
	}
	if _, err := a.do(ctx, http.MethodPut, "/v1-k3s/token", nil, body); err != nil {
		return err
	}
	fmt.Println("Token rotated, restart k3s nodes with new token")
	return nil
}

// snapshotCommand is k3s etcd-snapshot: https://docs.k3s.io/cli/etcd-snapshot
func snapshotCommand(ctx context.Context, args []string) error {
	sub := "save"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		sub, args = args[0], args[1:]
	}
	s, rest, err := parse("etcd-snapshot", args, os.Getenv)
	if err != nil {
		return err
	}
	c := &config{settings: s, dataDir: dataDirOf(s), nodeName: s.get("node-name")}
	if c.nodeName == "" {
		if c.nodeName, err = os.Hostname(); err != nil {
			return err
		}
	}
	if c.bin, err = unpack(ctx, c.dataDir); err != nil {
		return err
	}
	dir := s.or("dir", s.or("etcd-snapshot-dir", c.path("server", "db", "snapshots")))
	switch sub {
	case "save":
		return c.saveSnapshot(ctx, dir)
	case "ls", "list", "l":
		return listSnapshots(dir, s.get("output"))
	case "delete":
		if len(rest) == 0 {
			return errors.New("no snapshots given for removal")
		}
		for _, name := range rest {
			if err := os.Remove(filepath.Join(dir, filepath.Base(name))); err != nil {
				return fmt.Errorf("snapshot %s: %w", name, err)
			}
			logf("info", "Snapshot %s deleted.", name)
		}
		return nil
	case "prune":
		return pruneSnapshots(dir, s.or("name", s.or("etcd-snapshot-name", "etcd-snapshot"))+"-"+c.nodeName, s.or("snapshot-retention", s.or("etcd-snapshot-retention", "5")))
	}
	return usageError("No help topic for '" + sub + "'")
}

func (c *config) saveSnapshot(ctx context.Context, dir string) error {
	if c.bin == "" {
		return errors.New("stand-in: etcd-snapshot needs the payload")
	}
	if !exists(c.etcdDir() + "/member") {
		return errors.New("etcd datastore is not initialized on this node")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s := standin.NewSupervisor(c.bin, os.Stderr)
	name := fmt.Sprintf("%s-%s-%d", c.or("name", "on-demand"), c.nodeName, time.Now().Unix())
	if err := c.etcd("").EtcdClient(s).Save(ctx, filepath.Join(dir, name)); err != nil {
		return err
	}
	logf("info", "Snapshot %s saved.", name)
	return nil
}

type snapshotFile struct {
	Name, Location, Created string
	Size                    int64
}

func snapshots(dir string) ([]snapshotFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var all []snapshotFile
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() || strings.HasSuffix(e.Name(), ".part") {
			continue
		}
		all = append(all, snapshotFile{Name: e.Name(), Location: "file://" + filepath.Join(dir, e.Name()), Created: fi.ModTime().UTC().Format(time.RFC3339), Size: fi.Size()})
	}
	return all, nil
}

func listSnapshots(dir, output string) error {
	all, err := snapshots(dir)
	if err != nil {
		return err
	}
	if output == "json" {
		return json.NewEncoder(os.Stdout).Encode(all)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "Name\tLocation\tSize\tCreated")
	for _, f := range all {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", f.Name, f.Location, f.Size, f.Created)
	}
	return w.Flush()
}

func pruneSnapshots(dir, prefix, retention string) error {
	keep, err := strconv.Atoi(retention)
	if err != nil {
		return err
	}
	all, err := snapshots(dir)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(f snapshotFile) bool { return !strings.HasPrefix(f.Name, prefix) })
	sort.Slice(all, func(i, j int) bool { return all[i].Created > all[j].Created })
	for i := keep; i < len(all); i++ {
		if err := os.Remove(filepath.Join(dir, all[i].Name)); err != nil {
			return err
		}
		logf("info", "Snapshot %s deleted.", all[i].Name)
	}
	return nil
}

// certificateCommand is k3s certificate: https://docs.k3s.io/cli/certificate
func certificateCommand(args []string) error {
	if len(args) == 0 {
		return usageError("certificate: check or rotate")
	}
	s, _, err := arguments(args[1:], map[string]kind{"output": text, "service": list})
	if err != nil {
		return err
	}
	dir := dataDirOf(s)
	switch args[0] {
	case "check":
		return certificateCheck(dir, s.or("output", "text"))
	case "rotate":
		return certificateRotate(dir, s.list("service"))
	case "rotate-ca":
		return errors.New("stand-in: certificate rotate-ca is not supported")
	}
	return usageError("No help topic for '" + args[0] + "'")
}

type certificateRow struct {
	File, Subject, Issuer, Status string
	Expires                       time.Time
}

func certificates(dir string, authorities bool) ([]certificateRow, error) {
	var rows []certificateRow
	for _, pattern := range []string{"server/tls/*.crt", "server/tls/etcd/*.crt", "agent/*.crt"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			cert, _, err := standin.ReadCertificate(file)
			if err != nil {
				return nil, err
			}
			if cert.IsCA && !authorities {
				continue
			}
			status := "OK"
			switch left := time.Until(cert.NotAfter); {
			case left <= 0:
				status = "EXPIRED"
			case left <= renewBelow && !cert.IsCA:
				status = "WARNING"
			}
			rows = append(rows, certificateRow{File: file, Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Status: status, Expires: cert.NotAfter})
		}
	}
	return rows, nil
}

func certificateCheck(dir, output string) error {
	rows, err := certificates(dir, true)
	if err != nil {
		return err
	}
	switch output {
	case "json":
		return json.NewEncoder(os.Stdout).Encode(rows)
	case "table":
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "FILENAME\tSUBJECT\tEXPIRES\tRESIDUAL TIME\tSTATUS")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d days\t%s\n", filepath.Base(r.File), r.Subject, r.Expires.UTC().Format("Jan 02, 2006 15:04 MST"), int(time.Until(r.Expires).Hours()/24), r.Status)
		}
		return w.Flush()
	case "text":
		for _, r := range rows {
			logf("info", "%s: certificate %s is %s, expires at %s", r.File, r.Subject, strings.ToLower(r.Status), r.Expires.UTC().Format(time.RFC3339))
		}
		return nil
	}
	return fmt.Errorf("invalid output format %q", output)
}

// services whose certificates can be rotated on their own, and words in the names of the files.
var rotated = map[string][]string{
	"admin": {"client-admin"}, "api-server": {"kube-apiserver"}, "controller-manager": {"client-controller"}, "scheduler": {"client-scheduler"},
	"supervisor": {"client-supervisor"}, "auth-proxy": {"client-auth-proxy"}, "etcd": {"/etcd/"}, "kubelet": {"kubelet"}, "k3s-controller": {"client-k3s-controller"},
	"kube-proxy": {"client-kube-proxy"}, "k3s-server": {},
}

// certificateRotate deletes certificates: the next start makes new ones. k3s must be stopped.
func certificateRotate(dir string, services []string) error {
	rows, err := certificates(dir, false)
	if err != nil {
		return err
	}
	backup := filepath.Join(dir, "server", fmt.Sprintf("tls-%d", time.Now().Unix()))
	if exists(filepath.Join(dir, "server", "tls")) {
		if err := os.CopyFS(backup, os.DirFS(filepath.Join(dir, "server", "tls"))); err != nil {
			return err
		}
		if err := os.Chmod(backup, 0o700); err != nil { //nolint:gosec // a directory
			return err
		}
	}
	for _, s := range services {
		if _, ok := rotated[s]; !ok {
			return fmt.Errorf("%s is not a recognized service", s)
		}
	}
	for _, r := range rows {
		hit := len(services) == 0
		for _, s := range services {
			hit = hit || slices.ContainsFunc(rotated[s], func(word string) bool { return strings.Contains(r.File, word) })
		}
		if !hit {
			continue
		}
		if err := errors.Join(os.Remove(r.File), os.Remove(strings.TrimSuffix(r.File, ".crt")+".key")); err != nil {
			return err
		}
		logf("info", "Rotating certificate %s", r.File)
	}
	logf("info", "Successfully backed up certificates to %s, please restart k3s server or agent to rotate certificates", backup)
	return nil
}

// checkConfig is k3s check-config: it looks at the kernel. The exit code of the real one is the number of what is missing.
func checkConfig(ctx context.Context) error {
	missing := 0
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/sys/fs/cgroup", "/proc/sys/user/max_user_namespaces", "/proc/self/ns/net"} {
		state := "good"
		if !exists(path) {
			state = "missing"
			missing++
		}
		fmt.Printf("- %s: %s\n", path, state)
	}
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if !bytes.Contains(filesystems, []byte("overlay")) && exec.CommandContext(ctx, "modprobe", "-n", "overlay").Run() != nil {
		fmt.Println("- overlay: missing")
		missing++
	}
	if missing > 0 {
		return fmt.Errorf("STATUS: %d (fail)", missing)
	}
	fmt.Println("\nSTATUS: pass")
	return nil
}
