package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/transfer"
)

// version is set by the linker.
var version = "dev"

// app is what commands share: where they read and write, and the flags of every command.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)

	root     string
	offline  bool
	logLevel string
	progress string
	insecure []string
}

// run is the program: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, lookupEnv func(string) (string, bool)) int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	// What was begun is put in order after a signal. One that comes later than a second ends the program at
	// once; sooner, it is the same one, sent to the process and to its group.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends keg at once
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, lookupEnv: lookupEnv}
	root := newRootCommand(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "keg: interrupted")
		return exitInterrupted
	}
	writeError(stderr, err)
	return exitCode(err)
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "keg",
		Short: "Pack a whole Kubernetes cluster into one image and run it without internet",
		Long: `keg packs a whole Kubernetes cluster (binaries, scripts, container images, apps)
into one OCI image, a cluster image, and runs it on bare hosts that have no internet.`,
		Example: `  keg build -t reg.example.com/shop:v1 .
  keg push reg.example.com/shop:v1
  keg save -o shop.tar reg.example.com/shop:v1
  keg run shop.tar --masters 10.0.0.1 --nodes 10.0.0.4-10.0.0.9`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			var level slog.Level
			if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
				return usageErrorf("--log-level %q is none of debug, info, warn, error", a.logLevel)
			}
			slog.SetDefault(slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})))
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageErrorf("%s", err) })
	f := root.PersistentFlags()
	f.StringVar(&a.root, "root", "", "store directory (default /var/lib/keg for root, else $XDG_DATA_HOME/keg; KEG_ROOT)")
	f.BoolVar(&a.offline, "offline", false, "make any connection to a registry an error")
	f.StringVar(&a.logLevel, "log-level", "warn", "debug, info, warn or error")
	f.StringVar(&a.progress, "progress", "auto", "how to show progress: auto, tty, plain, json, none")
	f.StringSliceVar(&a.insecure, "insecure", nil, "registries that may be reached by plain HTTP or with an unknown certificate (HOST[:PORT], or \"*\")")
	_ = root.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions([]string{"auto", "tty", "plain", "json", "none"}, cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))

	root.AddGroup(
		&cobra.Group{ID: "image", Title: "Cluster images:"},
		&cobra.Group{ID: "cluster", Title: "Clusters:"},
	)
	imageCommands := func() []*cobra.Command {
		return []*cobra.Command{
			newBuildCommand(a), newImagesCommand(a), newInspectCommand(a), newHistoryCommand(a),
			newTagCommand(a), newRmiCommand(a), newPruneCommand(a),
			newPullCommand(a), newPushCommand(a), newLoginCommand(a), newLogoutCommand(a),
			newSaveCommand(a), newLoadCommand(a), newServeCommand(a),
		}
	}
	group := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("image", imageCommands()...)
	group("image", newBasefsCommand(a))
	group("cluster", newRunCommand(a), newStatusCommand(a), newResetCommand(a))
	image := &cobra.Command{Use: "image", Short: "The image commands, grouped", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	image.AddCommand(imageCommands()...)
	root.AddCommand(image, newVersionCommand(a), newGenDocsCommand(a))
	return root
}

// env is the value of an environment variable, or "".
func (a *app) env(name string) string {
	v, _ := a.lookupEnv(name)
	return v
}

// dataDir is where the store is unless --root says otherwise.
func (a *app) dataDir() (string, error) {
	switch {
	case a.root != "":
		return a.root, nil
	case a.env("KEG_ROOT") != "":
		return a.env("KEG_ROOT"), nil
	case os.Getuid() == 0:
		return "/var/lib/keg", nil
	case a.env("XDG_DATA_HOME") != "":
		return filepath.Join(a.env("XDG_DATA_HOME"), "keg"), nil
	}
	home, err := a.home()
	if err != nil {
		return "", errors.New("finding the store: none of --root, KEG_ROOT, XDG_DATA_HOME and HOME is set")
	}
	return filepath.Join(home, ".local", "share", "keg"), nil
}

// home is the user's directory: services and cron jobs may have no HOME.
func (a *app) home() (string, error) {
	if dir := a.env("HOME"); dir != "" {
		return dir, nil
	}
	u, err := user.Current()
	if err != nil || u.HomeDir == "" {
		return "", errors.New("finding the home directory: HOME is not set")
	}
	return u.HomeDir, nil
}

func (a *app) store() (*imagestore.Store, error) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, err
	}
	return openStore(dir)
}

func openStore(dir string) (*imagestore.Store, error) {
	s, err := imagestore.Open(dir)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return nil, &hintedError{err, "a store belongs to one user; --root DIR or KEG_ROOT names another"}
	}
	return s, err
}

// dockerConfigDir is where docker, and so keg, keeps logins.
func (a *app) dockerConfigDir() (string, error) {
	if d := a.env("DOCKER_CONFIG"); d != "" {
		return d, nil
	}
	home, err := a.home()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".docker"), nil
}

// client talks to registries as the flags say.
func (a *app) client(show *display) *transfer.Client {
	return transfer.New(transfer.Options{
		Proxy:     http.ProxyFromEnvironment,
		Keychain:  lazyKeychain(sync.OnceValues(a.keychain)),
		Insecure:  a.insecure,
		CertDir:   "/etc/docker/certs.d",
		UserAgent: "keg/" + version,
		Progress:  show.event,
		Offline:   a.offline,
	})
}

// keychain has nothing where there is no place for logins.
func (a *app) keychain() (authn.Keychain, error) {
	dir, err := a.dockerConfigDir()
	if err != nil {
		return authn.NewMultiKeychain(), nil //nolint:nilerr // as for a user who never logged in
	}
	return transfer.Keychain(dir)
}

// lazyKeychain reads logins when a registry is asked: a build that needs none does not fail over a file
// that it cannot read.
type lazyKeychain func() (authn.Keychain, error)

var _ authn.ContextKeychain = lazyKeychain(nil)

// Resolve implements authn.Keychain.
func (k lazyKeychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain.
func (k lazyKeychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	keychain, err := k()
	if err != nil {
		return nil, err
	}
	return authn.Resolve(ctx, keychain, target)
}

// usageError is a command line that cannot be understood: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usageErrorf(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// isUnknownCommand recognises cobra's own error, which has no type.
func isUnknownCommand(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command ")
}

// Validators of arguments that say what is wanted.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageErrorf("%q: %s takes no arguments, see %s --help", args[0], c.CommandPath(), c.CommandPath())
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageErrorf("%s wants %s, got %s", c.CommandPath(), what, quoteAll(args))
		}
		return nil
	}
}

func minArgs(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n {
			return usageErrorf("%s wants %s", c.CommandPath(), what)
		}
		return nil
	}
}

func quoteAll(args []string) string {
	if len(args) == 0 {
		return "nothing"
	}
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = fmt.Sprintf("%q", arg)
	}
	return strings.Join(quoted, " ")
}
