package k3s

import (
	"context"
	"fmt"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

const (
	serverUnit = "k3s.service"
	agentUnit  = "k3s-agent.service"
)

// unitOf is the unit of k3s on a host.
func unitOf(n *runtime.Node) string {
	if n.Role == runtime.Worker {
		return agentUnit
	}
	return serverUnit
}

// unitFile is that unit. A notification may never come, so nobody must wait for `systemctl start`; and
// pods go on while k3s itself is restarted, which KillMode says.
func unitFile(n *runtime.Node) runtime.File {
	command, what, before := "server", "Lightweight Kubernetes, server (keg)", node.RegistryUnitName
	if n.Role == runtime.Worker {
		command, what, before = "agent", "Lightweight Kubernetes, agent (keg)", node.BalancerUnitName
	}
	return runtime.File{Path: "/etc/systemd/system/" + unitOf(n), Mode: 0o644, Data: fmt.Appendf(nil, `[Unit]
Description=%s
Documentation=https://docs.k3s.io
Wants=network-online.target
After=network-online.target %s

[Service]
Type=notify
KillMode=process
Delegate=yes
User=root
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStart=%s %s

[Install]
WantedBy=multi-user.target
`, what, before, program, command)}
}

// tools are the commands that k3s is too.
var tools = []string{"kubectl", "crictl", "ctr"}

// toolFile calls k3s by the name of a tool.
func toolFile(name string) runtime.File {
	return runtime.File{Path: binDir + "/" + name, Mode: 0o755, Data: []byte("#!/bin/sh\n# keg: this command is part of k3s\nexec " + program + " " + name + " \"$@\"\n")}
}

// nameTools gives a host the commands of k3s by their usual names, where it has no others of those names.
func nameTools(ctx context.Context, n *runtime.Node) error {
	out, err := remote.Output(ctx, n.Runner, append([]string{"/bin/sh", "-c", `for c; do
  p=$(command -v "$c") && ! grep -q "^# keg: " "$p" 2>/dev/null || echo "$c"
done`, "sh"}, tools...)...)
	if err != nil {
		return err
	}
	var files []runtime.File
	for name := range strings.FieldsSeq(string(out)) {
		files = append(files, toolFile(name))
	}
	if len(files) == 0 {
		return runtime.ErrAlready
	}
	r, err := n.Host.Put(ctx, files)
	if err == nil && len(r.Changed) == 0 {
		return runtime.ErrAlready
	}
	return err
}

// start starts k3s, or restarts it, without waiting for it.
func start(ctx context.Context, n *runtime.Node, restart bool) error {
	return n.Host.Units(ctx, node.UnitRequest{Units: []string{unitOf(n)}, Restart: restart, NoBlock: true})
}
