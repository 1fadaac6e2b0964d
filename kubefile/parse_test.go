package kubefile

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// testVars is what the golden tests resolve with; a file "args" beside a Kubefile adds build arguments.
func testVars(t *testing.T, dir string) Vars {
	t.Helper()
	v := Vars{Platform: "linux/arm64/v8", BuildPlatform: "linux/amd64", BuildArgs: map[string]string{}}
	text, err := os.ReadFile(filepath.Join(dir, "args"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "=")
		v.BuildArgs[key] = value
	}
	return v
}

// load parses and resolves everything, and dumps both.
func load(t *testing.T, dir string) (string, error) {
	t.Helper()
	r, err := os.Open(filepath.Join(dir, "Kubefile"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := Parse("Kubefile", r)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("== parsed\n")
	dump(&b, f)
	v := testVars(t, dir)
	b.WriteString("== resolved\n")
	f, err = f.ResolveFrom(v)
	if err != nil {
		return "", err
	}
	envs := map[string][]string{}
	var notes []string
	for i, s := range f.Stages {
		env := []string{"PATH=/usr/bin", "BASE=base"}
		if base := f.BaseStage(s); base != nil {
			env = envs[base.Name]
		}
		resolved, env, err := s.Resolve(v, env)
		if err != nil {
			return "", err
		}
		f.Stages[i] = resolved
		envs[s.Name] = env
		notes = append(notes, fmt.Sprintf("env %d: %q", i, env))
		if in, what := f.Executes(resolved); in != nil {
			notes = append(notes, fmt.Sprintf("executes %d: %s on line %d", i, what, in.Pos().Line))
		}
	}
	dump(&b, f)
	for _, n := range notes {
		b.WriteString(n + "\n")
	}
	if unused := f.UnusedBuildArgs(v); unused != nil {
		fmt.Fprintf(&b, "unused: %q\n", unused)
	}
	return b.String(), nil
}

func dump(b *strings.Builder, f *File) {
	for _, a := range f.Args {
		dumpInstruction(b, a)
	}
	for _, s := range f.Stages {
		fmt.Fprintf(b, "%d:%d stage name=%q base=%q platform=%q\n", s.From.Line, s.From.Column, s.Name, s.Base, s.Platform)
		for _, in := range s.Instructions {
			dumpInstruction(b, in)
		}
	}
}

func dumpInstruction(b *strings.Builder, in Instruction) {
	var v any = in
	kind := strings.TrimPrefix(fmt.Sprintf("%T", in), "*kubefile.")
	if d, ok := in.(*Docker); ok {
		v = d.Command
		kind = strings.TrimPrefix(fmt.Sprintf("%T", v), "*instructions.")
	}
	js, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(b, "  %d:%d %s %s\n", in.Pos().Line, in.Pos().Column, kind, js)
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

func cases(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern, "Kubefile"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	var dirs []string
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(f))
	}
	return dirs
}

func TestGood(t *testing.T) {
	for _, dir := range cases(t, "*") {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			got, err := load(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join(dir, "result"), got)
		})
	}
}

func TestBad(t *testing.T) {
	dirs := cases(t, "bad/*")
	if len(dirs) < 25 {
		t.Errorf("%d cases", len(dirs))
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			got, err := load(t, dir)
			if err == nil {
				t.Fatalf("accepted:\n%s", got)
			}
			for _, e := range each(err) {
				var at *Error
				if !errors.As(e, &at) || at.File != "Kubefile" || at.Pos.Line < 1 || at.Pos.Column < 1 || at.Msg == "" {
					t.Errorf("not an *Error with a place: %#v", e)
				}
			}
			golden(t, filepath.Join(dir, "error"), err.Error()+"\n")
		})
	}
}

// each takes joined errors apart.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("Kubefile", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLongLines(t *testing.T) {
	// 64 KiB less one byte is the longest line; sealer dropped the rest of the file after one more.
	for _, end := range []string{"\n", "\r\n"} {
		fits := maxLine - len("LABEL a=") - (len(end) - 1)
		f := parse(t, "FROM scratch\nLABEL a="+strings.Repeat("x", fits)+end+"LABEL b=c\n")
		if n := len(f.Stages[0].Instructions); n != 2 {
			t.Errorf("%d instructions", n)
		}
		_, err := Parse("Kubefile", strings.NewReader("FROM scratch\nLABEL a="+strings.Repeat("x", fits+1)+end+"LABEL b=c\n"))
		var e *Error
		if !errors.As(err, &e) || e.Pos != (Pos{2, 1}) || !strings.Contains(e.Msg, "65535") {
			t.Errorf("got %v", err)
		}
		if len(err.Error()) > 1000 {
			t.Errorf("the error repeats the line: %d bytes", len(err.Error()))
		}
	}
	// Joined from lines that each fit, an instruction may be longer.
	part := strings.Repeat("x", 60000)
	f := parse(t, "FROM scratch\nCMDS echo "+part+"\\\n"+part+"\n")
	if n := len(f.Stages[0].Instructions[0].(*Cmds).Cmds[0]); n != 120005 {
		t.Errorf("%d bytes", n)
	}
}

