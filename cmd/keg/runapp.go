package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/unpack"
	"github.com/clusterimage/keg/runtime"
)

// runApp brings an app image to a cluster that keg made.
func (a *app) runApp(c *cobra.Command, what string, flags *runFlags) error {
	if flags.masters+flags.nodes+flags.kubeconfig+flags.endpoint+flags.vip != "" || len(flags.config)+len(flags.sans) > 0 {
		return usageErrorf("--cluster runs an app image on a cluster that is there: only --env and --dry-run go with it, and how to log in")
	}
	env, err := keyValues("--env", flags.env)
	if err != nil {
		return err
	}
	cluster, err := a.recorded(c, flags.cluster, &flags.ssh)
	if err != nil {
		return err
	}
	show, err := a.display()
	if err != nil {
		return err
	}
	defer show.close()
	driver := cluster.Driver
	cluster.Driver = nil
	release, err := a.attachImage(c.Context(), cluster, what, show)
	if err != nil {
		return err
	}
	defer release()
	if cluster.Driver != nil {
		return &hintedError{
			err:  &refusedError{fmt.Sprintf("%s is a cluster image, for %s", cluster.Image.Name, cluster.Driver.Name())},
			hint: "make a cluster of it with keg run --masters, or bring this one to it with keg upgrade",
		}
	}
	cluster.Driver = driver
	cluster.Options.Env = env
	if flags.dryRun {
		show.close()
		return a.printPlan(cluster, runtime.AppPhases(), &flags.out)
	}
	cluster.Options.Progress = show.event
	err = runtime.Run(c.Context(), cluster, runtime.AppPhases())
	show.close()
	if err != nil {
		return err
	}
	return a.ranApp(cluster, &flags.out)
}

func (a *app) ranApp(cluster *runtime.Cluster, out *output) error {
	v := struct {
		Cluster string `json:"cluster,omitempty"`
		App     string `json:"app"`
	}{cluster.Name, cluster.Image.Name}
	return out.write(a.stdout, v, func(w io.Writer) { fmt.Fprintf(w, "%s runs\n", v.App) })
}

