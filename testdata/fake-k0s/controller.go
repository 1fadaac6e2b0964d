package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/internal/standin"
)

// daemon is a running controller or worker.
type daemon struct {
	*vars
	options
	config     *ClusterConfig
	status     *Status
	s          *standin.Supervisor // nil in the light mode
	client     *standin.Client     // of this host's API, as an administrator
	members    memberStore
	invocation string
	node       string
	kubeletArg []string
	log        io.Writer
	held       *os.File // the lock: collected as garbage it would be free
}

func (d *daemon) say(format string, args ...any) {
	fmt.Fprintf(d.log, "time=%q level=info msg=%q\n", time.Now().Format(time.DateTime), fmt.Sprintf(format, args...))
}

func (d *daemon) complain(what string, err error) {
	fmt.Fprintf(d.log, "time=%q level=error msg=%q error=%q\n", time.Now().Format(time.DateTime), what, err.Error())
}

func controllerCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{Use: "controller [join-token]", Aliases: []string{"server"}, Short: "Run controller", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		text, err := tokenSource(args, o.tokenFile)
		if err != nil {
			return err
		}
		if err := o.check(); err != nil {
			return err
		}
		if err := preFlight(o.ignorePreFlight); err != nil {
			return err
		}
		config, err := v.loadConfig(cmd.InOrStdin())
		if err != nil {
			return fmt.Errorf("failed to load node config: %w", err)
		}
		if err := config.validate(); err != nil {
			return fmt.Errorf("invalid node config: %w", err)
		}
		if err := config.Spec.Storage.etcdOnly(); err != nil {
			return err
		}
		if o.single {
			if config.Spec.Network.NodeLocalLoadBalancing.Enabled {
				return errors.New("node-local load balancing cannot be used in a single-node cluster")
			}
			if c := config.Spec.Network.ControlPlaneLoadBalancing; c != nil && c.Enabled {
				return errors.New("control plane load balancing cannot be used in a single-node cluster")
			}
		}
		d := &daemon{vars: v, options: o, config: config, log: cmd.OutOrStdout()}
		return d.controller(cmd.Context(), text)
	}}
	debugFlags(cmd.PersistentFlags())
	dataFlags(cmd.Flags())
	o.controllerFlags(cmd.Flags())
	o.workerFlags(cmd.Flags())
	configFlag(cmd.Flags())
	return cmd
}

// tokenSource checks that there is one at most; the file is read when it is needed.
func tokenSource(args []string, file string) (func() (string, error), error) {
	argument := ""
	if len(args) > 0 {
		argument = args[0]
	}
	if (argument != "" && file != "") || (os.Getenv("K0S_TOKEN") != "" && argument+file != "") {
		_, err := tokenText("x", "x")
		return nil, err
	}
	return func() (string, error) { return tokenText(argument, file) }, nil
}

// prepare makes directories, identity, the lock and the programs; the light mode has none.
func (d *daemon) prepare(ctx context.Context, role string, workloads bool) error {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	d.invocation = hex.EncodeToString(id)
	d.kubeletArg = splitArgs(d.kubeletExtraArgs)
	var err error
	if d.node, err = nodeName(d.kubeletArg); err != nil {
		return err
	}
	if err := d.makeDirs(map[string]os.FileMode{d.data: 0o755, d.run: 0o755, d.bin: 0o755}); err != nil {
		return err
	}
	d.status = newStatus(d.vars, role, d.config, workloads, d.single)
	d.status.K0sVars["InvocationID"] = d.invocation
	if d.held, err = d.lock(d.status); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	payload, err := standin.OpenPayload(self)
	if errors.Is(err, standin.ErrNoPayload) {
		d.say("No payload: the light mode, without etcd, kubelet and containers")
		return nil
	}
	if err != nil {
		return err
	}
	d.say("Staging")
	unpacked, err := payload.Unpack(ctx, filepath.Join(d.bin, ".payload"))
	if err != nil {
		return err
	}
	if err := d.stage(unpacked); err != nil {
		return err
	}
	d.s = standin.NewSupervisor(d.bin, d.log)
	return nil
}

