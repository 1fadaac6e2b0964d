package lock

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var (
	one = digest.FromString("one")
	two = digest.FromString("two")
)

// sample has an entry of every kind.
func sample() *File {
	return New(
		Entry{Kind: Image, Ref: "nginx:1.27", Digest: one, Platforms: []Platform{{"linux/arm64", two, 20}, {"linux/amd64", one, 10}}},
		Entry{Kind: Image, Ref: "quay.io/a/b@" + two.String(), Digest: two, Embed: true, Platforms: []Platform{{"linux/amd64", two, 30}}},
		Entry{Kind: App, Ref: "https://example.com/chart-1.tgz", Digest: one, Size: 5},
		Entry{Kind: Add, Ref: "https://example.com/tool", Digest: two, Size: 7},
		Entry{Kind: From, Ref: "reg.example.com:5000/base:v1", Digest: one, Platforms: []Platform{{"linux/amd64", one, 0}}},
	)
}

func encode(t *testing.T, f *File) []byte {
	t.Helper()
	data, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	data := encode(t, sample())
	f, err := Parse("Kubefile.lock", data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), f); diff != "" {
		t.Error(diff)
	}
	var order []string
	for _, e := range f.Entries {
		order = append(order, string(e.Kind)+" "+e.Name())
	}
	want := []string{
		"from reg.example.com:5000/base:v1", "add https://example.com/tool", "app https://example.com/chart-1.tgz",
		"image docker.io/library/nginx:1.27", "image quay.io/a/b@" + two.String(),
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Error(diff)
	}
	for _, ref := range []string{"nginx:1.27", "docker.io/library/nginx:1.27", "index.docker.io/nginx:1.27", "nginx:1.27@" + one.String()} {
		if e, ok := f.Find(Image, ref); !ok || e.Ref != "nginx:1.27" {
			t.Errorf("%s is %v %v", ref, e, ok)
		}
	}
	if _, ok := f.Find(From, "nginx:1.27"); ok {
		t.Error("an embedded image is no base")
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, f.Platforms()); diff != "" {
		t.Error(diff)
	}
	var none *File
	if _, ok := none.Find(Image, "nginx"); ok || none.Platforms() != nil {
		t.Error("no lock has something")
	}
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("lock.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t *testing.T, s *jsonschema.Schema, data []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

func TestSchema(t *testing.T) {
	s := schema(t)
	for name, f := range map[string]*File{"sample": sample(), "empty": New()} {
		if err := valid(t, s, encode(t, f)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStrict holds that what is wrong is refused with its place, and that the schema refuses what it can see.
func TestStrict(t *testing.T) {
	good := string(encode(t, sample()))
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the sample", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	entry := func(fields string) string { return `{"version": 1, "entries": [{` + fields + `}]}` }
	d := one.String()
	s := schema(t)
	for name, c := range map[string]struct {
		text   string
		want   error
		line   int
		says   string
		schema bool // does not see it
	}{
		"empty":              {text: "", want: ErrFormat, schema: true},
		"no JSON":            {text: "<<<<<<< HEAD\n", want: ErrFormat, line: 1, schema: true},
		"conflict":           {text: replace(`    {`, "<<<<<<< HEAD\n    {"), want: ErrFormat, line: 4, schema: true},
		"cut":                {text: good[:len(good)/2], want: ErrFormat, schema: true},
		"a list":             {text: "[]", want: ErrFormat},
		"more":               {text: good + "{}", want: ErrFormat, schema: true},
		"no version":         {text: `{"entries": []}`, want: ErrFormat, says: "no version"},
		"newer":              {text: `{"version": 2, "things": {}}`, want: ErrVersion, says: "2, this keg knows 1"},
		"text as version":    {text: `{"version": "1", "entries": []}`, want: ErrVersion},
		"no entries":         {text: `{"version": 1}`, want: ErrFormat, says: "no entries"},
		"null entries":       {text: `{"version": 1, "entries": null}`, want: ErrFormat},
		"unknown on top":     {text: `{"version": 1, "entries": [], "x": 1}`, want: ErrField, line: 1, says: `"x"`},
		"unknown field":      {text: replace(`"kind": "from",`, `"kind": "from", "sha": "x",`), want: ErrField, line: 5, says: `"sha"`},
		"other case":         {text: replace(`"ref": "reg`, `"Ref": "reg`), want: ErrField, line: 6, says: `"Ref"`},
		"unknown in list":    {text: replace(`"platform": "linux/amd64",`, `"os": "linux", "platform": "linux/amd64",`), want: ErrField, line: 10},
		"twice":              {text: replace(`"kind": "from",`, `"kind": "from", "kind": "from",`), want: ErrField, says: "twice", schema: true},
		"wrong type":         {text: entry(`"kind": "add", "ref": 5, "digest": "` + d + `"`), want: ErrField},
		"null":               {text: entry(`"kind": "add", "ref": null, "digest": "` + d + `"`), want: ErrField},
		"fraction":           {text: replace(`"size": 7`, `"size": 7.5`), want: ErrField},
		"negative":           {text: replace(`"size": 7`, `"size": -7`), want: ErrEntry},
		"huge":               {text: replace(`"size": 7`, `"size": 9223372036854775807`), want: ErrEntry},
		"kind":               {text: replace(`"kind": "from"`, `"kind": "base"`), want: ErrEntry, line: 4, says: "from, add, app or image"},
		"no ref":             {text: entry(`"kind": "add", "digest": "` + d + `"`), want: ErrEntry},
		"no digest":          {text: entry(`"kind": "add", "ref": "https://a/b"`), want: ErrDigest},
		"short digest":       {text: replace(one.String(), one.String()[:20]), want: ErrDigest, line: 4, says: "from reg.example.com:5000/base:v1"},
		"sha512":             {text: replace(one.String(), digest.SHA512.FromString("x").String()), want: ErrDigest},
		"no platforms":       {text: entry(`"kind": "image", "ref": "a", "digest": "` + d + `"`), want: ErrEntry},
		"platforms of file":  {text: entry(`"kind": "add", "ref": "https://a/b", "digest": "` + d + `", "platforms": [{"platform": "linux/amd64", "digest": "` + d + `", "size": 1}]`), want: ErrEntry},
		"size of image":      {text: replace(`"ref": "nginx:1.27",`, `"ref": "nginx:1.27", "size": 1,`), want: ErrEntry},
		"embed a base":       {text: replace(`"kind": "from",`, `"kind": "from", "embed": true,`), want: ErrEntry},
		"platform":           {text: replace(`"linux/arm64"`, `"arm64"`), want: ErrEntry, says: "linux/amd64"},
		"platform twice":     {text: replace(`"linux/arm64"`, `"linux/amd64"`), want: ErrEntry, says: "twice", schema: true},
		"digest of platform": {text: replace(two.String()+"\",\n          \"size\": 20", "md5:1\",\n          \"size\": 20"), want: ErrDigest},
		"image name":         {text: replace(`"nginx:1.27"`, `"NGINX:1.27"`), want: ErrEntry, schema: true},
		"tag with path":      {text: replace(`"nginx:1.27"`, `"../../x"`), want: ErrEntry, schema: true},
		"URL":                {text: replace(`"https://example.com/tool"`, `"tool"`), want: ErrEntry, schema: true},
		"another digest":     {text: replace("@"+two.String(), "@"+one.String()), want: ErrDigest, says: "not that of the reference", schema: true},
		"duplicate":          {text: replace(`"quay.io/a/b@`+two.String()+`"`, `"docker.io/library/nginx:1.27"`), want: ErrDuplicate, says: "line ", schema: true},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse("Kubefile.lock", []byte(c.text))
			var e *Error
			if f != nil || !errors.Is(err, c.want) || !errors.As(err, &e) {
				t.Fatalf("the error is %v, want %v", err, c.want)
			}
			if c.line > 0 && e.Line != c.line {
				t.Errorf("%v: line %d, want %d", err, e.Line, c.line)
			}
			if !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "Kubefile.lock") {
				t.Errorf("%q does not say %q", err, c.says)
			}
			if !c.schema {
				if err := valid(t, s, []byte(c.text)); err == nil {
					t.Error("the schema lets it pass")
				}
			}
		})
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
	for _, want := range []bool{true, false} {
		if changed, err := Write(path, sample()); err != nil || changed != want {
			t.Fatalf("changed %v, want %v: %v", changed, want, err)
		}
	}
	f, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), f); diff != "" {
		t.Error(diff)
	}
	if err := os.Truncate(path, maxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrFormat) {
		t.Errorf("the error is %v", err)
	}
}

