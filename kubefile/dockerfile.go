package kubefile

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// archName is ARCH where a word uses it.
var archName = regexp.MustCompile(`\$ARCH\b|\$\{ARCH\b`)

// Dockerfile is the Kubefile for tools that know the Dockerfile language only, line for line: the cluster
// instructions, CMD among them, are blanked, and in FROM the variable ARCH is TARGETARCH, which it stands
// for. What such a tool says of a line is true of the Kubefile.
func (f *File) Dockerfile() []byte {
	text := bytes.TrimPrefix(f.Source, []byte("\uFEFF"))
	lines := strings.SplitAfter(string(text), "\n")
	declared := false
	for _, d := range f.Args {
		if c, ok := d.Command.(*instructions.ArgCommand); ok {
			for _, a := range c.Args {
				declared = declared || a.Key == "ARCH"
			}
		}
	}
	for _, s := range f.Stages {
		if !declared {
			for n := s.From.Line; n <= s.EndLine() && n <= len(lines); n++ {
				lines[n-1] = archName.ReplaceAllStringFunc(lines[n-1], func(use string) string {
					return strings.Replace(use, "ARCH", "TARGETARCH", 1)
				})
			}
		}
		for _, in := range s.Instructions {
			if _, ok := in.(*Docker); ok {
				continue
			}
			first := in.Pos().Line
			for n := first; n <= in.EndLine() && n <= len(lines); n++ {
				lines[n-1] = "\n"
			}
			// An empty comment: the comments above do not belong to the next instruction.
			lines[first-1] = "#\n"
		}
	}
	return []byte(strings.Join(lines, ""))
}
