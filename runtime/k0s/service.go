package k0s

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// subcommand is what k0s calls the role of a host.
func subcommand(n *runtime.Node) string {
	if n.Role == runtime.Worker {
		return "worker"
	}
	return "controller"
}

// unitOf is the unit that `k0s install` makes on a host.
func unitOf(n *runtime.Node) string { return "k0s" + subcommand(n) + ".service" }

func unitFile(n *runtime.Node) string { return "/etc/systemd/system/" + unitOf(n) }

const noTaints = "--no-taints"

// arguments are those of `k0s install` behind the role. A control plane has its taint unless there are no
// workers when it is made; later that is a matter of the Node, so what was said first stays.
func arguments(c *runtime.Cluster, n *runtime.Node, creator bool, before []string) []string {
	var args []string
	if n.Role == runtime.Master {
		args = append(args, "--config="+configFile, "--enable-worker", "--disable-components="+c.Env(n)["K0S_DISABLE"])
		if slices.Contains(before, noTaints) || len(before) == 0 && len(c.ByRole(runtime.Worker)) == 0 {
			args = append(args, noTaints)
		}
	}
	if !creator {
		args = append(args, "--token-file="+tokenFile)
	}
	if n.Facts.Cgroup == 1 { // k0s itself refuses it, kubelet is told to accept it
		args = append(args, "--ignore-pre-flight-checks")
	}
	if !dualStack(c) { // with two families kubelet is told both addresses by k0s
		args = append(args, "--kubelet-extra-args=--node-ip="+n.IP)
	}
	return slices.DeleteFunc(args, func(a string) bool { return a == "--disable-components=" })
}

// dualStack says whether the user wants addresses of two families.
func dualStack(c *runtime.Cluster) bool {
	on := false
	for _, d := range c.Options.Config {
		if v, ok := within(d.Value, "spec", "network", "dualStack")["enabled"].(bool); ok {
			on = v
		}
	}
	return on
}

// installScript has k0s write its service, and notes what it was asked for and what came of it.
const installScript = `
file=$1 unit=$2
shift 2
"$@" >&2 || exit
umask 077
mkdir -p "${file%/*}" && { sha256sum "$unit" && printf '%s\n' "$@"; } >"$file.part" && mv -f "$file.part" "$file"
`

// install has k0s write its service and make its accounts, unless that is done. changed says that it was not.
func install(ctx context.Context, c *runtime.Cluster, n *runtime.Node, creator bool) (changed bool, err error) {
	noted, err := n.Read(ctx, installedFile)
	if err != nil {
		return false, err
	}
	have, err := n.Sums(ctx, unitFile(n))
	if err != nil {
		return false, err
	}
	line, words, _ := bytes.Cut(noted, []byte("\n"))
	before := strings.Split(strings.TrimSpace(string(words)), "\n")
	if len(noted) == 0 {
		before = nil
	}
	command := append([]string{program, "install", subcommand(n), "--force"}, arguments(c, n, creator, before)...)
	if at, _, _ := strings.Cut(string(line), " "); at != "" && at == have[unitFile(n)] && slices.Equal(before, command) {
		return false, nil
	}
	// Undo takes back what comes now.
	if err := n.Host.Units(ctx, node.UnitRequest{Units: []string{unitOf(n)}, NoteOnly: true}); err != nil {
		return false, err
	}
	if _, err := n.Host.Put(ctx, []runtime.File{staleMark}); err != nil {
		return false, err
	}
	err = n.Runner.Run(ctx, remote.Cmd{Args: append([]string{"/bin/sh", "-c", installScript, "sh", installedFile, unitFile(n)}, command...)})
	if err != nil {
		return false, fmt.Errorf("having k0s write its service: %w", err)
	}
	return true, nil
}

// start starts k0s, or restarts it.
func start(ctx context.Context, n *runtime.Node, restart bool) error {
	return n.Host.Units(ctx, node.UnitRequest{Units: []string{unitOf(n)}, Restart: restart})
}

// write brings configuration and service to a host. stale says that a k0s at work has to be restarted.
func write(ctx context.Context, c *runtime.Cluster, n *runtime.Node, creator bool) (stale bool, err error) {
	var files []runtime.File
	if n.Role == runtime.Master {
		text, err := configText(ctx, c, n)
		if err != nil {
			return false, err
		}
		files = append(files, runtime.File{Path: configFile, Mode: 0o600, Data: text})
	}
	if _, err := n.Host.Put(ctx, []runtime.File{dropIn(c.KubeVersion())}); err != nil { // k0s sees to it by itself
		return false, err
	}
	stale, err = put(ctx, n, files)
	if err != nil {
		return false, err
	}
	installed, err := install(ctx, c, n, creator)
	return stale || installed || n.Changed(program), err
}

// keepRunning is for a host that is part of the cluster: it is as it should be, or restarted to be so.
func keepRunning(ctx context.Context, c *runtime.Cluster, n *runtime.Node) error {
	stale, err := write(ctx, c, n, creator(n))
	if err != nil {
		return err
	}
	if err := start(ctx, n, stale); err != nil {
		return err
	}
	if !stale {
		return runtime.ErrAlready
	}
	return nil
}

// creator says whether the cluster was made on the host, so that it has no token.
func creator(n *runtime.Node) bool { return n.Done(runtime.DoneInit) }

// kubectlTool calls the kubectl inside of k0s by its own name.
var kubectlTool = runtime.File{Path: binDir + "/kubectl", Mode: 0o755, Data: []byte("#!/bin/sh\n# keg: this command is part of k0s\nexec " + program + " kubectl \"$@\"\n")}

// nameTools gives a host kubectl by its usual name, where it has no other.
func nameTools(n *runtime.Node) runtime.Step {
	return n.On("name kubectl, where there is none", func(ctx context.Context, _ writer) error {
		out, err := remote.Output(ctx, n.Runner, "/bin/sh", "-c", `p=$(command -v kubectl) && ! grep -q "^# keg: " "$p" 2>/dev/null || echo missing`)
		if err != nil {
			return err
		}
		if len(out) == 0 {
			return runtime.ErrAlready
		}
		r, err := n.Host.Put(ctx, []runtime.File{kubectlTool})
		if err == nil && len(r.Changed) == 0 {
			return runtime.ErrAlready
		}
		return err
	})
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
