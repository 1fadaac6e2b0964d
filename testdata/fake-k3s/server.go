package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// srv is a running server.
type srv struct {
	c          *config
	s          *standin.Supervisor
	ca         authorities
	supervisor *supervisor
	etcd       standin.Etcd
	admin      *standin.Client
	light      *lightStore
}

func server(ctx context.Context, args []string) error {
	c, err := newConfig(ctx, "server", args)
	if err != nil {
		return err
	}
	if c.get("cluster-reset-restore-path") != "" && !c.bool("cluster-reset") {
		return errors.New("invalid flag use; --cluster-reset required with --cluster-reset-restore-path")
	}
	if c.agentToken.bootstrap != "" || c.token.bootstrap != "" {
		return errors.New("bootstrap tokens join agents only")
	}
	if c.bool("cluster-reset") {
		return c.reset(ctx)
	}
	return c.run(ctx)
}

func (c *config) etcdDir() string { return c.path("server", "db", "etcd") }

// initialized says whether this server has data of a cluster: then --server and --cluster-init are ignored.
func (c *config) initialized() bool {
	if c.bin == "" {
		return exists(c.path("server", "db", "light.json"))
	}
	return exists(c.etcdDir() + "/member")
}

func (c *config) run(asked context.Context) error {
	ctx, cancel := context.WithCancelCause(asked)
	defer cancel(nil)
	logf("info", "Starting k3s %s", version)
	if err := errors.Join(os.MkdirAll(c.path("server", "db"), 0o700), os.MkdirAll(c.path("server", "manifests"), 0o700)); err != nil {
		return err
	}
	if err := c.tombstone(); err != nil {
		return err
	}
	var joined *access
	if !c.initialized() {
		var err error
		if joined, err = c.joinOrCreate(ctx); err != nil {
			return fatalStart(err)
		}
	}
	v := &srv{c: c}
	if err := v.prepare(); err != nil {
		return fatalStart(err)
	}
	removed := func() { cancel(errRemoved) }
	v.s = standin.NewSupervisor(c.bin, removedWriter{removed: removed})
	defer v.s.Shutdown()
	v.supervisor = &supervisor{c: c, ca: v.ca, servers: v.servers, members: v.members, rotate: v.rotate}
	if v.supervisor.pass, _ = c.readPasswords(); v.supervisor.pass.server == "" {
		return errors.New("no server token")
	}
	if c.bin == "" {
		return v.runLight(ctx, joined)
	}
	if err := v.supervisor.listen(ctx); err != nil {
		return fatalStart(err)
	}
	err := v.start(ctx, joined)
	if errors.Is(err, standin.ErrRemoved) || context.Cause(ctx) == errRemoved { //nolint:errorlint // it is never wrapped
		return v.leave(asked)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fatalStart(err)
	}
	logf("info", "k3s is up and running")
	ready(ctx)
	v.control(ctx)
	if context.Cause(ctx) == errRemoved { //nolint:errorlint // it is never wrapped
		return v.leave(asked)
	}
	return nil
}

func fatalStart(err error) error {
	return fmt.Errorf("starting kubernetes: preparing server: %w", err)
}

var errRemoved = errors.New("removed")

// leave ends a server that is no longer a member of etcd. The real one closes etcd and goes on until its
// controllers lose their leases, some ten seconds; then systemd starts it again.
func (v *srv) leave(asked context.Context) error {
	if err := write(v.c.path("server", "db", "tombstone"), "", 0o600); err != nil {
		return err
	}
	logf("info", "This node has been removed from the cluster - please restart k3s to rejoin the cluster")
	v.s.Stop("etcd")
	select {
	case <-asked.Done():
		return nil
	case <-time.After(10 * time.Second):
		return errors.New("leaderelection lost")
	}
}

// tombstone: a server that was removed rejoins, as a new member, if --server says where. That is what the source of
// current versions does; a host that is to be gone must be stopped.
func (c *config) tombstone() error {
	if !exists(c.path("server", "db", "tombstone")) {
		return nil
	}
	if c.serverURL == "" {
		return errors.New("tombstone file has been detected but --server is empty: backup and delete ${datadir}/server/db to create a new cluster, or set --server to rejoin")
	}
	logf("info", "tombstone file has been detected, removing ${datadir}/server/db to rejoin the cluster")
	return os.Rename(c.path("server", "db"), c.path("server", fmt.Sprintf("db-old-%d", time.Now().Unix())))
}

