package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// sshFlags say how to log in on hosts.
type sshFlags struct {
	user          string
	port          int
	password      string
	passwordFile  string
	keys          []string
	sudo          bool
	hostKeyPolicy string
	knownHosts    string
	jump          []string
}

func (f *sshFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVarP(&f.user, "user", "u", "root", "user to log in as; another than root runs everything by sudo")
	flags.IntVar(&f.port, "port", 22, "port of sshd")
	flags.StringVarP(&f.password, "passwd", "p", "", "password of the user (visible to others on this machine: prefer the agent, --pk, --passwd-file or KEG_SSH_PASSWORD)")
	flags.StringVar(&f.passwordFile, "passwd-file", "", "file with the password of the user; - asks for it")
	flags.StringSliceVar(&f.keys, "pk", nil, "private keys (default: those in ~/.ssh, and the agent's)")
	flags.BoolVar(&f.sudo, "sudo", false, "run everything by sudo, also as root (the default for other users)")
	flags.StringVar(&f.hostKeyPolicy, "host-key-policy", string(remote.Strict), "what to do about host keys: strict (known ones only), accept-new (trust on first use), insecure (trust anybody)")
	flags.StringVar(&f.knownHosts, "known-hosts", "", "file with known host keys (default ~/.ssh/known_hosts)")
	flags.StringSliceVar(&f.jump, "jump", nil, "hosts to go through, [USER@]HOST[:PORT], the nearest first")
	_ = c.RegisterFlagCompletionFunc("host-key-policy", cobra.FixedCompletions([]string{"strict", "accept-new", "insecure"}, cobra.ShellCompDirectiveNoFileComp))
}

// login is what the record of a cluster keeps, so that reset and status need no flags. Nothing secret.
func (f *sshFlags) login() map[string]string {
	keys := make([]string, 0, len(f.keys))
	for _, k := range f.keys {
		keys = append(keys, fromAnywhere(k))
	}
	return map[string]string{
		"user": f.user, "port": fmt.Sprint(f.port), "pk": strings.Join(keys, ","), "sudo": fmt.Sprint(f.sudo),
		"passwd-file": fromAnywhere(f.passwordFile), "host-key-policy": f.hostKeyPolicy, "known-hosts": fromAnywhere(f.knownHosts), "jump": strings.Join(f.jump, ","),
	}
}

// fromAnywhere is the path of a file for commands that are started in another directory.
func fromAnywhere(path string) string {
	if path == "" || path == "-" {
		return path
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// recall sets the flags that were not given to what the record has.
func (f *sshFlags) recall(c *cobra.Command, login map[string]string) error {
	for name, value := range login {
		flag := c.Flags().Lookup(name)
		if flag == nil || flag.Changed || value == "" {
			continue
		}
		if err := flag.Value.Set(value); err != nil {
			return fmt.Errorf("reading the record of the cluster: %s: %w", name, err)
		}
	}
	return nil
}

// connector makes runtime.Cluster.Connect. The password is found once, however many hosts want it.
func (a *app) connector(f sshFlags) (func(context.Context, runtime.Address) (remote.Runner, error), error) {
	policy, err := remote.ParseHostKeyPolicy(f.hostKeyPolicy)
	if err != nil {
		return nil, usageErrorf("--host-key-policy: %s", err)
	}
	if f.port < 1 || f.port > 65535 {
		return nil, usageErrorf("--port %d is no port", f.port)
	}
	if f.password != "" && f.passwordFile != "" {
		return nil, usageErrorf("--passwd and --passwd-file are two passwords: give one of them")
	}
	if f.password != "" {
		fmt.Fprintln(a.stderr, "keg: warning: others on this machine can read a password on the command line; --passwd-file and KEG_SSH_PASSWORD hide it")
	}
	home, _ := a.home() // without one there are no keys and no known hosts but those that flags name
	sshDir := filepath.Join(home, ".ssh")
	known := []string{filepath.Join(sshDir, "known_hosts"), "/etc/ssh/ssh_known_hosts"}
	if f.knownHosts != "" {
		known = []string{f.knownHosts}
	}
	keys, agent := f.keys, ""
	if len(keys) == 0 {
		agent = a.env("SSH_AUTH_SOCK")
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			if path := filepath.Join(sshDir, name); exists(path) {
				keys = append(keys, path)
			}
		}
	}
	password := a.sshPassword(f)
	config := remote.SSHConfig{
		Port: f.port, User: f.user, Keys: keys, AgentSocket: agent, HostKeyPolicy: policy, KnownHosts: known,
		Password: password,
		Passphrase: onceEach(func(ctx context.Context, path string) (string, error) {
			return a.askSecret(ctx, "Passphrase of "+path+": ")
		}),
	}
	jumps, err := parseJumps(config, f.jump)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, address runtime.Address) (remote.Runner, error) {
		var r remote.Runner = remote.Local()
		if address.Host != "" {
			c := config
			c.Host, c.Jump = address.Host, jumps
			if address.Port != 0 {
				c.Port = address.Port
			}
			conn, err := remote.Dial(ctx, c)
			if err != nil {
				return nil, err
			}
			r = conn
		}
		if f.sudo {
			return remote.SudoPassword(r, password), nil
		}
		root, err := remote.AsRoot(ctx, r, password)
		if err != nil {
			if conn, ok := r.(io.Closer); ok {
				_ = conn.Close()
			}
			return nil, err
		}
		return root, nil
	}, nil
}

