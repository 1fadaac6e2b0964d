// Command fake-k3s stands in for k3s where there is no real one: it reads the same files and flags, refuses what
// k3s refuses, and runs the real etcd, kube-apiserver, kubelet and containerd of the end-to-end tests below k3s'
// paths. README.md says what it checks and what it does not. The real k3s has never been run here: what this knows
// is from its documentation, its threads and single source files.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// version is set by -ldflags "-X main.version=v1.37.2+k3s1".
var version = "v1.37.2+k3s1"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := dispatch(ctx, os.Args); err != nil {
		stop()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			os.Exit(exit.ExitCode())
		}
		var usage usageError
		if errors.As(err, &usage) {
			fmt.Println("Incorrect Usage:", err)
		}
		logf("fatal", "%v", err)
		os.Exit(1)
	}
}

// usageError is what the flag parser of the real one says.
type usageError string

func (e usageError) Error() string { return string(e) }

// logf writes a line as k3s' logger does where there is no terminal.
func logf(level, format string, args ...any) {
	fmt.Fprintf(os.Stderr, "time=%q level=%s msg=%q\n", time.Now().Format(time.RFC3339), level, fmt.Sprintf(format, args...))
}

func dispatch(ctx context.Context, args []string) error {
	switch name := filepath.Base(args[0]); name { // symbolic links, as k3s is called by these names too
	case "kubectl", "ctr", "crictl":
		return tool(ctx, name, args[1:])
	}
	args = args[1:]
	if len(args) == 0 {
		return usageError("no command: server, agent, kubectl, ctr, crictl, token, etcd-snapshot, certificate, check-config")
	}
	switch args[0] {
	case "--version", "-v":
		fmt.Printf("k3s version %s (standin)\ngo version standin\n", version)
		return nil
	case "server":
		return server(ctx, args[1:])
	case "agent":
		return agent(ctx, args[1:])
	case "kubectl", "ctr", "crictl":
		return tool(ctx, args[0], args[1:])
	case "token":
		return tokenCommand(ctx, args[1:])
	case "etcd-snapshot":
		return snapshotCommand(ctx, args[1:])
	case "certificate":
		return certificateCommand(args[1:])
	case "check-config":
		return checkConfig(ctx)
	}
	return usageError("No help topic for '" + args[0] + "'")
}

// tool runs a program of the payload in this process' place.
func tool(ctx context.Context, name string, args []string) error {
	env := os.Environ()
	if name == "kubectl" && os.Getenv("KUBECONFIG") == "" && !hasFlag(args, "--kubeconfig") {
		env = append(env, "KUBECONFIG=/etc/rancher/k3s/k3s.yaml")
	}
	bin, err := unpack(ctx, dataDirOf(nil))
	if err != nil {
		return err
	}
	if bin == "" {
		if name == "kubectl" {
			return lightKubectl(ctx, args)
		}
		return fmt.Errorf("this stand-in has no payload, and so no %s", name)
	}
	if name == "crictl" {
		return crictl(ctx, bin, args)
	}
	if name == "ctr" {
		env = append(env, "CONTAINERD_ADDRESS=/run/k3s/containerd/containerd.sock", "CONTAINERD_NAMESPACE=k8s.io")
	}
	return syscall.Exec(filepath.Join(bin, name), append([]string{name}, args...), env)
}

// crictl answers the few questions that installers ask; the real program is not in the set.
func crictl(ctx context.Context, bin string, args []string) error {
	ctr := func(more ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "ctr"), append([]string{"--address=/run/k3s/containerd/containerd.sock", "--namespace=k8s.io"}, more...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return cmd.Run()
	}
	switch {
	case len(args) > 0 && (args[0] == "version" || args[0] == "info"):
		return ctr("version")
	case len(args) > 0 && args[0] == "images":
		return ctr("images", "ls", "-q")
	case len(args) > 0 && args[0] == "ps":
		return ctr("tasks", "ls")
	}
	return fmt.Errorf("crictl %s: the stand-in has no crictl, only images, ps, info and version by way of ctr", strings.Join(args, " "))
}

func hasFlag(args []string, name string) bool {
	for _, a := range args {
		if a == name || strings.HasPrefix(a, name+"=") {
			return true
		}
	}
	return false
}
