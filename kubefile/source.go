package kubefile

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

const (
	// maxSource bounds a Kubefile; heredocs may make one long, nothing makes one this long.
	maxSource = 16 << 20
	// maxLine is what BuildKit's parser takes, in bytes without the newline.
	maxLine = 64<<10 - 1
	// maxNesting bounds ${A:-${B:-...}}: BuildKit's lexer recurses, and a stack that overflows cannot be
	// caught.
	maxNesting = 1000
)

// source is the text of a Kubefile, to point into.
type source struct {
	name   string
	lines  []string // without their ends
	escape rune
}

// line is one instruction: its continuation lines joined as BuildKit joins them, and where each
// part of it stands in the source.
type line struct {
	src  *source
	text string
	segs []segment
	last int // the line of the source that it ends in, its heredocs included
	// comments are those right above it, without their #.
	comments []string
}

// segment says that text from off on stands at pos.
type segment struct {
	off int
	pos Pos
}

// readSource reads a Kubefile and refuses what BuildKit's parser would cut or change without a word. The
// second result is the text without a byte order mark.
func readSource(name string, r io.Reader) (src *source, raw, text []byte, err error) {
	raw, err = io.ReadAll(io.LimitReader(r, maxSource+1))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("reading %s: %w", name, err)
	}
	text = bytes.TrimPrefix(raw, []byte("\uFEFF"))
	src = &source{name: name, escape: parser.DefaultEscapeToken}
	if len(raw) > maxSource {
		return nil, nil, nil, src.errorf(Pos{1, 1}, "is this a Kubefile?", "the file is larger than %d MiB", maxSource>>20)
	}
	var long []int
	for l := range bytes.Lines(text) {
		src.lines = append(src.lines, string(bytes.TrimRight(l, "\r\n")))
		if len(bytes.TrimSuffix(l, []byte("\n"))) > maxLine {
			long = append(long, len(src.lines))
		}
	}

	var found mistakes
	for _, number := range long {
		found.add(src.errorf(Pos{number, 1}, "break it into several lines, each but the last with a \\ at its end",
			"the line has %d bytes, a line may have %d", len(src.lines[number-1]), maxLine))
	}
	for i, l := range src.lines {
		number := i + 1
		if at := invalidUTF8(l); at >= 0 {
			found.add(src.errorf(Pos{number, at + 1}, "save the file as UTF-8", "the text is not UTF-8"))
		}
		if at := strings.IndexByte(l, 0); at >= 0 {
			found.add(src.errorf(Pos{number, at + 1}, "save the file as UTF-8", "the text contains a NUL byte"))
		}
		if at := strings.Index(l, "\uFEFF"); at >= 0 {
			found.add(src.errorf(Pos{number, at + 1}, "remove it; files that were joined often have one",
				"there is a byte order mark inside the text"))
		}
	}
	found.add(src.nesting())
	found.add(src.directives())
	return src, raw, text, found.err()
}

// nesting finds variables inside variables without end.
func (s *source) nesting() *Error {
	depth := 0
	for i, l := range s.lines {
		for j := range len(l) {
			switch {
			case l[j] == '}':
				depth = max(depth-1, 0)
			case l[j] == '$' && strings.HasPrefix(l[j:], "${"):
				depth++
			}
			if depth > maxNesting {
				return s.errorf(Pos{i + 1, j + 1}, "", "more than %d ${ are open here", maxNesting)
			}
		}
	}
	return nil
}

func invalidUTF8(s string) int {
	if utf8.ValidString(s) {
		return -1
	}
	for i, r := range s {
		if r == utf8.RuneError {
			if _, width := utf8.DecodeRuneInString(s[i:]); width == 1 {
				return i
			}
		}
	}
	return -1
}

