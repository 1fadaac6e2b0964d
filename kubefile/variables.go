package kubefile

import (
	"errors"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// expandWith expands variables in one word and takes its quotes off, as a Dockerfile does.
func expandWith(escape rune, raw string, env shell.EnvGetter) (string, error) {
	text, _, err := process(shell.NewLex(escape), raw, env)
	return text, err
}

// process also says which variables had no value. BuildKit's lexer takes "${-x}" for a variable without a
// name; here that is an error.
func process(lex *shell.Lex, raw string, env shell.EnvGetter) (string, map[string]struct{}, error) {
	result, err := lex.ProcessWordWithMatches(raw, env)
	if err != nil {
		return "", nil, cause(err)
	}
	_, matched := result.Matched[""]
	_, unmatched := result.Unmatched[""]
	if matched || unmatched {
		return "", nil, errors.New("a ${ is followed by no name")
	}
	return result.Result, result.Unmatched, nil
}

// cause is what lies below the wrapping that repeats the word.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			if err != nil && strings.Contains(err.Error(), "(\uFFFD)") {
				return errors.New("missing '}'") // the lexer met the end of the word
			}
			return err
		}
		err = inner
	}
}

// anything has a value for every variable: only the syntax of a word can be wrong with it.
type anything struct{}

func (anything) Get(string) (string, bool) { return "x", true }
func (anything) Keys() []string            { return nil }

// nothing has no variables.
type nothing struct{}

func (nothing) Get(string) (string, bool) { return "", false }
func (nothing) Keys() []string            { return nil }

// scope is the variables in sight at one instruction.
type scope struct {
	escape rune
	keys   []string          // of env, in order
	env    map[string]string // base image and ENV
	args   map[string]string // ARG, but for those that a later ENV took the name of
	// declared are ARGs, also those that got no value: such a variable is empty, not unknown.
	declared map[string]bool
	// implicit are the platform variables; only some instructions see them without an ARG.
	implicit map[string]string
}

func newScope(escape rune, baseEnv []string, implicit map[string]string) *scope {
	s := &scope{escape: escape, env: map[string]string{}, args: map[string]string{}, declared: map[string]bool{}, implicit: implicit}
	for _, kv := range baseEnv {
		key, value, _ := strings.Cut(kv, "=")
		s.setEnv(key, value)
	}
	return s
}

func (s *scope) setEnv(key, value string) {
	if _, ok := s.env[key]; !ok {
		s.keys = append(s.keys, key)
	}
	s.env[key] = value
	delete(s.args, key)
}

func (s *scope) envList() []string {
	var list []string
	for _, key := range s.keys {
		list = append(list, key+"="+s.env[key])
	}
	return list
}

// Get is shell.EnvGetter: of ENV and ARG the later one wins. Docker's reference says that ENV always does, but
// BuildKit keeps both in one list.
func (s *scope) Get(name string) (string, bool) {
	if v, ok := s.args[name]; ok {
		return v, true
	}
	v, ok := s.env[name]
	return v, ok
}

// Keys is shell.EnvGetter.
func (s *scope) Keys() []string {
	keys := append([]string(nil), s.keys...)
	for key := range s.args {
		keys = append(keys, key)
	}
	return keys
}

// withImplicit adds the platform variables, below all others.
type withImplicit struct{ *scope }

func (s withImplicit) Get(name string) (string, bool) {
	if v, ok := s.scope.Get(name); ok {
		return v, true
	}
	v, ok := s.implicit[name]
	return v, ok
}

// expansion is a word with its variables expanded.
type expansion struct {
	text string
	// unknown is a variable that was used without a default and that nobody declared, or "".
	unknown string
	// empty is one that an ARG declares but nobody gave a value, or "".
	empty string
}

func (s *scope) expand(raw string, env shell.EnvGetter, rawQuotes bool) (expansion, error) {
	lex := shell.NewLex(s.escape)
	if rawQuotes {
		// A heredoc: BuildKit always takes the backslash there.
		lex = shell.NewLex('\\')
		lex.SkipProcessQuotes = true
	}
	text, unmatched, err := process(lex, raw, env)
	if err != nil {
		return expansion{}, err
	}
	e := expansion{text: text}
	for name := range unmatched {
		if !bareUse(raw, name) {
			continue
		}
		if s.declared[name] {
			e.empty = pick(e.empty, name)
		} else {
			e.unknown = pick(e.unknown, name)
		}
	}
	return e, nil
}

// pick keeps the first of two names, so that an error does not depend on the order of a map.
func pick(a, b string) string {
	if a == "" || b < a {
		return b
	}
	return a
}

// bareUse says whether text uses a variable in a form that has no answer for an unset one: $X, ${X},
// ${X#...}, ${X%...}, ${X/...}; but not ${X:-default} and its like.
func bareUse(text, name string) bool {
	for {
		_, rest, found := strings.Cut(text, "$")
		if !found {
			return false
		}
		text = rest
		if after, ok := strings.CutPrefix(rest, "{"+name); ok {
			if after == "" || strings.IndexByte("}#%/", after[0]) >= 0 {
				return true
			}
		} else if after, ok := strings.CutPrefix(rest, name); ok {
			if after == "" || !isNameByte(after[0]) || !isNameByte(name[0]) || name[0] <= '9' {
				return true
			}
		}
	}
}

func isNameByte(b byte) bool {
	return b == '_' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b >= 0x80
}

// platformVars are the variables that follow from Vars. Build arguments of these names override them,
// as in BuildKit.
func platformVars(v Vars) map[string]string {
	vars := map[string]string{}
	for prefix, platform := range map[string]string{"TARGET": v.Platform, "BUILD": v.BuildPlatform} {
		if platform == "" {
			continue
		}
		parts := append(strings.SplitN(platform, "/", 3), "", "")
		vars[prefix+"PLATFORM"] = platform
		vars[prefix+"OS"] = parts[0]
		vars[prefix+"ARCH"] = parts[1]
		vars[prefix+"VARIANT"] = parts[2]
	}
	if arch, ok := vars["TARGETARCH"]; ok {
		vars["ARCH"] = arch
	}
	for _, name := range platformNames {
		if value, ok := v.BuildArgs[name]; ok {
			vars[name] = value
		}
	}
	return vars
}

var platformNames = []string{
	"TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT",
	"BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT", "ARCH",
}