// stage puts the programs in <data>/bin under names that stay when the payload is another: shims of
// pods that outlive an upgrade call runc by them. What is left of older payloads goes.
func (d *daemon) stage(unpacked string) error {
	entries, err := os.ReadDir(unpacked)
	if err != nil {
		return err
	}
	for _, e := range entries {
		link := filepath.Join(d.bin, "."+e.Name()+".new")
		_ = os.Remove(link)
		if err := errors.Join(os.Symlink(filepath.Join(unpacked, e.Name()), link), os.Rename(link, filepath.Join(d.bin, e.Name()))); err != nil {
			return err
		}
	}
	payloads, err := os.ReadDir(filepath.Join(d.bin, ".payload"))
	if err != nil {
		return err
	}
	for _, p := range payloads {
		if p.IsDir() && p.Name() != filepath.Base(filepath.Dir(unpacked)) {
			_ = os.RemoveAll(filepath.Join(d.bin, ".payload", p.Name()))
		}
	}
	return nil
}

// preFlight refuses cgroup version 1.
func preFlight(ignore bool) error {
	if cgroupV1() && !ignore && os.Getenv(rootEnv) == "" {
		return errors.New("pre-flight checks failed: Control Groups: version 1 (cgroup v1 is not supported)")
	}
	return nil
}

var errLeft = errors.New("etcd member marked for leave and shutdown")

func (d *daemon) controller(ctx context.Context, token func() (string, error)) error {
	workloads := d.enableWorker || d.single
	if err := d.prepare(ctx, roleController, workloads); err != nil {
		return err
	}
	if d.s != nil {
		defer d.s.Shutdown()
	}
	if err := d.makeDirs(map[string]os.FileMode{d.pki: 0o751, d.manifests: 0o755, d.images: 0o755}); err != nil {
		return err
	}
	// Components end with this context; the process lives on after it has left the cluster.
	running, end := context.WithCancelCause(ctx)
	defer end(nil)
	err := d.runController(running, end, token, workloads)
	if ctx.Err() == nil && errors.Is(context.Cause(running), errLeft) {
		if d.s != nil {
			d.s.Shutdown()
		}
		d.say("Awaiting process shutdown")
		<-ctx.Done()
		return nil
	}
	return err // also when it was stopped while it started: then the unit is "failed" afterwards, as k0s' is
}

func (d *daemon) runController(ctx context.Context, end context.CancelCauseFunc, token func() (string, error), workloads bool) error {
	name, err := hostname()
	if err != nil {
		return err
	}
	var cluster []standin.Member
	if d.needToJoin() {
		text, err := token()
		if err != nil {
			return err
		}
		if text != "" {
			t, err := decodeToken(text, roleController)
			if err != nil {
				return fmt.Errorf("failed to join controller: failed to create join client: %w", err)
			}
			d.say("Joining existing cluster via %s", t.server)
			if cluster, err = d.join(ctx, t, d.config, name); err != nil {
				return err
			}
		}
	}
	if err := d.certificates(d.config); err != nil {
		return err
	}
	if err := d.etcdCertificates(d.config); err != nil {
		return err
	}
	if d.initOnly {
		return nil
	}
	if err := d.startStorage(ctx, name, cluster); err != nil {
		return err
	}
	if err := d.startAPI(ctx); err != nil {
		return err
	}
	if err := serveStatus(ctx, d.vars, d.status, func(ctx context.Context) error {
		_, err := d.client.Raw(ctx, http.MethodGet, "/version", "", nil)
		return err
	}); err != nil {
		return err
	}
	if err := d.startControllers(ctx); err != nil {
		return err
	}
	if !d.disabled("control-api") && !d.single {
		if err := serveJoin(ctx, d.vars, d.config, d.client, d.members); err != nil {
			return err
		}
	}
	if err := d.applyStack(ctx); err != nil {
		return err
	}
	go d.reconcile(ctx, end)
	if workloads {
		return d.runWorker(ctx, nil, true)
	}
	d.say("Controller has started")
	<-ctx.Done()
	return nil
}

