package kubefile

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// check looks at what only whole stages show.
func (p *parsing) check() {
	if len(p.file.Stages) == 0 {
		if len(p.file.Args) > 0 && len(p.found) == 0 {
			first := p.file.Args[0]
			p.found.add(first.line.errorf(first.line.nameOff(), "add: FROM scratch, or FROM a base image", "there is no FROM in this file"))
		}
		return
	}
	for i, stage := range p.file.Stages {
		p.checkName(i, stage)
		p.checkTwice(stage)
		p.checkApps(stage)
		p.checkLater(stage)
	}
}

func (p *parsing) checkName(i int, stage *Stage) {
	if stage.Name == "" {
		return
	}
	off := max(strings.LastIndexAny(strings.TrimRight(stage.line.text, whitespace), whitespace)+1, 0)
	if stage.Name == "scratch" {
		p.found.add(stage.line.errorf(off, "choose another name", "a stage cannot be called scratch"))
	}
	for _, earlier := range p.file.Stages[:i] {
		if earlier.Name == stage.Name {
			p.found.add(stage.line.errorf(off, "choose another name", "the stage of line %d is called %s already", earlier.From.Line, stage.Name))
			return
		}
	}
}

// once is what may stand in a stage only once: the later one would have to replace the earlier
// silently.
func once(in Instruction) (key, what, hint string) {
	switch in := in.(type) {
	case *App:
		return "app " + in.AppName, "the app " + in.AppName + " is declared", "give it another name, or write all its sources in one line"
	case *AppCmds:
		return "appcmds " + in.AppName, "APPCMDS for " + in.AppName + " stands", "write all commands in one array"
	case *Launch:
		return "launch", "LAUNCH stands", "name all apps in one LAUNCH"
	case *KubeVersion:
		return "kubeversion", "KUBEVERSION stands", "write one range, its parts joined by commas"
	}
	return "", "", ""
}

func (p *parsing) checkTwice(stage *Stage) {
	first := map[string]Instruction{}
	for _, in := range stage.Instructions {
		key, what, hint := once(in)
		if key == "" {
			continue
		}
		if earlier, ok := first[key]; ok {
			l := lineOf(in)
			p.found.add(l.errorf(l.nameOff(), hint, "%s twice in this stage: line %d and line %d", what, earlier.Pos().Line, in.Pos().Line))
			continue
		}
		first[key] = in
	}
}

// checkApps checks names of apps where no base image could bring more of them.
func (p *parsing) checkApps(stage *Stage) {
	known, all := p.apps(stage)
	if !all {
		return
	}
	for _, in := range stage.Instructions {
		var names []string
		var keyword string
		switch in := in.(type) {
		case *AppEnv:
			keyword, names = "APPENV", []string{in.AppName}
		case *AppCmds:
			keyword, names = "APPCMDS", []string{in.AppName}
		case *Launch:
			keyword, names = "LAUNCH", in.Apps
		}
		for _, app := range names {
			if slices.Contains(known, app) {
				continue
			}
			hint := didYouMean(app, known, "")
			if hint == "" {
				hint = "declare it: APP " + app + " SOURCE..."
			}
			l := lineOf(in)
			p.found.add(l.errorf(appOff(l, app), hint, "%s: there is no app %s in this stage", keyword, app))
		}
	}
}

// appOff finds a name behind the instruction's own name.
func appOff(l *line, app string) int {
	begin := l.nameOff()
	if i := strings.IndexAny(l.text[begin:], whitespace); i >= 0 {
		begin += i
	}
	if i := strings.Index(l.text[begin:], app); i >= 0 {
		return begin + i
	}
	return l.nameOff()
}

// apps are the apps that a stage declares and inherits, and whether these are all it can have.
func (p *parsing) apps(stage *Stage) ([]string, bool) {
	var names []string
	for s := stage; s != nil; s = p.file.BaseStage(s) {
		if p.unclear[s] {
			return nil, false
		}
		for _, in := range s.Instructions {
			if app, ok := in.(*App); ok {
				names = append(names, app.AppName)
			}
		}
		if s.Base == scratch {
			return names, true
		}
	}
	return nil, false
}

// checkLater finds a COPY from a stage that comes later; BuildKit would take the name for an image.
func (p *parsing) checkLater(stage *Stage) {
	for _, in := range stage.Instructions {
		d, ok := in.(*Docker)
		if !ok {
			continue
		}
		c, ok := d.Command.(*instructions.CopyCommand)
		if !ok || c.From == "" {
			continue
		}
		for _, s := range p.file.Stages {
			if s.Name == "" || !strings.EqualFold(s.Name, c.From) {
				continue
			}
			if s.index > stage.index {
				p.found.add(d.line.errorf(d.line.find("--from"), "move that stage before this one",
					"COPY: stage %s begins later, on line %d", s.Name, s.From.Line))
			}
			break
		}
	}
}

func lineOf(in Instruction) *line {
	switch in := in.(type) {
	case *Docker:
		return in.line
	case *App:
		return in.line
	case *AppEnv:
		return in.line
	case *AppCmds:
		return in.line
	case *Launch:
		return in.line
	case *Cmds:
		return in.line
	case *KubeVersion:
		return in.line
	case *Images:
		return in.line
	}
	return nil
}