// joinOrCreate gets the files of a cluster, or makes a new one's.
func (c *config) joinOrCreate(ctx context.Context) (*access, error) {
	if c.serverURL == "" {
		if !c.bool("cluster-init") && c.bin != "" {
			return nil, errors.New("stand-in: a server without cluster-init would use SQLite, which is not supported")
		}
		return nil, c.create()
	}
	if c.token.empty() {
		return nil, errors.New("--token is required")
	}
	a, err := newAccess(ctx, c.serverURL, c.token, "server")
	if err != nil {
		return nil, fmt.Errorf("failed to validate token: %w", err)
	}
	data, err := a.do(ctx, http.MethodGet, "/v1-k3s/server-bootstrap", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("failed to bootstrap cluster data: %w", err)
	}
	if err := c.checkCritical(ctx, a); err != nil {
		return nil, fmt.Errorf("failed to validate server configuration: %w", err)
	}
	var files bootstrapData
	if err := json.Unmarshal(data, &files); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.path("server", "db"), 0o700); err != nil {
		return nil, err
	}
	if err := c.writeBootstrap(files); err != nil {
		return nil, err
	}
	pass, err := c.readPasswords()
	if err != nil {
		return nil, err
	}
	if !c.agentToken.empty() && c.agentToken.password != pass.node {
		return nil, errors.New("failed to validate server configuration: critical configuration value mismatch: agent-token")
	}
	return a, nil
}

func (c *config) checkCritical(ctx context.Context, a *access) error {
	data, err := a.do(ctx, http.MethodGet, "/v1-k3s/config", nil, nil)
	if err != nil {
		return err
	}
	var remote clusterConfig
	if err := json.Unmarshal(data, &remote); err != nil {
		return err
	}
	own := c.critical()
	if reflect.DeepEqual(own, remote.CriticalControlArgs) {
		return nil
	}
	// The real one names the fields in its debug log only.
	x, y := reflect.ValueOf(own), reflect.ValueOf(remote.CriticalControlArgs)
	for i := range x.NumField() {
		if !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			logf("error", "critical configuration mismatched: %s: local %v, server %v", x.Type().Field(i).Name, x.Field(i), y.Field(i))
		}
	}
	return errors.New("critical configuration value mismatch")
}

func (c *config) create() error {
	pass := passwords{server: c.token.password, node: c.agentToken.password}
	if pass.server == "" {
		if data, err := os.ReadFile(c.path("server", "token")); err == nil {
			t, err := parseToken(strings.TrimSpace(string(data)))
			if err != nil {
				return err
			}
			pass.server = t.password
		}
	}
	if pass.server == "" {
		pass.server = randomHex(16)
	}
	if pass.node == "" {
		pass.node = pass.server
	}
	return errors.Join(c.writePasswords(pass), c.encryptionConfig())
}

// prepare makes all files that need no other program.
func (v *srv) prepare() error {
	c := v.c
	var err error
	if v.ca, err = c.openAuthorities(); err != nil {
		return err
	}
	if err := c.issue(v.ca); err != nil {
		return err
	}
	pass, err := c.readPasswords()
	if err != nil {
		return err
	}
	// The token of the configuration decides: after a rotation the data in etcd are encrypted with it, else etcd's say.
	if c.token.password != "" && c.token.password != pass.server {
		if pass.node == pass.server {
			pass.node = c.token.password
		}
		pass.server = c.token.password
	}
	if c.agentToken.password != "" {
		pass.node = c.agentToken.password
	}
	return errors.Join(c.writePasswords(pass), c.writeTokens(v.ca.server.Hash(), pass), c.kubeconfigs())
}

// memberName is this server's in etcd, kept in server/db/etcd/name.
func (c *config) memberName() (string, error) {
	file := c.etcdDir() + "/name"
	if data, err := os.ReadFile(file); err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if err := os.MkdirAll(c.etcdDir(), 0o700); err != nil {
		return "", err
	}
	name := c.nodeName + "-" + randomHex(4)
	return name, write(file, name, 0o600)
}

func (c *config) etcd(name string) standin.Etcd {
	server := c.tlsFiles("etcd/server-ca", "etcd/server-client")
	return standin.Etcd{
		Name: name, DataDir: c.etcdDir(), Address: c.address(), Server: server, Peer: c.tlsFiles("etcd/peer-ca", "etcd/peer-server-client"),
		Client: c.tlsFiles("etcd/server-ca", "etcd/client"), ExtraArgs: dashes(c.settings["etcd-arg"]),
	}
}

