package lint

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/clusterimage/keg/kubefile"
)

// Fix mends what can be mended without changing what is built, and returns the text and the findings that it
// mended. Where an instruction is written in a way that makes this unsafe, it is left alone.
func Fix(f *kubefile.File, list []Finding) ([]byte, []Finding, error) {
	return fix(f, list, fixes)
}

// Pin writes digests into the FROMs that name an image without one and without a variable, whether a rule found
// them or a lock pins them already, and returns the text and how many there were. digest gives that of an image
// as the FROM names it, or "" to leave it alone.
func Pin(f *kubefile.File, digest func(ref string) (string, error)) ([]byte, int, error) {
	var list []Finding
	for _, s := range f.Stages {
		if s.Base != "scratch" && !strings.ContainsAny(s.Base, "$@") && f.BaseStage(s) == nil {
			list = append(list, Finding{Rule: unpinnedBase.Name, Line: s.From.Line})
		}
	}
	var failed error
	pin := func(m *mending, _ Finding) bool {
		if failed != nil || m.stage == nil {
			return false
		}
		var d string
		d, failed = digest(m.stage.Base)
		return failed == nil && d != "" && m.replace(regexp.MustCompile(`(?i)^(\s*FROM\s+(?:--\S+\s+)*["']?)`+regexp.QuoteMeta(m.stage.Base)+`(["']?(?:\s|$))`), "${1}"+m.stage.Base+"@"+d+"${2}")
	}
	text, fixed, err := fix(f, list, map[string]func(*mending, Finding) bool{unpinnedBase.Name: pin})
	if failed != nil {
		return nil, 0, failed
	}
	return text, len(fixed), err
}

// mending is one instruction that is mended.
type mending struct {
	lines [][]byte // of the whole file, with their ends; nil is a line that is taken out
	first int      // index of the first line of the instruction
	last  int
	in    kubefile.Instruction // nil for a FROM
	stage *kubefile.Stage      // the FROM
	lower bool                 // most instructions are in lower case
}

var (
	firstWord  = regexp.MustCompile(`^[\s\x{FEFF}]*\S+`)
	asWord     = regexp.MustCompile(`(?i)\sas\s`)
	stageName  = regexp.MustCompile(`(?i)\sas\s+\S+\s*$`)
	portScheme = regexp.MustCompile(`/[A-Za-z]+\b`)
	// A value with quotes, escapes or a comment's sign is left to a person.
	legacyWord  = regexp.MustCompile(`(?i)^(\s*(?:ENV|LABEL)\s+)([A-Za-z_][A-Za-z0-9_.-]*)[ \t]+([^\s"'\\` + "`" + `#=]+)[ \t]*(\r?\n?)$`)
	legacyWords = regexp.MustCompile(`(?i)^(\s*(?:ENV|LABEL)\s+)([A-Za-z_][A-Za-z0-9_.-]*)[ \t]+([^\s"'\\` + "`" + `#=][^"'\\` + "`" + `\r\n=]*?)[ \t]*(\r?\n?)$`)
)

