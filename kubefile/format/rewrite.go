package format

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

const indent = "    "

// words are instructions made of words that stand between white space, however much of it.
var words = []string{"FROM", "COPY", "ADD", "ARG", "ENV", "LABEL", "EXPOSE", "VOLUME", "APP", "CNI", "CSI", "APPENV", "LAUNCH", "IMAGES", "KUBEVERSION"}

var (
	// arrays are what may stand before a JSON array: flags, the name of an app, HEALTHCHECK's CMD.
	arrays = regexp.MustCompile(`^((?:--[^ \t]+[ \t]+)*(?:[A-Za-z0-9][A-Za-z0-9._-]*[ \t]*)?)(\[.*\])$`)
	as     = regexp.MustCompile(`(?i)^([^#]*[ \t])as([ \t]+[^ \t]+)$`)
	spaces = regexp.MustCompile(`[ \t]+`)
)

// rewrite writes the lines of an instruction, without its heredocs.
func (d *document) rewrite(in *instruction) []line {
	lines := slices.Clone(d.lines[in.first:in.body])
	if in.level == nothing {
		return lines
	}
	first := lines[0].text
	mark := ""
	if rest, ok := strings.CutPrefix(first, "\uFEFF"); ok {
		mark, first = "\uFEFF", rest
	}
	first = strings.TrimLeft(first, " \t")
	name, rest := first, ""
	if i := strings.IndexAny(first, " \t"); i >= 0 {
		name, rest = first[:i], strings.TrimLeft(first[i:], " \t")
	}
	if !strings.EqualFold(name, in.name) { // the name itself is continued on the next line
		return lines
	}
	lines[0].text = mark + strings.ToUpper(name)
	if rest != "" {
		lines[0].text += " " + rest
	}
	var kept []line
	for i, l := range lines {
		if i > 0 && blank(l.text) {
			continue
		}
		if cut, continued := d.continuation(l.text); continued && !(i > 0 && comment(l.text)) {
			l.text = cut + d.escape
		} else if !comment(l.text) || i == 0 {
			l.text = strings.TrimRight(l.text, " \t")
		}
		kept = append(kept, l)
	}
	if in.level == outside {
		return kept
	}
	if len(kept) == 1 {
		kept[0].text = mark + d.single(strings.ToUpper(name), strings.TrimPrefix(kept[0].text, mark))
	} else if slices.Contains(words, in.name) {
		d.several(kept)
	}
	return kept
}

// single writes an instruction of one line.
func (d *document) single(name, text string) string {
	_, args, found := strings.Cut(text, " ")
	if !found {
		return text
	}
	if m := arrays.FindStringSubmatch(args); m != nil {
		if array, ok := array(m[2]); ok {
			before := strings.TrimRight(spaces.ReplaceAllString(m[1], " "), " ")
			if before != "" {
				before += " "
			}
			return name + " " + before + array
		}
	}
	if slices.Contains(words, name) && !strings.ContainsAny(args, `"'`+d.escape) {
		args = spaces.ReplaceAllString(args, " ")
		if name == "FROM" {
			args = as.ReplaceAllString(args, "${1}AS${2}")
		}
	}
	return name + " " + args
}

// array writes an array of strings.
func array(text string) (string, bool) {
	var list []string
	if json.Unmarshal([]byte(text), &list) != nil || list == nil {
		return "", false
	}
	parts := make([]string, 0, len(list))
	for _, s := range list {
		var b strings.Builder
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if e.Encode(s) != nil {
			return "", false
		}
		parts = append(parts, strings.TrimSuffix(b.String(), "\n"))
	}
	return "[" + strings.Join(parts, ", ") + "]", true
}

// several indents the lines of an instruction, where they are joined between two words.
func (d *document) several(lines []line) {
	quote := byte(0)
	joined := false // whether white space may change before this line
	for i := range lines {
		if i > 0 && comment(lines[i].text) {
			continue
		}
		text, continued := d.continuation(lines[i].text)
		if i > 0 && joined {
			text = indent + strings.TrimLeft(text, " \t")
		}
		quote = d.open(text, quote)
		next := i + 1
		for next < len(lines) && comment(lines[next].text) {
			next++
		}
		if !continued || next >= len(lines) {
			if !continued {
				lines[i].text = text
			}
			return
		}
		trimmed := strings.TrimRight(text, " \t")
		after := strings.TrimLeft(lines[next].text, " \t")
		joined = quote == 0 && (trimmed != text || after != lines[next].text) && trimmed != "" && after != ""
		if joined {
			text = trimmed + " "
		}
		lines[i].text = text + d.escape
	}
}

// open is the quote that is open at the end of a text.
func (d *document) open(text string, quote byte) byte {
	for i := 0; i < len(text); i++ {
		switch ch := text[i]; {
		case ch == d.escape[0] && quote != '\'':
			i++
		case quote == 0 && (ch == '"' || ch == '\''):
			quote = ch
		case ch == quote:
			quote = 0
		}
	}
	return quote
}
