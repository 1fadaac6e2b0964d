// Command keg-node works on a host for keg, which sends it there and starts it with one verb at a time.
// Package runtime/node describes the verbs.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/node/host"
)

func main() {
	ctx, stop := signals()
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// signals is a context that ends with the first SIGINT or SIGTERM. The second one kills.
func signals() (context.Context, func()) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// run carries out the verb args[0] and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer) int {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Fprintln(out, "keg-node "+version())
		return 0
	}
	if len(args) != 1 || !host.Known(node.Verb(args[0])) {
		fmt.Fprintln(log, "usage: keg-node VERB\nkeg starts this program; the verbs are", host.Verbs())
		return 2
	}
	syscall.Umask(0o022)
	h := &host.Host{Programs: host.System{}, Log: log, Ready: notifyReady}
	if err := h.Do(ctx, node.Verb(args[0]), in, out); err != nil {
		fmt.Fprintln(log, "keg-node:", err)
		return host.Fail(out, err)
	}
	return 0
}

// version is that of the module, "(devel)" for a build from a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	return info.Main.Version + " " + info.GoVersion
}
