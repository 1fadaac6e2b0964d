package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	ctdsnapshot "github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/network/cniprovider"
	"github.com/moby/buildkit/util/network/netproviders"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/runc"
	"github.com/sirupsen/logrus" //nolint:depguard // BuildKit logs by it, and is told not to
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
)

// cacheSize is what the state directory may grow to before what was not used for longest goes.
const cacheSize = 20 << 30

// embeddable says what is missing for BuildKit in this process.
func embeddable() error {
	var missing []error
	if os.Geteuid() != 0 {
		missing = append(missing, ErrRoot)
	}
	if _, err := exec.LookPath("runc"); err != nil {
		missing = append(missing, ErrRunc)
	}
	return errors.Join(missing...)
}

// Embed runs BuildKit in this process, with its state in o.Dir, and connects to it in memory. While another
// process uses that it waits, and says so once. The caller calls stop at the end, which waits for what still
// runs; ctx bounds the start alone. Of o it reads Dir, Waiting and Guard.
func Embed(ctx context.Context, o Options) (c *client.Client, stop func() error, err error) {
	dir := o.Dir
	if err := embeddable(); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("starting BuildKit: %w", err)
	}
	release, err := acquire(ctx, dir, o.Waiting)
	if err != nil {
		return nil, nil, fmt.Errorf("starting BuildKit: %w", err)
	}
	silence()
	if err := sweep(ctx, dir); err != nil {
		release()
		return nil, nil, fmt.Errorf("removing what a killed build left in %s: %w", dir, err)
	}
	unguard, err := guard(o.Guard, dir)
	if err != nil {
		release()
		return nil, nil, err
	}
	e, err := start(dir)
	if err != nil {
		unguard()
		release()
		return nil, nil, fmt.Errorf("starting BuildKit in %s: %w", dir, err)
	}
	e.release = func() {
		unguard()
		release()
	}
	c, err = client.New(context.WithoutCancel(ctx), "passthrough:///embedded", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return e.listener.DialContext(ctx)
	}))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("starting BuildKit in %s: %w", dir, err), e.stop())
	}
	return c, func() error { return errors.Join(c.Close(), e.stop()) }, nil
}

// embedded is BuildKit in this process.
type embedded struct {
	listener   *bufconn.Listener
	server     *grpc.Server
	controller *control.Controller
	running    *counted
	snapshots  ctdsnapshot.Snapshotter
	stopping   context.CancelFunc
	release    func()
}

func start(dir string) (*embedded, error) {
	e := &embedded{listener: bufconn.Listen(1 << 20)}
	opt, err := runc.NewWorkerOpt(dir, e.snapshotter(dir), false, oci.ProcessSandbox, nil, nil,
		netproviders.Opt{Mode: "host", CNI: cniprovider.Opt{Root: dir}}, nil, "", "", false, nil, "", "", nil)
	if err != nil {
		return nil, e.abandon(err)
	}
	e.running = &counted{Executor: opt.Executor}
	opt.Executor = e.running
	opt.RegistryHosts = resolver.NewRegistryConfig(nil)
	opt.GCPolicy = []client.PruneInfo{
		{Filter: []string{"type==source.local", "type==source.git.checkout"}, KeepDuration: 48 * time.Hour, MaxUsedSpace: 512 << 20},
		{All: true, MaxUsedSpace: cacheSize},
	}
	opt.Platforms = nil
	for _, p := range archutil.SupportedPlatforms(false) {
		opt.Platforms = append(opt.Platforms, platforms.Normalize(p))
	}
	background, cancel := context.WithCancel(context.Background())
	e.stopping = cancel
	w, err := base.NewWorker(background, opt)
	if err != nil {
		return nil, e.abandon(err)
	}
	workers := &worker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, e.abandon(err, w)
	}
	sessions, err := session.NewManager()
	if err != nil {
		return nil, e.abandon(err, w)
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(dir, "cache.db"))
	if err != nil {
		return nil, e.abandon(err, w)
	}
	history, err := boltutil.SafeOpen(filepath.Join(dir, "history.db"), 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, e.abandon(err, w, cache)
	}
	entries := int64(10)
	e.controller, err = control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends:        map[string]frontend.Frontend{},
		CacheManager:     solver.NewCacheManager(background, "local", cache, worker.NewCacheResultStorage(workers)),
		Entitlements:     []string{"network.host", "security.insecure"},
		HistoryDB:        history,
		CacheStore:       cache,
		LeaseManager:     w.LeaseManager(),
		ContentStore:     w.ContentStore(),
		HistoryConfig:    &config.HistoryConfig{MaxAge: config.Duration{Duration: time.Hour}, MaxEntries: &entries},
		GarbageCollect:   w.GarbageCollect,
		GracefulStop:     background.Done(),
	})
	if err != nil {
		return nil, e.abandon(err, w, cache, history)
	}
	e.server = grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpcerrors.UnaryServerInterceptor), // without these an error loses its place and exit code
		grpc.ChainStreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(16<<20), grpc.MaxSendMsgSize(16<<20),
	)
	e.controller.Register(e.server)
	go func() { _ = e.server.Serve(e.listener) }()
	return e, nil
}

// abandon closes what a start that failed has open.
func (e *embedded) abandon(err error, open ...io.Closer) error {
	if e.stopping != nil {
		e.stopping()
	}
	for _, c := range open {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, e.closeSnapshots())
}

// patience is how long the end waits for calls that are under way.
const patience = time.Second

// stop ends BuildKit, and waits until no container of it runs.
func (e *embedded) stop() error {
	defer e.release()
	late := time.AfterFunc(patience, e.server.Stop)
	e.server.GracefulStop()
	late.Stop()
	e.stopping()
	e.running.wait()
	return errors.Join(e.controller.Close(), e.closeSnapshots())
}

// closeSnapshots closes what BuildKit leaves open: its next start in this process would wait for that for ever.
func (e *embedded) closeSnapshots() error {
	if e.snapshots == nil {
		return nil
	}
	return e.snapshots.Close()
}

// counted knows of the containers that run. Ending without them would leave their mounts.
type counted struct {
	executor.Executor
	group sync.WaitGroup
}

// Run implements executor.Executor.
func (c *counted) Run(ctx context.Context, id string, rootfs executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	c.group.Add(1)
	defer c.group.Done()
	return c.Executor.Run(ctx, id, rootfs, mounts, process, started)
}

func (c *counted) wait() { c.group.Wait() }

// snapshotter is overlayfs where the file system of dir can carry it, else plain copies.
func (e *embedded) snapshotter(dir string) runc.SnapshotterFactory {
	factory := runc.SnapshotterFactory{Name: "native", New: native.NewSnapshotter}
	if overlayutils.Supported(dir) == nil {
		factory = runc.SnapshotterFactory{Name: "overlayfs", New: func(root string) (ctdsnapshot.Snapshotter, error) {
			return overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
		}}
	}
	open := factory.New
	factory.New = func(root string) (s ctdsnapshot.Snapshotter, err error) {
		e.snapshots, err = open(root)
		return e.snapshots, err
	}
	return factory
}

// detach puts a process out of the reach of a Ctrl-C.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// silence takes away what BuildKit says of itself: libraries do not print.
var silence = sync.OnceFunc(func() { logrus.SetOutput(io.Discard) })
