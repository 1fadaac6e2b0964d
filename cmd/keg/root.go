package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
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
	under := func(title string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = title
		}
		group(root, commands...)
	}
	under("image", imageCommands()...)
	under("image", newLintCommand(a), newFmtCommand(a), newBasefsCommand(a))
	under("cluster",
		newRunCommand(a), newStatusCommand(a), newKubeconfigCommand(a), newDeleteCommand(a), newUpgradeCommand(a),
		newCertsCommand(a), newBackupCommand(a), newRestoreCommand(a), newResetCommand(a),
	)
	image := group(&cobra.Command{Use: "image", Short: "The image commands, grouped"}, imageCommands()...)
	return group(root, image, newVersionCommand(a), newGenDocsCommand(a), newGuardCommand(a))
}

// env is the value of an environment variable, or "".
func (a *app) env(name string) string {
	v, _ := a.lookupEnv(name)
	return v
}