func parseJumps(config remote.SSHConfig, list []string) ([]remote.SSHConfig, error) {
	var jumps []remote.SSHConfig
	for _, j := range list {
		c := config
		if user, host, ok := strings.Cut(j, "@"); ok {
			c.User, j = user, host
		}
		hosts, err := remote.ParseHosts(j)
		if err != nil || len(hosts) != 1 {
			return nil, usageErrorf("--jump %q is not [USER@]HOST[:PORT]", j)
		}
		c.Host, c.Port = hosts[0].Name, hosts[0].Port
		jumps = append(jumps, c)
	}
	return jumps, nil
}

// sshPassword gives what --passwd, --passwd-file or KEG_SSH_PASSWORD say, or what is typed when asked;
// it is nil where there is none and nobody to ask.
func (a *app) sshPassword(f sshFlags) func(context.Context) (string, error) {
	var find func(context.Context) (string, error)
	switch {
	case f.password != "":
		find = func(context.Context) (string, error) { return f.password, nil }
	case f.passwordFile != "" && f.passwordFile != "-":
		find = func(context.Context) (string, error) {
			data, err := os.ReadFile(f.passwordFile)
			if err != nil {
				return "", fmt.Errorf("reading password: %w", err)
			}
			return strings.TrimRight(string(data), "\r\n"), nil
		}
	case a.env("KEG_SSH_PASSWORD") != "" && f.passwordFile == "":
		find = func(context.Context) (string, error) { return a.env("KEG_SSH_PASSWORD"), nil }
	default:
		if _, err := a.terminal(); err != nil && f.passwordFile == "" {
			return nil
		}
		find = func(ctx context.Context) (string, error) { return a.askSecret(ctx, "Password of "+f.user+": ") }
	}
	return onceContext(find)
}

// onceContext calls f once, also from several goroutines, and gives everybody its result.
func onceContext(f func(context.Context) (string, error)) func(context.Context) (string, error) {
	var once sync.Once
	var value string
	var err error
	return func(ctx context.Context) (string, error) {
		once.Do(func() { value, err = f(ctx) })
		return value, err
	}
}

// onceEach is onceContext for each argument.
func onceEach(f func(context.Context, string) (string, error)) func(context.Context, string) (string, error) {
	var mu sync.Mutex
	asked := map[string]func(context.Context) (string, error){}
	return func(ctx context.Context, arg string) (string, error) {
		mu.Lock()
		once := asked[arg]
		if once == nil {
			once = onceContext(func(ctx context.Context) (string, error) { return f(ctx, arg) })
			asked[arg] = once
		}
		mu.Unlock()
		return once(ctx)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
