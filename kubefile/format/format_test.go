package format_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/clusterimage/keg/kubefile"
	"github.com/clusterimage/keg/kubefile/format"
)

func TestFormat(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"names and spaces", "  from   scratch  as  Base  \nadd\ta   b\nlaunch x\napp  x  y\n", "FROM scratch AS Base\nADD a b\nLAUNCH x\nAPP x y\n"},
		{"quotes", "FROM scratch\nAPP x \"a  b\"\nLABEL  a='b  c'  d=e\nENV a  b   c\n", "FROM scratch\nAPP x \"a  b\"\nLABEL a='b  c'  d=e\nENV a  b   c\n"},
		{"arrays", "FROM scratch\nCMDS   [ \"a b\",\"c<d\" ]\nAPP x y\nAPPCMDS x[\"a\"]\nLAUNCH [\"x\"]\nHEALTHCHECK --interval=5s   CMD [\"a\",\"\\u0041\"]\nRUN --network=none  [ \"a\" ]\nRUN [ -f x ]\nCOPY [\"a b\",\"c\"]\n",
			"FROM scratch\nCMDS [\"a b\", \"c<d\"]\nAPP x y\nAPPCMDS x [\"a\"]\nLAUNCH [\"x\"]\nHEALTHCHECK --interval=5s CMD [\"a\", \"A\"]\nRUN --network=none [\"a\"]\nRUN [ -f x ]\nCOPY [\"a b\", \"c\"]\n"},
		{"continued", "FROM scratch\nIMAGES a   \\\nb\\\n\t\tc \\ \n\n # why\n        d\nLABEL a=\"x \\\n y\" \\\n b=c\nCOPY a\\\nb c\n",
			"FROM scratch\nIMAGES a \\\n    b \\\n    c \\\n # why\n    d\nLABEL a=\"x \\\n y\" \\\n    b=c\nCOPY a\\\nb c\n"},
		{"commands", "FROM scratch\nrun a   \\\n  &&   b \\\n\n  # c\n d  \ncmd  a   b\n", "FROM scratch\nRUN a   \\\n  &&   b \\\n  # c\n d\nCMD a   b\n"},
		{"heredocs", "FROM scratch\nrun   <<EOF\n\n\n  from x  \nEOF\ncopy <<-A <<B /x/\n\ta\n\tA\n\n\nB\n", "FROM scratch\nRUN <<EOF\n\n\n  from x  \nEOF\nCOPY <<-A <<B /x/\n\ta\n\tA\n\n\nB\n"},
		{"empty lines and comments", "\n\n# escape=`\n\n\n  # c  \nFROM scratch\n \t\n\n\nLABEL a=b\n\n\n", "\n# escape=`\n\n  # c  \nFROM scratch\n\nLABEL a=b\n"},
		{"directives", "# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\nfrom scratch\nimages a `\n    b\n", "# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\nFROM scratch\nIMAGES a `\n    b\n"},
		{"BOM and CRLF", "\uFEFFfrom  scratch\r\nlabel  a=b \\\r\n  c=d\r\n\r\n\r\n", "\uFEFFFROM scratch\r\nLABEL a=b \\\r\n    c=d\r\n"},
		{"no newline", "FROM scratch\nLABEL a=b", "FROM scratch\nLABEL a=b\n"},
		{"continued to the end", "FROM scratch\nRUN a \\\n", "FROM scratch\nRUN a \\\n"},
		{"a name in two lines", "FROM scratch\nlab\\\nel a=b\n", "FROM scratch\nlab\\\nel a=b\n"},
		{"onbuild", "FROM scratch\nonbuild  copy  a   b\n", "FROM scratch\nONBUILD copy  a   b\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := format.Format("Kubefile", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, string(got)); d != "" {
				t.Error(d)
			}
			stable(t, []byte(tt.text))
		})
	}
}

func TestWrong(t *testing.T) {
	var e *kubefile.Error
	if _, err := format.Format("K", []byte("FROM scratch\nLANCH\n")); !errors.As(err, &e) || e.File != "K" || e.Pos.Line != 2 {
		t.Errorf("got %v", err)
	}
}

