package discover

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fieldPath is a parsed JSONPath, of the part of the language that names fields: .name, ['name'], [0], [*], .*, and ..name
// for a field at any depth.
type fieldPath []pathStep

type pathStep struct {
	name  string // of a field
	index int    // of an element, if name is "" and all is false
	all   bool   // every field or element
	deep  bool   // at any depth below
}

// parsePath reads a JSONPath: ".spec.image", "$.spec.images[*]", "{.spec['my.key']}", "..image".
func parsePath(s string) (fieldPath, error) {
	text := strings.TrimSpace(s)
	if strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}") {
		text = text[1 : len(text)-1]
	}
	text = strings.TrimPrefix(text, "$")
	if text != "" && text[0] != '.' && text[0] != '[' {
		text = "." + text
	}
	var out fieldPath
	for text != "" {
		var step pathStep
		switch {
		case strings.HasPrefix(text, ".."):
			step.deep, text = true, text[1:]
			fallthrough
		case text[0] == '.':
			end := strings.IndexAny(text[1:], ".[") + 1
			if end == 0 {
				end = len(text)
			}
			step.name, text = text[1:end], text[end:]
			if step.name == "*" {
				step.name, step.all = "", true
			} else if step.name == "" {
				return nil, fmt.Errorf("path %q: a name is missing after a dot", s)
			}
		case text[0] == '[':
			end := strings.IndexByte(text, ']')
			if end < 0 {
				return nil, fmt.Errorf("path %q: a [ is not closed", s)
			}
			inner := text[1:end]
			text = text[end+1:]
			if q := strings.Trim(inner, `'"`); len(q) == len(inner)-2 && q != "" {
				step.name = q
			} else if inner == "*" {
				step.all = true
			} else if n, err := strconv.ParseUint(inner, 10, 16); err == nil {
				step.index = int(n)
			} else {
				return nil, fmt.Errorf("path %q: [%s] is none of [*], [NUMBER], ['NAME']", s, inner)
			}
		default:
			return nil, fmt.Errorf("path %q: %q is unexpected: a path is like .spec.images[*].name", s, text)
		}
		out = append(out, step)
	}
	if len(out) == 0 {
		return nil, errors.New("an empty path")
	}
	return out, nil
}

// each calls visit for every value that the path leads to.
func (p fieldPath) each(o *object, n *yaml.Node, at string, visit func(n *yaml.Node, at string)) {
	if n = follow(n); n == nil || !o.spend() {
		return
	}
	if len(p) == 0 {
		visit(n, strings.TrimPrefix(at, "."))
		return
	}
	step := p[0]
	switch {
	case step.all:
		children(n, at, func(c *yaml.Node, at string) { p[1:].each(o, c, at, visit) })
	case step.name != "":
		if v := field(n, step.name); v != nil {
			p[1:].each(o, v, at+"."+step.name, visit)
		}
	case step.index < len(items(n)):
		p[1:].each(o, n.Content[step.index], fmt.Sprintf("%s[%d]", at, step.index), visit)
	}
	if step.deep && strings.Count(at, ".")+strings.Count(at, "[") < 100 {
		children(n, at, func(c *yaml.Node, at string) { p.each(o, c, at, visit) })
	}
}

// children calls visit for every field of a mapping or element of a sequence; merged ones belong to it.
func children(n *yaml.Node, at string, visit func(n *yaml.Node, at string)) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := follow(n.Content[i])
			switch {
			case key == nil || key.Kind != yaml.ScalarNode:
			case n.Content[i].Tag == "!!merge":
				merged := follow(n.Content[i+1])
				if merged == nil {
					continue
				}
				if merged.Kind == yaml.SequenceNode {
					for _, m := range merged.Content {
						if m = follow(m); m != nil && m != n {
							visit(m, at)
						}
					}
				} else if merged != n {
					visit(merged, at)
				}
			default:
				visit(n.Content[i+1], at+"."+key.Value)
			}
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			visit(c, fmt.Sprintf("%s[%d]", at, i))
		}
	}
}

// elem is the path of an element.
func elem(at string, i int) string { return fmt.Sprintf("%s[%d]", at, i) }