// runAppAnywhere runs an app image's commands on this machine, with the kubeconfig of any cluster. What
// kubectl and helm do there they do again each time.
func (a *app) runAppAnywhere(ctx context.Context, cluster *runtime.Cluster, flags *runFlags, show *display) (err error) {
	if flags.dryRun {
		return usageErrorf("--dry-run plans what is done on hosts; an app with --kubeconfig touches none")
	}
	kubeconfig, err := filepath.Abs(flags.kubeconfig)
	if err != nil {
		return fmt.Errorf("finding the kubeconfig: %w", err)
	}
	if _, err := os.Stat(kubeconfig); err != nil {
		return fmt.Errorf("finding the kubeconfig: %w", err)
	}
	local := localApp{app: a, cluster: cluster, env: maps.Clone(cluster.Image.Spec.Env)}
	if local.env == nil {
		local.env = map[string]string{}
	}
	maps.Copy(local.env, cluster.Options.Env)
	local.env["KUBECONFIG"] = kubeconfig
	if err := local.checkVersion(ctx); err != nil {
		return err
	}
	if local.dir, err = os.MkdirTemp("", "keg-app-"); err != nil {
		return fmt.Errorf("unpacking the app: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(local.dir)) }()
	if err := local.unpack(ctx); err != nil {
		return err
	}
	show.close()
	if names := embeddedNames(cluster.Image); len(names) > 0 {
		fmt.Fprintf(a.stderr, "keg: the cluster must be able to pull by itself: %s\n", strings.Join(names, ", "))
	}
	if err := local.start(ctx); err != nil {
		return err
	}
	return a.ranApp(&runtime.Cluster{Image: cluster.Image}, &flags.out)
}

func embeddedNames(img *runtime.Image) []string {
	var names []string
	for _, e := range img.Index.Embedded {
		if !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

// localApp is an app image whose commands run on this machine.
type localApp struct {
	app     *app
	cluster *runtime.Cluster
	env     map[string]string
	dir     string
}

// checkVersion refuses an app that is not for the cluster's version of Kubernetes.
func (l *localApp) checkVersion(ctx context.Context) error {
	var out strings.Builder
	err := l.shell(ctx, "/", nil, "kubectl version -o json", &out)
	if err != nil {
		return &hintedError{err: fmt.Errorf("asking the cluster with kubectl: %w", err), hint: "kubectl must be in PATH, and the kubeconfig be that of a cluster that answers"}
	}
	version, err := serverVersion(out.String())
	if err != nil {
		return err
	}
	l.env["KUBE_VERSION"] = version
	if err := runtime.CheckKubeVersion(l.cluster.Image.Spec.KubeVersion, version); err != nil {
		return &refusedError{fmt.Sprintf("%s: %s", l.cluster.Image.Name, err)}
	}
	return nil
}

// unpack makes the rootfs for this machine's architecture, or the only one there is: what is in an app
// is for the cluster, but for its scripts.
func (l *localApp) unpack(ctx context.Context) error {
	img := l.cluster.Image
	rootfs, ok := img.Platforms["linux/"+goruntime.GOARCH]
	if !ok {
		rootfs = img.Platforms[slices.Sorted(maps.Keys(img.Platforms))[0]]
	}
	s, err := l.app.store()
	if err != nil {
		return err
	}
	layers, _, err := s.Layers(ctx, rootfs.Descriptor.Digest)
	if err != nil {
		return err
	}
	tree := filepath.Join(l.dir, "rootfs")
	if err := unpack.Rootfs(ctx, layers, tree, unpack.Options{}); err != nil {
		return fmt.Errorf("unpacking the app: %w", err)
	}
	l.dir = tree
	root, err := os.OpenRoot(tree)
	if err != nil {
		return fmt.Errorf("rendering the app: %w", err)
	}
	defer root.Close()
	l.env["ROOTFS"] = tree
	return basefs.Renderer{Env: l.env, Apps: l.cluster.AppEnv()}.Render(root.FS(), func(name string, mode fs.FileMode, data []byte) error {
		return root.WriteFile(name, data, mode)
	})
}

// start starts the apps of the launch list in order, plugins first, and then runs the image's commands.
func (l *localApp) start(ctx context.Context) error {
	spec := l.cluster.Image.Spec
	for _, pass := range []func(role string) bool{
		func(role string) bool { return role == clusterimage.RoleCNI },
		func(role string) bool { return role == clusterimage.RoleCSI },
	} {
		for _, app := range spec.Apps {
			if pass(app.Role) {
				if err := l.launch(ctx, app); err != nil {
					return err
				}
			}
		}
	}
	for _, name := range spec.Launch {
		app, ok := spec.App(name)
		if !ok {
			return fmt.Errorf("starting app %q: the image has no app of that name", name)
		}
		if app.Role != "" {
			continue
		}
		if err := l.launch(ctx, app); err != nil {
			return err
		}
	}
	for _, command := range spec.Cmds {
		if err := l.shell(ctx, l.dir, nil, command, l.app.stderr); err != nil {
			return err
		}
	}
	return nil
}

func (l *localApp) launch(ctx context.Context, app clusterimage.App) error {
	commands, err := runtime.AppCommands(app)
	if err != nil {
		return err
	}
	for _, command := range commands {
		if err := l.shell(ctx, filepath.Join(l.dir, basefs.AppsDir, app.Name), l.cluster.AppEnv()[app.Name], command, l.app.stderr); err != nil {
			return fmt.Errorf("starting app %s: %w", app.Name, err)
		}
	}
	return nil
}

// shell runs a command with the app's values in its environment, as this user, with this user's PATH.
func (l *localApp) shell(ctx context.Context, dir string, more map[string]string, command string, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, l.app.stderr
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = os.Environ() // kubeconfigs may name programs that log in by what stands there
	for _, values := range []map[string]string{l.env, more} {
		for k, v := range values {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("running %q: %w", command, err)
	}
	return nil
}

// serverVersion reads what kubectl version -o json prints.
func serverVersion(text string) (string, error) {
	var v struct {
		ServerVersion struct {
			GitVersion string `json:"gitVersion"`
		} `json:"serverVersion"`
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil || v.ServerVersion.GitVersion == "" {
		return "", errors.New("asking the cluster for its version: kubectl names none")
	}
	return v.ServerVersion.GitVersion, nil
}
