package lint

import (
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/clusterimage/keg/kubefile"
)

// base looks at the FROM.
func (r *run) base(p *stageRun) {
	s := p.stage
	if s.Base == "scratch" || strings.Contains(s.Base, "$") || r.file.BaseStage(p.written) != nil || p.file.BaseStage(s) != nil {
		return
	}
	r.image(p, s.Base, "FROM", s.From.Line, s.EndLine(), s.Comments())
}

// image looks at the name of an image whose layers the build takes.
func (r *run) image(p *stageRun, ref, what string, first, last int, comments []string) {
	if ref, err := name.ParseReference(ref); err != nil {
		return
	} else if _, pinned := ref.(name.Digest); pinned {
		return
	}
	if r.o.Lock != nil {
		if !r.o.Lock.Locked(ref, p.platform) {
			r.report(&imageNotLocked, first, last, comments, "%s %s is not in Kubefile.lock for %s", what, ref, p.platform)
		}
		return
	}
	r.report(&unpinnedBase, first, last, comments, "%s %s has no digest", what, ref)
}

// instruction runs the rules on one instruction; written is the same before its variables were expanded.
func (p *stageRun) instruction(in, written kubefile.Instruction) error {
	switch in := in.(type) {
	case *kubefile.Docker:
		return p.docker(in, written)
	case *kubefile.App:
		return p.app(in, written)
	case *kubefile.AppEnv:
		for _, kv := range in.Env {
			p.secretName("APPENV", kv.Key, kv.Value, in)
			p.secretText("APPENV "+kv.Key, kv.Value, in)
		}
	case *kubefile.AppCmds:
		p.secretText("APPCMDS", strings.Join(in.Cmds, "\n"), in)
	case *kubefile.Cmds:
		p.secretText("a command", strings.Join(in.Cmds, "\n"), in)
	case *kubefile.Images:
		p.images(in)
	}
	return nil
}

func (p *stageRun) docker(in *kubefile.Docker, written kubefile.Instruction) error {
	switch c := in.Command.(type) {
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			p.secretText("ENV "+kv.Key, kv.Value, in)
		}
	case *instructions.ArgCommand:
		p.defaults(written)
	case *instructions.LabelCommand:
		for _, kv := range c.Labels {
			p.secretText("LABEL "+kv.Key, kv.Value, in)
		}
	case *instructions.RunCommand:
		p.secretText("RUN", shellText(c), in)
		p.network(c, in)
	case *instructions.AddCommand:
		p.secretText("ADD", strings.Join(c.SourcePaths, "\n"), in)
		p.download(c, in)
		p.contents("ADD", c.SourceContents, in)
		return p.sources("ADD", slices.DeleteFunc(slices.Clone(c.SourcePaths), remote), in, written)
	case *instructions.CopyCommand:
		p.contents("COPY", c.SourceContents, in)
		if c.From != "" {
			if p.file.FromStage(p.stage, c.From) == nil {
				p.image(p, c.From, "COPY --from", in.Pos().Line, in.EndLine(), in.Comments())
			}
			return nil
		}
		return p.sources("COPY", c.SourcePaths, in, written)
	}
	return nil
}

// defaults looks at the values that ARGs have in the text; those of the command line are in no image.
func (p *stageRun) defaults(written kubefile.Instruction) {
	d, ok := written.(*kubefile.Docker)
	if !ok {
		return
	}
	if c, ok := d.Command.(*instructions.ArgCommand); ok {
		for _, a := range c.Args {
			if a.Value != nil {
				p.secretText("ARG "+a.Key, *a.Value, written)
			}
		}
	}
}

// app looks at the sources of an app.
func (p *stageRun) app(in *kubefile.App, written kubefile.Instruction) error {
	var local []string
	p.secretText("APP", strings.Join(in.Sources, "\n"), in)
	for _, src := range in.Sources {
		scheme, rest, ok := strings.Cut(src, "://")
		switch {
		case !ok:
			local = append(local, src)
		case scheme == "local":
			local = append(local, rest)
		case scheme == "https", scheme == "http":
			if !strings.Contains(src, "#sha256=") {
				p.say(&unverifiedDownload, in, "APP %s: nothing says what %s has to be", in.AppName, address(src))
			}
		}
	}
	return p.sources(strings.ToUpper(keyword(in.Text())), local, in, written)
}

func (p *stageRun) images(in *kubefile.Images) {
	if p.o.Lock == nil || in.Ignore {
		return
	}
	for _, ref := range in.Refs {
		if strings.Contains(ref, "$") {
			continue
		}
		if !p.o.Lock.Locked(ref, p.platform) {
			p.say(&imageNotLocked, in, "IMAGES %s is not in Kubefile.lock for %s", ref, p.platform)
		}
	}
}

