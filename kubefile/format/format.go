// Package format writes Kubefiles in one form, without changing what they mean.
package format

import (
	"bytes"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/clusterimage/keg/kubefile"
)

// How much of an instruction is rewritten. Whatever would change its meaning makes it go down a step.
const (
	whole   = iota // words, arrays and the indentation of continued lines
	outside        // its name, and the white space around it
	nothing
)

// maxRounds bounds the search for a text that formatting leaves alone; two are enough for what people write.
const maxRounds = 8

// Format returns a Kubefile in keg's form: names of instructions in upper case, one space between words, JSON
// arrays as ["a", "b"], continued lines indented by four spaces, no empty lines inside of instructions and
// not more than one between them, one newline at the end. Comments, directives, heredocs and the text of
// commands stay as they are. Formatting the result again gives the same. An error is that of kubefile.Parse.
func Format(name string, source []byte) ([]byte, error) {
	text := source
	for range maxRounds {
		next, err := once(name, text)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(next, text) {
			return text, nil
		}
		text = next
	}
	return source, nil
}

// once formats, and gives up on the instructions that would not mean the same after it.
func once(name string, source []byte) ([]byte, error) {
	before, err := read(name, source)
	if err != nil {
		return nil, err
	}
	for {
		text := before.write()
		after, err := read(name, text)
		if err != nil || len(after.list) != len(before.list) || after.head != before.head {
			if !before.restrain(func(int) bool { return true }) {
				return source, nil
			}
			continue
		}
		if !before.restrain(func(i int) bool { return before.list[i].meaning != after.list[i].meaning }) {
			return text, nil
		}
	}
}

// document is a Kubefile to be written anew.
type document struct {
	lines  []line
	list   []*instruction
	escape string
	head   string // what the directives mean
}

// line is a line of the text and how it ends.
type line struct{ text, end string }

// instruction is a part of a document.
type instruction struct {
	first, last int // its lines, by index
	body        int // one past the last line before its heredocs
	name        string
	meaning     string
	level       int
}

// read takes a Kubefile apart.
func read(name string, source []byte) (*document, error) {
	f, err := kubefile.Parse(name, bytes.NewReader(source))
	if err != nil {
		return nil, err
	}
	ast, err := parser.Parse(bytes.NewReader(source))
	if err != nil {
		return nil, err
	}
	d := &document{escape: string(ast.EscapeToken), head: head(f)}
	for l := range strings.Lines(string(source)) {
		text := strings.TrimRight(l, "\r\n")
		d.lines = append(d.lines, line{text, l[len(text):]})
	}
	d.list = instructions(f, ast.AST.Children)
	slices.SortFunc(d.list, func(a, b *instruction) int { return a.first - b.first })
	for _, in := range d.list {
		in.last = min(in.last, len(d.lines)-1)
		in.body = d.body(in)
	}
	return d, nil
}

// body is one past the last line of an instruction that is no heredoc's.
func (d *document) body(in *instruction) int {
	for i := in.first; i <= in.last; i++ {
		if i > in.first && (comment(d.lines[i].text) || blank(d.lines[i].text)) {
			continue
		}
		if _, continued := d.continuation(d.lines[i].text); !continued {
			return i + 1
		}
	}
	return in.last + 1
}

// continuation cuts the character that joins a line to the next; doubled it does not join.
func (d *document) continuation(text string) (string, bool) {
	cut, found := strings.CutSuffix(strings.TrimRight(text, " \t"), d.escape)
	if !found || strings.HasSuffix(cut, d.escape) {
		return text, false
	}
	return cut, true
}

func blank(text string) bool   { return strings.TrimSpace(text) == "" }
func comment(text string) bool { return strings.HasPrefix(strings.TrimSpace(text), "#") }

// restrain lowers the level of instructions, and says whether there was one to lower.
func (d *document) restrain(which func(int) bool) bool {
	lowered := false
	for i, in := range d.list {
		if in.level < nothing && which(i) {
			in.level++
			lowered = true
		}
	}
	return lowered
}

// write makes the text.
func (d *document) write() []byte {
	end := "\n"
	if len(d.lines) > 0 && d.lines[0].end != "" {
		end = d.lines[0].end
	}
	var out []line
	at := 0
	between := func(until int) {
		for ; at < until; at++ {
			l := d.lines[at]
			if blank(l.text) {
				if at > 0 && blank(d.lines[at-1].text) && len(out) > 0 && out[len(out)-1].text == "" {
					continue
				}
				l.text = ""
			}
			out = append(out, l)
		}
	}
	for _, in := range d.list {
		between(in.first)
		out = append(out, d.rewrite(in)...)
		out = append(out, d.lines[in.body:in.last+1]...)
		at = in.last + 1
	}
	between(len(d.lines))
	if d.list[len(d.list)-1].last < len(d.lines)-1 { // the text ends outside of an instruction
		for out[len(out)-1].text == "" {
			out = out[:len(out)-1]
		}
	}
	var b bytes.Buffer
	for _, l := range out {
		if l.end == "" {
			l.end = end
		}
		b.WriteString(l.text + l.end)
	}
	return b.Bytes()
}
