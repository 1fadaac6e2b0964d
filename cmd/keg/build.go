package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/kubefile"
)

type buildFlags struct {
	file         string
	tags         []string
	args         []string
	platforms    []string
	missing      string
	labels       []string
	compression  string
	noCache      bool
	pull         bool
	keepArchives bool
	quiet        bool
	check        bool
	target       string
	fetched      string // the directory that was made for PATH
	solver       solverFlags
	cache        cacheFlags
	discovery    builder.Discovery
}

func newBuildCommand(a *app) *cobra.Command {
	var flags buildFlags
	var out output
	c := &cobra.Command{
		Use:   "build [flags] PATH|GIT|-",
		Short: "Build a cluster image from a Kubefile and a directory",
		Long: `Build a cluster image: read the Kubefile in PATH (or the one given by -f), pack the files
it copies, pull the container images it embeds, and name the result. Files are packed as they are
read, without a daemon and without root. RUN is executed by BuildKit: inside of keg, which needs Linux,
root and runc, or in the buildkitd that --builder names.

PATH may also be a git repository, URL[#REF[:DIR]], or - for a tar archive on standard input, plain or
compressed; -f then names a file in it. A Kubefile alone on standard input is built without a context.`,
		Example: `  keg build -t reg.example.com/shop:v1 .
  keg build -t shop:v1 -f deploy/Kubefile --build-arg VERSION=1.2 .
  keg build -t shop:v1 --platform linux/amd64,linux/arm64 .
  keg build -t shop:v1 https://git.example.com/shop.git#v1:deploy
  tar -c . | keg build -t shop:v1 -`,
		Args:              oneArg("the directory of the build context"),
		ValidArgsFunction: completeDirs,
		RunE: func(c *cobra.Command, args []string) error {
			return a.build(c, args[0], flags, out)
		},
	}
	f := c.Flags()
	f.StringVarP(&flags.file, "file", "f", "", "the Kubefile (default PATH/Kubefile; - reads standard input)")
	f.StringArrayVarP(&flags.tags, "tag", "t", nil, "name of the image; may be given several times")
	f.StringArrayVar(&flags.args, "build-arg", nil, "value of an ARG, K=V; K alone takes the value from the environment")
	f.StringSliceVar(&flags.platforms, "platform", nil, "platforms to build for (default: linux on this machine's architecture)")
	registerMissing(c, &flags.missing)
	f.StringArrayVar(&flags.labels, "label", nil, "label of the image, K=V")
	f.StringVar(&flags.compression, "compression", string(pack.Zstd), "of layers: zstd or gzip (for old readers)")
	f.BoolVar(&flags.noCache, "no-cache", false, "pack every layer anew and run every RUN again")
	f.BoolVar(&flags.pull, "pull", false, "ask registries for FROM and COPY --from also where the store has the image")
	f.BoolVar(&flags.keepArchives, "keep-archives", false, "leave image archives in the rootfs as well")
	f.BoolVar(&flags.discovery.Off, "no-discover", false, "embed only the images that IMAGES, image lists and archives name")
	f.BoolVar(&flags.discovery.Candidates, "candidates", false, "embed also what only looks like an image in the manifests")
	f.BoolVar(&flags.discovery.Strict, "strict", false, "fail if files could not be searched fully for images")
	f.BoolVar(&flags.discovery.KeepGoing, "keep-going", false, "report all broken manifests and charts, not only the first")
	f.BoolVar(&flags.check, "check", false, "lint the Kubefile and build nothing; exit with 1 if there are warnings")
	f.BoolVarP(&flags.quiet, "quiet", "q", false, "print the digest only")
	f.StringVar(&flags.target, "target", "", "build up to this stage, by name or number")
	flags.solver.register(c)
	flags.cache.register(c)
	out.register(c)
	_ = c.RegisterFlagCompletionFunc("compression", cobra.FixedCompletions([]string{"zstd", "gzip"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) build(c *cobra.Command, path string, flags buildFlags, out output) (err error) {
	ctx := c.Context()
	show, err := a.display()
	if err != nil {
		return err
	}
	defer show.close()
	contexts, err := a.fetchContexts(ctx, path, &flags, show.event)
	defer func() { err = errors.Join(err, contexts.remove()) }()
	if err != nil {
		return err
	}
	dir := contexts.dir
	request, err := a.buildRequest(ctx, dir, flags)
	if err != nil {
		return err
	}
	if done, err := a.checked(ctx, request, dir, flags, out); done || err != nil {
		return err
	}
	s, err := a.store()
	if err != nil {
		return err
	}
	client := a.client(show)
	b := &builder.Builder{Store: s, Images: client, Caches: client, Progress: show.event}
	if !a.offline {
		b.Fetch = builder.HTTP{}
	}
	solver, err := a.solver(flags.solver)
	if err != nil {
		return err
	}
	b.Solver = solver
	began := time.Now()
	result, err := b.Build(ctx, request)
	err = errors.Join(err, solver.Close())
	show.close()
	if err != nil {
		return err
	}
	for _, unused := range request.File.UnusedBuildArgs(kubefile.Vars{BuildArgs: request.Vars}) {
		fmt.Fprintf(a.stderr, "keg: warning: build argument %q is not used by any ARG\n", unused)
	}
	for _, w := range result.Warnings {
		fmt.Fprintf(a.stderr, "keg: warning: %s\n", w)
	}
	a.warnDiscovered(result, flags.quiet)
	a.warnMissing(result)
	if flags.quiet {
		fmt.Fprintln(a.stdout, result.Target.Digest)
		return nil
	}
	v := struct {
		Digest string   `json:"digest"`
		Names  []string `json:"names"`
	}{result.Target.Digest.String(), fullNames(request.Tags)}
	return out.write(a.stdout, v, func(w io.Writer) {
		fmt.Fprintf(w, "built %s in %s\n", result.Target.Digest, took(time.Since(began)))
		for _, n := range v.Names {
			fmt.Fprintf(w, "tagged %s\n", n)
		}
	})
}

func (a *app) buildRequest(ctx context.Context, dir string, flags buildFlags) (builder.Request, error) {
	var none builder.Request
	if len(flags.tags) == 0 && !flags.check {
		return none, usageErrorf("a name for the image is missing: -t reg.example.com/shop:v1")
	}
	vars, err := a.buildArgs(flags.args)
	if err != nil {
		return none, err
	}
	labels, err := keyValues("--label", flags.labels)
	if err != nil {
		return none, err
	}
	compression := pack.Compression(flags.compression)
	if compression != pack.Zstd && compression != pack.Gzip {
		return none, usageErrorf("--compression %q is none of zstd, gzip", flags.compression)
	}
	epoch, err := a.sourceDateEpoch(vars)
	if err != nil {
		return none, err
	}
	missing, err := readMissing(flags.missing)
	if err != nil {
		return none, err
	}
	request := builder.Request{
		Context:         dir,
		Vars:            vars,
		Platforms:       flags.platforms,
		Compression:     compression,
		SourceDateEpoch: epoch,
		Labels:          labels,
		NoCache:         flags.noCache,
		MissingPlatform: missing,
		Pull:            flags.pull,
		KeepArchives:    flags.keepArchives,
		Discovery:       flags.discovery,
		RunTools:        flags.solver.runTools,
		Network:         flags.solver.network,
	}
	if err := flags.cache.request(&request); err != nil {
		return none, err
	}
	for _, t := range flags.tags {
		ref, err := parseTag(t)
		if err != nil {
			return none, err
		}
		request.Tags = append(request.Tags, ref)
	}
	for _, p := range flags.platforms {
		if err := checkPlatform(p); err != nil {
			return none, err
		}
	}
	if dir != "" {
		fi, err := os.Stat(dir)
		if err != nil {
			return none, fmt.Errorf("opening build context: %w", err)
		}
		if !fi.IsDir() {
			return none, usageErrorf("%s is no directory; the build context is one", dir)
		}
	}
	if request.BuildContexts, err = buildContexts(flags.solver.contexts); err != nil {
		return none, err
	}
	if request.File, err = a.readKubefile(ctx, dir, flags); err != nil {
		return none, err
	}
	if flags.target != "" {
		request.File, err = request.File.Target(flags.target)
	}
	return request, err
}

// buildArgs reads --build-arg.
func (a *app) buildArgs(list []string) (map[string]string, error) {
	vars := map[string]string{}
	for _, arg := range list {
		k, v, ok := strings.Cut(arg, "=")
		if k == "" {
			return nil, usageErrorf("--build-arg %q is not K=V", arg)
		}
		if !ok {
			if v, ok = a.lookupEnv(k); !ok {
				continue // as docker does: an ARG of that name keeps its default
			}
		}
		vars[k] = v
	}
	return vars, nil
}

// readKubefile parses the Kubefile of a build.
func (a *app) readKubefile(ctx context.Context, dir string, flags buildFlags) (*kubefile.File, error) {
	name, text, err := a.kubefileText(ctx, dir, flags.file)
	if err != nil {
		return nil, err
	}
	if flags.fetched != "" { // nobody knows that directory
		name = strings.TrimPrefix(name, flags.fetched+string(filepath.Separator))
	}
	return kubefile.Parse(name, bytes.NewReader(text))
}

// kubefileText finds the Kubefile in the build context, not in the working directory, unless -f says
// otherwise. What is far too large to be one is cut: the parser refuses it.
func (a *app) kubefileText(ctx context.Context, dir, file string) (name string, text []byte, err error) {
	var r io.Reader
	if name = file; file == "-" {
		name, r = "standard input", a.input(ctx)
	} else {
		if file == "" {
			name = filepath.Join(dir, "Kubefile")
		}
		f, err := os.Open(name)
		if err != nil {
			return "", nil, &hintedError{fmt.Errorf("opening Kubefile: %w", err), "PATH/Kubefile is read; -f FILE names another"}
		}
		defer f.Close()
		r = f
	}
	if text, err = io.ReadAll(io.LimitReader(r, maxKubefile)); err != nil {
		return "", nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return name, text, nil
}

// maxKubefile is more than the parser takes.
const maxKubefile = 17 << 20

// sourceDateEpoch is the time of every file in the image, see reproducible-builds.org. As with docker, it is
// a build argument, which the environment sets where --build-arg does not.
func (a *app) sourceDateEpoch(vars map[string]string) (time.Time, error) {
	const name = "SOURCE_DATE_EPOCH"
	if v := a.env(name); v != "" && vars[name] == "" {
		vars[name] = v
	}
	text := vars[name]
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, usageErrorf("SOURCE_DATE_EPOCH %q is no number of seconds", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// checkPlatform refuses what no host can be: a typing error would make an image that nothing runs.
func checkPlatform(platform string) error {
	system, rest, _ := strings.Cut(platform, "/")
	arch, _, _ := strings.Cut(rest, "/")
	if system != "linux" {
		return usageErrorf("--platform %q: hosts run linux; write linux/amd64 or linux/arm64", platform)
	}
	switch arch {
	case "amd64", "arm64", "386", "arm", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x":
		return nil
	}
	return usageErrorf("--platform %q: there is no architecture %q; write linux/amd64 or linux/arm64", platform, arch)
}

func keyValues(flag string, list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usageErrorf("%s %q is not K=V", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}

func fullNames(refs []name.Reference) []string {
	var names []string
	for _, r := range refs {
		names = append(names, fullName(r))
	}
	return names
}
