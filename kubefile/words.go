package kubefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
)

// clause is a cluster instruction that is being read: its name and the text after it.
type clause struct {
	*line
	name string // upper case
	off  int    // where args begin in text
	args string
}

// word is one word as written, with its quotes.
type word struct {
	raw string
	off int
}

// whitespace is what separates words; BuildKit's parser takes the same for the instruction's name.
const whitespace = " \t\v\f\r"

func newClause(l *line, name string) *clause {
	c := &clause{line: l, name: strings.ToUpper(name)}
	c.off = l.nameOff() + len(name)
	rest := l.text[c.off:]
	c.off += len(rest) - len(strings.TrimLeft(rest, whitespace))
	c.args = strings.TrimRight(l.text[c.off:], whitespace)
	return c
}

// words splits the text as a shell does: at white space that stands outside quotes and ${...}.
func (c *clause) words() ([]word, *Error) {
	return c.split(c.args, c.off)
}

func (c *clause) split(text string, base int) ([]word, *Error) {
	escape := byte(c.escape())
	var words []word
	// open holds where each quote (" or ') and each ${ that is not yet closed stands.
	var open []int
	begin := -1
	flush := func(end int) {
		if begin >= 0 {
			words = append(words, word{text[begin:end], base + begin})
			begin = -1
		}
	}
	for i := 0; i < len(text); {
		ch, in := text[i], byte(0)
		if len(open) > 0 {
			in = text[open[len(open)-1]]
		}
		if in == 0 && strings.IndexByte(whitespace, ch) >= 0 {
			flush(i)
			i++
			continue
		}
		if begin < 0 {
			begin = i
		}
		switch {
		case in == '\'':
			if ch == '\'' {
				open = open[:len(open)-1]
			}
			i++
		case ch == escape && i+1 < len(text):
			_, width := utf8.DecodeRuneInString(text[i+1:])
			i += 1 + width
		case strings.HasPrefix(text[i:], "${"):
			open = append(open, i)
			i += 2
		case ch == '"' && in == '"', ch == '}' && in == '$':
			open = open[:len(open)-1]
			i++
		case ch == '"', ch == '\'' && in != '"':
			open = append(open, i)
			i++
		default:
			i++
		}
	}
	if len(open) > 0 {
		at := open[len(open)-1]
		if text[at] == '$' {
			return nil, c.errorf(base+at, "", "%s: this ${ is never closed", c.name)
		}
		return nil, c.errorf(base+at, fmt.Sprintf("close the quote, or write %c%c for a quote as such", c.escape(), text[at]),
			"%s: this quote is never closed", c.name)
	}
	flush(len(text))
	for _, w := range words {
		if w.raw[0] == '#' {
			return nil, c.errorf(w.off, "put the comment on a line of its own",
				"%s: a comment cannot follow an instruction", c.name)
		}
		if doc, err := parser.ParseHeredoc(w.raw); err == nil && doc != nil {
			return nil, c.heredoc(w.off)
		}
		if _, err := expandWith(c.escape(), w.raw, anything{}); err != nil {
			return nil, c.errorf(w.off, "", "%s: cannot read %s: %v", c.name, w.raw, err)
		}
	}
	return words, nil
}

func (c *clause) heredoc(off int) *Error {
	return c.errorf(off, "put each command or word on the line itself, or in a file of the build context",
		"%s takes no heredoc; RUN, COPY and ADD do", c.name)
}

// plain takes the quotes off a word and leaves its variables.
func (c *clause) plain(w word) string {
	lex := shell.NewLex(c.escape())
	lex.SkipUnsetEnv = true
	text, _, err := lex.ProcessWord(w.raw, nothing{})
	if err != nil {
		return w.raw // split has found every syntax error already
	}
	return text
}

func (c *clause) plainAll(words []word) []string {
	var texts []string
	for _, w := range words {
		texts = append(texts, c.plain(w))
	}
	return texts
}

// isJSON says whether text is meant as a JSON array.
func isJSON(text string) bool { return strings.HasPrefix(text, "[") }

// array reads a JSON array of strings that stands at off.
func (c *clause) array(text string, off int) ([]string, *Error) {
	list, err := stringArray(text)
	if err == nil {
		return list, nil
	}
	at := off
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		at += int(max(syntax.Offset-1, 0))
	}
	hint := "strings stand in double quotes, with a comma between them"
	if repaired, ok := repairArray(text); ok {
		hint = "write instead: " + c.text[c.nameOff():off] + repaired
	}
	return nil, c.errorf(min(at, off+len(text)), hint, "%s: this is not a JSON array of strings: %v", c.name, err)
}

func stringArray(text string) ([]string, error) {
	var list []*string
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, fmt.Errorf("it holds a %s", wrong.Value)
		}
		return nil, err
	}
	var texts []string
	for _, s := range list {
		if s == nil {
			return nil, errors.New("it holds a null")
		}
		texts = append(texts, *s)
	}
	return texts, nil
}

// repairArray mends the two usual slips, a comma too many and single quotes.
func repairArray(text string) (string, bool) {
	inner, ok := strings.CutSuffix(strings.TrimSpace(text), "]")
	if !ok {
		return "", false
	}
	mended := strings.TrimRight(inner, whitespace+",") + "]"
	for _, try := range []string{mended, strings.ReplaceAll(mended, "'", `"`)} {
		if list, err := stringArray(try); err == nil && len(list) > 0 {
			return try, true
		}
	}
	return "", false
}

// jsonArray writes an array for a hint.
func jsonArray(list ...string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(list); err != nil {
		return "[]"
	}
	return strings.TrimSpace(strings.ReplaceAll(b.String(), `","`, `", "`))
}

// didYouMean is a hint, or "" when no option is near.
func didYouMean(got string, options []string, prefix string) string {
	options = slices.Sorted(slices.Values(options))
	for _, o := range options {
		if got != o && strings.EqualFold(got, o) {
			return "did you mean " + prefix + o + "?"
		}
	}
	if match, ok := suggest.Search(strings.ToLower(got), options, false); ok {
		for _, o := range options {
			if strings.EqualFold(o, match) {
				return "did you mean " + prefix + o + "?"
			}
		}
	}
	return ""
}

// shellQuote writes a word so that a POSIX shell reads it back as it is.
func shellQuote(s string) string {
	const safe = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%_-+=:,./"
	if s != "" && strings.Trim(s, safe) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
