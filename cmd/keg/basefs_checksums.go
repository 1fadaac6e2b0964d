package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/atomicfile"
)

type checksumsFlags struct {
	runtime, version, mirror string
	arches, set              []string
}

func newBasefsChecksumsCommand(a *app) *cobra.Command {
	var flags checksumsFlags
	c := &cobra.Command{
		Use:   "checksums --runtime RUNTIME --version VERSION [DIR]",
		Short: "Write the checksums that the recipe of a base image needs for a release",
		Long: `Write the file of versions and checksums that the recipe of a base image needs for a release, with the
checksums that the sites of its downloads publish: DIR/versions/VERSION.ARCH.env, or without DIR to standard
output. Nothing but the sites' files of checksums is downloaded. Read it before you commit it: from then on, a
build accepts these files and no others.`,
		Example: `  keg basefs checksums --runtime k0s --version v1.37.2+k0s.0 ./base
  keg basefs checksums --runtime kubernetes --version v1.37.2 --set CONTAINERD=2.4.2 --arch arm64
  keg basefs checksums --runtime k3s --version v1.37.2+k3s1 --mirror https://mirror.example.com ./base`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageErrorf("one directory is wanted, not %d arguments", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeDirs,
		RunE: func(c *cobra.Command, args []string) error {
			dir := ""
			if len(args) > 0 {
				dir = args[0]
			}
			return a.checksums(c.Context(), flags, dir)
		},
	}
	runtimeFlag(c, &flags.runtime)
	f := c.Flags()
	f.StringVar(&flags.version, "version", "", "the release, such as v1.37.2, v1.37.2+k3s1 or v1.37.2+k0s.0")
	f.StringSliceVar(&flags.arches, "arch", nil, "architectures (default: amd64 and arm64 with DIR, else this machine's)")
	f.StringVar(&flags.mirror, "mirror", "", "URL that stands before the sites' names, as --build-arg MIRROR of the recipe")
	f.StringArrayVar(&flags.set, "set", nil, "version of a part of the recipe for kubernetes, such as CONTAINERD=2.4.2; may be given several times")
	_ = c.RegisterFlagCompletionFunc("arch", cobra.FixedCompletions([]string{"amd64", "arm64"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) checksums(ctx context.Context, flags checksumsFlags, dir string) error {
	if _, err := recipe(flags.runtime); err != nil {
		return err
	}
	if flags.version == "" {
		return usageErrorf("--version is missing, such as v1.37.2, v1.37.2+k3s1 or v1.37.2+k0s.0")
	}
	set, err := keyValues("--set", flags.set)
	if err != nil {
		return err
	}
	fetch, err := a.checksumsFetch(flags.mirror)
	if err != nil {
		return err
	}
	if len(flags.arches) == 0 {
		if flags.arches = []string{"amd64", "arm64"}; dir == "" {
			flags.arches = []string{goruntime.GOARCH}
		}
	}
	if dir == "" && len(flags.arches) > 1 {
		return usageErrorf("more than one --arch needs a DIR to write to")
	}
	texts := map[string][]byte{}
	for _, arch := range flags.arches {
		r := basefs.Release{Runtime: flags.runtime, Version: flags.version, Arch: arch, Set: set}
		text, err := basefs.Checksums(ctx, r, flags.mirror, fetch)
		var wrong *basefs.ReleaseError
		if errors.As(err, &wrong) {
			return usageErrorf("%s", wrong.Text)
		}
		if err != nil {
			return err
		}
		texts[arch] = text
	}
	if dir == "" {
		_, err := a.stdout.Write(texts[flags.arches[0]])
		return err
	}
	dir = filepath.Join(dir, "versions")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing checksums: %w", err)
	}
	for _, arch := range flags.arches {
		name := filepath.Join(dir, flags.version+"."+arch+".env")
		if err := atomicfile.Write(name, texts[arch], 0o644); err != nil {
			return fmt.Errorf("writing checksums: %w", err)
		}
		fmt.Fprintf(a.stdout, "wrote %s\n", name)
	}
	return nil
}

// checksumsFetch downloads. What nothing vouches for must not come over a wire that anybody can write to.
func (a *app) checksumsFetch(mirror string) (func(context.Context, string) (io.ReadCloser, error), error) {
	if a.offline {
		return nil, &hintedError{errors.New("reading checksums: --offline forbids it"), "write the files by hand: docs/basefs.md says what is in them"}
	}
	if mirror != "" {
		u, err := url.Parse(mirror)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Scheme == "http" && u.Host == "" {
			return nil, usageErrorf("--mirror %q is no URL such as https://mirror.example.com", mirror)
		}
		if u.Scheme == "http" && !transfer.Loopback(u.Hostname()) {
			return nil, usageErrorf("--mirror %s: checksums are not read by plain HTTP: use https, or a server on this machine", u.Redacted())
		}
	}
	return builder.HTTP{}.Fetch, nil
}
