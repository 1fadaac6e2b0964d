package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
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
	case a.env("HOME") != "":
		return filepath.Join(a.env("HOME"), ".local", "share", "keg"), nil
	}
	return "", errors.New("finding the store: none of --root, KEG_ROOT, XDG_DATA_HOME and HOME is set")
}

func (a *app) store() (*imagestore.Store, error) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, err
	}
	return imagestore.Open(dir)
}

// dockerConfigDir is where docker, and so keg, keeps logins.
func (a *app) dockerConfigDir() string {
	if d := a.env("DOCKER_CONFIG"); d != "" {
		return d
	}
	return filepath.Join(a.env("HOME"), ".docker")
}

// client talks to registries as the flags say.
func (a *app) client(show *display) (*transfer.Client, error) {
	keychain, err := transfer.Keychain(a.dockerConfigDir())
	if err != nil {
		return nil, err
	}
	return transfer.New(transfer.Options{
		Proxy:     http.ProxyFromEnvironment,
		Keychain:  keychain,
		Insecure:  a.insecure,
		UserAgent: "keg/" + version,
		Progress:  show.event,
		Offline:   a.offline,
	}), nil
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
