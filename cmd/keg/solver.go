package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/builder/buildkit"
)

// solverFlags say what executes RUN, and what its commands may have.
type solverFlags struct {
	builder  string
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
	f.StringVar(&s.runTools, "run-tools", "", "image or directory (./DIR) whose programs a RUN finds beside the rootfs's own; none for none (default a small Linux, where the rootfs has no shell)")
	f.StringVar(&s.network, "network", "default", "network of every RUN that does not say itself: default, none, host")
	f.StringArrayVar(&s.contexts, "build-context", nil, "NAME=DIR or NAME=docker-image://IMAGE for COPY --from and RUN --mount")
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
	o := buildkit.Options{Address: flags.builder, Dir: filepath.Join(dir, "buildkit"), Network: flags.network, Allow: flags.allow}
	if o.Address == "" {
		o.Address = a.env("BUILDKIT_HOST")
	}
	if flags.network == "host" {
		o.Allow = append(o.Allow, "network.host")
	}
	o.Waiting = func(dir string) {
		fmt.Fprintf(a.stderr, "keg: waiting for another build that uses %s\n", dir)
	}
	return buildkit.New(o), nil
}

// solverHint is the cure where nothing can execute a RUN.
func solverHint(err error) string {
	switch {
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