// start starts everything, and returns when this server's own node is registered.
func (v *srv) start(ctx context.Context, joined *access) error {
	c := v.c
	name, err := c.memberName()
	if err != nil {
		return err
	}
	v.etcd = c.etcd(name)
	if joined != nil {
		if err := v.joinEtcd(ctx, joined); err != nil {
			return err
		}
	}
	type result struct {
		d   standin.Containerd
		err error
	}
	containers := make(chan result, 1)
	go func() {
		d, err := c.startContainerd(ctx, v.s)
		containers <- result{d, err}
	}()
	if err := v.etcd.Start(ctx, v.s); err != nil {
		return err
	}
	if err := c.reconcile(ctx, v.etcd.EtcdClient(v.s), v.supervisor.passwords().server); err != nil {
		return err
	}
	if err := v.startControlPlane(ctx); err != nil {
		return err
	}
	own := &access{url: "https://127.0.0.1:" + c.or("https-listen-port", "6443"), ca: v.ca.server.CertPEM, user: "server", password: v.supervisor.passwords().server}
	if err := own.secure(nil); err != nil {
		return err
	}
	if exists(c.path("server", "db", "reset-flag")) {
		// The password in a snapshot may be another than the one on disk.
		if err := v.admin.Delete(ctx, secretPath(c.nodeName+".node-password.k3s")); err != nil {
			return err
		}
		_ = os.Remove(c.path("server", "db", "reset-flag"))
	}
	if err := c.credentials(ctx, own); err != nil {
		return err
	}
	r := <-containers
	if r.err != nil {
		return r.err
	}
	return c.startKubelet(ctx, v.s, r.d)
}

// joinEtcd adds this server as a learner, once nobody else is one.
func (v *srv) joinEtcd(ctx context.Context, a *access) error {
	return standin.Until(ctx, 2*time.Second, func(ctx context.Context) error {
		data, err := a.do(ctx, http.MethodGet, "/db/info", nil, nil)
		if err != nil {
			return err
		}
		var members []standin.Member
		if err := json.Unmarshal(data, &members); err != nil {
			return err
		}
		var endpoints []string
		for _, m := range members {
			if m.Name != "" && strings.HasPrefix(m.Name, v.c.nodeName+"-") && len(m.Name) == len(v.c.nodeName)+9 && m.Name != v.etcd.Name {
				logf("error", "etcd cluster join failed: duplicate node name found, please use a unique name for this node")
				return errors.New("duplicate node name found, please use a unique name for this node")
			}
			if !m.Learner {
				endpoints = append(endpoints, m.ClientURLs...)
			}
		}
		client := standin.NewEtcdClient(v.s, endpoints, v.etcd.Client)
		v.etcd.Cluster, err = client.AddLearner(ctx, v.c.address())
		if err != nil {
			logf("info", "Waiting for other members to finish joining etcd cluster: %v", err)
			return err
		}
		logf("info", "Adding member %s=%s to etcd cluster", v.etcd.Name, standin.PeerURL(v.c.address()))
		return nil
	})
}

