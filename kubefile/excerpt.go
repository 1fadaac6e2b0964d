package kubefile

import (
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
		lines := in.line.src.lines
		out = append(out, lines[min(in.node.StartLine-1, len(lines)):min(in.node.EndLine, len(lines))]...)
	}
	return []byte(strings.Join(out, "\n") + "\n")
}

// NeedsSolver says whether an instruction of a stage is one of those that Executes looks for: it is what Executes
// calls it, else "".
func (f *File) NeedsSolver(stage *Stage, d *Docker) string {
	one := *stage
	one.Instructions = []Instruction{d}
	_, what := f.Executes(&one)
	return what
}
