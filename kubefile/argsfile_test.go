package kubefile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuildArgsFile(t *testing.T) {
	v := Vars{Platform: "linux/arm64", BuildArgs: map[string]string{"VERSION": "v2"}}
	for text, want := range map[string]string{
		"FROM scratch": "",
		"# build-args=a.env\nARG VERSION\nFROM scratch":                                                   "a.env",
		"# syntax=x\n\n#build-args = v/${VERSION}.$TARGETARCH.env \n# more\nARG VERSION=v1\nFROM scratch": "v/v2.arm64.env",
		"# build-args=${A:+no}\nARG A\nFROM scratch":                                                      "",
		"FROM scratch\n# build-args=a.env\nLABEL a=b":                                                     "",
	} {
		f := parse(t, text+"\n")
		got, _, err := f.BuildArgsFile(v)
		if got != want || err != nil {
			t.Errorf("%q: %q %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"# build-args=\nFROM scratch":                  "Kubefile:1:1: # build-args names no file",
		"# build-args=a\n# build-args=b\nFROM scratch": "Kubefile:2:1: # build-args stands twice",
		"# build-args=${a\nFROM scratch":               "Kubefile:1:14: # build-args: cannot read ${a: missing '}'",
		"# build-args=a/$B.env\nFROM scratch":          "Kubefile:1:16: # build-args: the variable B has no value",
		"# build-args=a/$B.env\nARG B\nFROM scratch":   "Kubefile:1:16: # build-args: the variable B has no value",
	} {
		f, err := Parse("Kubefile", strings.NewReader(text+"\n"))
		if err == nil {
			_, _, err = f.BuildArgsFile(v)
		}
		if got, _, _ := strings.Cut(fmt.Sprint(err), "\n"); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestParseBuildArgs(t *testing.T) {
	got, err := ParseBuildArgs("a.env", []byte("\uFEFF# x\r\n\r\nA=1 = 2\r\n  B=\n"))
	if diff := cmp.Diff(map[string]string{"A": "1 = 2", "B": ""}, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	_, err = ParseBuildArgs("a.env", []byte("A=1\nA=2\nno\n1x=y\n\xff=1\n"))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"a.env:2:1: A stands twice", "a.env:3:1: no is no value", "a.env:4:1: 1x=y is no", "a.env:5:1: the text is not UTF-8"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

// TestManyStages: stages that copy from each other are looked at once each.
func TestManyStages(t *testing.T) {
	var b strings.Builder
	b.WriteString("FROM scratch\nCOPY a b\n")
	for i := range 200 {
		fmt.Fprintf(&b, "FROM scratch\n%s", strings.Repeat(fmt.Sprintf("COPY --from=%d a b\n", i), 5))
	}
	f := parse(t, b.String())
	if in, _ := f.Executes(f.Stages[200]); in != nil {
		t.Error(in)
	}
}

func FuzzParseBuildArgs(f *testing.F) {
	for _, seed := range []string{"A=1\n", "# x\r\nB=\n", "A", "\xff", "=x", "A=1\nA=2"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		args, err := ParseBuildArgs("x.env", text)
		if (err == nil) != (args != nil) {
			t.Errorf("%v %v", args, err)
		}
		for k := range args {
			if !argName.MatchString(k) {
				t.Errorf("%q", k)
			}
		}
	})
}
