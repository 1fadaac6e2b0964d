package runtime

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// configure brings the runtime's files to their places and sets up the kernel and the names that the
// cluster needs. scripts/init.sh of the rootfs has the last word.
func configure(c *Cluster) []Batch {
	return append(c.beforeScaleUp(), each(c.Nodes, func(n *Node) []Step {
		return []Step{
			c.hook(n, "pre-configure"),
			n.On("install programs and their configuration", func(ctx context.Context, _ io.Writer) error {
				r, err := n.Host.Install(ctx, node.InstallRequest{Items: c.Driver.Items(c, n)})
				n.changed = append(n.changed, r.Changed...)
				return err
			}),
			n.On("set kernel settings and load modules", func(ctx context.Context, _ io.Writer) error { return c.kernel(ctx, n) }),
			n.On(fmt.Sprintf("name %s and %s in /etc/hosts", APIServerName, c.Registry().Name), func(ctx context.Context, _ io.Writer) error {
				return c.names(ctx, n)
			}),
			c.hook(n, "init"),
			c.hook(n, "post-configure"),
		}
	}))
}

// kernel reads the kernel settings that the rootfs asks for in etc/sysctl.d/*.conf (sysctl.d(5), plain
// assignments) and etc/modules-load.d/*.conf (modules-load.d(5)). They are set through the recorder,
// and not copied, so that a reset knows the values before.
func (c *Cluster) kernel(ctx context.Context, n *Node) error {
	read := func(dir string) ([]string, error) {
		var out bytes.Buffer
		err := n.Runner.Run(ctx, remote.Cmd{
			Args:   []string{"/bin/sh", "-c", `for f in "$1"/*.conf; do [ ! -f "$f" ] || cat "$f" || exit; echo; done`, "sh", node.Rootfs + "/" + dir},
			Stdout: &out,
		})
		var lines []string
		for s := bufio.NewScanner(&out); s.Scan(); {
			line := strings.TrimSpace(s.Text())
			if line != "" && line[0] != '#' && line[0] != ';' {
				lines = append(lines, line)
			}
		}
		return lines, err
	}
	settings, err := read("etc/sysctl.d")
	if err != nil {
		return err
	}
	modules, err := read("etc/modules-load.d")
	if err != nil {
		return err
	}
	if len(modules) > 0 {
		out, err := remote.Output(ctx, n.Runner, append([]string{"/bin/sh", "-c", wantedModules, "sh"}, modules...)...)
		if err != nil {
			return err
		}
		modules = strings.Fields(string(out))
	}
	r := node.SysctlRequest{Settings: map[string]string{}, Modules: modules, Remember: c.Driver.Remember()}
	for _, line := range settings {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return fmt.Errorf("reading etc/sysctl.d of the rootfs: %q is no assignment", line)
		}
		r.Settings[strings.TrimPrefix(strings.TrimSpace(key), "-")] = strings.TrimSpace(value)
	}
	return n.Host.Sysctl(ctx, r)
}

// wantedModules leaves out of a list those that modprobe does not know since they are part of the
// kernel, which some kernels do not say in modules.builtin: what they do is there.
const wantedModules = `
for m; do
  if [ ! -d "/sys/module/$m" ] && ! modprobe -nq "$m" 2>/dev/null; then
    case $m in
    overlay) grep -qw overlay /proc/filesystems && continue ;;
    br_netfilter) [ -d /proc/sys/net/bridge ] && continue ;;
    esac
  fi
  echo "$m"
done
`

// runHook runs what the rootfs has for a hook on a host. Apps' environment is there too, so that kubectl finds the
// cluster where there is one.
func (c *Cluster) runHook(ctx context.Context, n *Node, r node.HookRequest, out io.Writer) (ran bool, err error) {
	r.Env = c.Env(n)
	r.Runtime, r.Master, r.First = n.State.Runtime, n.Role == Master, n == c.First()
	if c.Driver != nil {
		r.Runtime = c.Driver.Name()
		if r.Master {
			maps.Copy(r.Env, c.Driver.CommandEnv())
		}
	}
	resp, err := n.Host.Hook(ctx, r, out)
	return resp.Ran, err
}

// hook runs a script of the rootfs on a host, once for each image.
func (c *Cluster) hook(n *Node, name string) Step {
	return n.On(fmt.Sprintf("run scripts/%s.sh, if there is one", name), func(ctx context.Context, out io.Writer) error {
		done := fmt.Sprintf("hook:%s:%s", name, c.Image.Target.Digest)
		if n.Done(done) || isClusterStep(done) && c.done(done) {
			return ErrAlready
		}
		ran, err := c.runHook(ctx, n, node.HookRequest{Name: name}, out)
		if err != nil {
			return err
		}
		if !ran {
			return ErrAlready
		}
		if isClusterStep(done) {
			return c.mark(ctx, done)
		}
		return n.Mark(ctx, done)
	})
}
