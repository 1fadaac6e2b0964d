package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/builder/buildkit"
	"github.com/clusterimage/keg/builder/contextdir"
)

// builderDir is, in a store, where BuildKit inside of keg has its state.
const builderDir = "buildkit"

// solverFlags say what executes RUN, and what its commands may have.
type solverFlags struct {
	builder  string
	tls      buildkit.TLS
	runTools string
	network  string
	contexts []string
	secrets  []string
	ssh      []string
	allow    []string
}

func (s *solverFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.builder, "builder", "", "address of the buildkitd that executes RUN, tcp://HOST:PORT or unix://PATH (default BUILDKIT_HOST, else this process)")
	f.StringVar(&s.tls.CA, "builder-tls-ca", "", "file with the CA of a tcp:// buildkitd's certificate; a --builder-tls flag makes the connection TLS")
	f.StringVar(&s.tls.Cert, "builder-tls-cert", "", "file with the certificate that is shown to a tcp:// buildkitd")
	f.StringVar(&s.tls.Key, "builder-tls-key", "", "file with the key of that certificate")
	f.StringVar(&s.tls.Name, "builder-tls-name", "", "name in the buildkitd's certificate (default the HOST of its address)")
	f.StringVar(&s.runTools, "run-tools", "", "image or directory (./DIR) whose programs a RUN finds beside the rootfs's own; none for none (default a small Linux, where the rootfs has no shell)")
	f.StringVar(&s.network, "network", "default", "network of every RUN that does not say itself: default, none, host")
	f.StringArrayVar(&s.contexts, "build-context", nil, "NAME=DIR, a git repository, docker-image://IMAGE or oci-layout://DIR[:TAG|@DIGEST] for FROM, COPY --from and RUN --mount")
	f.StringArrayVar(&s.secrets, "secret", nil, "secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=VARIABLE]")
	f.StringArrayVar(&s.ssh, "ssh", nil, "agent or keys for RUN --mount=type=ssh: default or ID[=SOCKET|KEY[,KEY]]")
	f.StringArrayVar(&s.allow, "allow", nil, "what a RUN may ask for: network.host, security.insecure")
	_ = c.RegisterFlagCompletionFunc("network", cobra.FixedCompletions([]string{"default", "none", "host"}, cobra.ShellCompDirectiveNoFileComp))
}

// solver makes what executes RUN; nothing starts before there is something to execute.
func (a *app) solver(flags solverFlags) (*buildkit.Solver, error) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, err
	}
	o := buildkit.Options{Address: flags.builder, Dir: filepath.Join(dir, builderDir), Allow: flags.allow}
	if o.Address == "" {
		o.Address = a.env("BUILDKIT_HOST")
	}
	if err := checkBuilderTLS(flags.tls, o.Address); err != nil {
		return nil, err
	}
	o.TLS = flags.tls
	if flags.network == "host" {
		o.Allow = append(o.Allow, "network.host")
	}
	switch flags.network {
	case "default", "none", "host":
	default:
		return nil, usageErrorf("--network %q is none of default, none, host", flags.network)
	}
	for _, e := range flags.allow {
		if e != "network.host" && e != "security.insecure" {
			return nil, usageErrorf("--allow %q is neither network.host nor security.insecure", e)
		}
	}
	if o.Secrets, err = a.secrets(flags.secrets); err != nil {
		return nil, err
	}
	if o.SSH, err = a.agents(flags.ssh); err != nil {
		return nil, err
	}
	o.Waiting = a.waitingForBuild
	o.Guard = guardCommand
	return buildkit.New(o), nil
}

func checkBuilderTLS(t buildkit.TLS, address string) error {
	switch {
	case t == buildkit.TLS{}:
		return nil
	case !strings.HasPrefix(address, "tcp://"):
		return usageErrorf("--builder-tls-ca, -cert, -key and -name are for a builder at tcp://HOST:PORT")
	case (t.Cert == "") != (t.Key == ""):
		return usageErrorf("--builder-tls-cert and --builder-tls-key go together")
	}
	return nil
}

// maxSecret is what BuildKit takes.
const maxSecret = 500 << 10

