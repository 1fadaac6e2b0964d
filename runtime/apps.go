package runtime

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// HasPlugin says whether an app of the image has the role, clusterimage.RoleCNI or RoleCSI.
func (c *Cluster) HasPlugin(role string) bool {
	return c.Image != nil && slices.ContainsFunc(c.Image.Spec.Apps, func(a clusterimage.App) bool { return a.Role == role })
}

// pluginApps starts the apps that make the network and then those that make storage.
func pluginApps(c *Cluster) []Batch {
	var b Batch
	for _, role := range []string{clusterimage.RoleCNI, clusterimage.RoleCSI} {
		for _, a := range c.Image.Spec.Apps {
			if a.Role == role {
				b = append(b, c.launch(a))
			}
		}
	}
	return []Batch{b}
}

// rootfsDir is where the image's files lie on the first control plane.
func (c *Cluster) rootfsDir() string {
	if c.later {
		return node.RootfsDir(c.Image.Target.Digest)
	}
	return node.Rootfs
}

// apps starts the apps of the launch list in order, and then runs the image's commands, each once for
// an image.
func apps(c *Cluster) []Batch {
	first := c.First()
	var b Batch
	if !c.later {
		b = append(b, c.hook(first, "pre-apps"))
	}
	for _, name := range c.Image.Spec.Launch {
		a, ok := c.Image.Spec.App(name)
		if !ok {
			b = append(b, first.On("start app "+name, func(context.Context, io.Writer) error {
				return fmt.Errorf("starting app %q: the image has no app of that name", name)
			}))
			continue
		}
		if a.Role == "" {
			b = append(b, c.launch(a))
		}
	}
	for i, command := range c.Image.Spec.Cmds {
		key := fmt.Sprintf("cmds:%s:%d", c.Image.Target.Digest, i)
		b = append(b, first.On("run "+brief(command), func(ctx context.Context, out io.Writer) error {
			return c.once(ctx, key, func() error {
				return c.shell(ctx, first, c.rootfsDir(), nil, command, out)
			})
		}))
	}
	if !c.later {
		b = append(b, c.hook(first, "post-apps"))
	}
	return []Batch{b}
}

// brief is the first line of a command, cut to fit a line of a plan.
func brief(command string) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(command), "\n")
	if r := []rune(line); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	if rest != "" {
		return line + " ..."
	}
	return line
}

// launch starts an app: by its own commands if it has some, else as its type is started.
func (c *Cluster) launch(a clusterimage.App) Step {
	first := c.First()
	what := "app"
	switch a.Role {
	case clusterimage.RoleCNI:
		what = "network plugin"
	case clusterimage.RoleCSI:
		what = "storage plugin"
	}
	return first.On(fmt.Sprintf("start %s %s", what, a.Name), func(ctx context.Context, out io.Writer) error {
		commands, err := AppCommands(a)
		if err != nil {
			return err
		}
		skipped := 0
		for i, command := range commands {
			key := fmt.Sprintf("app:%s:%s:%d", a.Name, c.Image.Target.Digest, i)
			err := c.once(ctx, key, func() error {
				return c.shell(ctx, first, path.Join(c.rootfsDir(), basefs.AppsDir, a.Name), c.AppEnv()[a.Name], command, out)
			})
			switch {
			case err == ErrAlready: //nolint:errorlint // once returns it bare
				skipped++
			case err != nil:
				return fmt.Errorf("starting app %s: %w", a.Name, err)
			}
		}
		if skipped == len(commands) && skipped > 0 {
			return ErrAlready
		}
		return nil
	})
}

// AppCommands are the commands that start an app, for a shell in its directory.
func AppCommands(a clusterimage.App) ([]string, error) {
	if len(a.Cmds) > 0 {
		return a.Cmds, nil
	}
	files := a.Files
	if len(files) == 0 {
		files = []string{"."}
	}
	var list []string
	for _, f := range files {
		switch a.Type {
		case clusterimage.AppKube:
			list = append(list, "kubectl apply -f "+quote(f))
		case clusterimage.AppKustomize:
			list = append(list, "kubectl apply -k "+quote(f))
		case clusterimage.AppHelm:
			list = append(list, fmt.Sprintf("helm upgrade --install %s %s", quote(a.Name), quote(f)))
		case clusterimage.AppShell:
			list = append(list, "sh "+quote(f))
		default:
			return nil, fmt.Errorf("starting app %s: its type is not known and it has no commands of its own (APPCMDS)", a.Name)
		}
	}
	return list, nil
}

func quote(s string) string {
	if strings.HasPrefix(s, "-") {
		s = "./" + s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// once does what was not done in the cluster before, and says ErrAlready if it was.
func (c *Cluster) once(ctx context.Context, key string, do func() error) error {
	if c.done(key) {
		return ErrAlready
	}
	if err := do(); err != nil {
		return err
	}
	return c.mark(ctx, key)
}

// shell runs a command of the image on a host. Command and environment travel on stdin, which nobody
// on the host can see; what the command itself reads there is empty.
func (c *Cluster) shell(ctx context.Context, n *Node, dir string, appEnv map[string]string, command string, out io.Writer) error {
	env := c.Env(n)
	maps.Copy(env, appEnv)
	maps.Copy(env, c.Driver.CommandEnv())
	script := exports(env) + command + "\n"
	return n.Runner.Run(ctx, remote.Cmd{
		Args:   []string{"/bin/sh", "-c", `eval "$(cat)"`},
		Dir:    dir,
		Stdin:  strings.NewReader(script),
		Stdout: out, Stderr: out,
	})
}