var (
	webAddress = regexp.MustCompile(`(?i)^https?://`)
	gitAddress = regexp.MustCompile(`(?i)^(git|ssh)://|^[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:|^https?://[^?#]*\.git([?#]|$)`)
	gitCommit  = regexp.MustCompile(`(?i)(#|[?&](checksum|commit|ref)=)[0-9a-f]{40}([0-9a-f]{24})?(:|&|$)`)
	userInfo   = regexp.MustCompile(`://[^/@]*@`)
)

// remote says whether ADD fetches a source.
func remote(source string) bool {
	return webAddress.MatchString(source) || gitAddress.MatchString(source)
}

// address is a URL without a password.
func address(url string) string { return userInfo.ReplaceAllString(url, "://") }

func (p *stageRun) download(c *instructions.AddCommand, in kubefile.Instruction) {
	if c.Checksum != "" {
		return
	}
	for _, src := range c.SourcePaths {
		switch {
		case gitAddress.MatchString(src):
			if !gitCommit.MatchString(src) {
				p.say(&unverifiedDownload, in, "ADD: nothing says which commit of %s", address(src))
			}
		case webAddress.MatchString(src):
			p.say(&unverifiedDownload, in, "ADD: nothing says what %s has to be", address(src))
		}
	}
}

// fetches is what a command of a RUN looks like that needs the network.
var fetches = regexp.MustCompile(`(?m)(?:^|[;&|(` + "`" + `]|\b(?:sudo|exec|then|do|else|if|while|!)\s)\s*(?:[A-Za-z_][A-Za-z0-9_]*=\S*\s+)*(?:/\S*/)?` +
	`(curl|wget|aria2c|(?:apt-get|apt|aptitude)(?:\s+-\S+)*\s+(?:update|install|upgrade|dist-upgrade|full-upgrade|build-dep|download|source)|` +
	`apk(?:\s+-\S+)*\s+(?:add|update|upgrade|fetch)|(?:yum|dnf|microdnf|tdnf|zypper)(?:\s+-\S+)*\s+\S+|pacman\s+-S\S*|` +
	`(?:python3?\s+-m\s+)?pip3?\s+(?:install|download)|uv\s+(?:sync|pip\s+install)|npm\s+(?:install|i|ci|update)|(?:yarn|pnpm)(?:\s+(?:install|add))?|npx|` +
	`go\s+(?:get|install|mod\s+download)|cargo\s+(?:install|fetch|build)|gem\s+install|bundle\s+install|composer\s+(?:install|update)|` +
	`git\s+(?:clone|fetch|pull|submodule)|helm\s+(?:pull|repo|install|dependency)|(?:docker|podman|crane|skopeo|crictl|ctr|nerdctl)\s+(?:pull|copy)|` +
	`scp|sftp|rsync)\b`)

func (p *stageRun) network(c *instructions.RunCommand, in kubefile.Instruction) {
	if instructions.GetNetwork(c) == instructions.NetworkNone {
		return
	}
	if m := fetches.FindStringSubmatch(shellText(c)); m != nil {
		p.say(&networkInRun, in, "RUN: %s needs the network", strings.Join(strings.Fields(m[1]), " "))
	}
}

// shellText is what a RUN runs, its heredocs included.
func shellText(c *instructions.RunCommand) string {
	text := strings.Join(c.CmdLine, " ")
	for _, f := range c.Files {
		text += "\n" + f.Data
	}
	return text
}

// appsNotLaunched looks at the stage that becomes the image, with those that it builds on.
func (r *run) appsNotLaunched() {
	if len(r.file.Stages) == 0 {
		return
	}
	var apps []*kubefile.App
	named := map[string]bool{}
	var commands []string
	for s := r.file.Stages[len(r.file.Stages)-1]; s != nil; s = r.file.BaseStage(s) {
		for _, in := range s.Instructions {
			switch in := in.(type) {
			case *kubefile.App:
				if in.Role == kubefile.RoleApp {
					apps = append(apps, in)
				}
			case *kubefile.Launch:
				for _, app := range in.Apps {
					named[app] = true
				}
			case *kubefile.Cmds:
				commands = append(commands, in.Cmds...)
			}
		}
	}
	for _, app := range apps {
		word := regexp.MustCompile(`(^|[^A-Za-z0-9._-])` + regexp.QuoteMeta(app.AppName) + `($|[^A-Za-z0-9._-])`)
		if named[app.AppName] || slices.ContainsFunc(commands, word.MatchString) {
			continue
		}
		r.report(&appNotLaunched, app.Pos().Line, app.EndLine(), app.Comments(), "APP %s is not started: LAUNCH does not name it", app.AppName)
	}
}
