package kubefile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// clusterInstructions are the instructions that the Dockerfile language does not have, and CMD, which
// means something else here.
var clusterInstructions = map[string]func(*clause) (Instruction, *Error){
	"app":         func(c *clause) (Instruction, *Error) { return c.app(RoleApp) },
	"cni":         func(c *clause) (Instruction, *Error) { return c.app(RoleCNI) },
	"csi":         func(c *clause) (Instruction, *Error) { return c.app(RoleCSI) },
	"appenv":      (*clause).appEnv,
	"appcmds":     (*clause).appCmds,
	"launch":      (*clause).launch,
	"cmds":        (*clause).cmds,
	"cmd":         (*clause).cmd,
	"kubeversion": (*clause).kubeVersion,
	"images":      (*clause).images,
}

var (
	appName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	scheme  = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$`)
)

// sourceSchemes are what an app's source may begin with.
var sourceSchemes = []string{"local", "https", "http", "oci"}

func (c *clause) at() at {
	return at{c.pos(c.nameOff()), strings.TrimSpace(c.text), c.line}
}

// plainName checks the name of an app.
func (c *clause) plainName(text string, off int) *Error {
	switch {
	case appName.MatchString(text):
		return nil
	case strings.HasPrefix(text, "--"):
		return c.errorf(off, "", "%s has no flag %s", c.name, clip(text))
	case strings.Contains(text, "$"):
		return c.errorf(off, "write the name itself", "%s: variables are not expanded in the name of an app", c.name)
	}
	return c.errorf(off, `a name has letters, digits, ".", "_" and "-", and begins with a letter or digit`,
		"%s: %q cannot be the name of an app", c.name, clip(text))
}

func (c *clause) noArray(example string) *Error {
	if !isJSON(c.args) {
		return nil
	}
	hint := "write instead: " + example
	if list, err := stringArray(c.args); err == nil && len(list) > 0 {
		for i, s := range list {
			list[i] = shellQuote(s)
		}
		hint = "write instead: " + c.name + " " + strings.Join(list, " ")
	}
	return c.errorf(c.off, hint, "%s takes words, not a JSON array", c.name)
}

// app reads APP name SRC..., CNI and CSI.
func (c *clause) app(role AppRole) (Instruction, *Error) {
	example := c.name + " NAME SOURCE..."
	if e := c.noArray(example); e != nil {
		return nil, e
	}
	words, e := c.words()
	if e != nil {
		return nil, e
	}
	if len(words) < 2 {
		return nil, c.errorf(c.nameOff(), "write instead: "+example, "%s needs a name and at least one source", c.name)
	}
	texts := c.plainAll(words)
	if e := c.plainName(texts[0], words[0].off); e != nil {
		return nil, e
	}
	app := &App{at: c.at(), Role: role, AppName: texts[0], Sources: texts[1:], words: words[1:]}
	for i, w := range app.words {
		if strings.Contains(w.raw, "$") {
			continue // checked when it is resolved
		}
		if e := app.checkSource(w, app.Sources[i]); e != nil {
			return nil, e
		}
	}
	return app, nil
}

// checkSource checks a source whose variables are known.
func (a *App) checkSource(w word, source string) *Error {
	keyword := strings.ToUpper(string(a.Role))
	if a.Role == RoleApp {
		keyword = "APP"
	}
	if source == "" {
		return a.line.errorf(w.off, "", "%s %s: a source is empty", keyword, a.AppName)
	}
	m := scheme.FindStringSubmatch(source)
	if m == nil {
		return nil
	}
	if !slices.Contains(sourceSchemes, m[1]) {
		hint := didYouMean(m[1], sourceSchemes, "")
		if strings.EqualFold(m[1], "file") {
			hint = "did you mean local?"
		}
		if known, ok := strings.CutSuffix(hint, "?"); ok {
			hint = known + "://?"
		} else {
			hint = "a source is a path, local://PATH, https://..., http://... or oci://..."
		}
		return a.line.errorf(w.off, hint, "%s %s: a source cannot begin with %s://", keyword, a.AppName, clip(m[1]))
	}
	if m[2] == "" {
		return a.line.errorf(w.off, "", "%s %s: nothing follows %s://", keyword, a.AppName, m[1])
	}
	return nil
}

// appEnv reads APPENV name K=V...
func (c *clause) appEnv() (Instruction, *Error) {
	if e := c.noArray("APPENV NAME KEY=VALUE..."); e != nil {
		return nil, e
	}
	words, e := c.words()
	if e != nil {
		return nil, e
	}
	if len(words) < 2 {
		return nil, c.errorf(c.nameOff(), "write instead: APPENV NAME KEY=VALUE...", "APPENV needs the name of an app and at least one KEY=VALUE")
	}
	texts := c.plainAll(words)
	if e := c.plainName(texts[0], words[0].off); e != nil {
		return nil, e
	}
	in := &AppEnv{at: c.at(), AppName: texts[0], words: words[1:]}
	for i, w := range in.words {
		key, value, found := strings.Cut(texts[i+1], "=")
		if !found {
			hint := "write instead: " + clip(texts[i+1]) + "=VALUE"
			if i > 0 {
				hint += "; or quote the value before it, if this belongs to it"
			}
			return nil, c.errorf(w.off, hint, "APPENV: there is no = in %s", clip(w.raw))
		}
		if !envName.MatchString(key) {
			return nil, c.errorf(w.off, "a key has letters, digits and _ and does not begin with a digit; variables are not expanded in it",
				"APPENV: %q cannot be a key", clip(key))
		}
		in.Env = append(in.Env, KeyValue{key, value})
	}
	return in, nil
}

// appCmds reads APPCMDS name ["cmd", ...].
func (c *clause) appCmds() (Instruction, *Error) {
	first, rest := c.args, ""
	if i := strings.IndexAny(c.args, whitespace+"["); i >= 0 {
		first, rest = c.args[:i], strings.TrimLeft(c.args[i:], whitespace)
	}
	if first == "" || rest == "" {
		return nil, c.errorf(c.nameOff(), `write instead: APPCMDS NAME ["COMMAND", ...]`, "APPCMDS needs the name of an app and a JSON array of commands")
	}
	if e := c.plainName(first, c.off); e != nil {
		return nil, e
	}
	off := c.off + len(c.args) - len(rest)
	if !isJSON(rest) {
		if hasHeredoc(rest) {
			return nil, c.heredoc(off)
		}
		return nil, c.errorf(off, "write instead: APPCMDS "+first+" "+jsonArray(rest), "APPCMDS: the commands must be a JSON array of strings")
	}
	list, e := c.commands(rest, off)
	if e != nil {
		return nil, e
	}
	return &AppCmds{at: c.at(), AppName: first, Cmds: list}, nil
}

// shellHint is for a shell's test that looks like an array.
func (c *clause) shellHint(e *Error) *Error {
	if e != nil && !strings.Contains(e.Hint, "write instead") && strings.HasPrefix(c.args, "[ ") {
		e.Hint = "if this is a command for the shell, write instead: CMDS " + jsonArray(c.args)
	}
	return e
}

// commands reads a JSON array of which each element is one command.
func (c *clause) commands(text string, off int) ([]string, *Error) {
	list, e := c.array(text, off)
	if e != nil {
		return nil, e
	}
	if len(list) == 0 {
		return nil, c.errorf(off, "", "%s: the array has no command", c.name)
	}
	for i, s := range list {
		if strings.TrimSpace(s) == "" {
			return nil, c.errorf(off, "", "%s: command %d is empty", c.name, i+1)
		}
		if strings.ContainsRune(s, 0) {
			return nil, c.errorf(off, "", "%s: command %d contains a NUL byte", c.name, i+1)
		}
	}
	return list, nil
}

// launch reads LAUNCH app... or ["app", ...].
func (c *clause) launch() (Instruction, *Error) {
	var apps []string
	var offs []int
	if isJSON(c.args) {
		list, e := c.array(c.args, c.off)
		if e != nil {
			return nil, e
		}
		apps = list
		for _, app := range list {
			offs = append(offs, c.off+max(strings.Index(c.args, `"`+app+`"`), 0))
		}
	} else {
		words, e := c.words()
		if e != nil {
			return nil, e
		}
		apps = c.plainAll(words)
		for _, w := range words {
			offs = append(offs, w.off)
		}
	}
	if len(apps) == 0 {
		return nil, c.errorf(c.nameOff(), "write instead: LAUNCH APP...", "LAUNCH names no app")
	}
	for i, app := range apps {
		if e := c.plainName(app, offs[i]); e != nil {
			return nil, e
		}
		if slices.Contains(apps[:i], app) {
			return nil, c.errorf(offs[i], "", "LAUNCH names %s twice", app)
		}
	}
	return &Launch{at: c.at(), Apps: apps}, nil
}

func hasHeredoc(text string) bool {
	return slices.ContainsFunc(strings.Fields(text), func(field string) bool {
		doc, err := parser.ParseHeredoc(field)
		return err == nil && doc != nil
	})
}

// cmds reads CMDS ["cmd", ...], or CMDS with one command.
func (c *clause) cmds() (Instruction, *Error) {
	if c.args == "" {
		return nil, c.errorf(c.nameOff(), fmt.Sprintf(`write instead: %s ["COMMAND", ...]`, c.name), "%s has no command", c.name)
	}
	if !isJSON(c.args) {
		return c.wholeLine()
	}
	list, e := c.commands(c.args, c.off)
	if e != nil {
		return nil, c.shellHint(e)
	}
	return &Cmds{at: c.at(), Cmds: list}, nil
}

// cmd reads CMD: in the shell form the text is the command, in the exec form the words are.
func (c *clause) cmd() (Instruction, *Error) {
	if c.args == "" {
		return nil, c.errorf(c.nameOff(), "write instead: CMD COMMAND", "CMD has no command")
	}
	if !isJSON(c.args) {
		return c.wholeLine()
	}
	list, e := c.array(c.args, c.off)
	if e != nil {
		return nil, c.shellHint(e)
	}
	if len(list) == 0 || list[0] == "" {
		return nil, c.errorf(c.off, "", "CMD: the array has no command")
	}
	for i, s := range list {
		if strings.ContainsRune(s, 0) {
			return nil, c.errorf(c.off, "", "CMD: word %d contains a NUL byte", i+1)
		}
		list[i] = shellQuote(s)
	}
	return &Cmds{at: c.at(), Cmds: []string{strings.Join(list, " ")}}, nil
}

// wholeLine is the whole line as one command.
func (c *clause) wholeLine() (Instruction, *Error) {
	if hasHeredoc(c.args) {
		return nil, c.heredoc(c.off)
	}
	return &Cmds{at: c.at(), Cmds: []string{c.args}}, nil
}