// secrets reads the values of --secret. They are kept in memory alone.
func (a *app) secrets(list []string) (map[string][]byte, error) {
	values := map[string][]byte{}
	for _, flag := range list {
		var id, file, env string
		for field := range strings.SplitSeq(flag, ",") {
			k, v, _ := strings.Cut(field, "=")
			switch k {
			case "id":
				id = v
			case "src", "source":
				file = v
			case "env":
				env = v
			case "type":
				if v != "file" && v != "env" {
					return nil, usageErrorf("--secret: type %q is neither file nor env", v)
				}
				if v == "env" && env == "" {
					env = id
				}
			default:
				return nil, usageErrorf("--secret: unknown field %q; write id=ID,src=FILE or id=ID,env=VARIABLE", k)
			}
		}
		if id == "" {
			return nil, usageErrorf("--secret has no id; write id=ID,src=FILE or id=ID,env=VARIABLE")
		}
		if env == "" && file == "" {
			if _, ok := a.lookupEnv(id); ok {
				env = id
			} else {
				file = id
			}
		}
		if env != "" {
			v, ok := a.lookupEnv(env)
			if !ok {
				return nil, usageErrorf("--secret id=%s: the environment variable %s is not set", id, env)
			}
			values[id] = []byte(v)
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading secret %s: %w", id, err)
		}
		if len(data) > maxSecret {
			return nil, fmt.Errorf("reading secret %s: %s has %d bytes, a secret may have %d", id, file, len(data), maxSecret)
		}
		values[id] = data
	}
	return values, nil
}

// agents reads --ssh: ID, or ID=SOCKET, or ID=KEY,KEY.
func (a *app) agents(list []string) (map[string][]string, error) {
	agents := map[string][]string{}
	for _, flag := range list {
		id, paths, ok := strings.Cut(flag, "=")
		if id == "" {
			return nil, usageErrorf("--ssh %q has no ID; write default, or ID=SOCKET, or ID=KEY", flag)
		}
		if !ok {
			if paths = a.env("SSH_AUTH_SOCK"); paths == "" {
				return nil, usageErrorf("--ssh %s: no agent runs (SSH_AUTH_SOCK is not set); write %s=KEYFILE", id, id)
			}
		}
		agents[id] = strings.Split(paths, ",")
	}
	return agents, nil
}

// buildContexts reads --build-context.
func buildContexts(list []string) (map[string]string, error) {
	named := map[string]string{}
	for _, flag := range list {
		k, v, ok := strings.Cut(flag, "=")
		if !ok || k == "" || v == "" {
			return nil, usageErrorf("--build-context %q is not NAME=DIR, NAME=URL of a git repository, NAME=docker-image://IMAGE or NAME=oci-layout://DIR", flag)
		}
		named[strings.ToLower(k)] = v
	}
	return named, nil
}

// solverHint is the cure where nothing can execute a RUN.
func solverHint(err error) string {
	var dial *buildkit.DialError
	var foreign *buildkit.ForeignError
	switch {
	case errors.As(err, &foreign):
		return "install an emulator there (apt install qemu-user-static binfmt-support), name a buildkitd on a machine of that platform with --builder, or run it in a stage FROM --platform=$BUILDPLATFORM and COPY --from that"
	case errors.Is(err, contextdir.ErrNoGit):
		return "install git, or clone the repository yourself and build from the directory"
	case errors.Is(err, contextdir.ErrUnencrypted):
		return "use https:// or ssh, or name a commit: URL#COMMIT"
	case errors.As(err, &dial) && strings.HasPrefix(dial.Address, "tcp://"):
		return "see that buildkitd listens there, and whether it speaks TLS: --builder-tls-ca, and --builder-tls-cert with --builder-tls-key where it wants a certificate"
	case errors.As(err, &dial):
		return "see that buildkitd listens there, and that this user may speak to it"
	case errors.Is(err, buildkit.ErrPlatform):
		return "run a buildkitd on a Linux machine and name it: --builder tcp://HOST:PORT or BUILDKIT_HOST"
	case errors.Is(err, buildkit.ErrRoot) && errors.Is(err, buildkit.ErrRunc):
		return "install runc (apt install runc) and build as root, or name a buildkitd: --builder tcp://HOST:PORT or BUILDKIT_HOST"
	case errors.Is(err, buildkit.ErrRoot):
		return "build as root, or name a buildkitd: --builder tcp://HOST:PORT or BUILDKIT_HOST"
	case errors.Is(err, buildkit.ErrRunc):
		return "install runc (apt install runc), or name a buildkitd: --builder tcp://HOST:PORT or BUILDKIT_HOST"
	}
	return ""
}
