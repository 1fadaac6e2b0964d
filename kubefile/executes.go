package kubefile

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// scpLike is git's short form for ssh: user@host:path.
var scpLike = regexp.MustCompile(`^[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:`)

// Executes is the last instruction of a stage that packing files cannot do, and its name for an error:
// RUN, "COPY --from" of an image or of a stage that is not Packable, or "ADD of a git repository". It is nil
// when there is none. ADD of a URL only fetches a file and does not count. Give it a stage that is resolved;
// the stage that this one may build on (BaseStage) is not looked at.
func (f *File) Executes(stage *Stage) (Instruction, string) {
	return f.executes(stage, map[int]bool{})
}

// executes remembers by index which stages are packable: without that, stages that copy from each other
// twice would be looked at times without number.
func (f *File) executes(stage *Stage, known map[int]bool) (Instruction, string) {
	for _, in := range slices.Backward(stage.Instructions) {
		d, ok := in.(*Docker)
		if !ok {
			continue
		}
		switch c := d.Command.(type) {
		case *instructions.RunCommand:
			return in, "RUN"
		case *instructions.CopyCommand:
			if c.From != "" && !f.packable(f.FromStage(stage, c.From), known) {
				return in, "COPY --from"
			}
		case *instructions.AddCommand:
			if slices.ContainsFunc(c.SourcePaths, isGit) {
				return in, "ADD of a git repository"
			}
		}
	}
	return nil, ""
}

// Packable says whether a stage is made of files alone: its base is scratch or another such stage, and
// nothing in it Executes. A base that still holds a variable may be anything, and so counts as one. nil
// is not packable.
func (f *File) Packable(stage *Stage) bool { return f.packable(stage, map[int]bool{}) }

func (f *File) packable(stage *Stage, known map[int]bool) bool {
	if stage == nil {
		return false
	}
	ok, seen := known[stage.index]
	if seen {
		return ok
	}
	if in, _ := f.executes(stage, known); in == nil {
		if base := f.BaseStage(stage); base != nil {
			ok = f.packable(base, known)
		} else {
			ok = stage.Base == scratch || strings.Contains(stage.Base, "$")
		}
	}
	known[stage.index] = ok
	return ok
}

// FromStage is the stage before this one that COPY --from means, by name or number, or nil when it is
// an image.
func (f *File) FromStage(stage *Stage, from string) *Stage {
	earlier := f.Stages[:min(stage.index, len(f.Stages))]
	if number, err := strconv.Atoi(from); err == nil && number >= 0 && number < len(earlier) {
		return earlier[number]
	}
	for _, s := range earlier {
		if s.Name != "" && strings.EqualFold(s.Name, from) {
			return s
		}
	}
	return nil
}

// isGit says whether ADD clones a source.
func isGit(source string) bool {
	kind, rest, ok := strings.Cut(source, "://")
	if !ok {
		return scpLike.MatchString(source)
	}
	switch strings.ToLower(kind) {
	case "git", "ssh":
		return true
	case "http", "https":
		rest, _, _ = strings.Cut(rest, "#")
		rest, _, _ = strings.Cut(rest, "?")
		return strings.HasSuffix(rest, ".git")
	}
	return false
}

// BaseStage is the earlier stage that a stage builds on, or nil when its base is an image or scratch.
func (f *File) BaseStage(stage *Stage) *Stage {
	for _, s := range f.Stages[:min(stage.index, len(f.Stages))] {
		if s.Name != "" && strings.EqualFold(s.Name, stage.Base) {
			return s
		}
	}
	return nil
}

// UnusedBuildArgs are the build arguments that no ARG declares, sorted. Those that BuildKit knows
// without an ARG are not among them.
func (f *File) UnusedBuildArgs(v Vars) []string {
	used := map[string]bool{"SOURCE_DATE_EPOCH": true}
	for _, name := range platformNames {
		used[name] = true
	}
	for _, proxy := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"} {
		used[proxy], used[strings.ToLower(proxy)] = true, true
	}
	declare := func(d *Docker) {
		if c, ok := d.Command.(*instructions.ArgCommand); ok {
			for _, a := range c.Args {
				used[a.Key] = true
			}
		}
	}
	for _, d := range f.Args {
		declare(d)
	}
	for _, s := range f.Stages {
		for _, in := range s.Instructions {
			if d, ok := in.(*Docker); ok {
				declare(d)
			}
		}
	}
	var unused []string
	for _, name := range slices.Sorted(maps.Keys(v.BuildArgs)) {
		if !used[name] && !strings.HasPrefix(name, "BUILDKIT_") {
			unused = append(unused, name)
		}
	}
	return unused
}
