package format

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/clusterimage/keg/kubefile"
)

// head is what stands for the whole file: its directives.
func head(f *kubefile.File) string {
	var b strings.Builder
	for _, name := range []string{"escape", "check", "syntax"} {
		value, _, _, ok := parser.ParseDirective(name, f.Source)
		fmt.Fprintf(&b, "%s=%q %t\n", name, value, ok)
	}
	return b.String() + f.ArgsFile
}

// instructions are those of a file, FROMs among them, each with all that it means.
func instructions(f *kubefile.File, nodes []*parser.Node) []*instruction {
	byLine := map[int]*parser.Node{}
	for _, n := range nodes {
		byLine[n.StartLine] = n
	}
	var list []*instruction
	add := func(first, last int, comments []string, what any) {
		in := &instruction{first: first - 1, last: last - 1}
		data, err := json.Marshal(what)
		in.meaning = fmt.Sprintf("%T %s %v %q\n", what, data, err, comments)
		if n := byLine[first]; n != nil {
			in.name = strings.ToUpper(n.Value)
			if _, from := what.(*kubefile.Stage); !from {
				in.meaning += dump(n)
			}
		}
		list = append(list, in)
	}
	one := func(in kubefile.Instruction) {
		var what any = in
		if _, docker := in.(*kubefile.Docker); docker {
			what = nil // its node says it all; its Command holds lines of the text
		}
		add(in.Pos().Line, in.EndLine(), in.Comments(), what)
	}
	for _, a := range f.Args {
		one(a)
	}
	for _, s := range f.Stages {
		bare := *s
		bare.Text, bare.From, bare.Instructions = "", kubefile.Pos{}, nil
		add(s.From.Line, s.EndLine(), s.Comments(), &bare)
		for _, in := range s.Instructions {
			one(in)
		}
	}
	return list
}

// dump is a node of BuildKit's tree: its words, flags and heredocs, and whether it is an array.
func dump(n *parser.Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %q %v", strings.ToUpper(n.Value), n.Flags, n.Attributes)
	for _, h := range n.Heredocs {
		fmt.Fprintf(&b, " %+q", fmt.Sprint(h))
	}
	for next := n.Next; next != nil; next = next.Next {
		fmt.Fprintf(&b, " %q %v", next.Value, next.Attributes)
		for _, c := range next.Children {
			b.WriteString(" {" + dump(c) + "}")
		}
	}
	return b.String()
}
