package lint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/kubefile"
	"github.com/clusterimage/keg/kubefile/lint"
)

func parse(t *testing.T, text string) *kubefile.File {
	t.Helper()
	f, err := kubefile.Parse("Kubefile", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func run(t *testing.T, text string, files fstest.MapFS, o lint.Options) []string {
	t.Helper()
	if files != nil {
		c, err := lint.OpenContext(files, "Kubefile")
		if err != nil {
			t.Fatal(err)
		}
		o.Context = c
	}
	res, err := lint.Lint(t.Context(), parse(t, text), o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range res.Findings {
		if f.Cure == "" || f.URL == "" && !strings.HasPrefix(f.Rule, "Invalid") || f.File != "Kubefile" || f.EndLine < f.Line {
			t.Errorf("not whole: %+v", f)
		}
		got = append(got, fmt.Sprintf("%d %s %s: %s", f.Line, f.Severity, f.Rule, f.Text))
	}
	return got
}

type lockOf map[string]bool

func (l lockOf) Locked(ref, platform string) bool { return l[ref+" "+platform] }

const key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"

func elf(machine byte) *fstest.MapFile {
	return &fstest.MapFile{Mode: 0o755, Data: append([]byte("\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 9)+"\x02\x00"), machine, 0, 0, 0)}
}

func TestRules(t *testing.T) {
	sum := strings.Repeat("a", 64)
	for _, tt := range []struct {
		name, text string
		files      fstest.MapFS
		o          lint.Options
		want       []string
	}{
		{"clean", "FROM scratch\nAPP a x\nLAUNCH a\n", nil, lint.Options{}, nil},
		{"base", "FROM x:1 AS a\nFROM a\nFROM x:1@sha256:" + sum + "\nFROM scratch\nCOPY --from=y:2 /a /a\nCOPY --from=a /a /a\n", nil, lint.Options{},
			[]string{"1 warning UnpinnedBase: FROM x:1 has no digest", "5 warning UnpinnedBase: COPY --from y:2 has no digest"}},
		{"base of an ARG", "ARG V=1\nFROM x:$V\n", nil, lint.Options{BuildArgs: map[string]string{"V": "2"}}, []string{"2 warning UnpinnedBase: FROM x:2 has no digest"}},
		{"base without a value", "ARG V\nFROM x:$V\n", nil, lint.Options{}, []string{"2 error InvalidKubefile: FROM: the variable V has no value"}},
		{"lock", "FROM x:1\nFROM x:2\nIMAGES a:1 b:1\nIMAGES --ignore c:1\n", nil, lint.Options{Platforms: []string{"linux/arm64"}, Lock: lockOf{"x:2 linux/arm64": true, "a:1 linux/arm64": true}},
			[]string{"1 warning ImageNotLocked: FROM x:1 is not in Kubefile.lock for linux/arm64", "3 warning ImageNotLocked: IMAGES b:1 is not in Kubefile.lock for linux/arm64"}},
		{"downloads", "FROM scratch\nADD https://u:p@h/a /\nADD --checksum=sha256:" + sum + " https://h/a /\nADD https://h/a.git#main /\nADD https://h/a.git#" + sum[:40] + " /\nAPP a https://h/a.yaml\nAPP b https://h/a.yaml#sha256=" + sum + "\nLAUNCH a b\n", nil, lint.Options{},
			[]string{"2 warning SecretInValue: ADD holds a URL with a password", "2 warning UnverifiedDownload: ADD: nothing says what https://h/a has to be", "4 warning UnverifiedDownload: ADD: nothing says which commit of https://h/a.git#main", "6 warning UnverifiedDownload: APP a: nothing says what https://h/a.yaml has to be"}},
		{"secrets in values", "FROM scratch\nARG A=AKIAABCDEFGHIJKLMNOP\nENV B=https://me:secret@h\nLABEL c=ghp_" + sum[:36] + "\nAPP a x\nAPPENV a DB_PASSWORD=x TOKEN= SECRET_NAME=y\nLAUNCH a\nCMDS curl -u https://me:secret@h\nRUN true AKIAABCDEFGHIJKLMNOP\n", nil, lint.Options{},
			[]string{"2 warning SecretInValue: ARG A holds an access key of AWS", "3 warning SecretInValue: ENV B holds a URL with a password", "4 warning SecretInValue: LABEL c holds a token of GitHub", "6 warning SecretInValue: APPENV DB_PASSWORD is a secret by its name", "8 warning SecretInValue: a command holds a URL with a password", "9 warning SecretInValue: RUN holds an access key of AWS"}},
		{"secrets in files", "FROM scratch\nCOPY . /\nCOPY etc/* /x/\nAPP a app\nLAUNCH a\nCOPY <<EOF /k\n" + key + "EOF\n",
			fstest.MapFS{
				".dockerignore": {Data: []byte("left\n")}, "left/id_rsa": {Data: []byte(key)}, "etc/id_rsa": {Data: []byte(key)}, "etc/id_rsa.pub": {Data: []byte("ssh-rsa")},
				"a/.docker/config.json": {Data: []byte(`{"auths":{"h":{"auth":"eDp5"}}}`)}, "b/config.json": {Data: []byte(`{"auths":{"h":{}}}`)},
				"app/admin.conf": {Data: []byte("kind: Config\nusers:\n- name: a\n  user:\n    client-key-data: LS0t\n")},
				"app/crd.yaml":   {Data: []byte("kind: CustomResourceDefinition\nclient-key-data: x\n")},
			}, lint.Options{},
			[]string{
				"2 error SecretInLayer: COPY takes a/.docker/config.json, which is logins to registries", "2 error SecretInLayer: COPY takes app/admin.conf, which is a kubeconfig with a login",
				"2 error SecretInLayer: COPY takes etc/id_rsa, which is a private key", "3 error SecretInLayer: COPY takes etc/id_rsa, which is a private key",
				"4 error SecretInLayer: APP takes app/admin.conf, which is a kubeconfig with a login", "6 error SecretInLayer: COPY: the text of EOF is a private key",
			}},
		{"network", "FROM scratch\nRUN apt-get -y install x\nRUN --network=none curl x\nRUN echo curl; PIP=1 pip3 install y\nRUN [\"/bin/wget\", \"x\"]\nRUN <<EOF\nset -e\nwget x\nEOF\nRUN echo no-curl\n", nil, lint.Options{},
			[]string{"2 info NetworkInRun: RUN: apt-get -y install needs the network", "4 info NetworkInRun: RUN: pip3 install needs the network", "5 info NetworkInRun: RUN: wget needs the network", "6 info NetworkInRun: RUN: wget needs the network"}},
		{"launch", "FROM scratch AS s\nAPP a x\nAPP b x\nFROM s\nAPP c x\nCNI d x\nLAUNCH b\nCMDS kubectl apply -f application/apps/c/x.yaml\n", nil, lint.Options{},
			[]string{"2 warning AppNotLaunched: APP a is not started: LAUNCH does not name it"}},
		{"architectures by name", "FROM scratch\nCOPY bin/$ARCH bin\nCOPY both/${TARGETARCH} both\nCOPY none/$ARCH none\n",
			fstest.MapFS{"bin/amd64/x": {}, "both/amd64/x": {}, "both/arm64/x": {}}, lint.Options{},
			[]string{"2 warning MissingArchitecture: COPY bin/$ARCH: the build context has it for amd64, not for arm64"}},
		{"architectures by content", "FROM scratch\nCOPY bin bin\n", fstest.MapFS{"bin/x": elf(62), "bin/y": elf(183)}, lint.Options{Platforms: []string{"linux/arm64"}},
			[]string{"2 warning MissingArchitecture: COPY takes bin/x, which is a program for amd64, into the image for linux/arm64"}},
		{"ignored", "FROM scratch\nCOPY a b\nADD a b\nAPP a a\nLAUNCH a\n", fstest.MapFS{"Kubefile.dockerignore": {Data: []byte("a\n")}, ".dockerignore": {Data: []byte("x\n")}}, lint.Options{},
			[]string{`2 warning CopyIgnoredFile: Attempting to Copy file "a" that is excluded by .dockerignore`, `3 warning CopyIgnoredFile: Attempting to Add file "a" that is excluded by .dockerignore`}},
		{"lines and cases", "FROM scratch\nfrom x@sha256:" + sum + "\nAPP a \\\n\n  x\nlaunch a\nCMDS y\n", nil, lint.Options{},
			[]string{"2 warning ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase)", "5 warning NoEmptyContinuation: Empty continuation line", "6 warning ConsistentInstructionCasing: Command 'launch' should match the case of the command majority (uppercase)"}},
		{"not wanted", "# check=skip=UnpinnedBase\nFROM x:1\n# check=skip=AppNotLaunched\nAPP a x\nAPP b x\n", nil, lint.Options{},
			[]string{"5 warning AppNotLaunched: APP b is not started: LAUNCH does not name it"}},
		{"not wanted by argument", "# check=skip=all\nFROM x:1\nAPP a x\n", nil, lint.Options{BuildArgs: map[string]string{"BUILDKIT_DOCKERFILE_CHECK": "skip=UnpinnedBase"}},
			[]string{"3 warning AppNotLaunched: APP a is not started: LAUNCH does not name it"}},
		{"wrong directive", "# check=nonsense\nFROM scratch\n", nil, lint.Options{}, []string{`1 error InvalidKubefile: # check=nonsense: invalid check option "nonsense"`}},
		{"file of arguments", "# build-args=$ARCH.env\nFROM scratch\nARG A\nCOPY $A /\n", fstest.MapFS{"amd64.env": {Data: []byte("A=x\n")}, "x": {Data: []byte(key)}}, lint.Options{},
			[]string{"4 error SecretInLayer: COPY takes x, which is a private key"}},
		{"undeclared", "FROM scratch\nCOPY $A /\n", nil, lint.Options{}, []string{"2 error InvalidKubefile: the variable A is not declared"}},
		{"undeclared here", "FROM x@sha256:" + sum + "\nCOPY $A /\n", nil, lint.Options{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, run(t, tt.text, tt.files, tt.o)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestDockerfile holds that a linter of Dockerfiles sees the lines of the Kubefile, and what is made of its words.
func TestDockerfile(t *testing.T) {
	const text = "# escape=`\n# check=skip=Skipped;error=true\nARG A=1\nFROM x:$ARCH\n# check=skip=Here\nAPP a x `\n y\nCOPY a b\n"
	var seen string
	o := lint.Options{Dockerfile: func(_ context.Context, text []byte, _ lint.DockerfileOptions) ([]lint.DockerfileWarning, error) {
		seen = string(text)
		return []lint.DockerfileWarning{{"Skipped", "x", "", 4, 4}, {"Here", "y", "u", 8, 8}, {"UndefinedVar", "Usage of undefined variable '$B'", "", 8, 8}}, &lint.DockerfileError{Line: 4, Err: errors.New("broken")}
	}}
	res, err := lint.Lint(t.Context(), parse(t, text), o)
	if err != nil || !res.Fail {
		t.Fatal(res, err)
	}
	if want := "# escape=`\n# check=experimental=all\nARG A=1\nFROM x:$TARGETARCH\n# check=skip=Here\n#\n\nCOPY a b\n"; seen != want {
		t.Errorf("%q", seen)
	}
	var got []string
	for _, f := range res.Findings {
		got = append(got, fmt.Sprint(f.Line, f.Rule))
	}
	if want := []string{"4InvalidKubefile", "4UnpinnedBase", "6AppNotLaunched", "8Here"}; !cmp.Equal(want, got) {
		t.Errorf("%q", got)
	}
}

func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	c, err := lint.OpenContext(fstest.MapFS{"a": {}}, "Kubefile")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lint.Lint(ctx, parse(t, "FROM scratch\nCOPY a b\n"), lint.Options{Context: c}); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if _, err := lint.OpenContext(fstest.MapFS{".dockerignore": {Data: []byte("[\n")}}, "Kubefile"); err == nil {
		t.Error("an ignore file with a wrong pattern is taken")
	}
	if _, err := lint.OpenContext(fstest.MapFS{".dockerignore": {Mode: fs.ModeDir}}, "Kubefile"); err == nil {
		t.Error("an ignore file that is a directory is taken")
	}
}

func TestFix(t *testing.T) {
	const text = "ARG V=1\nFROM x:1 as Base\nmaintainer Me <me@x>\r\nENV a b c\nENV d $e/f\nENV g \"h i\"\nLABEL k l\nEXPOSE 80/TCP\nAPP a \\\n\n  x\nLAUNCH a\nfrom base\nCOPY <<EOF /x\nenv a b\n\nEOF\n"
	const want = "ARG V=1\nFROM x:1 AS base\nLABEL org.opencontainers.image.authors=\"Me <me@x>\"\r\nENV a=\"b c\"\nENV d=$e/f\nENV g \"h i\"\nLABEL k=l\nEXPOSE 80/tcp\nAPP a \\\n  x\nLAUNCH a\nFROM base\nCOPY <<EOF /x\nenv a b\n\nEOF\n"
	f := parse(t, text)
	var list []lint.Finding
	for i, rule := range []string{2: "FromAsCasing", 3: "MaintainerDeprecated", 4: "LegacyKeyValueFormat", 5: "LegacyKeyValueFormat", 6: "LegacyKeyValueFormat", 7: "LegacyKeyValueFormat", 8: "ExposeProtoCasing", 11: "NoEmptyContinuation", 13: "ConsistentInstructionCasing", 14: "NoEmptyContinuation"} {
		if rule != "" {
			list = append(list, lint.Finding{Rule: rule, Line: i})
		}
	}
	list = append(list, lint.Finding{Rule: "StageNameCasing", Line: 2}, lint.Finding{Rule: "UnpinnedBase", Line: 2})
	got, fixed, err := lint.Fix(f, list)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
	if len(fixed) != 9 {
		t.Errorf("%d fixed: %v", len(fixed), fixed)
	}
	if pinned, _, err := lint.Pin(f, func(string) (string, error) { return "sha256:none", nil }); err == nil {
		t.Errorf("a text that cannot be read: %s", pinned)
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	pinned, n, err := lint.Pin(f, func(string) (string, error) { return digest, nil })
	if err != nil || n != 1 || !strings.Contains(string(pinned), "FROM x:1@"+digest+" as Base\n") {
		t.Errorf("%s %d %v", pinned, n, err)
	}
	broken := errors.New("broken")
	if _, _, err := lint.Pin(f, func(string) (string, error) { return "", broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// TestSARIF holds that a report has what SARIF 2.1.0 requires of the objects it uses.
func TestSARIF(t *testing.T) {
	list := []lint.Finding{
		{Rule: "UnpinnedBase", Severity: lint.Warning, File: "a b/Kubefile", Line: 3, EndLine: 4, Text: "t", Cure: "c"},
		{Rule: "NetworkInRun", Severity: lint.Info, File: "Kubefile", Line: 1, Text: "t"},
		{Rule: "NewerThanKeg", Severity: lint.Error, File: "Kubefile", Text: "t"},
	}
	data, err := json.Marshal(lint.Report("v1", list))
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]any
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	get := func(path string) any {
		var v any = r
		for elem := range strings.SplitSeq(path, ".") {
			switch x := v.(type) {
			case map[string]any:
				v = x[elem]
			case []any:
				i := 0
				if _, err := fmt.Sscan(elem, &i); err != nil || i >= len(x) {
					return nil
				}
				v = x[i]
			default:
				return nil
			}
		}
		return v
	}
	driver := "runs.0.tool.driver."
	for path, want := range map[string]any{
		"version": "2.1.0", driver + "name": "keg lint", driver + "version": "v1", "runs.0.results.0.ruleId": "UnpinnedBase",
		"runs.0.results.0.level": "warning", "runs.0.results.1.level": "note", "runs.0.results.2.level": "error",
		"runs.0.results.0.message.text":                                      "t\nc",
		"runs.0.results.0.locations.0.physicalLocation.artifactLocation.uri": "a%20b/Kubefile",
		"runs.0.results.0.locations.0.physicalLocation.region.startLine":     3.0,
		"runs.0.results.0.locations.0.physicalLocation.region.endLine":       4.0,
		"runs.0.results.1.locations.0.physicalLocation.region.endLine":       1.0,
		"runs.0.results.2.locations.0.physicalLocation.region":               nil,
	} {
		if got := get(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if s, ok := get("$schema").(string); !ok || !strings.Contains(s, "sarif") {
		t.Error("no schema")
	}
	rules := get(driver + "rules").([]any)
	ids := map[any]bool{}
	for i, raw := range rules {
		rule := raw.(map[string]any)
		if rule["id"] == "" || ids[rule["id"]] {
			t.Errorf("rule %d: id %v", i, rule["id"])
		}
		ids[rule["id"]] = true
		for _, text := range []string{"shortDescription", "help"} {
			if m, ok := rule[text].(map[string]any); !ok || m["text"] == "" {
				t.Errorf("rule %v has no %s", rule["id"], text)
			}
		}
	}
	for i, raw := range get("runs.0.results").([]any) {
		res := raw.(map[string]any)
		at := int(res["ruleIndex"].(float64))
		if rules[at].(map[string]any)["id"] != res["ruleId"] {
			t.Errorf("result %d: index %d is another rule", i, at)
		}
	}
	if empty, err := json.Marshal(lint.Report("", nil)); err != nil || !strings.Contains(string(empty), `"results":[]`) {
		t.Errorf("%s %v", empty, err)
	}
}

// TestUpstreamRules holds that every rule of the BuildKit that is linked in is known.
func TestUpstreamRules(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/moby/buildkit/frontend/dockerfile/linter").Output()
	if err != nil {
		t.Skipf("no go command here: %v", err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(out)), "ruleset.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, r := range lint.Rules() {
		known[r.Name] = r.BuildKit
	}
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		if kv, ok := node.(*ast.KeyValueExpr); ok {
			if k, ok := kv.Key.(*ast.Ident); ok && k.Name == "Name" {
				n++
				if name := strings.Trim(kv.Value.(*ast.BasicLit).Value, `"`); !known[name] {
					t.Errorf("the rule %s of BuildKit is not in the list", name)
				}
			}
		}
		return true
	})
	if n < 20 {
		t.Errorf("%d rules", n)
	}
}

// TestDocs holds that docs/lint.md tells of every rule, with its severity, its words and its cure.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/lint.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, r := range lint.Rules() {
		if r.BuildKit {
			row := "| [" + r.Name + "](" + r.URL + ") |"
			if r.URL == "" {
				row = "| " + r.Name + " |"
			}
			if !strings.Contains(text, row) || r.Fixable != regexp.MustCompile(regexp.QuoteMeta(row)+` yes \|`).MatchString(text) {
				t.Errorf("docs/lint.md has no row %q with what is fixed", row)
			}
			continue
		}
		_, section, ok := strings.Cut(text, "\n### "+r.Name+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		section = strings.Join(strings.Fields(section), " ")
		if !ok || !strings.Contains(section, string(r.Severity)) || !strings.Contains(section, r.Description) || !strings.Contains(section, r.Cure) {
			t.Errorf("docs/lint.md: the section %s should have %q, %q and %q", r.Name, r.Severity, r.Description, r.Cure)
		}
		if !strings.HasSuffix(r.URL, "#"+strings.ToLower(r.Name)) {
			t.Errorf("%s: %s", r.Name, r.URL)
		}
	}
}