// directives reads "# escape=" and its like. BuildKit's parser does it too, but its errors name the
// wrong line.
func (s *source) directives() *Error {
	var d parser.DirectiveParser
	for i, l := range s.lines {
		trimmed := strings.TrimLeftFunc(l, unicode.IsSpace)
		pos := Pos{i + 1, len(l) - len(trimmed) + 1}
		found, err := d.ParseLine([]byte(trimmed))
		switch {
		case err != nil:
			return s.errorf(pos, "remove this line", "%v", err)
		case found == nil:
			return nil
		case found.Name != "escape":
		case found.Value == "\\" || found.Value == "`":
			s.escape = rune(found.Value[0])
		default:
			return s.errorf(pos, "write instead: # escape=`", "the escape character cannot be %q", found.Value)
		}
	}
	return nil
}

// errorf makes an error at a place.
func (s *source) errorf(pos Pos, hint, format string, args ...any) *Error {
	e := &Error{File: s.name, Pos: pos, Hint: hint, Msg: fmt.Sprintf(format, args...)}
	if pos.Line >= 1 && pos.Line <= len(s.lines) {
		e.Line = s.lines[pos.Line-1]
	}
	return e
}

// start is where the first word of a source line stands.
func (s *source) start(number int) Pos {
	if number < 1 || number > len(s.lines) {
		return Pos{1, 1}
	}
	l := s.lines[number-1]
	return Pos{number, len(l) - len(strings.TrimLeftFunc(l, unicode.IsSpace)) + 1}
}

// join finds the parts of a node's text in the source again.
func (s *source) join(node *parser.Node) *line {
	joined := &line{src: s, text: node.Original, last: node.EndLine, comments: node.PrevComment}
	off := 0
	for number := node.StartLine; number >= 1 && number <= min(node.EndLine, len(s.lines)); number++ {
		part, column := s.lines[number-1], 1
		trimmed := strings.TrimLeftFunc(part, unicode.IsSpace)
		if number == node.StartLine {
			column += len(part) - len(trimmed)
			part = trimmed
		} else if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		part, continued := s.continuation(part)
		if !strings.HasPrefix(joined.text[off:], part) {
			break
		}
		joined.segs = append(joined.segs, segment{off, Pos{number, column}})
		off += len(part)
		if !continued {
			break
		}
	}
	if len(joined.segs) == 0 {
		joined.segs = []segment{{0, s.start(node.StartLine)}}
	}
	return joined
}

// continuation cuts the escape character that joins a line to the next; doubled it does not join.
func (s *source) continuation(l string) (string, bool) {
	escape := string(s.escape)
	cut, found := strings.CutSuffix(strings.TrimRight(l, " \t"), escape)
	if !found || strings.HasSuffix(cut, escape) {
		return l, false
	}
	return cut, true
}

// end is the last line of an instruction that begins at pos.
func (l *line) end(pos Pos) int {
	if l == nil {
		return pos.Line
	}
	return max(l.last, pos.Line)
}

// pos is where an offset into the joined text stands in the source.
func (l *line) pos(off int) Pos {
	at := l.segs[0]
	for _, s := range l.segs {
		if s.off > off {
			break
		}
		at = s
	}
	return Pos{at.pos.Line, at.pos.Column + max(off-at.off, 0)}
}

// errorf makes an error at an offset into the joined text. A nil line, which is what an instruction has
// that was not parsed, gives an error without a place.
func (l *line) errorf(off int, hint, format string, args ...any) *Error {
	if l == nil {
		return &Error{Hint: hint, Msg: fmt.Sprintf(format, args...)}
	}
	return l.src.errorf(l.pos(off), hint, format, args...)
}

// find is the offset of a piece of the text, or of its first word when it is not there.
func (l *line) find(piece string) int {
	if l == nil {
		return 0
	}
	if i := strings.Index(l.text, piece); i >= 0 && piece != "" {
		return i
	}
	return l.nameOff()
}

// nameOff is where the instruction's name begins.
func (l *line) nameOff() int {
	if l == nil {
		return 0
	}
	return len(l.text) - len(strings.TrimLeftFunc(l.text, unicode.IsSpace))
}

func (l *line) escape() rune {
	if l == nil {
		return parser.DefaultEscapeToken
	}
	return l.src.escape
}