var fixes = map[string]func(*mending, Finding) bool{
	consistentInstructionCasing.Name: func(m *mending, _ Finding) bool {
		return m.rewrite(firstWord, func(name string) string {
			if m.lower {
				return strings.ToLower(name)
			}
			return strings.ToUpper(name)
		})
	},
	"FromAsCasing": func(m *mending, _ Finding) bool {
		name := keyword(string(m.lines[m.first]))
		return m.stage != nil && m.first == m.last && m.rewrite(asWord, func(as string) string {
			if name == strings.ToLower(name) {
				return strings.ToLower(as)
			}
			return strings.ToUpper(as)
		})
	},
	"StageNameCasing": func(m *mending, _ Finding) bool {
		return m.stage != nil && m.first == m.last && m.rewrite(stageName, func(s string) string {
			i := strings.LastIndexAny(strings.TrimRight(s, " \t\r\n"), " \t")
			return s[:i] + strings.ToLower(s[i:])
		})
	},
	noEmptyContinuation.Name: func(m *mending, _ Finding) bool {
		if d, ok := m.in.(*kubefile.Docker); ok && strings.Contains(d.Text(), "<<") {
			return false // an empty line may belong to a heredoc
		}
		done := false
		for i := m.first; i <= m.last; i++ {
			if len(bytes.TrimSpace(m.lines[i])) == 0 && m.lines[i] != nil {
				m.lines[i], done = nil, true
			}
		}
		return done
	},
	"LegacyKeyValueFormat": func(m *mending, _ Finding) bool {
		return m.replace(legacyWord, "${1}${2}=${3}${4}") || m.replace(legacyWords, `${1}${2}="${3}"${4}`)
	},
	"MaintainerDeprecated": func(m *mending, _ Finding) bool {
		d, ok := m.in.(*kubefile.Docker)
		if !ok || m.first != m.last {
			return false
		}
		c, ok := d.Command.(*instructions.MaintainerCommand)
		if !ok || strings.ContainsAny(c.Maintainer, "\"\\$`") {
			return false
		}
		name := "LABEL"
		if m.lower {
			name = "label"
		}
		line := m.lines[m.first]
		end := line[len(bytes.TrimRight(line, "\r\n")):]
		m.lines[m.first] = fmt.Appendf(nil, "%s org.opencontainers.image.authors=\"%s\"%s", name, c.Maintainer, end)
		return true
	},
	"ExposeProtoCasing": func(m *mending, _ Finding) bool {
		return m.first == m.last && m.rewrite(portScheme, strings.ToLower)
	},
}

// rewrite changes what a pattern finds in the first line of the instruction.
func (m *mending) rewrite(pattern *regexp.Regexp, change func(string) string) bool {
	old := m.lines[m.first]
	m.lines[m.first] = []byte(pattern.ReplaceAllStringFunc(string(old), change))
	return !bytes.Equal(old, m.lines[m.first])
}

// replace is for an instruction of one line.
func (m *mending) replace(pattern *regexp.Regexp, with string) bool {
	if m.first != m.last || !pattern.Match(m.lines[m.first]) {
		return false
	}
	m.lines[m.first] = pattern.ReplaceAll(m.lines[m.first], []byte(with))
	return true
}

// fix applies fixes instruction by instruction. A text that cannot be read any more would be a mistake of
// ours: then nothing is changed.
func fix(f *kubefile.File, list []Finding, fixes map[string]func(*mending, Finding) bool) ([]byte, []Finding, error) {
	lines := bytes.SplitAfter(f.Source, []byte("\n"))
	places, lower := mendings(f, lines)
	var fixed []Finding
	for _, finding := range list {
		apply := fixes[finding.Rule]
		i := slices.IndexFunc(places, func(m *mending) bool {
			return m.first < finding.Line && finding.Line <= m.last+1
		})
		if apply == nil || i < 0 {
			continue
		}
		places[i].lower = lower
		if apply(places[i], finding) {
			fixed = append(fixed, finding)
		}
	}
	text := bytes.Join(lines, nil)
	if _, err := kubefile.Parse(f.Name, bytes.NewReader(text)); err != nil {
		return nil, nil, fmt.Errorf("fixing %s: %w", f.Name, err)
	}
	return text, fixed, nil
}

// mendings are the places of all instructions, and whether most names are in lower case.
func mendings(f *kubefile.File, lines [][]byte) ([]*mending, bool) {
	var places []*mending
	lower := 0
	add := func(text string, m *mending) {
		switch name := keyword(text); name {
		case strings.ToLower(name):
			lower++
		case strings.ToUpper(name):
			lower--
		}
		m.lines = lines
		m.last = min(m.last, len(lines)-1)
		places = append(places, m)
	}
	for _, s := range f.Stages {
		add(s.Text, &mending{first: s.From.Line - 1, last: s.EndLine() - 1, stage: s})
		for _, in := range s.Instructions {
			add(in.Text(), &mending{first: in.Pos().Line - 1, last: in.EndLine() - 1, in: in})
		}
	}
	return places, lower > 0
}