func TestBytes(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		pos        Pos
		msg        string
	}{
		{"empty", "", Pos{1, 1}, "no instruction"},
		{"blank lines", "\n \n\t\n", Pos{1, 1}, "no instruction"},
		{"comments only", "# syntax=docker/dockerfile:1\n# nothing\n", Pos{1, 1}, "no instruction"},
		{"not UTF-8", "FROM scratch\nLABEL a=\xff\n", Pos{2, 9}, "not UTF-8"},
		{"NUL", "FROM scratch\nLABEL a=\x00\n", Pos{2, 9}, "NUL"},
		{"UTF-16", "F\x00R\x00O\x00M\x00", Pos{1, 2}, "NUL"},
		{"second BOM", "\uFEFFFROM scratch\n\uFEFFLABEL a=b\n", Pos{2, 1}, "byte order mark"},
		{"too large", strings.Repeat("#\n", maxSource/2+1), Pos{1, 1}, "larger than 16 MiB"},
		{"nesting", "FROM scratch\nLABEL a=" + strings.Repeat("${A:-\\\n", 1<<20), Pos{1002, 1}, "1000"},
		{"continuation to nowhere", "FROM scratch\n\\\n", Pos{2, 1}, "continues nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("Kubefile", strings.NewReader(tt.text))
			var e *Error
			if !errors.As(err, &e) || e.Pos != tt.pos || !strings.Contains(e.Msg, tt.msg) {
				t.Errorf("got %v", err)
			}
		})
	}
	f := parse(t, "\uFEFF# escape=`\r\nFROM scratch\r\nLAUNCH a`\r\n  b\r\nAPP a x\r\nAPP b y")
	if got := f.Stages[0].Instructions[0].(*Launch).Apps; !cmp.Equal(got, []string{"a", "b"}) {
		t.Errorf("%q", got)
	}
	if !strings.HasPrefix(string(f.Source), "\uFEFF#") {
		t.Errorf("Source is not the text")
	}
}

type failing struct{}

var errBroken = errors.New("broken")

func (failing) Read([]byte) (int, error) { return 0, errBroken }

func TestReadError(t *testing.T) {
	if _, err := Parse("x", failing{}); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestManyMistakes(t *testing.T) {
	_, err := Parse("", strings.NewReader("FROM scratch\n"+strings.Repeat("NONSENSE\n", 1000)))
	if n := len(each(err)); n != maxMistakes+1 {
		t.Errorf("%d errors", n)
	}
	if !strings.Contains(err.Error(), "and 980 more") {
		t.Errorf("%v", err)
	}
	// Lines that BuildKit's parser stops at are counted as well.
	_, err = Parse("", strings.NewReader("FROM scratch\nENV a\nCOPPY x y\nENV b\nLABEL c\n"))
	var lines []int
	for _, e := range each(err) {
		var at *Error
		if errors.As(e, &at) {
			lines = append(lines, at.Pos.Line)
		}
	}
	if !slices.Equal(lines, []int{2, 3, 4, 5}) {
		t.Errorf("lines %v: %v", lines, err)
	}
}

// TestPositions holds that a place in a continued line is a place in the file.
func TestPositions(t *testing.T) {
	_, err := Parse("Kubefile", strings.NewReader("FROM scratch\n  IMAGES good \\\n  # between\n\n   also/good \\\n\tBAD:: \\\n x\n"))
	var e *Error
	if !errors.As(err, &e) || e.Pos != (Pos{6, 2}) || e.Line != "\tBAD:: \\" {
		t.Errorf("got %v", err)
	}
}

func TestErrorText(t *testing.T) {
	for _, tt := range []struct {
		e    Error
		want string
	}{
		{Error{Msg: "m"}, "m"},
		{Error{File: "K", Pos: Pos{4, 3}, Line: "\tä" + "\x1b[31mX", Msg: "m", Hint: "h"}, "K:4:3: m\n    4 |  ä?[31mX\n      |   ^\n  h"},
		{Error{File: "K", Pos: Pos{1, 9}, Line: "short", Msg: "m"}, "K:1:9: m\n    1 | short\n      |      ^"},
		{
			Error{File: "K", Pos: Pos{1, 501}, Line: strings.Repeat("a", 500) + "!" + strings.Repeat("b", 500), Msg: "m"},
			"K:1:501: m\n    1 | ..." + strings.Repeat("a", 50) + "!" + strings.Repeat("b", 49) + "...\n      | " + strings.Repeat(" ", 53) + "^",
		},
	} {
		if d := cmp.Diff(tt.want, tt.e.Error()); d != "" {
			t.Error(d)
		}
	}
}

// TestCheckComments: BuildKit's parser reads "# check=" above an instruction, and panicked without a linter
// to tell.
func TestCheckComments(t *testing.T) {
	f := parse(t, "# check=skip=all\n#\n# check=skip=A\nFROM scratch\n# check=skip=B\nARG password\n# check=skip=C\n# more\nONBUILD COPY a \\\n /\n# check=skip=D\nLAUNCH a\nAPP a b\n")
	in := f.Stages[0].Instructions
	if got := in[1].Comments(); !cmp.Equal(got, []string{"check=skip=C", "more"}) || in[1].EndLine() != 10 {
		t.Errorf("%q to line %d", got, in[1].EndLine())
	}
	if got := in[2].Comments(); !cmp.Equal(got, []string{"check=skip=D"}) || in[2].EndLine() != 12 {
		t.Errorf("%q to line %d", got, in[2].EndLine())
	}
}
