package kubefile

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// resolve is the instruction with its variables expanded; ARG and ENV change the scope.
func (d *Docker) resolve(r *resolver) (*Docker, *Error) {
	if d.node == nil {
		return d, nil
	}
	c, e := d.typed()
	if e != nil {
		return nil, e
	}
	out := *d
	out.Command = c
	switch c := c.(type) {
	case *instructions.ArgCommand:
		return &out, r.arg(d.line, c)
	case *instructions.ExposeCommand:
		return &out, r.expose(d.line, c)
	case *instructions.EnvCommand:
		if e := r.command(d.line, c, r.lookup(false), false); e != nil {
			return nil, e
		}
		for _, kv := range c.Env {
			if strings.TrimSpace(kv.Key) == "" || strings.ContainsAny(kv.Key, "=\x00") {
				return nil, d.line.errorf(d.line.nameOff(), "write instead: ENV NAME=VALUE", "ENV: %q cannot be a name", clip(kv.Key))
			}
			r.setEnv(kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		if e := r.command(d.line, c, r.lookup(false), false); e != nil {
			return nil, e
		}
		for _, kv := range c.Labels {
			if kv.Key == "" {
				return nil, d.line.errorf(d.line.nameOff(), "write instead: LABEL NAME=VALUE", "LABEL: a name is empty")
			}
		}
	case *instructions.AddCommand, *instructions.CopyCommand:
		return &out, r.command(d.line, c, r.lookup(true), true)
	default:
		return &out, r.command(d.line, c, r.lookup(false), true)
	}
	return &out, nil
}

// command expands what BuildKit expands in a command. With strict, a variable that nobody declared is
// an error: Docker takes it for empty, and "COPY ${APP}/x ." then copies /x.
func (r *resolver) command(l *line, c instructions.Command, env shell.EnvGetter, strict bool) *Error {
	var failed *Error
	expander := func(heredoc bool) instructions.SingleWordExpander {
		return func(raw string) (string, error) {
			e, err := r.expand(raw, env, heredoc)
			switch {
			case err != nil && heredoc:
				failed = l.errorf(l.find("<<"), "quote the word after << to keep every $ in the text, as in <<'EOF'", "%s: in the heredoc: %v", strings.ToUpper(c.Name()), err)
			case err != nil:
				failed = l.errorf(l.find(raw), "", "%s: cannot read %s: %v", strings.ToUpper(c.Name()), clip(raw), err)
			case strict && e.unknown != "" && heredoc:
				failed = r.undeclared(l, l.find("<<"), e.unknown, true)
			case strict && e.unknown != "":
				failed = r.undeclared(l, l.find(useOf(raw, e.unknown)), e.unknown, false)
			default:
				return e.text, nil
			}
			return "", failed
		}
	}
	if x, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		if err := x.Expand(expander(false)); err != nil {
			if failed == nil {
				failed = dockerError(l, strings.ToUpper(c.Name()), err)
			}
			return failed
		}
	}
	if x, ok := c.(instructions.SupportsSingleWordExpansionRaw); ok {
		if err := x.ExpandRaw(expander(true)); err != nil {
			return failed
		}
	}
	return nil
}

// arg brings ARGs into scope, one after the other: a default may use the one before it.
func (r *resolver) arg(l *line, c *instructions.ArgCommand) *Error {
	for i, a := range c.Args {
		value, given := r.vars.BuildArgs[a.Key]
		switch {
		case given:
		case a.Value != nil:
			// BuildKit's own globals see the platform variables, those of a stage must declare them.
			e, err := r.expand(*a.Value, r.lookup(r.globals == nil), false)
			if err != nil {
				return l.errorf(l.find(*a.Value), "", "ARG: cannot read %s: %v", clip(*a.Value), err)
			}
			value, given = e.text, true
		case r.globals != nil:
			value, given = withImplicit{r.globals}.Get(a.Key)
		}
		r.declared[a.Key] = true
		if given {
			r.args[a.Key] = value
			c.Args[i].Value = &value
		}
	}
	return nil
}

// expose expands ports; one variable may hold several.
func (r *resolver) expose(l *line, c *instructions.ExposeCommand) *Error {
	var ports []string
	for _, raw := range c.Ports {
		e, err := r.expand(raw, r.lookup(false), false)
		if err != nil {
			return l.errorf(l.find(raw), "", "EXPOSE: cannot read %s: %v", clip(raw), err)
		}
		if e.unknown != "" {
			return r.undeclared(l, l.find(useOf(raw, e.unknown)), e.unknown, false)
		}
		words, err := shell.NewLex(r.escape).ProcessWords(raw, r.lookup(false))
		if err != nil {
			return l.errorf(l.find(raw), "", "EXPOSE: cannot read %s: %v", clip(raw), cause(err))
		}
		ports = append(ports, words...)
	}
	c.Ports = ports
	return nil
}
