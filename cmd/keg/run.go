package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

type runFlags struct {
	ssh            sshFlags
	name           string
	masters, nodes string
	env            []string
	kubeconfig     string
	cluster        string
	config         []string
	endpoint, vip  string
	sans           []string
	dryRun         bool
	out            output
}

func newRunCommand(a *app) *cobra.Command {
	var flags runFlags
	c := &cobra.Command{
		Use:   "run IMAGE|FILE",
		Short: "Make a cluster of hosts from a cluster image",
		Long: `Make a Kubernetes cluster of bare hosts from a cluster image: one in the store, one in a registry,
or one in a file that keg save wrote. The hosts need sshd and systemd and no internet. Without --masters
this machine becomes the cluster.

Hosts are addresses separated by commas, ranges (10.0.0.4-10.0.0.9) and networks (10.0.0.0/29).

The same command after a failure goes on where it stopped, and with more hosts it adds them to the
cluster; those that it had before need not be named, nor how to log in there. Several masters make a cluster that bears the loss
of some: an odd number is best. keg delete takes hosts off, keg reset puts all of them back.

An app image, which has no runtime, runs on a cluster that is there: on one that keg made with --cluster,
whose registry serves the app's images from then on, or on any with --kubeconfig, which must be able to
pull them by itself.

--config adds documents of the runtime's own configuration (kubeadm's v1beta4 kinds, a config.yaml of
k3s, a ClusterConfig of k0s) to what keg writes; they have the last word.`,
		Example: `  keg run shop.tar --masters 10.0.0.1 --nodes 10.0.0.4-10.0.0.9
  keg run reg.example.com/shop:v1 --masters 10.0.0.1 --user admin --passwd-file pw --env POD_CIDR=10.8.0.0/16
  keg run shop.tar --masters 10.0.0.1-10.0.0.3 --nodes 10.0.0.4-10.0.0.9 --vip 10.0.0.100
  keg run shop.tar --masters 10.0.0.1-10.0.0.3 --endpoint api.example.com:6443 --config kubeadm.yaml
  keg run shop.tar --masters 10.0.0.1 --nodes 10.0.0.4 --dry-run
  keg run shop.tar
  keg run monitoring.tar --cluster shop
  keg run monitoring.tar --kubeconfig ~/.kube/config`,
		Args: oneArg("an image or a file"),
		ValidArgsFunction: func(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			names, _ := a.completeImages(1)(c, args, prefix)
			return names, cobra.ShellCompDirectiveDefault
		},
		RunE: func(c *cobra.Command, args []string) error { return a.runCluster(c, args[0], &flags) },
	}
	f := c.Flags()
	f.StringVarP(&flags.masters, "masters", "m", "", "hosts of the control plane")
	f.StringVarP(&flags.nodes, "nodes", "n", "", "hosts that become workers")
	f.StringVar(&flags.name, "name", "default", "name of the cluster")
	f.StringArrayVarP(&flags.env, "env", "e", nil, "value for templates and commands, K=V; overrides the image's")
	f.StringVar(&flags.kubeconfig, "kubeconfig", "", "where to write the kubeconfig (default ~/.kube/keg-NAME.config); of an app image, that of the cluster to run it on")
	f.StringVar(&flags.cluster, "cluster", "", "name of the cluster to run an app image on")
	f.StringArrayVar(&flags.config, "config", nil, "file with documents of the runtime's own configuration")
	f.StringVar(&flags.endpoint, "endpoint", "", "HOST:PORT of a load balancer that is already before the API")
	f.StringVar(&flags.vip, "vip", "", "free address of the hosts' network that one of the masters shall have at a time, for clients outside")
	f.StringSliceVar(&flags.sans, "san", nil, "more names and addresses for the API's certificate")
	f.BoolVar(&flags.dryRun, "dry-run", false, "print the plan and connect to no host")
	flags.ssh.register(c)
	flags.out.register(c)
	_ = c.RegisterFlagCompletionFunc("cluster", a.completeClusters)
	_ = c.RegisterFlagCompletionFunc("name", a.completeClusters)
	return c
}

