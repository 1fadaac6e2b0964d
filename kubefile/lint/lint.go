// Package lint finds what is allowed in a Kubefile and yet is likely to hurt: BuildKit's own rules for
// Dockerfiles, and rules for cluster images. It reads the build context through an fs.FS, and asks its
// caller for whatever else it needs; it dials nothing.
package lint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/clusterimage/keg/kubefile"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

// Finding is what a rule says of a place.
type Finding struct {
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	// Line and EndLine are the lines that it is about, from 1; 0 is the whole file.
	Line    int `json:"line"`
	EndLine int `json:"endLine"`
	// Column is where in Line, in bytes from 1; 0 where that is not known.
	Column int    `json:"column,omitempty"`
	Text   string `json:"text"`
	Cure   string `json:"cure,omitempty"`
	URL    string `json:"url,omitempty"`
	// Fixable says that Fix mends it.
	Fixable bool `json:"fixable"`
}

// Result is what linting found, in the order of the file.
type Result struct {
	Findings []Finding
	// Fail says that the Kubefile wants a build to fail on findings (# check=error=true).
	Fail bool
}

// Worst is the worst severity among the findings, "" if there are none.
func Worst(list []Finding) Severity {
	for _, s := range []Severity{Error, Warning, Info} {
		if slices.ContainsFunc(list, func(f Finding) bool { return f.Severity == s }) {
			return s
		}
	}
	return ""
}

// DockerfileWarning is what a linter of Dockerfiles says.
type DockerfileWarning struct {
	Rule, Text, URL string
	Line, EndLine   int
}

// DockerfileOptions are what such a linter has to know.
type DockerfileOptions struct {
	// Name is what the file is called.
	Name string
	// BuildArgs are the values of ARGs.
	BuildArgs map[string]string
	// Platform is the one to lint for, such as "linux/amd64"; "" is this machine's.
	Platform string
	// Env is the environment that a base image brings, as K=V.
	Env func(base string) []string
}

// DockerfileError says at which line such a linter had to stop.
type DockerfileError struct {
	Line int // from 1, 0 if it does not know
	Err  error
}

// Error implements error.
func (e *DockerfileError) Error() string { return e.Err.Error() }

// Unwrap returns the error without its place.
func (e *DockerfileError) Unwrap() error { return e.Err }

// Dockerfile lints the text of a Dockerfile: all of its rules run but those that the text itself turns off.
// An error says that it could not look at everything.
type Dockerfile func(ctx context.Context, text []byte, o DockerfileOptions) ([]DockerfileWarning, error)

// Lock is what Kubefile.lock says.
type Lock interface {
	// Locked says whether an image is pinned for a platform.
	Locked(ref, platform string) bool
}

// Options say what to look at. The zero value looks at the text alone.
type Options struct {
	// BuildArgs are the values of ARGs; that of BUILDKIT_DOCKERFILE_CHECK takes the place of # check=.
	BuildArgs map[string]string
	// Platforms are those that the image is built for, such as "linux/arm64".
	Platforms []string
	// BuildPlatform is the machine that builds; "" is linux/amd64.
	BuildPlatform string
	// Context is the build context; nil leaves out what needs it.
	Context *Context
	// BaseEnv is the environment that a base image brings, as K=V; false where that is not known.
	BaseEnv func(ctx context.Context, base, platform string) ([]string, bool)
	// Dockerfile has the rules for Dockerfiles; nil leaves these out.
	Dockerfile Dockerfile
	// Lock is what Kubefile.lock beside the Kubefile says; nil where there is none.
	Lock Lock
}

// checkArg is the build argument that takes the place of # check=, as for docker.
const checkArg = "BUILDKIT_DOCKERFILE_CHECK"

// Lint looks at a Kubefile. Mistakes that only its variables show are findings; an error is one of reading
// the context, or the end of ctx.
func Lint(ctx context.Context, f *kubefile.File, o Options) (Result, error) {
	value := o.BuildArgs[checkArg]
	if value == "" {
		value, _, _, _ = parser.ParseDirective("check", f.Source)
	}
	r := &run{ctx: ctx, file: f, o: o, seen: map[string]bool{}, looked: map[string]look{}}
	config, err := linter.ParseLintOptions(value)
	if err != nil {
		line := max(checkLine(f.Source), 1)
		r.list = append(r.list, r.finding(&invalidKubefile, line, line, "# check="+value+": "+err.Error()))
		config = &linter.Config{}
	}
	config.Warn = func(string, string, string, string, []parser.Range) { r.wanted = true }
	r.linter = linter.New(config)
	if r.o.BuildPlatform == "" {
		r.o.BuildPlatform = "linux/amd64"
	}
	if err := r.everything(); err != nil {
		return Result{}, err
	}
	slices.SortStableFunc(r.list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text))
	})
	return Result{Findings: r.list, Fail: config.ReturnAsError}, nil
}

// Mistakes makes findings of what kubefile.Parse returns as an error.
func Mistakes(name string, err error) []Finding {
	var list []Finding
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			list = append(list, Mistakes(name, e)...)
		}
		return list
	}
	f := Finding{Rule: invalidKubefile.Name, Severity: Error, File: name, Text: err.Error(), URL: invalidKubefile.URL}
	var at *kubefile.Error
	if errors.As(err, &at) {
		if at.File != "" {
			f.File = at.File
		}
		f.Line, f.EndLine, f.Column, f.Text, f.Cure = at.Pos.Line, at.Pos.Line, at.Pos.Column, at.Msg, at.Hint
	}
	return []Finding{f}
}

// run is one Lint.
type run struct {
	ctx    context.Context //nolint:containedctx // a run is one call
	file   *kubefile.File
	o      Options
	linter *linter.Linter
	wanted bool // set by linter for a rule that is not turned off
	list   []Finding
	seen   map[string]bool
	failed func()          // tells that the linter of Dockerfiles had to stop
	looked map[string]look // files of the context, by name
}