// needToJoin: the database decides, whatever token is there.
func (d *daemon) needToJoin() bool {
	_, err := os.Stat(filepath.Join(d.etcd, "member", "snap", "db"))
	return err != nil
}

func (d *daemon) startStorage(ctx context.Context, name string, cluster []standin.Member) error {
	if d.s == nil {
		return d.startLight(ctx, name, cluster)
	}
	address := d.config.Spec.Storage.Etcd.PeerAddress
	etcd := standin.Etcd{
		Name: name, DataDir: d.etcd, Address: address, Cluster: cluster,
		Server: d.tls("etcd/ca", "etcd/server"), Peer: d.tls("etcd/ca", "etcd/peer"), Client: d.tls("etcd/ca", "apiserver-etcd-client"),
	}
	d.members = etcd.EtcdClient(d.s)
	err := etcd.Start(ctx, d.s)
	if errors.Is(err, standin.ErrRemoved) {
		// k0s would start etcd again every 5 s, for ever.
		d.complain("Process terminated unexpectedly", err)
		<-ctx.Done()
	}
	return err
}

func (d *daemon) startAPI(ctx context.Context) error {
	spec := d.config.Spec
	if d.s != nil {
		bind := "0.0.0.0"
		if spec.API.OnlyBindToAddress {
			bind = spec.API.Address
		}
		probe := ""
		if spec.API.OnlyBindToAddress {
			probe = spec.API.Address
		}
		server := standin.APIServer{
			BindAddress: bind, Probe: probe, Port: spec.API.Port, AdvertiseAddress: spec.API.Address,
			Serving: d.tls("ca", "server"), ClientCA: filepath.Join(d.pki, "ca.crt"), Kubelet: d.tls("ca", "apiserver-kubelet-client"),
			EtcdServers: []string{standin.ClientURL("127.0.0.1")}, Etcd: d.tls("etcd/ca", "apiserver-etcd-client"),
			FrontProxy: d.tls("front-proxy-ca", "front-proxy-client"), FrontProxyNames: []string{"front-proxy-client"},
			ServiceAccountKey: filepath.Join(d.pki, "sa.key"), ServiceCIDR: spec.Network.ServiceCIDR, Kubeconfig: d.adminConf,
			Issuer: "https://kubernetes.default.svc", ExtraArgs: extraArgs(spec.API.ExtraArgs, spec.API.RawArgs),
		}
		if err := server.Start(ctx, d.s); err != nil {
			return err
		}
	}
	client, err := adminClient(d.vars)
	if err != nil {
		return err
	}
	d.client = client
	return nil
}

func (d *daemon) startControllers(ctx context.Context) error {
	spec := d.config.Spec
	if d.s == nil {
		return nil
	}
	if !d.disabled("kube-controller-manager") {
		manager := standin.ControllerManager{
			Kubeconfig: filepath.Join(d.pki, "ccm.conf"), ServiceAccountKey: filepath.Join(d.pki, "sa.key"), RootCA: filepath.Join(d.pki, "ca.crt"),
			SigningCert: filepath.Join(d.pki, "ca.crt"), SigningKey: filepath.Join(d.pki, "ca.key"),
			ClusterCIDR: spec.Network.PodCIDR, ServiceCIDR: spec.Network.ServiceCIDR,
			ExtraArgs: extraArgs(spec.ControllerManager.ExtraArgs, spec.ControllerManager.RawArgs),
		}
		if err := manager.Start(ctx, d.s); err != nil {
			return err
		}
	}
	if d.disabled("kube-scheduler") {
		return nil
	}
	return standin.Scheduler{Kubeconfig: filepath.Join(d.pki, "scheduler.conf"), ExtraArgs: extraArgs(spec.Scheduler.ExtraArgs, spec.Scheduler.RawArgs)}.Start(ctx, d.s)
}

// leave takes this member out of the cluster while its etcd still runs. (k0s stops the API server first.)
func (d *daemon) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d.say("Attempting to leave the cluster")
	if err := d.members.Remove(ctx, standin.PeerURL(d.config.Spec.Storage.Etcd.PeerAddress)); err != nil {
		d.complain("Failed to remove member", err)
		return
	}
	d.say("Left the cluster")
}