func (a *app) runCluster(c *cobra.Command, what string, flags *runFlags) error {
	if flags.cluster != "" {
		return a.runApp(c, what, flags)
	}
	ctx := c.Context()
	if err := a.recallLogin(c, flags.name, &flags.ssh); err != nil {
		return err
	}
	cluster, err := a.newCluster(flags)
	if err != nil {
		return err
	}
	show, err := a.display()
	if err != nil {
		return err
	}
	defer show.close()
	release, err := a.attachImage(ctx, cluster, what, show)
	if err != nil {
		return err
	}
	defer release()
	if cluster.Driver == nil { // an app image
		if flags.kubeconfig == "" || flags.masters+flags.nodes != "" {
			return &hintedError{
				err:  &refusedError{fmt.Sprintf("%s is an app image, which makes no cluster", cluster.Image.Name)},
				hint: "name the cluster to run it on: --cluster NAME, or --kubeconfig FILE of any other",
			}
		}
		return a.runAppAnywhere(ctx, cluster, flags, show)
	}
	cluster.Options.Progress = show.event
	if flags.dryRun {
		show.close()
		return a.printPlan(cluster, runtime.RunPhases(), &flags.out)
	}
	err = runtime.Run(ctx, cluster, runtime.RunPhases())
	show.close()
	if err != nil {
		return err
	}
	v := struct {
		Cluster    string `json:"cluster"`
		UID        string `json:"uid"`
		Kubeconfig string `json:"kubeconfig"`
	}{cluster.Name, cluster.UID, cluster.Kubeconfig}
	return flags.out.write(a.stdout, v, func(w io.Writer) {
		fmt.Fprintf(w, "cluster %s is ready\nexport KUBECONFIG=%s\n", v.Cluster, v.Kubeconfig)
	})
}

// envName is what a shell can hold, since hooks and commands see the values too.
var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// clusterName is a name that can be part of file names and of hosts' state.
var clusterName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

func (a *app) newCluster(flags *runFlags) (*runtime.Cluster, error) {
	env, err := keyValues("--env", flags.env)
	if err != nil {
		return nil, err
	}
	for k := range env {
		if !envName.MatchString(k) {
			return nil, usageErrorf("--env %s: letters, digits and _ are allowed in a name, and no digit in front", k)
		}
	}
	documents, err := readDocuments(flags.config)
	if err != nil {
		return nil, err
	}
	connect, err := a.connector(flags.ssh)
	if err != nil {
		return nil, err
	}
	home, err := a.home()
	if err != nil && flags.kubeconfig == "" {
		return nil, err
	}
	dir, err := a.clusterDir(flags.name)
	if err != nil {
		return nil, err
	}
	kubeconfig := flags.kubeconfig
	if kubeconfig == "" {
		kubeconfig = filepath.Join(home, ".kube", "keg-"+flags.name+".config")
	}
	record, err := runtime.LoadRecord(dir)
	if err != nil {
		return nil, err
	}
	nodes := record.Join(nil)
	if flags.masters != "" || len(nodes) == 0 { // a cluster that stands has control planes, and is no other machine
		nodes, err = parseNodes(flags.masters, flags.nodes)
	} else if flags.nodes != "" {
		nodes, err = parseHosts("--nodes", flags.nodes, runtime.Worker)
	}
	if err != nil {
		return nil, err
	}
	return &runtime.Cluster{
		Name:       flags.name,
		Nodes:      record.Join(nodes),
		Dir:        dir,
		Kubeconfig: kubeconfig,
		Login:      flags.ssh.login(),
		Connect:    connect,
		Agent:      newAgent,
		Options: runtime.Options{Settings: runtime.Settings{
			Env: env, Config: documents, Endpoint: flags.endpoint, VIP: flags.vip, SANs: flags.sans,
		}},
	}, nil
}

// readDocuments reads the files of --config.
func readDocuments(files []string) ([]runtime.Document, error) {
	var all []runtime.Document
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("reading --config: %w", err)
		}
		list, err := runtime.ParseDocuments(f, data)
		if err != nil {
			return nil, &refusedError{err.Error()}
		}
		if len(list) == 0 {
			return nil, &refusedError{fmt.Sprintf("reading --config: there is no document in %s", f)}
		}
		all = append(all, list...)
	}
	return all, nil
}

