package kubefile

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// dockerFlags are the flags of each instruction, to say which one was meant.
var dockerFlags = map[string][]string{
	"FROM":        {"platform"},
	"COPY":        {"from", "chown", "chmod", "link", "parents", "exclude"},
	"ADD":         {"chown", "chmod", "link", "keep-git-dir", "checksum", "unpack", "exclude"},
	"RUN":         {"mount", "network", "security", "device"},
	"HEALTHCHECK": {"interval", "timeout", "start-period", "start-interval", "retries"},
}

var (
	suggestion  = regexp.MustCompile(` \(did you mean .*\?\)$`)
	unknownFlag = regexp.MustCompile(`^unknown flag: (--(.*))$`)
	anyFlag     = regexp.MustCompile(`\bflag:? (--[^ ,]+)`)
)

// docker types an instruction of the Dockerfile language.
func (p *parsing) docker(node *parser.Node, l *line) *Docker {
	upper := strings.ToUpper(node.Value)
	if e := brokenArray(node, l, upper); e != nil {
		p.found.add(e)
		return nil
	}
	if strings.EqualFold(node.Value, command.Onbuild) {
		if e := p.trigger(node, l); e != nil {
			p.found.add(e)
			return nil
		}
	}
	d := &Docker{at: at{l.pos(l.nameOff()), strings.TrimSpace(l.text), l}, node: node}
	c, e := d.typed()
	if e == nil {
		d.Command = c
		e = d.syntax()
	}
	if e == nil {
		e = p.copyFrom(d)
	}
	if e != nil {
		p.found.add(e)
		return nil
	}
	return d
}

// typed makes the command anew from the text, because expanding a command changes it.
func (d *Docker) typed() (instructions.Command, *Error) {
	name := strings.ToUpper(d.node.Value)
	v, err := instructions.ParseInstructionWithLinter(d.node, silent)
	if err != nil {
		return nil, dockerError(d.line, name, err)
	}
	c, ok := v.(instructions.Command)
	if !ok {
		return nil, d.line.errorf(d.line.nameOff(), "", "%s: unexpected %T", name, v)
	}
	return c, nil
}

// dockerError places an error of BuildKit's instructions package.
func dockerError(l *line, name string, err error) *Error {
	msg := suggestion.ReplaceAllString(err.Error(), "")
	off, hint := l.nameOff(), ""
	if m := unknownFlag.FindStringSubmatch(msg); m != nil {
		off = l.find(m[1])
		hint = didYouMean(m[2], dockerFlags[name], "--")
		if flags := dockerFlags[name]; hint == "" && len(flags) > 0 {
			hint = "the flags of " + name + " are --" + strings.Join(flags, ", --")
		}
		msg = name + ": " + clip(msg)
	} else if m := anyFlag.FindStringSubmatch(msg); m != nil {
		off = l.find(m[1])
	}
	switch {
	case name == "FROM" && strings.HasPrefix(msg, "FROM requires"):
		hint = "write instead: FROM IMAGE, or FROM IMAGE AS NAME"
	case (name == "COPY" || name == "ADD") && strings.Contains(msg, "at least two arguments"):
		msg, hint = name+" requires at least two arguments", "write instead: "+name+" SOURCE... DESTINATION"
	case name == "SHELL" && strings.Contains(msg, "JSON form"):
		hint = `write instead: SHELL ["/bin/sh", "-c"]`
	}
	if !strings.HasPrefix(msg, name) {
		msg = name + ": " + lowerFirst(msg)
	}
	return l.errorf(off, hint, "%s", msg)
}

func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

// brokenArray finds what was meant as a JSON array and is none. BuildKit takes it for words, or for a
// shell command: a file "[\"a" is then looked for, or a program.
func brokenArray(node *parser.Node, l *line, upper string) *Error {
	if node.Attributes["json"] || node.Next == nil {
		return nil
	}
	first := node.Next.Value
	switch strings.ToLower(node.Value) {
	case command.Add, command.Copy, command.Volume:
		// "[ab]*" is a pattern; "[" and a quote is not.
		if first == "[" && node.Next.Next != nil {
			first += node.Next.Next.Value
		}
	case command.Healthcheck:
		if node.Next.Next == nil {
			return nil
		}
		first = node.Next.Next.Value
	case command.Run, command.Entrypoint, command.Shell:
		// "[ -f x ]" is a test.
	default:
		return nil
	}
	if !strings.HasPrefix(first, `["`) && !strings.HasPrefix(first, "['") {
		return nil
	}
	off := l.find("[")
	c := newClause(l, node.Value)
	text := strings.TrimRight(l.text[off:], whitespace)
	if _, err := c.array(text, off); err != nil {
		return err
	}
	return l.errorf(off, "", "%s: this is not a JSON array of strings", upper)
}

