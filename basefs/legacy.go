package basefs

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Scope says on which hosts a LegacyHook runs.
type Scope string

const (
	// ScopeFirst is the first control plane.
	ScopeFirst Scope = "first"
	// ScopeMasters are all control planes.
	ScopeMasters Scope = "masters"
	// ScopeWorkers are all workers.
	ScopeWorkers Scope = "workers"
	// ScopeAll are all hosts.
	ScopeAll Scope = "all"
)

// LegacyHook is a script or plugin that sealer would run of a tree, and what keg does about it.
type LegacyHook struct {
	// Phase is keg's hook in whose place it runs: pre-configure, init, registry, post-init, post-join, pre-apps,
	// pre-scaleup, post-scaleup, pre-upgrade, post-upgrade, clean (while the runtime still is there), post-clean.
	Phase string
	// Source is for people: "scripts/init-kube.sh", "plugins/a.yaml: name".
	Source string
	// On are the hosts.
	On Scope
	// Script is a path in the tree; "" is Text, a plugin's.
	Script string
	Text   string
	// Dir is where it runs, relative to the rootfs: "scripts" or ".".
	Dir string
	// Args are its arguments, in which $NAME stands for a variable of its environment.
	Args []string
	// Skipped says why keg does not run it, because it does the same itself or because nobody ever did; "" is that
	// it runs.
	Skipped string
}

// Command is what to run and in which directory. The scripts of such trees are written for bash.
func (h LegacyHook) Command(rootfs string, env map[string]string) (argv []string, dir string) {
	dir = path.Join(rootfs, h.Dir)
	if h.Script == "" {
		return []string{"bash", "-c", h.Text}, dir
	}
	argv = []string{"bash", path.Join(rootfs, h.Script)}
	for _, a := range h.Args {
		argv = append(argv, os.Expand(a, func(name string) string {
			if name == "ROOTFS" {
				return rootfs
			}
			return env[name]
		}))
	}
	return argv, dir
}

// RunsOn says whether it runs on a control plane or a worker; first is the control plane that is asked.
func (h LegacyHook) RunsOn(master, first bool) bool {
	switch h.On {
	case ScopeFirst:
		return first
	case ScopeMasters:
		return master
	case ScopeWorkers:
		return !master
	case ScopeAll:
		return true
	}
	return false
}

// criScripts install a container runtime, in sealer's trees.
var criScripts = []string{"containerd.sh", "docker.sh"}

// LegacyHooks are the scripts and plugins of a tree made for sealer, in the order in which sealer runs them, so that
// those of one phase run in the order of the list. runtime is that of the image. A tree made for keg has none but
// its plugins: its hooks are found by name. The errors are *PluginErrors and those of reading.
func LegacyHooks(tree fs.FS, runtime string) ([]LegacyHook, error) {
	l := &legacy{tree: tree, runtime: runtime, ran: map[string]bool{}}
	plugins, err := l.plugins()
	if err != nil {
		return nil, err
	}
	plugin := func(action string) {
		for _, p := range plugins {
			l.plugin(p, action)
		}
	}
	plugin("pre-install")
	plugin("pre-init-host")
	l.cri()
	l.add(LegacyHook{
		Phase: "registry", On: ScopeMasters, Script: "scripts/init-registry.sh", Args: []string{"$RegistryPort", "$ROOTFS/registry", "$RegistryDomain"},
		Skipped: "keg serves the embedded images itself, at the same name and port, and without a container engine",
	})
	l.initialize()
	for _, action := range []string{
		"post-init-host", "post-install", "pre-scaleup", "post-scaleup", "upgrade-host", "upgrade", "rollback", "pre-uninstall", "pre-clean-host",
	} {
		plugin(action)
	}
	l.clean()
	plugin("post-clean-host")
	plugin("post-uninstall")
	for _, p := range plugins {
		for _, action := range p.actions() {
			if _, ok := pluginPhases[action]; !ok {
				l.list = append(l.list, LegacyHook{Source: p.source, Text: p.Spec.Data, Dir: ".", Skipped: fmt.Sprintf("%q is no phase, to sealer either", action)})
			}
		}
	}
	return l.list, l.err
}

// IsLegacy says whether a tree has what keg's own trees do not: the scripts that sealer runs by name.
func IsLegacy(tree fs.FS) bool {
	for _, name := range append([]string{"init-kube.sh", "init-registry.sh"}, criScripts...) {
		if there(tree, "scripts/"+name) {
			return true
		}
	}
	return false
}

// DockerOnly says whether a tree of the runtime kubernetes has sealer's script for docker and nothing that brings
// containerd, without which no kubelet of today works. there says which files it has.
func DockerOnly(there func(name string) bool) bool {
	return there("scripts/docker.sh") && !there("scripts/containerd.sh") && !there("bin/containerd")
}

func there(tree fs.FS, name string) bool {
	info, err := fs.Stat(tree, name)
	return err == nil && info.Mode().IsRegular()
}

// legacy collects the hooks of one tree.
type legacy struct {
	tree    fs.FS
	runtime string
	list    []LegacyHook
	ran     map[string]bool   // scripts that run, by name
	skipped map[string]string // scripts that do not
	err     error
}