func TestDiff(t *testing.T) {
	amd := []Platform{{"linux/amd64", one, 1}}
	old := New(
		Entry{Kind: Image, Ref: "same", Digest: one, Platforms: amd},
		Entry{Kind: Image, Ref: "moved:1", Digest: one, Platforms: amd},
		Entry{Kind: Image, Ref: "wider:1", Digest: one, Platforms: amd},
		Entry{Kind: Add, Ref: "https://a/gone", Digest: two},
	)
	new := New(
		Entry{Kind: Image, Ref: "docker.io/library/same:latest", Digest: one, Platforms: amd},
		Entry{Kind: Image, Ref: "moved:1", Digest: two, Platforms: amd},
		Entry{Kind: Image, Ref: "wider:1", Digest: one, Platforms: append(amd, Platform{"linux/arm64", two, 1})},
		Entry{Kind: From, Ref: "base:1"},
	)
	err := &DiffError{File: "Kubefile.lock", Changes: Diff(old, new)}
	want := `Kubefile.lock does not match this build:
  + from base:1
  - add https://a/gone TWO
  ~ image moved:1 ONE -> TWO
  ~ image wider:1 ONE for linux/amd64 -> for linux/amd64,linux/arm64`
	want = strings.NewReplacer("ONE", one.String(), "TWO", two.String()).Replace(want)
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
	if c := Diff(old, old); len(c) > 0 {
		t.Errorf("changes %v", c)
	}
	if c := Diff(nil, old); len(c) != 4 || c[0].Old != nil {
		t.Errorf("changes %v", c)
	}
}

func TestURL(t *testing.T) {
	if got := URL("https://ann:secret@example.com/a?b=c"); strings.Contains(got, "secret") || !strings.HasSuffix(got, "example.com/a?b=c") {
		t.Error(got)
	}
}

func FuzzParse(f *testing.F) {
	data, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version": 1, "entries": []}`))
	f.Add([]byte(`{"version": 2}`))
	f.Add([]byte(`{"version": 1, "entries": [{"kind": "image", "kind": "from"}]} x`))
	f.Add([]byte(`{"version":1,"entries":[{"kind":"add","ref":"http://a/%zz","digest":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse("Kubefile.lock", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v of type %T", err, err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatal("what is no JSON was read")
		}
		text, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("Kubefile.lock", text)
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, text)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
