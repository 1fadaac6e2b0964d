package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/buildkit"
	"github.com/clusterimage/keg/builder/lock"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/kubefile"
	"github.com/clusterimage/keg/kubefile/lint"
)

// linting is one Kubefile to lint.
type linting struct {
	file      string            // "-" is standard input; "" is dir/Kubefile
	dir       string            // the build context, "" is none
	args      map[string]string // values of ARGs
	platforms []string
	quick     bool // without reading the build context
}

type lintFlags struct {
	file      string
	args      []string
	platforms []string
	fix       string
}

func newLintCommand(a *app) *cobra.Command {
	var flags lintFlags
	out := lintOutput{"text"}
	c := &cobra.Command{
		Use:   "lint [flags] [PATH]",
		Short: "Say what in a Kubefile is likely to hurt",
		Long: `Say what in the Kubefile of a build context is allowed and yet likely to hurt: by BuildKit's rules for
Dockerfiles, and by rules for cluster images. docs/lint.md tells of every rule and how to turn it off. PATH
is the build context (default .) or a Kubefile in one. Exits with 1 if there are warnings or errors;
what is only told (info) does not count.`,
		Example: `  keg lint
  keg lint --fix deploy/Kubefile
  keg lint --platform linux/amd64,linux/arm64 -o sarif . > lint.sarif`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageErrorf("%s wants one build context, got %s", c.CommandPath(), quoteAll(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.lint(c.Context(), args, flags, out) },
	}
	f := c.Flags()
	f.StringVarP(&flags.file, "file", "f", "", "the Kubefile (default PATH/Kubefile; - reads standard input)")
	f.StringArrayVar(&flags.args, "build-arg", nil, "value of an ARG, K=V; K alone takes the value from the environment")
	f.StringSliceVar(&flags.platforms, "platform", nil, "platforms that the image is built for")
	f.StringVar(&flags.fix, "fix", "", "mend what can be mended safely: safe, or pin for the digests of base images as well")
	f.Lookup("fix").NoOptDefVal = "safe"
	f.VarP(&out, "output", "o", "how to print: text, json or sarif")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "sarif"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("fix", cobra.FixedCompletions([]string{"safe", "pin"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// lint finds the Kubefile, lints it and prints what was found.
func (a *app) lint(ctx context.Context, args []string, flags lintFlags, out lintOutput) error {
	if flags.fix != "" && flags.fix != "safe" && flags.fix != "pin" {
		return usageErrorf("--fix=%s is neither safe nor pin", flags.fix)
	}
	if flags.fix != "" && flags.file == "-" {
		return usageErrorf("--fix writes the Kubefile, and standard input is none")
	}
	vars, err := a.buildArgs(flags.args)
	if err != nil {
		return err
	}
	for _, p := range flags.platforms {
		if err := checkPlatform(p); err != nil {
			return err
		}
	}
	l := linting{file: flags.file, dir: ".", args: vars, platforms: flags.platforms}
	if len(args) == 1 {
		l.dir = args[0]
		fi, err := os.Stat(l.dir)
		switch {
		case err != nil:
			return fmt.Errorf("opening build context: %w", err)
		case !fi.IsDir() && flags.file != "":
			return usageErrorf("%s is no directory; the build context is one", l.dir)
		case !fi.IsDir():
			l.file, l.dir = l.dir, filepath.Dir(l.dir)
		}
	} else if flags.file == "-" {
		l.dir = ""
	}
	name, text, err := a.kubefileText(ctx, l.dir, l.file)
	if err != nil {
		return err
	}
	res, file, err := a.lintText(ctx, l, name, text)
	if err != nil {
		return err
	}
	if flags.fix != "" && file != nil {
		if res, err = a.fix(ctx, l, name, file, res, flags.fix); err != nil {
			return err
		}
	}
	if err := out.write(a.stdout, res.Findings); err != nil {
		return err
	}
	return failed(name, res.Findings)
}

// fix mends the Kubefile and lints it again.
func (a *app) fix(ctx context.Context, l linting, name string, file *kubefile.File, res lint.Result, how string) (lint.Result, error) {
	mended := 0
	apply := func(text []byte, n int, err error) error {
		if err != nil || n == 0 || bytes.Equal(text, file.Source) {
			return err
		}
		mended += n
		if err := rewriteFile(name, text); err != nil {
			return err
		}
		res, file, err = a.lintText(ctx, l, name, text)
		return err
	}
	text, fixed, err := lint.Fix(file, res.Findings)
	if err := apply(text, len(fixed), err); err != nil {
		return res, err
	}
	if how == "pin" && file != nil {
		if err := apply(lint.Pin(file, a.pin(ctx, l))); err != nil {
			return res, err
		}
	}
	if mended > 0 {
		fmt.Fprintf(a.stderr, "keg: fixed %d in %s\n", mended, name)
	}
	return res, nil
}

// pin finds the digest of a base image: in the lock, else at its registry.
func (a *app) pin(ctx context.Context, l linting) func(string) (string, error) {
	return func(base string) (string, error) {
		ref, err := parseName(base)
		if err != nil {
			return "", err
		}
		if k, _ := l.lock(); k != nil {
			if e, ok := k.Find(lock.From, base); ok && e.Digest != "" {
				return e.Digest.String(), nil
			}
		}
		show, err := a.display()
		if err != nil {
			return "", err
		}
		defer show.close()
		d, _, err := a.client(show).Resolve(ctx, ref)
		return d.Digest.String(), err
	}
}

// lintText lints a Kubefile. One that cannot be read has its mistakes for findings, and no File.
func (a *app) lintText(ctx context.Context, l linting, name string, text []byte) (lint.Result, *kubefile.File, error) {
	file, err := kubefile.Parse(name, bytes.NewReader(text))
	if err != nil {
		return lint.Result{Findings: lint.Mistakes(name, err)}, nil, nil
	}
	o := lint.Options{
		BuildArgs: l.args, Platforms: l.platforms, BuildPlatform: "linux/" + goruntime.GOARCH,
		Dockerfile: buildkit.Lint,
	}
	if !l.quick {
		o.BaseEnv = remembered(a.baseEnv)
	}
	if l.dir != "" && !l.quick {
		root, err := os.OpenRoot(l.dir)
		if err != nil {
			return lint.Result{}, nil, fmt.Errorf("opening build context: %w", err)
		}
		defer func() { _ = root.Close() }() // only read
		if o.Context, err = lint.OpenContext(root.FS(), name); err != nil {
			return lint.Result{}, nil, err
		}
	}
	k, err := l.lock()
	if err != nil {
		return lint.Result{}, nil, err
	}
	if k != nil {
		o.Lock = locked{k}
	}
	res, err := lint.Lint(ctx, file, o)
	return res, file, err
}

// checked lints the Kubefile of a build, fully for --check, and where the Kubefile wants a build to fail on
// warnings; else the text alone, to tell in one line that there are any. It says whether that was all.
func (a *app) checked(ctx context.Context, request builder.Request, dir string, flags buildFlags, out output) (done bool, err error) {
	l := linting{file: flags.file, dir: dir, args: request.Vars, platforms: request.Platforms}
	name := request.File.Name
	l.quick = !flags.check
	res, _, err := a.lintText(ctx, l, name, request.File.Source)
	if err != nil {
		return true, err
	}
	if l.quick && res.Fail {
		l.quick = false
		if res, _, err = a.lintText(ctx, l, name, request.File.Source); err != nil {
			return true, err
		}
	}
	switch worst := lint.Worst(res.Findings); {
	case flags.check:
		how := lintOutput{"text"}
		if out.format == "json" {
			how.format = "json"
		}
		if err := how.write(a.stdout, res.Findings); err != nil {
			return true, err
		}
		return true, failed(name, res.Findings)
	case worst == "" || worst == lint.Info:
	case res.Fail:
		if err := writeFindings(a.stderr, res.Findings); err != nil {
			return true, err
		}
		return true, failed(name, res.Findings)
	case !flags.quiet && worst == lint.Warning:
		n := 0
		for _, f := range res.Findings {
			if f.Severity == lint.Warning { // errors are the build's to tell
				n++
			}
		}
		fmt.Fprintf(a.stderr, "keg: %s about %s; keg lint says which\n", plural(n, "warning"), name)
	}
	return false, nil
}

// lock reads Kubefile.lock beside the Kubefile; it is nil where there is none.
func (l linting) lock() (*lock.File, error) {
	dir := l.dir
	if l.file != "" && l.file != "-" {
		dir = filepath.Dir(l.file)
	}
	if l.file == "-" || dir == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	k, err := lock.Read(filepath.Join(dir, lock.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is none
	}
	return k, err
}

// locked is a lock as lint asks it.
type locked struct{ file *lock.File }

// Locked implements lint.Lock.
func (l locked) Locked(ref, platform string) bool {
	for _, kind := range []lock.Kind{lock.From, lock.Image} {
		if e, ok := l.file.Find(kind, ref); ok {
			if _, ok := e.For(platform); ok || len(e.Platforms) == 0 {
				return true
			}
		}
	}
	return false
}

// remembered asks once for each image.
func remembered(ask func(ctx context.Context, base, platform string) ([]string, bool)) func(ctx context.Context, base, platform string) ([]string, bool) {
	type answer struct {
		env   []string
		known bool
	}
	answers := map[string]answer{}
	return func(ctx context.Context, base, platform string) ([]string, bool) {
		a, ok := answers[base]
		if !ok {
			a.env, a.known = ask(ctx, base, platform)
			answers[base] = a
		}
		return a.env, a.known
	}
}

// baseEnv is the environment of an image that is in the store; linting makes no store and pulls nothing.
func (a *app) baseEnv(ctx context.Context, base, _ string) ([]string, bool) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, false
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		return nil, false
	}
	s, err := openStore(dir)
	if err != nil {
		return nil, false
	}
	ref, err := imagestore.ParseName(base)
	if err != nil {
		return nil, false
	}
	t, err := s.Resolve(fullName(ref))
	if err != nil {
		return nil, false
	}
	sum, err := s.Inspect(ctx, t)
	if err != nil {
		return nil, false
	}
	var env []string
	for k, v := range sum.Env {
		env = append(env, k+"="+v)
	}
	return env, true
}

// lintOutput is the flag -o of commands that print findings.
type lintOutput struct{ format string }

// Set implements pflag.Value.
func (o *lintOutput) Set(s string) error {
	if s != "text" && s != "json" && s != "sarif" {
		return errors.New("it is none of text, json, sarif")
	}
	o.format = s
	return nil
}

// String implements pflag.Value.
func (o *lintOutput) String() string { return o.format }

// Type implements pflag.Value.
func (o *lintOutput) Type() string { return "string" }

func (o *lintOutput) write(w io.Writer, list []lint.Finding) error {
	switch o.format {
	case "sarif":
		return writeJSON(w, lint.Report(version, list))
	case "json":
		if list == nil {
			list = []lint.Finding{}
		}
		return writeJSON(w, struct {
			Findings []lint.Finding `json:"findings"`
		}{list})
	}
	return writeFindings(w, list)
}

// writeFindings prints findings for people.
func writeFindings(w io.Writer, list []lint.Finding) error {
	var b strings.Builder
	for _, f := range list {
		place := f.File
		if f.Line > 0 {
			place += fmt.Sprintf(":%d", f.Line)
		}
		fmt.Fprintf(&b, "%s: %s %s: %s\n", place, severityName(f.Severity), f.Rule, printable(f.Text))
		if f.Cure != "" {
			fmt.Fprintf(&b, "  %s\n", printable(f.Cure))
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing output: %w", err)
	}
	return nil
}

func severityName(s lint.Severity) string {
	return map[lint.Severity]string{lint.Error: "Error", lint.Warning: "Warning", lint.Info: "Info"}[s]
}

// printable takes out what could drive a terminal: a Kubefile may come from anywhere.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// failed is the end of a command that found warnings or worse.
func failed(name string, list []lint.Finding) error {
	count := map[lint.Severity]int{}
	for _, f := range list {
		count[f.Severity]++
	}
	if count[lint.Error]+count[lint.Warning] == 0 {
		return nil
	}
	return fmt.Errorf("linting %s: %s, %s", name, plural(count[lint.Error], "error"), plural(count[lint.Warning], "warning"))
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