// add puts a script on the list, if the tree has it.
func (l *legacy) add(h LegacyHook) {
	if l.err != nil || !there(l.tree, h.Script) {
		return
	}
	h.Source, h.Dir = h.Script, "scripts"
	name := path.Base(h.Script)
	if h.Skipped == "" {
		text, err := fs.ReadFile(l.tree, h.Script)
		if err != nil {
			l.err = fmt.Errorf("reading %s: %w", h.Script, err)
			return
		}
		if called := l.calls(text); called != "" {
			h.Skipped = fmt.Sprintf("it calls %s, which keg does not run: %s", called, l.skipped[called])
		}
	}
	if l.ran[name] = h.Skipped == ""; h.Skipped != "" {
		if l.skipped == nil {
			l.skipped = map[string]string{}
		}
		l.skipped[name] = h.Skipped
	}
	l.list = append(l.list, h)
}

var comment = regexp.MustCompile(`(?m)^[ \t]*#.*$`)

// calls is the first script that a text names and that is not run, or "".
func (l *legacy) calls(text []byte) string {
	text = comment.ReplaceAll(text, nil)
	for _, name := range append([]string{"install-cri.sh", "init-registry.sh"}, criScripts...) {
		word := regexp.MustCompile(`(^|[^A-Za-z0-9_.-])` + regexp.QuoteMeta(name) + `\b`)
		if l.skipped[name] != "" && word.Match(text) {
			return name
		}
	}
	return ""
}

// cri is the container runtime's installation.
func (l *legacy) cri() {
	for _, name := range criScripts {
		why := ""
		switch {
		case l.runtime != "kubernetes":
			why = l.runtime + " brings a container runtime of its own"
		case there(l.tree, "bin/containerd"):
			why = "keg installs and starts the containerd in bin/"
		case name == "docker.sh":
			why = "keg runs containerd, and a kubelet of today cannot use docker"
		}
		l.add(LegacyHook{Phase: "init", On: ScopeAll, Script: "scripts/" + name, Skipped: why})
	}
	// Of the time before these: init.sh called it.
	if there(l.tree, "scripts/install-cri.sh") {
		l.add(LegacyHook{Phase: "init", On: ScopeAll, Script: "scripts/install-cri.sh", Skipped: "sealer does not run it by itself, and keg has containerd from bin/"})
	}
}

// initialize prepares hosts for the runtime: init-kube.sh, or init.sh in trees without one.
func (l *legacy) initialize() {
	l.add(LegacyHook{Phase: "init", On: ScopeAll, Script: "scripts/init-kube.sh"})
	if !IsLegacy(l.tree) {
		return // init.sh is keg's own hook
	}
	why := ""
	if there(l.tree, "scripts/init-kube.sh") {
		why = "init-kube.sh came in its place"
	}
	l.add(LegacyHook{Phase: "init", On: ScopeAll, Script: "scripts/init.sh", Args: []string{"/var/lib/docker", "$RegistryDomain", "$RegistryPort"}, Skipped: why})
}

// clean undoes what ran, and nothing else: such scripts delete programs and data wherever they come from.
func (l *legacy) clean() {
	if !IsLegacy(l.tree) {
		return
	}
	undo := func(script string, of ...string) {
		why := ""
		if !slices.ContainsFunc(of, func(name string) bool { return l.ran[name] }) {
			why = "what it takes back was not done: " + strings.Join(of, ", ") + " did not run"
		}
		l.add(LegacyHook{Phase: "post-clean", On: ScopeAll, Script: "scripts/" + script, Skipped: why})
	}
	for _, name := range criScripts {
		undo("uninstall-"+name, name)
	}
	undo("clean-kube.sh", "init-kube.sh", "init.sh")
	undo("clean.sh", "init-kube.sh", "init.sh", "containerd.sh")
}

// legacyNames are settings that sealer calls otherwise.
var legacyNames = map[string]string{"PodCIDR": "POD_CIDR", "SvcCIDR": "SERVICE_CIDR", "CertSANs": "CERT_SANS"}

// FromLegacyEnv is what an image or a user set, with each of PodCIDR, SvcCIDR and CertSANs under keg's name and under
// sealer's, whichever was given, so that one of them given later overrides both. Keg's name wins where both are.
func FromLegacyEnv(env map[string]string) map[string]string {
	out := maps.Clone(env)
	for theirs, ours := range legacyNames {
		if v := cmp.Or(env[ours], env[theirs]); v != "" {
			out[theirs], out[ours] = v, v
		}
	}
	return out
}

// LegacyEnv is env with the names that sealer's templates, scripts and plugins know beside those that keg gives
// anyway (HostIP, RegistryURL and so on): PodCIDR, SvcCIDR, KubeSvcIP, DNSSvcIP, CertSANs, ContainerRuntime. Those that
// env has stay as they are.
func LegacyEnv(env map[string]string) map[string]string {
	out := map[string]string{"ContainerRuntime": "containerd"}
	for theirs, ours := range legacyNames {
		out[theirs] = env[ours]
	}
	services := cmp.Or(env["SvcCIDR"], env["SERVICE_CIDR"])
	for name, n := range map[string]int{"KubeSvcIP": 1, "DNSSvcIP": 10} {
		var ips []string
		for _, cidr := range strings.Split(services, ",") {
			prefix, err := netip.ParsePrefix(strings.TrimSpace(cidr))
			if err != nil {
				continue
			}
			addr := prefix.Masked().Addr()
			for range n {
				addr = addr.Next()
			}
			if prefix.Contains(addr) {
				ips = append(ips, addr.String())
			}
		}
		out[name] = strings.Join(ips, ",")
	}
	maps.Copy(out, env)
	return out
}
