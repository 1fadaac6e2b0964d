package lint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/clusterimage/keg/kubefile"
)

// allRules is a directive for the Dockerfile's linter: what is wanted of the result is decided here.
const allRules = "# check=experimental=all\n"

// variable is what UndefinedVar is about.
var variable = regexp.MustCompile(`^Usage of undefined variable '\$([^']*)'`)

// platformVariables are in sight without an ARG.
var platformVariables = map[string]bool{
	"TARGETPLATFORM": true, "TARGETOS": true, "TARGETARCH": true, "TARGETVARIANT": true, "ARCH": true,
	"BUILDPLATFORM": true, "BUILDOS": true, "BUILDARCH": true, "BUILDVARIANT": true,
}

// dockerfile runs the rules for Dockerfiles.
func (r *run) dockerfile() error {
	if r.o.Dockerfile == nil {
		return nil
	}
	text, shift := r.file.Dockerfile(), 1
	if n := checkLine(text); n > 0 {
		lines := bytes.SplitAfter(text, []byte("\n"))
		lines[n-1], shift = []byte(allRules), 0
		text = bytes.Join(lines, nil)
	} else {
		text = append([]byte(allRules), text...)
	}
	platform := r.firstPlatform()
	o := DockerfileOptions{Name: r.file.Name, BuildArgs: maps.Clone(r.vars(platform).BuildArgs), Platform: platform}
	o.Env = func(base string) []string {
		if r.o.BaseEnv == nil {
			return nil
		}
		env, _ := r.o.BaseEnv(r.ctx, base, o.Platform)
		return env
	}
	found, err := r.o.Dockerfile(r.ctx, text, o)
	if cause := context.Cause(r.ctx); cause != nil {
		return cause
	}
	spans := r.spans()
	for _, w := range found {
		w.Line, w.EndLine = w.Line-shift, w.EndLine-shift
		if r.otherwise(w) {
			continue
		}
		var comments []string
		if s, first := at(spans, w.Line); s != nil {
			comments, w.Line, w.EndLine = s.Comments(), first, s.EndLine()
		}
		r.report(ruleOf(w.Rule, w.URL), w.Line, w.EndLine, comments, "%s", w.Text)
	}
	if err != nil {
		r.failed = func() {
			line := 0
			if at := (*DockerfileError)(nil); errors.As(err, &at) {
				line = max(at.Line-shift, 0)
			}
			r.report(&invalidKubefile, line, line, nil, "%s", strings.TrimSpace(err.Error()))
		}
	}
	return nil
}

// dockerfileFailed tells that the rules for Dockerfiles could not look at everything, unless it is known why.
func (r *run) dockerfileFailed() {
	known := slices.ContainsFunc(r.list, func(f Finding) bool { return f.Rule == invalidKubefile.Name })
	if r.failed != nil && !known {
		r.failed()
	}
}

func (r *run) firstPlatform() string {
	if len(r.o.Platforms) > 0 {
		return r.o.Platforms[0]
	}
	return r.o.BuildPlatform
}

// otherwise says whether a warning does not hold for a Kubefile, or is found elsewhere here.
func (r *run) otherwise(w DockerfileWarning) bool {
	switch w.Rule {
	case consistentInstructionCasing.Name, noEmptyContinuation.Name, copyIgnoredFile.Name:
		return true
	case undefinedVar:
		if m := variable.FindStringSubmatch(w.Text); m != nil && platformVariables[m[1]] {
			return true
		}
		return !r.baseKnown(w.Line)
	}
	return false
}

// baseKnown says whether the environment is known that the stage of a line begins with.
func (r *run) baseKnown(line int) bool {
	var stage *kubefile.Stage
	for _, s := range r.file.Stages {
		if s.From.Line <= line {
			stage = s
		}
	}
	for s := stage; s != nil; s = r.file.BaseStage(s) {
		stage = s
	}
	if stage == nil || stage.Base == "scratch" {
		return true
	}
	if r.o.BaseEnv == nil {
		return false
	}
	platform := r.firstPlatform()
	file, err := r.file.ResolveFrom(r.vars(platform))
	if err != nil {
		return false
	}
	for i, s := range r.file.Stages {
		if s == stage {
			_, ok := r.o.BaseEnv(r.ctx, file.Stages[i].Base, platform)
			return ok
		}
	}
	return false
}

// continuations finds empty lines inside of instructions, the cluster's among them.
func (r *run) continuations() {
	parsed, err := parser.Parse(bytes.NewReader(r.file.Source))
	if err != nil {
		return
	}
	spans := r.spans()
	for _, w := range parsed.Warnings {
		if w.URL != noEmptyContinuation.URL || w.Location == nil {
			continue
		}
		line := w.Location.Start.Line
		var comments []string
		if s, _ := at(spans, line); s != nil {
			comments = s.Comments()
		}
		r.report(&noEmptyContinuation, line, line, comments, "%s", linter.RuleNoEmptyContinuation.Format())
	}
}

// casing finds names of instructions that are not written as most of them are.
func (r *run) casing() {
	type name struct {
		text string
		at   int
		span
	}
	var names []name
	for _, s := range r.file.Stages {
		names = append(names, name{keyword(s.Text), s.From.Line, s})
		for _, in := range s.Instructions {
			names = append(names, name{keyword(in.Text()), in.Pos().Line, in})
		}
	}
	lower, upper := 0, 0
	for _, n := range names {
		switch n.text {
		case strings.ToLower(n.text):
			lower++
		case strings.ToUpper(n.text):
			upper++
		}
	}
	change, want := strings.ToUpper, "uppercase"
	if lower > upper {
		change, want = strings.ToLower, "lowercase"
	}
	for _, n := range names {
		if change(n.text) != n.text {
			r.report(&consistentInstructionCasing, n.at, n.EndLine(), n.Comments(), "%s",
				fmt.Sprint(linter.RuleConsistentInstructionCasing.Format(n.text, want)))
		}
	}
}