// parseNodes reads --masters and --nodes. Neither means this machine.
func parseNodes(masters, workers string) ([]*runtime.Node, error) {
	if masters == "" && workers == "" {
		return []*runtime.Node{{Role: runtime.Master}}, nil
	}
	if masters == "" {
		return nil, usageErrorf("--nodes needs --masters: a cluster has at least one control plane")
	}
	var nodes []*runtime.Node
	for _, list := range []struct {
		flag, hosts string
		role        runtime.Role
	}{{"--masters", masters, runtime.Master}, {"--nodes", workers, runtime.Worker}} {
		if list.hosts == "" {
			continue
		}
		some, err := parseHosts(list.flag, list.hosts, list.role)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, some...)
	}
	return nodes, nil
}

func parseHosts(flag, list string, role runtime.Role) ([]*runtime.Node, error) {
	hosts, err := remote.ParseHosts(list)
	if err != nil {
		return nil, usageErrorf("%s: %s", flag, err)
	}
	var nodes []*runtime.Node
	for _, h := range hosts {
		nodes = append(nodes, &runtime.Node{Address: runtime.Address{Host: h.Name, Port: h.Port}, Role: role})
	}
	return nodes, nil
}

// findImage finds what is to run: a file, an image in the store, or one in a registry.
func (a *app) findImage(ctx context.Context, s *imagestore.Store, what string, show *display) (imagestore.Tagged, error) {
	if fi, err := os.Stat(what); err == nil && fi.Mode().IsRegular() {
		loaded, err := a.load(ctx, s, what, "", show)
		if err != nil {
			return imagestore.Tagged{}, err
		}
		if len(loaded) != 1 {
			var names []string
			for _, t := range loaded {
				names = append(names, t.Name)
			}
			return imagestore.Tagged{}, usageErrorf("%s holds %d images; all are loaded, name the one to run: %s", what, len(loaded), strings.Join(names, ", "))
		}
		return loaded[0], nil
	}
	t, err := s.Resolve(what)
	if err == nil {
		return t, nil
	}
	ref, parseErr := parseName(what)
	if parseErr != nil {
		return imagestore.Tagged{}, fmt.Errorf("%w; there is no such file either", err)
	}
	if looksLikeFile(what) { // a registry is not to be asked for a name that was mistyped
		return imagestore.Tagged{}, fmt.Errorf("opening archive: there is no file %s, and no such image in the store", what)
	}
	client := a.client(show)
	target, err := pullAndTag(ctx, s, client, ref, transfer.PullOptions{})
	if err != nil {
		return imagestore.Tagged{}, fmt.Errorf("%q is no file and not in the store: %w", what, err)
	}
	return imagestore.Tagged{Name: fullName(ref), Target: target}, nil
}

func looksLikeFile(s string) bool {
	switch strings.ToLower(filepath.Ext(s)) {
	case ".tar", ".tgz", ".gz", ".zst", ".bz2", ".xz", ".keg":
		return true
	}
	return false
}

// printPlan is what --dry-run does.
func (a *app) printPlan(cluster *runtime.Cluster, phases []runtime.Phase, out *output) error {
	plan, err := runtime.NewPlan(cluster, phases)
	if err != nil {
		return err
	}
	return out.write(a.stdout, plan, func(w io.Writer) { writePlan(w, plan) })
}

func writePlan(w io.Writer, p runtime.Plan) {
	fmt.Fprintf(w, "plan for cluster %s (%s) from %s\n", p.Cluster, p.Runtime, p.Image)
	for _, n := range p.Nodes {
		fmt.Fprintf(w, "  %s %s\n", n.Role, n.Host)
	}
	for _, phase := range p.Phases {
		fmt.Fprintf(w, "%s\n", phase.Title)
		for _, step := range phase.Steps {
			host := step.Host
			if host == "" {
				host = "here"
			}
			fmt.Fprintf(w, "  %s: %s\n", host, step.Text)
		}
	}
}
