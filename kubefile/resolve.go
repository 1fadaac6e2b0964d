package kubefile

import (
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// scratch is the base that is empty.
const scratch = "scratch"

// ResolveFrom expands the variables of the ARGs before the first FROM and of every FROM, and returns a
// new File. Build arguments win over defaults; the platform variables and ARCH need no ARG. A variable
// without a value is an error here, and so is a base that is then not the name of an image.
func (f *File) ResolveFrom(v Vars) (*File, error) {
	var found mistakes
	resolved := *f
	globals, args, err := f.globals(v)
	found.add(err)
	resolved.Args = args
	resolved.Stages = nil
	for _, s := range f.Stages {
		stage := *s
		stage.Instructions = slices.Clone(s.Instructions)
		if s.file != nil {
			stage.file = &resolved // where the FROMs of the stages below are resolved, too
		}
		found.add(stage.fromVariables(globals))
		resolved.Stages = append(resolved.Stages, &stage)
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	return &resolved, nil
}

// fromVariables expands Base and Platform. Without a scope it only takes the quotes off what has no
// variables and checks the syntax of the rest.
func (s *Stage) fromVariables(globals *scope) *Error {
	base := s.line.find(s.Base)
	for _, field := range []*string{&s.Base, &s.Platform} {
		raw := *field
		if raw == "" {
			continue
		}
		off := s.line.find(raw)
		if globals == nil {
			if _, err := expandWith(s.line.escape(), raw, anything{}); err != nil {
				return s.line.errorf(off, "", "FROM: cannot read %s: %v", clip(raw), err)
			}
			if strings.Contains(raw, "$") {
				continue
			}
		}
		known := globals
		if known == nil {
			known = newScope(s.line.escape(), nil, nil)
		}
		e, err := known.expand(raw, withImplicit{known}, false)
		if err != nil {
			return s.line.errorf(off, "", "FROM: %v", err)
		}
		if missing := pickSet(e.unknown, e.empty); missing != "" {
			hint := "write before the first FROM: ARG " + missing + "=DEFAULT"
			if e.unknown == "" {
				hint = "give it one: --build-arg " + missing + "=VALUE, or a default in its ARG"
			} else if near := didYouMean(missing, slices.Collect(maps.Keys(known.declared)), "$"); near != "" {
				hint = near
			}
			return s.line.errorf(s.line.find(useOf(raw, missing)), hint, "FROM: the variable %s has no value", missing)
		}
		*field = e.text
		if e.text == "" {
			return s.line.errorf(off, "", "FROM: %s is empty", clip(raw))
		}
	}
	if strings.Contains(s.Base, "$") && globals == nil {
		return nil
	}
	return s.checkBase(base)
}

func pickSet(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// useOf is how a variable begins in a word: "$X" or "${X".
func useOf(raw, variable string) string {
	for _, use := range []string{"${" + variable, "$" + variable} {
		if strings.Contains(raw, use) {
			return use
		}
	}
	return raw
}

// checkBase tells a stage's name, scratch and an image apart.
func (s *Stage) checkBase(off int) *Error {
	if s.Base == scratch {
		return nil
	}
	var names []string
	if s.file != nil {
		for _, earlier := range s.file.Stages[:s.index] {
			if earlier.Name != "" && strings.EqualFold(earlier.Name, s.Base) {
				s.Base = earlier.Name
				return nil
			}
			names = append(names, earlier.Name)
		}
	}
	if _, err := name.ParseReference(s.Base); err != nil {
		hint := didYouMean(s.Base, append(names, scratch), "")
		if hint == "" {
			hint = "an image is written [REGISTRY/]NAME[:TAG][@DIGEST], in lower case"
		}
		return s.line.errorf(off, hint, "FROM: %q is not the name of an image", clip(s.Base))
	}
	return nil
}

// globals evaluates the ARGs before the first FROM.
func (f *File) globals(v Vars) (*scope, []*Docker, *Error) {
	implicit := platformVars(v)
	escape := '\\'
	if len(f.Stages) > 0 {
		escape = f.Stages[0].line.escape()
	}
	sc := newScope(escape, nil, implicit)
	var args []*Docker
	var first *Error
	for _, d := range f.Args {
		r := &resolver{scope: sc, vars: v}
		out, e := d.resolve(r)
		if e != nil {
			if first == nil {
				first = e
			}
			continue
		}
		args = append(args, out)
	}
	return sc, args, first
}

// Resolve expands the variables of a stage's instructions in order and returns a new Stage, and its
// environment as "K=V": baseEnv, which is that of the base image or base stage, with the stage's ENV on
// top. CMDS, CMD and APPCMDS run on a host and RUN in a shell, with variables of their own: these are
// left alone.
func (s *Stage) Resolve(v Vars, baseEnv []string) (*Stage, []string, error) {
	r := &resolver{vars: v, scope: newScope(s.line.escape(), baseEnv, platformVars(v))}
	var found mistakes
	if s.file != nil {
		globals, _, e := s.file.globals(v)
		found.add(e)
		r.globals = globals
		found.add(r.inherit(s))
	}
	resolved := *s
	resolved.Instructions = make([]Instruction, 0, len(s.Instructions))
	for _, in := range s.Instructions {
		out, e := r.instruction(in)
		found.add(e)
		resolved.Instructions = append(resolved.Instructions, out)
	}
	if err := found.err(); err != nil {
		return nil, nil, err
	}
	return &resolved, r.scope.envList(), nil
}

// resolver expands variables, instruction by instruction.
type resolver struct {
	*scope
	vars    Vars
	globals *scope // nil before the first FROM
	// checking finds errors of syntax only: every variable has a value.
	checking bool
}

// newChecker resolves with a value for every variable.
func newChecker(escape rune) *resolver {
	return &resolver{scope: newScope(escape, nil, nil), checking: true}
}

// inherit takes over the ARGs of the stages that a stage builds on, as BuildKit does.
func (r *resolver) inherit(s *Stage) *Error {
	base := s.file.BaseStage(s)
	if base == nil {
		return nil
	}
	if e := r.inherit(base); e != nil {
		return e
	}
	for _, in := range base.Instructions {
		if d, ok := in.(*Docker); ok {
			switch c := d.Command.(type) {
			case *instructions.ArgCommand:
				if _, e := d.resolve(r); e != nil {
					return e
				}
			case *instructions.EnvCommand:
				for _, kv := range c.Env { // its value is in the base's environment already
					delete(r.args, kv.Key)
				}
			}
		}
	}
	return nil
}

// lookup is the variables that an instruction sees.
func (r *resolver) lookup(implicit bool) shell.EnvGetter {
	switch {
	case r.checking:
		return anything{}
	case implicit:
		return withImplicit{r.scope}
	}
	return r.scope
}

// instruction resolves one; it is the same value where there is nothing to resolve.
func (r *resolver) instruction(in Instruction) (Instruction, *Error) {
	switch in := in.(type) {
	case *Docker:
		out, e := in.resolve(r)
		if e != nil {
			return in, e
		}
		return out, nil
	case *App:
		out := *in
		out.Sources = slices.Clone(in.Sources)
		for i, w := range in.words {
			text, e := r.checked(in.line, w, func(text string) *Error { return in.checkSource(w, text) })
			if e != nil {
				return in, e
			}
			out.Sources[i] = text
		}
		return &out, nil
	case *AppEnv:
		out := *in
		out.Env = slices.Clone(in.Env)
		for i, w := range in.words {
			text, e := r.checked(in.line, w, func(string) *Error { return nil })
			if e != nil {
				return in, e
			}
			_, out.Env[i].Value, _ = strings.Cut(text, "=")
		}
		return &out, nil
	case *KubeVersion:
		if in.word.raw == "" {
			return in, nil
		}
		out := *in
		text, e := r.checked(in.line, in.word, func(text string) *Error { return in.check(strings.TrimSpace(text)) })
		if e != nil {
			return in, e
		}
		out.Range = strings.TrimSpace(text)
		return &out, nil
	case *Images:
		return r.images(in)
	}
	return in, nil
}

func (r *resolver) images(in *Images) (Instruction, *Error) {
	out := *in
	out.Refs = slices.Clone(in.Refs)
	for i, w := range in.words {
		text, e := r.checked(in.line, w, func(text string) *Error { return in.checkRef(w, text) })
		if e != nil {
			return in, e
		}
		out.Refs[i] = text
	}
	if in.list.raw != "" {
		text, e := r.checked(in.line, in.list, in.checkList)
		if e != nil {
			return in, e
		}
		out.List = text
	}
	return &out, nil
}

// checked expands a word of a cluster instruction and checks what comes out.
func (r *resolver) checked(l *line, w word, check func(string) *Error) (string, *Error) {
	e, err := r.expand(w.raw, r.lookup(true), false)
	if err != nil {
		return "", l.errorf(w.off, "", "cannot expand %s: %v", clip(w.raw), err)
	}
	if e.unknown != "" {
		return "", r.undeclared(l, w.off+max(strings.Index(w.raw, useOf(w.raw, e.unknown)), 0), e.unknown, false)
	}
	wrong := check(e.text)
	if wrong != nil && e.empty != "" {
		wrong.Hint = "the variable " + e.empty + " has no value; give it one: --build-arg " + e.empty + "=VALUE, or a default in its ARG"
	}
	return e.text, wrong
}

// undeclared is the error for a variable that nobody declared.
func (r *resolver) undeclared(l *line, off int, variable string, heredoc bool) *Error {
	hint := didYouMean(variable, slices.Concat(r.Keys(), slices.Collect(maps.Keys(r.declared))), "$")
	switch {
	case hint != "":
	case heredoc:
		hint = "quote the word after << to keep every $ in the text, as in <<'EOF'; or declare it: ARG " + variable
	case argName.MatchString(variable):
		hint = "declare it above: ARG " + variable + "; or write \\$" + variable + " for the text itself"
	default:
		hint = "write \\$" + variable + " for the text itself"
	}
	return l.errorf(off, hint, "the variable %s is not declared", variable)
}
