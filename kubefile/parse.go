package kubefile

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// parsing is the state of one Parse.
type parsing struct {
	src   *source
	file  *File
	found mistakes
	// unclear are stages with a FROM or an app that could not be read: what they hold is not known.
	unclear map[*Stage]bool
	// early is set once an instruction before the first FROM was reported.
	early bool
	// skipped are the bodies of heredocs after instructions that cannot have one: first and last line.
	skipped [][2]int
}

// Parse reads a Kubefile. name is what errors call it. The text is checked as far as that is possible
// without the build's variables and without the base images; every mistake found is an *Error.
func Parse(name string, r io.Reader) (*File, error) {
	if name == "" {
		name = "Kubefile"
	}
	src, raw, text, err := readSource(name, r)
	if err != nil {
		return nil, err
	}
	p := &parsing{
		src:     src,
		file:    &File{Name: name, Source: raw},
		unclear: map[*Stage]bool{},
	}
	nodes, lexical := p.nodes(text)
	for _, node := range nodes {
		if !p.skips(node.StartLine) {
			p.node(node)
		}
	}
	for _, e := range lexical {
		if !p.skips(e.Pos.Line) {
			p.found.add(e)
		}
	}
	if len(p.found) == 0 && len(p.file.Stages) == 0 && len(p.file.Args) == 0 {
		p.found.add(src.errorf(src.start(1), "begin with: FROM scratch, or FROM a base image", "there is no instruction in this file"))
	}
	p.argsFile()
	p.check()
	if err := p.found.err(); err != nil {
		return nil, err
	}
	return p.file, nil
}

// nodes runs BuildKit's parser. That stops at the first line that it cannot split into words; so such a
// line is reported and blanked, and the rest read again, to report all mistakes at once.
func (p *parsing) nodes(text []byte) ([]*parser.Node, mistakes) {
	var found mistakes
	for range maxMistakes {
		result, err := parser.Parse(bytes.NewReader(text))
		if err == nil {
			return result.AST.Children, found
		}
		if err.Error() == noInstructions {
			break
		}
		first, last := 1, 1
		var located *parser.LocationError
		if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
			ranges := located.Locations[0]
			first, last = ranges[0].Start.Line, ranges[len(ranges)-1].End.Line
		}
		found.add(p.lexical(first, err.Error()))
		blanked, changed := blank(text, first, last)
		if !changed {
			break
		}
		text = blanked
	}
	return nil, found
}

// noInstructions is what BuildKit's parser says of a file that holds nothing but comments.
const noInstructions = "file with no instructions"

func (p *parsing) skips(number int) bool {
	return slices.ContainsFunc(p.skipped, func(s [2]int) bool { return number >= s[0] && number <= s[1] })
}

// blank empties the lines from first to last.
func blank(text []byte, first, last int) ([]byte, bool) {
	var out []byte
	changed := false
	number := 0
	for l := range bytes.Lines(text) {
		number++
		if number >= first && number <= last && len(bytes.TrimSpace(l)) > 0 {
			l, changed = []byte("\n"), true
		}
		out = append(out, l...)
	}
	return out, changed
}

// lexical is an error for a line that BuildKit's parser does not take.
func (p *parsing) lexical(number int, msg string) *Error {
	pos := p.src.start(number)
	name := ""
	if words := strings.Fields(p.src.lines[pos.Line-1]); len(words) > 0 {
		name = strings.ToUpper(clip(words[0]))
	}
	hint := ""
	switch {
	case msg == "unterminated heredoc":
		msg, hint = name+": "+msg, "end it with a line that holds only the word after <<"
	case name == "ENV" || name == "LABEL":
		msg, hint = lowerFirst(msg), "write instead: "+name+" NAME=VALUE; quote a value that has spaces"
		if !strings.HasPrefix(msg, name) {
			msg = name + ": " + msg
		}
	case strings.HasPrefix(msg, "when using JSON"):
		msg, hint = name+": the array may hold strings only", "put each element in double quotes"
	default:
		msg = name + ": " + msg
	}
	return p.src.errorf(pos, hint, "%s", msg)
}

