package kubefile

import (
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

func text(f *File) string {
	var b strings.Builder
	dump(&b, f)
	return b.String()
}

// TestResolveIsPure holds that a File can be resolved for many platforms, at the same time.
func TestResolveIsPure(t *testing.T) {
	f := parse(t, `ARG TAG=1
FROM --platform=$TARGETPLATFORM example.com/base:$TAG
ARG X=$TAG TAG TARGETARCH
ENV A=$TARGETARCH
LABEL a=$A x=$X
COPY --chown=$X $ARCH/ <<EOF /${TARGETOS}/
$A
EOF
RUN --mount=type=cache,target=/$A true
EXPOSE $X
VOLUME $A
APP web charts/$ARCH
APPENV web A=$A
IMAGES example.com/$ARCH
IMAGES --list=$ARCH
KUBEVERSION >=1.$X
`)
	before := text(f)
	var group sync.WaitGroup
	for _, arch := range []string{"amd64", "arm64", "amd64", "arm64"} {
		group.Go(func() {
			v := Vars{Platform: "linux/" + arch, BuildArgs: map[string]string{"X": "30"}}
			r, err := f.ResolveFrom(v)
			if err != nil {
				t.Error(err)
				return
			}
			s, env, err := r.Stages[0].Resolve(v, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if d := cmp.Diff([]string{"A=" + arch}, env); d != "" {
				t.Error(d)
			}
			got := text(&File{Stages: []*Stage{s}})
			if n := strings.Count(got, arch); n != 11 || strings.Contains(got, "$") {
				t.Errorf("%d times %s:\n%s", n, arch, got)
			}
			for _, in := range s.Instructions {
				d, ok := in.(*Docker)
				if !ok {
					continue
				}
				if run, ok := d.Command.(*instructions.RunCommand); ok && instructions.GetMounts(run)[0].Target != "/"+arch {
					t.Errorf("mount at %s", instructions.GetMounts(run)[0].Target)
				}
			}
			// A stage that is resolved again stays as it is.
			again, _, err := s.Resolve(v, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if d := cmp.Diff(got, text(&File{Stages: []*Stage{again}})); d != "" {
				t.Error(d)
			}
		})
	}
	group.Wait()
	if d := cmp.Diff(before, text(f)); d != "" {
		t.Errorf("the parsed file changed:\n%s", d)
	}
}

func TestArgPrecedence(t *testing.T) {
	const file = "ARG V=global\nFROM scratch\n%s\nLABEL v=$V\n"
	for _, tt := range []struct {
		name, lines, given, want string
		env                      []string
	}{
		{name: "not declared in the stage", lines: "", want: ""},
		{name: "global default", lines: "ARG V", want: "global"},
		{name: "own default", lines: "ARG V=own", want: "own"},
		{name: "build argument", lines: "ARG V=own", given: "arg", want: "arg"},
		{name: "build argument over global", lines: "ARG V", given: "arg", want: "arg"},
		{name: "ENV after ARG", lines: "ARG V=own\nENV V=env", given: "arg", want: "env"},
		{name: "ENV before ARG", lines: "ENV V=env\nARG V=own", given: "arg", want: "arg"},
		{name: "base image's ENV", lines: "ARG V=own", env: []string{"V=base"}, want: "own"},
		{name: "ENV over the base image", lines: "ENV V=x$V", env: []string{"V=base"}, want: "xbase"},
		{name: "ARG after its use", lines: "LABEL early=$V\nARG V=own", want: "own"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := Vars{BuildArgs: map[string]string{}}
			if tt.given != "" {
				v.BuildArgs["V"] = tt.given
			}
			s, _, err := parse(t, strings.Replace(file, "%s", tt.lines, 1)).Stages[0].Resolve(v, tt.env)
			if err != nil {
				t.Fatal(err)
			}
			if got := text(&File{Stages: []*Stage{s}}); !strings.Contains(got, `{"Key":"v","Value":"`+tt.want+`"`) {
				t.Errorf("want %q:\n%s", tt.want, got)
			}
		})
	}
}

func TestFromVariables(t *testing.T) {
	for _, tt := range []struct {
		name, text, base, platform, missing string
		args                                map[string]string
	}{
		{name: "default", text: "ARG A=1\nFROM x.io/base:$A", base: "x.io/base:1"},
		{name: "build argument", text: "ARG A\nFROM x.io/base:$A", args: map[string]string{"A": "2"}, base: "x.io/base:2"},
		{name: "value with =", text: "ARG A\nFROM scratch\nFROM ${A#k=v=}", args: map[string]string{"A": "k=v=scratch"}, base: "scratch"},
		{name: "default in place", text: "FROM ${A:-x.io/base}", base: "x.io/base"},
		{name: "a stage", text: "ARG S=ONE\nFROM scratch AS one\nFROM $S", base: "one"},
		{name: "quotes", text: "FROM \"x.io/base\"", base: "x.io/base"},
		{name: "platform", text: "FROM --platform=$BUILDPLATFORM x.io/$TARGETARCH-$ARCH", base: "x.io/arm64-arm64", platform: "linux/amd64"},
		{name: "undefined", text: "FROM x.io/base:$NOPE", missing: "NOPE"},
		{name: "no value", text: "ARG NOPE\nFROM x.io/base:${NOPE}", missing: "NOPE"},
		{name: "an ARG of the stage before", text: "FROM scratch\nARG NOPE=1\nFROM x.io/base:${NOPE}", missing: "NOPE"},
		{name: "platform undefined", text: "FROM --platform=$NOPE scratch", missing: "NOPE"},
		{name: "no image", text: "ARG A=\nFROM x.io/base:$A", missing: "x.io/base:"},
		{name: "empty", text: "ARG A=\nFROM $A", missing: "empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := parse(t, tt.text+"\n").ResolveFrom(Vars{Platform: "linux/arm64", BuildPlatform: "linux/amd64", BuildArgs: tt.args})
			if tt.missing != "" {
				var e *Error
				if !errors.As(err, &e) || !strings.Contains(e.Msg, tt.missing) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			last := f.Stages[len(f.Stages)-1]
			if last.Base != tt.base || last.Platform != tt.platform {
				t.Errorf("base %q, platform %q", last.Base, last.Platform)
			}
		})
	}
}

// TestUnusedBuildArgs also covers a value that holds a "=", which sealer cut.
func TestUnusedBuildArgs(t *testing.T) {
	f := parse(t, "ARG A\nFROM scratch\nARG B=1 C\nLABEL a=$B\n")
	v := Vars{BuildArgs: map[string]string{"A": "", "B": "k=v=w", "C": "", "Z": "", "D": "", "TARGETARCH": "", "http_proxy": "", "BUILDKIT_X": ""}}
	if d := cmp.Diff([]string{"D", "Z"}, f.UnusedBuildArgs(v)); d != "" {
		t.Error(d)
	}
	s, _, err := f.Stages[0].Resolve(v, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := text(&File{Stages: []*Stage{s}}); !strings.Contains(got, `"Value":"k=v=w"`) {
		t.Error(got)
	}
}

func TestExecutes(t *testing.T) {
	for instruction, want := range map[string]string{
		"COPY a b":                               "",
		"ADD a b":                                "",
		"ADD https://example.com/x.tar b":        "",
		"ADD https://example.com/x.git/y b":      "",
		"RUN true":                               "RUN",
		"COPY --from=first a b":                  "",
		"COPY --from=0 a b":                      "",
		"COPY --from=runs a b":                   "COPY --from",
		"COPY --from=above a b":                  "COPY --from",
		"COPY --from=4 a b":                      "COPY --from",
		"COPY --from=image a b":                  "COPY --from",
		"COPY --from=any a b":                    "",
		"COPY --from=busybox a b":                "COPY --from",
		"ADD https://example.com/x.git b":        "ADD of a git repository",
		"ADD https://example.com/x.git#v1:dir b": "ADD of a git repository",
		"ADD https://example.com/x.git?ref=v1 b": "ADD of a git repository",
		"ADD git://example.com/x b":              "ADD of a git repository",
		"ADD git@example.com:x/y b":              "ADD of a git repository",
		"ADD a ssh://git@example.com/x b/":       "ADD of a git repository",
		"HEALTHCHECK CMD true":                   "",
		"ONBUILD RUN true":                       "",
	} {
		t.Run(instruction, func(t *testing.T) {
			f := parse(t, "ARG X\nFROM scratch AS first\nFROM first AS runs\nRUN true\nFROM runs AS above\nFROM busybox AS image\n"+
				"FROM scratch AS copies\nCOPY --from=runs a b\nFROM ${X} AS any\nFROM scratch\n"+instruction+"\nLABEL a=b\n")
			in, got := f.Executes(f.Stages[6])
			if got != want || (in == nil) != (want == "") {
				t.Errorf("got %q", got)
			}
			if in != nil && in.Pos().Line != 11 {
				t.Errorf("line %d", in.Pos().Line)
			}
		})
	}
}

// TestHandMade holds that values made without Parse do not panic.
func TestHandMade(t *testing.T) {
	s := &Stage{Base: "scratch", Instructions: []Instruction{
		&Docker{}, &App{AppName: "a", Sources: []string{"x"}}, &AppEnv{}, &AppCmds{}, &Launch{}, &Cmds{}, &KubeVersion{}, &Images{Refs: []string{"nginx"}},
	}}
	got, env, err := s.Resolve(Vars{}, []string{"A=b"})
	if err != nil || len(env) != 1 || len(got.Instructions) != 8 {
		t.Errorf("%v %v %v", got, env, err)
	}
	f := &File{Stages: []*Stage{s}}
	if _, err := f.ResolveFrom(Vars{}); err != nil {
		t.Error(err)
	}
	if in, _ := f.Executes(s); in != nil {
		t.Error(in)
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"": "''", "a": "a", "a b": "'a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "--a=b,c:d": "--a=b,c:d", "~": "'~'", "é": "'é'",
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

func TestVarsOfPlatforms(t *testing.T) {
	got := platformVars(Vars{Platform: "linux/arm/v7"})
	want := map[string]string{"TARGETPLATFORM": "linux/arm/v7", "TARGETOS": "linux", "TARGETARCH": "arm", "TARGETVARIANT": "v7", "ARCH": "arm"}
	if !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
