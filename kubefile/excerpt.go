package kubefile

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Excerpt is a Dockerfile of some instructions of the Dockerfile language: each stands in the lines that it has in
// the Kubefile, so that what a frontend says of a line is true of the Kubefile, and before them stand a
// FROM base and an ARG for each of args. An ARG among the instructions keeps its names alone: the values
// are for the caller to give as build arguments. All instructions are of one file, in order.
func Excerpt(base string, args []string, list []*Docker) []byte {
	if len(list) == 0 {
		return nil
	}
	first := list[0]
	var head []string
	if first.line.escape() != parser.DefaultEscapeToken {
		head = append(head, "# escape="+string(first.line.escape()))
	}
	head = append(head, "FROM "+base)
	if len(args) > 0 {
		head = append(head, "ARG "+strings.Join(args, " "))
	}
	// There is room for it: the lines where the Kubefile has the same.
	for len(head) < first.pos.Line-1 {
		head = append(head, "")
	}
	out := head
	for _, in := range list {
		for len(out) < in.pos.Line-1 {
			out = append(out, "")
		}
		if in.node == nil {
			continue
		}
		if arg, ok := in.Command.(*instructions.ArgCommand); ok {
			var names []string
			for _, a := range arg.Args {
				names = append(names, a.Key)
			}
			out = append(out, "ARG "+strings.Join(names, " "))
			continue
		}
		for _, l := range in.Lines() {
			if strings.Contains(l, "from=") {
				l = numbered.ReplaceAllString(l, "${1}"+stagePrefix+"${2}${3}")
			}
			out = append(out, l)
		}
	}
	return []byte(strings.Join(out, "\n") + "\n")
}

// numbered is a stage by its number in --from or --mount. There are no other stages in an excerpt, so it is made a
// name: see ExcerptName.
var numbered = regexp.MustCompile(`(--from=|--mount=(?:[^ \t]*,)?from=)([0-9]+)([ \t,]|$)`)

const stagePrefix = "keg-stage-"

// ExcerptName is what the stage or image that --from or a mount names is called in an excerpt.
func ExcerptName(from string) string {
	if _, err := strconv.Atoi(from); err == nil {
		return stagePrefix + from
	}
	return from
}

// Lines are the lines of the Kubefile that an instruction stands in, as they are; its heredocs belong to it.
func (d *Docker) Lines() []string {
	if d.node == nil || d.line == nil {
		return nil
	}
	lines := d.line.src.lines
	return lines[min(d.node.StartLine-1, len(lines)):min(d.node.EndLine, len(lines))]
}

// Target is the Kubefile up to a stage, given by name or number from 0: that stage is then the last.
func (f *File) Target(name string) (*File, error) {
	out := *f
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(f.Stages) {
		out.Stages = f.Stages[:n+1]
		return &out, nil
	}
	var names []string
	for i, s := range f.Stages {
		if s.Name != "" && strings.EqualFold(s.Name, name) {
			out.Stages = f.Stages[:i+1]
			return &out, nil
		}
		names = append(names, s.Name)
	}
	return nil, &Error{File: f.Name, Msg: fmt.Sprintf("%s has no stage %q", f.Name, clip(name)), Hint: didYouMean(name, names, "")}
}

// NeedsSolver says whether an instruction of a stage is one of those that Executes looks for: it is what Executes
// calls it, else "".
func (f *File) NeedsSolver(stage *Stage, d *Docker) string {
	one := *stage
	one.Instructions = []Instruction{d}
	_, what := f.Executes(&one)
	return what
}