// everything runs all rules.
func (r *run) everything() error {
	if err := r.dockerfile(); err != nil {
		return err
	}
	r.continuations()
	r.casing()
	r.appsNotLaunched()
	platforms := r.o.Platforms
	if len(platforms) == 0 {
		platforms = []string{r.o.BuildPlatform}
	}
	for i, p := range platforms {
		if err := r.platform(p, i == 0); err != nil {
			return err
		}
	}
	r.dockerfileFailed()
	return nil
}

// platform runs the rules that look at instructions with their variables expanded.
func (r *run) platform(platform string, first bool) error {
	vars := r.vars(platform)
	file, err := r.file.ResolveFrom(vars)
	if err != nil {
		if first {
			r.mistakes(err)
		}
		return nil
	}
	env := map[*kubefile.Stage][]string{}
	known := map[*kubefile.Stage]bool{}
	for i, s := range file.Stages {
		base := file.BaseStage(s)
		switch {
		case base != nil:
			env[s], known[s] = env[base], known[base]
		case s.Base == "scratch":
			known[s] = true
		case r.o.BaseEnv != nil:
			env[s], known[s] = r.o.BaseEnv(r.ctx, s.Base, platform)
		}
		resolved, after, err := s.Resolve(vars, env[s])
		switch {
		case err == nil:
			env[s] = after
		case known[s]:
			r.mistakes(err)
			resolved = s
		default:
			resolved = s // with the variables that its base may have
		}
		p := &stageRun{run: r, file: file, stage: resolved, written: r.file.Stages[i], platform: platform, env: env[s]}
		r.base(p)
		for j, in := range resolved.Instructions {
			if err := context.Cause(r.ctx); err != nil {
				return err
			}
			if err := p.instruction(in, p.written.Instructions[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// vars are the variables of a build for a platform, with those of the file that # build-args= names.
func (r *run) vars(platform string) kubefile.Vars {
	v := kubefile.Vars{BuildArgs: r.o.BuildArgs, Platform: platform, BuildPlatform: r.o.BuildPlatform}
	name, at, err := r.file.BuildArgsFile(v)
	if err != nil {
		r.mistakes(err)
	}
	if err != nil || name == "" || r.o.Context == nil {
		return v
	}
	text, err := fs.ReadFile(r.o.Context.files, clean(name))
	if err != nil {
		r.add(r.finding(&invalidKubefile, at.Line, at.Line, "# build-args="+name+" is not in the build context"))
		return v
	}
	args, err := kubefile.ParseBuildArgs(name, text)
	if err != nil {
		r.mistakes(err)
	}
	v.BuildArgs = map[string]string{}
	maps.Copy(v.BuildArgs, args)
	maps.Copy(v.BuildArgs, r.o.BuildArgs)
	return v
}

func (r *run) mistakes(err error) {
	for _, f := range Mistakes(r.file.Name, err) {
		r.add(f)
	}
}

// report adds a finding of a rule about an instruction, unless the Kubefile does not want to hear of it.
func (r *run) report(rule *Rule, first, last int, comments []string, format string, args ...any) {
	r.wanted = false
	r.linter.WithMergedConfigFromComments(comments).Run(rule, nil, "")
	if r.wanted {
		r.add(r.finding(rule, first, last, fmt.Sprintf(format, args...)))
	}
}

func (r *run) finding(rule *Rule, first, last int, text string) Finding {
	return Finding{
		Rule: rule.Name, Severity: rule.Severity, File: r.file.Name, Line: first, EndLine: last,
		Text: text, Cure: rule.Cure, URL: rule.URL, Fixable: rule.Fixable,
	}
}

func (r *run) add(f Finding) {
	key := fmt.Sprintf("%s\x00%d\x00%s", f.Rule, f.Line, f.Text)
	if !r.seen[key] {
		r.seen[key] = true
		r.list = append(r.list, f)
	}
}

// span is what an instruction, or a FROM, says of its place.
type span interface {
	EndLine() int
	Comments() []string
}

// spans are all instructions by the line that they begin in.
func (r *run) spans() map[int]span {
	all := map[int]span{}
	for _, d := range r.file.Args {
		all[d.Pos().Line] = d
	}
	for _, s := range r.file.Stages {
		all[s.From.Line] = s
		for _, in := range s.Instructions {
			all[in.Pos().Line] = in
		}
	}
	return all
}

// at is the instruction that a line belongs to, and where it begins.
func at(spans map[int]span, line int) (span, int) {
	for _, first := range slices.Backward(slices.Sorted(maps.Keys(spans))) {
		if s := spans[first]; first <= line {
			if line <= s.EndLine() {
				return s, first
			}
			break
		}
	}
	return nil, 0
}

// checkLine is the line of the directive # check=, or 0.
func checkLine(source []byte) int {
	_, _, where, ok := parser.ParseDirective("check", source)
	if !ok || len(where) == 0 {
		return 0
	}
	return where[0].Start.Line
}

// stageRun is the rules on one stage for one platform.
type stageRun struct {
	*run
	file     *kubefile.File  // with its FROMs resolved
	stage    *kubefile.Stage // resolved, as far as that is possible
	written  *kubefile.Stage // as it was written
	platform string
	env      []string
}

// say reports a rule about an instruction.
func (p *stageRun) say(rule *Rule, in kubefile.Instruction, format string, args ...any) {
	p.report(rule, in.Pos().Line, in.EndLine(), in.Comments(), format, args...)
}

// keyword is the name of an instruction as it was written.
func keyword(text string) string {
	name, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	name, _, _ = strings.Cut(name, "\t")
	return name
}
