package kubefile

import (
	"bytes"
	"regexp"
	"strings"
)

// argsDirective is "# build-args=FILE" among the comments before the first instruction.
var argsDirective = regexp.MustCompile(`^#[ \t]*build-args[ \t]*=[ \t]*(.*?)[ \t]*$`)

// argsFile finds the directive: Docker takes it for a comment, so the file stays a Dockerfile.
func (p *parsing) argsFile() {
	for i, l := range p.src.lines {
		trimmed := strings.TrimSpace(l)
		if trimmed != "" && trimmed[0] != '#' {
			return
		}
		m := argsDirective.FindStringSubmatchIndex(trimmed)
		if m == nil {
			continue
		}
		off := strings.Index(l, "#")
		d := &line{src: p.src, text: l, segs: []segment{{0, Pos{i + 1, 1}}}}
		value := trimmed[m[2]:m[3]]
		switch {
		case p.file.ArgsFile != "":
			p.found.add(d.errorf(off, "write one", "# build-args stands twice"))
		case value == "":
			p.found.add(d.errorf(off, "write instead: # build-args=FILE", "# build-args names no file"))
		default:
			if _, err := expandWith(p.src.escape, value, anything{}); err != nil {
				p.found.add(d.errorf(d.find(value), "", "# build-args: cannot read %s: %v", clip(value), err))
				continue
			}
			p.file.ArgsFile, p.file.argsLine = value, d
		}
	}
}

// BuildArgsFile is the file of the build context, by the directive # build-args=FILE, that has values for ARGs, and
// where the directive stands. Its variables are those that a FROM has. "" is no file.
func (f *File) BuildArgsFile(v Vars) (name string, at Pos, err error) {
	if f.ArgsFile == "" {
		return "", Pos{}, nil
	}
	at = f.argsLine.pos(f.argsLine.find(f.ArgsFile))
	sc, _, wrong := f.globals(v)
	if wrong != nil {
		return "", at, wrong
	}
	e, err := sc.expand(f.ArgsFile, withImplicit{sc}, false)
	if err != nil {
		return "", at, f.argsLine.errorf(f.argsLine.find(f.ArgsFile), "", "# build-args: %v", err)
	}
	if missing := pickSet(e.unknown, e.empty); missing != "" {
		return "", at, f.argsLine.errorf(f.argsLine.find(useOf(f.ArgsFile, missing)), "write before the first FROM: ARG "+missing+"=DEFAULT",
			"# build-args: the variable %s has no value", missing)
	}
	return e.text, at, nil
}

// ParseBuildArgs reads a file of values for ARGs: NAME=VALUE a line, the value as it stands to the end of
// the line; empty lines and those that begin with # are skipped. Every mistake is an *Error.
func ParseBuildArgs(name string, text []byte) (map[string]string, error) {
	src := &source{name: name}
	for l := range bytes.Lines(bytes.TrimPrefix(text, []byte("\uFEFF"))) {
		src.lines = append(src.lines, string(bytes.TrimRight(l, "\r\n")))
	}
	var found mistakes
	args := map[string]string{}
	for i, l := range src.lines {
		trimmed := strings.TrimSpace(l)
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		pos := src.start(i + 1)
		key, value, ok := strings.Cut(trimmed, "=")
		_, twice := args[key]
		switch {
		case len(src.lines[i]) > maxLine:
			found.add(src.errorf(pos, "", "the line has more than %d bytes", maxLine))
		case invalidUTF8(l) >= 0:
			found.add(src.errorf(pos, "save the file as UTF-8", "the text is not UTF-8"))
		case !ok || !argName.MatchString(key):
			found.add(src.errorf(pos, "write instead: NAME=VALUE", "%s is no value for an ARG", clip(trimmed)))
		case twice:
			found.add(src.errorf(pos, "remove one", "%s stands twice", clip(key)))
		default:
			args[key] = value
		}
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	return args, nil
}