// trigger checks what ONBUILD is to run later.
func (p *parsing) trigger(node *parser.Node, l *line) *Error {
	if node.Next == nil || len(node.Next.Children) == 0 {
		return nil // typing says that it is empty
	}
	child := node.Next.Children[0]
	lower, off := strings.ToLower(child.Value), l.find(child.Value)
	if _, docker := command.Commands[lower]; !docker {
		if _, ours := clusterInstructions[lower]; ours {
			return l.errorf(off, "write it in the Kubefile that builds on this image",
				"ONBUILD takes instructions of the Dockerfile language only, not %s", strings.ToUpper(lower))
		}
		e := unknownInstruction(l, child.Value)
		return l.errorf(off, e.Hint, "%s", e.Msg)
	}
	switch lower {
	case command.Onbuild, command.From, command.Maintainer:
		return nil // typing has words for these
	}
	if e := brokenArray(child, l, strings.ToUpper(lower)); e != nil {
		return e
	}
	if _, err := instructions.ParseInstructionWithLinter(child, silent); err != nil {
		e := dockerError(l, strings.ToUpper(lower), err)
		e.Pos = l.pos(off)
		return e
	}
	return nil
}

// syntax finds words whose quotes or ${...} are wrong, without knowing any variable.
func (d *Docker) syntax() *Error {
	if arg, ok := d.Command.(*instructions.ArgCommand); ok {
		for _, a := range arg.Args {
			if !argName.MatchString(a.Key) {
				return d.line.errorf(d.line.find(a.Key), "write instead: ARG NAME=VALUE", "ARG: %q is not a name for a variable", clip(a.Key))
			}
		}
	}
	if _, ok := d.Command.(*instructions.RunCommand); ok && strings.Contains(strings.Join(d.node.Flags, " "), "$") {
		return nil // its mounts have no meaning before their variables are known
	}
	_, err := d.resolve(newChecker(d.line.escape()))
	return err
}

var argName = regexp.MustCompile(`^[\pL_][\pL\pN_.-]*$`)

// copyFrom checks the stage or image that a COPY takes files from.
func (p *parsing) copyFrom(d *Docker) *Error {
	c, ok := d.Command.(*instructions.CopyCommand)
	if !ok || c.From == "" {
		return nil
	}
	off := d.line.find("--from")
	if strings.Contains(c.From, "$") {
		return d.line.errorf(off, "give it a name first: FROM "+c.From+" AS NAME, then COPY --from=NAME",
			"COPY: --from takes no variables")
	}
	current := p.file.Stages[len(p.file.Stages)-1]
	if number, err := strconv.Atoi(c.From); err == nil {
		if number < 0 || number >= current.index {
			return d.line.errorf(off, "stages count from 0; a name is clearer", "COPY: there is no stage %d before this one", number)
		}
		return nil
	}
	if strings.EqualFold(c.From, current.Name) {
		return d.line.errorf(off, "", "COPY: stage %s cannot copy from itself", current.Name)
	}
	var names []string
	for _, s := range p.file.Stages[:current.index] {
		if s.Name != "" && strings.EqualFold(s.Name, c.From) {
			return nil
		}
		names = append(names, s.Name)
	}
	if _, err := name.ParseReference(c.From); err != nil {
		return d.line.errorf(off, didYouMean(c.From, names, ""), "COPY: --from=%s is neither a stage nor an image: %v", clip(c.From), err)
	}
	return nil
}

// silent tells nobody. BuildKit's parser wants a linter where a comment "# check=" stands above an
// instruction.
var silent = linter.New(&linter.Config{})