func (v *srv) startControlPlane(ctx context.Context) error {
	c := v.c
	front := c.tlsFiles("request-header-ca", "client-auth-proxy")
	encryption := c.path("server", "cred", "encryption-config.json")
	if !exists(encryption) {
		encryption = ""
	}
	api := standin.APIServer{
		BindAddress: "127.0.0.1", Port: 6444, AdvertiseAddress: c.advertise(), NoEndpoints: true,
		Serving: c.tlsFiles("server-ca", "serving-kube-apiserver"), ClientCA: c.tls("client-ca.crt"), Kubelet: c.tlsFiles("server-ca", "client-kube-apiserver"),
		EtcdServers: []string{standin.ClientURL("127.0.0.1")}, Etcd: v.etcd.Client, FrontProxy: front, FrontProxyNames: []string{"system:auth-proxy"},
		ServiceAccountKey: c.tls("service.key"), Issuer: "https://kubernetes.default.svc." + c.clusterDomain, ServiceCIDR: c.serviceCIDR,
		EncryptionConfig: encryption, Kubeconfig: c.path("server", "cred", "admin.kubeconfig"),
	}
	api.ExtraArgs = dashes(c.settings["kube-apiserver-arg"])
	if ports := c.get("service-node-port-range"); ports != "" {
		api.ExtraArgs = append(api.ExtraArgs, "--service-node-port-range="+ports)
	}
	if err := api.Start(ctx, v.s); err != nil {
		return err
	}
	proxy, err := v.supervisor.apiProxy("https://127.0.0.1:6444")
	if err != nil {
		return err
	}
	if v.admin, err = standin.KubeconfigClient(c.path("server", "cred", "admin.kubeconfig"), ""); err != nil {
		return err
	}
	v.supervisor.admin.Store(v.admin)
	v.supervisor.api.Store(&proxy)
	if err := v.grant(ctx); err != nil {
		return err
	}
	manager := standin.ControllerManager{
		Kubeconfig: c.path("server", "cred", "controller.kubeconfig"), ServiceAccountKey: c.tls("service.key"), RootCA: c.tls("server-ca.crt"),
		SigningCert: c.tls("client-ca.crt"), SigningKey: c.tls("client-ca.key"), ClusterCIDR: c.clusterCIDR, ServiceCIDR: c.serviceCIDR,
		ExtraArgs: dashes(c.settings["kube-controller-manager-arg"]),
	}
	scheduler := standin.Scheduler{Kubeconfig: c.path("server", "cred", "scheduler.kubeconfig"), ExtraArgs: dashes(c.settings["kube-scheduler-arg"])}
	errs := make(chan error, 2)
	go func() { errs <- manager.Start(ctx, v.s) }()
	go func() {
		if c.bool("disable-scheduler") {
			errs <- nil
			return
		}
		errs <- scheduler.Start(ctx, v.s)
	}()
	return errors.Join(<-errs, <-errs)
}

// grant lets nodes' own client list Nodes, for the network.
func (v *srv) grant(ctx context.Context) error {
	name := map[string]any{"name": "system:k3s-controller"}
	err := v.admin.Create(ctx, "/apis/rbac.authorization.k8s.io/v1/clusterroles", map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": name,
		"rules": []any{map[string]any{"apiGroups": []string{""}, "resources": []string{"nodes"}, "verbs": []string{"get", "list", "watch"}}},
	})
	if err != nil && !standin.IsStatus(err, http.StatusConflict) {
		return err
	}
	err = v.admin.Create(ctx, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": name,
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:k3s-controller"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:k3s-controller"}},
	})
	if err != nil && !standin.IsStatus(err, http.StatusConflict) {
		return err
	}
	return nil
}

func (v *srv) members(ctx context.Context) ([]standin.Member, error) {
	if v.light != nil {
		return v.light.memberList(), nil
	}
	return v.etcd.EtcdClient(v.s).Members(ctx)
}

// servers are the addresses that agents may use: those of servers whose node is Ready, and this one.
func (v *srv) servers(ctx context.Context) ([]string, error) {
	if v.light != nil {
		var list []string
		for _, m := range v.light.memberList() {
			list = append(list, m.PeerURLs...)
		}
		return list, nil
	}
	port := v.c.or("https-listen-port", "6443")
	list := []string{net.JoinHostPort(v.c.advertise(), port)}
	client := v.supervisor.admin.Load()
	if client == nil {
		return nil, errors.New("runtime core not ready")
	}
	nodes, err := client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		address := net.JoinHostPort(n.Address(), port)
		if n.Metadata.Labels["node-role.kubernetes.io/control-plane"] == "true" && n.Metadata.Labels["node-role.kubernetes.io/etcd"] == "true" && n.Condition("Ready") == "True" && address != list[0] {
			list = append(list, address)
		}
	}
	return list, nil
}

// rotate stores the bootstrap data under the new token, and forgets them under the old one.
func (v *srv) rotate(ctx context.Context, old, next passwords) error {
	var store keyStore = v.light
	if v.light == nil {
		store = v.etcd.EtcdClient(v.s)
	}
	data, err := loadBootstrap(ctx, store, old.server)
	if err != nil {
		return err
	}
	if data == nil {
		return errors.New("no bootstrap data")
	}
	if err := v.c.writePasswords(next); err != nil {
		return err
	}
	if data["cred/passwd"], err = os.ReadFile(v.c.path("server", "cred", "passwd")); err != nil {
		return err
	}
	if err := saveBootstrap(ctx, store, next.server, data); err != nil {
		return err
	}
	if err := v.c.writeTokens(v.ca.server.Hash(), next); err != nil {
		return err
	}
	return store.Delete(ctx, bootstrapKey(old.server))
}