// node reads one instruction.
func (p *parsing) node(node *parser.Node) {
	l := p.src.join(node)
	name := strings.ToLower(node.Value)
	_, ours := clusterInstructions[name]
	_, dockers := command.Commands[name]
	switch {
	case name == "":
		p.found.add(l.errorf(0, "remove it", "a line continuation that continues nothing"))
	case !ours && !dockers:
		p.found.add(unknownInstruction(l, node.Value))
	case name == command.From:
		p.from(node, l)
	case len(p.file.Stages) == 0 && name == command.Arg:
		if d := p.docker(node, l); d != nil {
			p.file.Args = append(p.file.Args, d)
		}
	case len(p.file.Stages) == 0:
		if !p.early {
			p.early = true
			p.found.add(l.errorf(l.nameOff(), "begin with: FROM scratch, or FROM a base image; only ARG may stand before it",
				"%s before the first FROM", strings.ToUpper(name)))
		}
	default:
		p.instruction(node, l, name, ours)
	}
}

// instruction reads what follows a FROM.
func (p *parsing) instruction(node *parser.Node, l *line, name string, ours bool) {
	stage := p.file.Stages[len(p.file.Stages)-1]
	if !ours {
		if d := p.docker(node, l); d != nil {
			stage.Instructions = append(stage.Instructions, d)
		}
		return
	}
	c := newClause(l, node.Value)
	in, err := clusterInstructions[name](c)
	if err != nil {
		p.found.add(err)
		p.skipHeredoc(c, node.StartLine)
		switch name {
		case "app", "cni", "csi":
			p.unclear[stage] = true
		}
		return
	}
	stage.Instructions = append(stage.Instructions, in)
}

// skipHeredoc passes over the body of a heredoc after an instruction that cannot have one, which would
// be reported line by line otherwise.
func (p *parsing) skipHeredoc(c *clause, number int) {
	for _, field := range strings.Fields(c.args) {
		doc, err := parser.ParseHeredoc(field)
		if err != nil || doc == nil {
			continue
		}
		for i := number; i < len(p.src.lines); i++ {
			if strings.TrimLeft(p.src.lines[i], "\t") == doc.Name {
				p.skipped = append(p.skipped, [2]int{number + 1, i + 1})
				return
			}
		}
	}
}

func unknownInstruction(l *line, name string) *Error {
	for _, r := range name {
		if r > ' ' && strings.TrimSpace(string(r)) == "" {
			return l.errorf(l.nameOff()+strings.IndexRune(name, r), "write a plain space instead",
				"this character (%U) looks like a space, but is none", r)
		}
	}
	return l.errorf(l.nameOff(), didYouMean(name, instructionNames(), ""), "unknown instruction %s", clip(name))
}

// clip shortens what an error repeats from the text.
func clip(s string) string {
	const most = 40
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return s
}

// instructionNames are all names, in upper case.
func instructionNames() []string {
	names := slices.Collect(maps.Keys(clusterInstructions))
	for name := range command.Commands {
		if _, ours := clusterInstructions[name]; !ours {
			names = append(names, name)
		}
	}
	for i, name := range names {
		names[i] = strings.ToUpper(name)
	}
	return names
}

// from begins a stage, also after an error, so that what follows is not taken for misplaced.
func (p *parsing) from(node *parser.Node, l *line) {
	stage := &Stage{
		From:  l.pos(l.nameOff()),
		Text:  strings.TrimSpace(l.text),
		line:  l,
		file:  p.file,
		index: len(p.file.Stages),
	}
	p.file.Stages = append(p.file.Stages, stage)
	typed, err := instructions.ParseInstructionWithLinter(node, silent)
	if err != nil {
		p.unclear[stage] = true
		p.found.add(dockerError(l, "FROM", err))
		return
	}
	from, ok := typed.(*instructions.Stage)
	if !ok {
		p.unclear[stage] = true
		p.found.add(l.errorf(l.nameOff(), "", "FROM: unexpected %T", typed))
		return
	}
	stage.Name, stage.Base, stage.Platform = from.Name, from.BaseName, from.Platform
	for _, flag := range node.Flags {
		if flag == "--platform=" {
			p.found.add(l.errorf(l.find(flag), "write instead: --platform=linux/arm64", "FROM: --platform has no value"))
		}
	}
	if err := stage.fromVariables(nil); err != nil {
		p.unclear[stage] = true
		p.found.add(err)
	}
}
