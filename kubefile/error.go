package kubefile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Error is one mistake in a Kubefile. Parse, File.ResolveFrom and Stage.Resolve return an *Error, or
// several joined in the order of the text (use errors.As, or Unwrap() []error).
type Error struct {
	// File is the name that was given to Parse.
	File string
	// Pos is where the mistake is.
	Pos Pos
	// Line is the line of the text that Pos points into, without its end.
	Line string
	// More are lines that follow it and belong to it, to be shown as well.
	More []string
	// Msg says what is wrong.
	Msg string
	// Hint says what to write instead, or is "".
	Hint string
}

// excerptWidth is how many characters of a long line an error shows.
const excerptWidth = 100

// maxMore is how many lines it shows after the first.
const maxMore = 12

// Error is the position and message, then the line with a caret below the place, then the hint.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Pos.Line > 0 {
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Pos.Line, e.Pos.Column)
	}
	b.WriteString(e.Msg)
	if strings.TrimSpace(e.Line) != "" {
		text, caret := excerpt(e.Line, e.Pos.Column)
		fmt.Fprintf(&b, "\n%5d | %s\n      | %s^", e.Pos.Line, text, strings.Repeat(" ", caret))
		for i, line := range e.More {
			if i == maxMore {
				fmt.Fprintf(&b, "\n  ... | and %d lines more", len(e.More)-i)
				break
			}
			text, _ := excerpt(line, 1)
			fmt.Fprintf(&b, "\n%5d | %s", e.Pos.Line+1+i, text)
		}
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "\n  %s", e.Hint)
	}
	return b.String()
}

// excerpt is the part of a line around a column (in bytes, from 1) and where in it that column is. A
// Kubefile may come from anywhere, so characters that could drive a terminal are not passed on.
func excerpt(line string, column int) (string, int) {
	caret := len([]rune(line[:min(max(column-1, 0), len(line))]))
	runes := []rune(strings.TrimRight(line, " \t\r\n"))
	for i, r := range runes {
		switch {
		case r == '\t':
			runes[i] = ' '
		case !unicode.IsPrint(r):
			runes[i] = '?'
		}
	}
	caret = min(caret, len(runes))
	start := max(0, caret-excerptWidth/2)
	end := min(len(runes), start+excerptWidth)
	start = max(0, min(start, end-excerptWidth))
	text, caret := string(runes[start:end]), caret-start
	if start > 0 {
		text, caret = "..."+text, caret+3
	}
	if end < len(runes) {
		text += "..."
	}
	return text, caret
}

// mistakes collects errors so that one reading reports them all.
type mistakes []*Error

// maxMistakes bounds what a file that is no Kubefile at all can print.
const maxMistakes = 20

func (m *mistakes) add(e *Error) {
	if e != nil {
		*m = append(*m, e)
	}
}

// err is nil, the one mistake, or all of them joined in the order of the text.
func (m mistakes) err() error {
	switch len(m) {
	case 0:
		return nil
	case 1:
		return m[0]
	}
	sorted := slices.Clone(m)
	slices.SortStableFunc(sorted, func(a, b *Error) int {
		if a.Pos.Line != b.Pos.Line {
			return a.Pos.Line - b.Pos.Line
		}
		return a.Pos.Column - b.Pos.Column
	})
	joined := make([]error, 0, maxMistakes)
	for _, e := range sorted[:min(len(sorted), maxMistakes)] {
		joined = append(joined, e)
	}
	if more := len(sorted) - maxMistakes; more > 0 {
		last := sorted[maxMistakes]
		joined = append(joined, &Error{File: last.File, Pos: last.Pos, Msg: fmt.Sprintf("and %d more mistakes from here on", more)})
	}
	return errors.Join(joined...)
}