// view is what the kubefile package makes of a text, places left out.
func view(f *kubefile.File) string {
	var b strings.Builder
	show := func(in kubefile.Instruction) {
		var v any = in
		if d, ok := in.(*kubefile.Docker); ok {
			v = d.Command
			if r, ok := v.(*instructions.RunCommand); ok {
				mounts, err := json.Marshal(instructions.GetMounts(r))
				fmt.Fprintf(&b, "%q %s %v %s ", r.FlagsUsed, mounts, err, instructions.GetNetwork(r))
			}
		}
		data, err := json.Marshal(v)
		fmt.Fprintf(&b, "%T %s %v %q\n", v, data, err, in.Comments())
	}
	for _, a := range f.Args {
		show(a)
	}
	for _, s := range f.Stages {
		fmt.Fprintf(&b, "FROM %q %q %q %q\n", s.Name, s.Base, s.Platform, s.Comments())
		for _, in := range s.Instructions {
			show(in)
		}
	}
	return b.String() + f.ArgsFile
}

// stable holds that formatting keeps the meaning and is done after one time. It says whether the text could be read.
func stable(t *testing.T, text []byte) bool {
	t.Helper()
	before, err := kubefile.Parse("Kubefile", bytes.NewReader(text))
	got, formatErr := format.Format("Kubefile", text)
	if err != nil {
		if formatErr == nil {
			t.Errorf("%q: formatted, although %v", text, err)
		}
		return false
	}
	if formatErr != nil {
		t.Fatalf("%q: %v", text, formatErr)
	}
	after, err := kubefile.Parse("Kubefile", bytes.NewReader(got))
	if err != nil {
		t.Fatalf("%q became %q: %v", text, got, err)
	}
	if d := cmp.Diff(view(before), view(after)); d != "" {
		t.Errorf("%q became %q:\n%s", text, got, d)
	}
	v := kubefile.Vars{Platform: "linux/arm64", BuildPlatform: "linux/amd64", BuildArgs: map[string]string{"A": "a b"}}
	one, err1 := before.ResolveFrom(v)
	two, err2 := after.ResolveFrom(v)
	if (err1 == nil) != (err2 == nil) {
		t.Errorf("%q became %q: %v, %v", text, got, err1, err2)
	}
	if err1 == nil && err2 == nil {
		for i := range one.Stages {
			a, envA, errA := one.Stages[i].Resolve(v, nil)
			b, envB, errB := two.Stages[i].Resolve(v, nil)
			if (errA == nil) != (errB == nil) || !cmp.Equal(envA, envB) {
				t.Errorf("%q became %q: %v %v, %v %v", text, got, envA, errA, envB, errB)
			}
			if errA == nil && errB == nil {
				one.Stages[i], two.Stages[i] = a, b
			}
		}
		if d := cmp.Diff(view(one), view(two)); d != "" {
			t.Errorf("%q became %q, resolved:\n%s", text, got, d)
		}
	}
	again, err := format.Format("Kubefile", got)
	if err != nil || !bytes.Equal(got, again) {
		t.Errorf("%q became %q, then %q: %v", text, got, again, err)
	}
	return true
}

// seeds are the Kubefiles of the repository and the corpus of BuildKit's parser.
func seeds(tb testing.TB) [][]byte {
	tb.Helper()
	patterns := []string{"../testdata/*/Kubefile", "../testdata/bad/*/Kubefile", "../../basefs/*/Kubefile", "../../testdata/*/Kubefile", "../../docs/examples/*/Kubefile"}
	out, err := exec.CommandContext(tb.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/moby/buildkit/frontend/dockerfile/parser").Output()
	if err == nil {
		dir := strings.TrimSpace(string(out))
		patterns = append(patterns, filepath.Join(dir, "testfiles/*/Dockerfile"), filepath.Join(dir, "testfiles-negative/*/Dockerfile"), filepath.Join(dir, "testfile-line/Dockerfile"))
	}
	var list [][]byte
	for _, p := range patterns {
		files, err := filepath.Glob(p)
		if err != nil {
			tb.Fatal(err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				tb.Fatal(err)
			}
			list = append(list, text)
		}
	}
	return list
}

func TestSeeds(t *testing.T) {
	read := 0
	for _, text := range seeds(t) {
		if stable(t, text) {
			read++
		}
	}
	if read < 15 {
		t.Errorf("only %d files could be read", read)
	}
}

// FuzzFormat holds that formatting keeps the meaning of every text, and is done after one time.
func FuzzFormat(f *testing.F) {
	for _, text := range seeds(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) < 64<<10 {
			stable(t, text)
		}
	})
}
