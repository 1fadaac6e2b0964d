package discover

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/clusterimage/keg/basefs"
)

// A case of the corpus is a txtar file. Lines of its comment that begin with @ are options; a directory that ends in .tgz
// is packed. Its file want lists, checked by hand:
//
//	typed REF, declared REF    is found and taken
//	candidate CONFIDENCE REF   is found, not taken, and an image
//	noise CONFIDENCE REF       is found, not taken, and no image that the cluster pulls
//	missed REF                 is an image, and not found: the limits of the search, written down
//	ignored REF                is left out because somebody said so
//	at REF PLACE               is one of its places, as Where.String writes it
//	skipped TEXT, error TEXT   is part of what is skipped, or of the error
type corpusCase struct {
	name string
	tree fstest.MapFS
	opts Options
	want []string
}

func corpus(t testing.TB) []corpusCase {
	t.Helper()
	files, err := filepath.Glob("../../testdata/discover/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	var out []corpusCase
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c := corpusCase{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), tree: fstest.MapFS{}}
		c.opts.Apps = map[string]map[string]string{}
		data := map[string][]byte{}
		for _, f := range ar.Files {
			data[f.Name] = f.Data
		}
		c.want = lines(data["want"])
		delete(data, "want")
		for _, l := range lines(ar.Comment) {
			if l, ok := strings.CutPrefix(l, "@"); ok {
				c.option(t, data, strings.Fields(l))
			}
		}
		packed := map[string]map[string][]byte{}
		for n, d := range data {
			if i := strings.Index(n, ".tgz/"); i >= 0 {
				if packed[n[:i+4]] == nil {
					packed[n[:i+4]] = map[string][]byte{}
				}
				packed[n[:i+4]][n[i+5:]] = d
				continue
			}
			c.tree[n] = &fstest.MapFile{Data: d, Mode: 0o644}
		}
		for n, members := range packed {
			c.tree[n] = &fstest.MapFile{Data: tgz(t, members), Mode: 0o644}
		}
		if m, ok := c.tree[basefs.MetadataFile]; ok {
			if c.opts.Metadata, err = basefs.ParseMetadata(m.Data); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
		out = append(out, c)
	}
	return out
}

func (c *corpusCase) option(t testing.TB, data map[string][]byte, words []string) {
	t.Helper()
	arg := func(i int) string {
		if i >= len(words) {
			t.Fatalf("%s: @%s wants more words", c.name, words[0])
		}
		return words[i]
	}
	switch words[0] {
	case "crlf":
		data[arg(1)] = bytes.ReplaceAll(data[arg(1)], []byte("\n"), []byte("\r\n"))
	case "bom":
		data[arg(1)] = append(slices.Clone(bom), data[arg(1)]...)
	case "nonl":
		data[arg(1)] = bytes.TrimRight(data[arg(1)], "\n")
	case "roots":
		c.opts.Roots = words[1:]
	case "tree":
		c.opts.Roots = Roots()
	case "elsewhere":
		c.opts.Elsewhere = true
	case "system":
		c.opts.System = true
	case "candidates":
		c.opts.Candidates = true
	case "keep-going":
		c.opts.KeepGoing = true
	case "strict":
		c.opts.Strict = true
	case "take":
		c.opts.Take = words[1:]
	case "ignore":
		c.opts.Ignore = words[1:]
	case "kube":
		c.opts.KubeVersion = arg(1)
	case "api":
		c.opts.APIVersions = words[1:]
	case "values":
		for _, n := range words[1:] {
			c.opts.Values = append(c.opts.Values, Values{Name: n, Data: data[n]})
			delete(data, n)
		}
	case "env":
		c.opts.Env = pairs(words[1:])
	case "app":
		c.opts.Apps[arg(1)] = pairs(words[2:])
	default:
		t.Fatalf("%s: unknown option @%s", c.name, words[0])
	}
}

func pairs(words []string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		out[k] = v
	}
	return out
}

func lines(data []byte) []string {
	var out []string
	for l := range strings.Lines(string(data)) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			out = append(out, l)
		}
	}
	return out
}

func tgz(t testing.TB, members map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	var names []string
	nested := map[string]map[string][]byte{}
	for n, d := range members {
		if i := strings.Index(n, ".tgz/"); i >= 0 { // a packed chart in a packed chart
			if nested[n[:i+4]] == nil {
				nested[n[:i+4]] = map[string][]byte{}
			}
			nested[n[:i+4]][n[i+5:]] = d
			continue
		}
		names = append(names, n)
	}
	for n, m := range nested {
		members[n] = tgz(t, m)
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		err := errors.Join(tw.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(members[n])), Typeflag: tar.TypeReg}))
		if _, werr := tw.Write(members[n]); err != nil || werr != nil {
			t.Fatal(err, werr)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestCorpus compares what is found with what was written down by hand, and prints precision and recall.
func TestCorpus(t *testing.T) {
	var typed, cand tally
	byConfidence := map[Confidence]*tally{High: {}, Medium: {}, Low: {}}
	cases := corpus(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, err := Find(t.Context(), c.tree, c.opts)
			got := map[string]bool{}
			var report []string
			if r == nil {
				r = &Report{}
			}
			for _, f := range r.Images {
				l := fmt.Sprintf("candidate %s %s", f.Confidence, f.Ref)
				switch {
				case f.Ignored:
					l = "ignored " + f.Ref
				case f.Kind != Candidate:
					l = fmt.Sprintf("%s %s", f.Kind, f.Ref)
				}
				got[l] = true
				for _, w := range f.Where {
					report = append(report, "at "+f.Ref+" "+w.String())
				}
			}
			for _, s := range r.Skipped {
				report = append(report, "skipped "+s.String())
			}
			if err != nil {
				for l := range strings.Lines(err.Error()) {
					report = append(report, "error "+strings.TrimSpace(l))
				}
			}
			used := make([]bool, len(report))
			var gotList, wantList []string
			for _, w := range c.want {
				word, rest, _ := strings.Cut(w, " ")
				switch word {
				case "typed", "declared":
					wantList = append(wantList, w)
					typed.count(true, got[w])
				case "ignored":
					wantList = append(wantList, w)
				case "candidate", "noise":
					l := "candidate " + rest
					wantList = append(wantList, l)
					real := word == "candidate"
					conf, _, _ := strings.Cut(rest, " ")
					cand.count(real, got[l])
					byConfidence[Confidence(conf)].count(real, got[l])
				case "missed":
					cand.count(true, false)
				case "at", "skipped", "error":
					i := slices.IndexFunc(report, func(l string) bool {
						return strings.HasPrefix(l, word) && (word == "at" && l == w || word != "at" && strings.Contains(l, rest))
					})
					if i < 0 {
						t.Errorf("there is no %q", w)
					} else {
						for j, l := range report {
							used[j] = used[j] || word != "at" && strings.HasPrefix(l, word) && strings.Contains(l, rest)
						}
					}
				default:
					t.Errorf("want: unknown word %q", w)
				}
			}
			for l := range got {
				gotList = append(gotList, l)
				if !slices.Contains(wantList, l) && !strings.HasPrefix(l, "candidate") {
					typed.count(false, true)
				}
			}
			slices.Sort(gotList)
			slices.Sort(wantList)
			if diff := cmp.Diff(slices.Compact(wantList), gotList); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
			for i, l := range report {
				if !used[i] && !strings.HasPrefix(l, "at ") {
					t.Errorf("unexpected: %s", l)
				}
			}
			if t.Failed() {
				t.Logf("report:\n%s", strings.Join(report, "\n"))
			}
		})
	}
	t.Logf("%d cases", len(cases))
	t.Logf("typed and declared: %s", typed)
	t.Logf("candidates:         %s", cand)
	for _, c := range []Confidence{High, Medium, Low} {
		t.Logf("  %-6s            %s", c, byConfidence[c])
	}
	if typed.missed > 0 {
		t.Errorf("%d images in typed fields were not found", typed.missed)
	}
	if len(cases) < 40 {
		t.Errorf("%d cases are too few", len(cases))
	}
}

// tally counts right and wrong finds.
type tally struct{ right, wrong, missed int }

func (c *tally) count(real, found bool) {
	switch {
	case real && found:
		c.right++
	case real:
		c.missed++
	case found:
		c.wrong++
	}
}

func (c tally) String() string {
	share := func(of int) float64 {
		if of == 0 {
			return 100
		}
		return 100 * float64(c.right) / float64(of)
	}
	return fmt.Sprintf("precision %.1f %%, recall %.1f %% (%d right, %d wrong, %d missed)",
		share(c.right+c.wrong), share(c.right+c.missed), c.right, c.wrong, c.missed)
}

// TestParallelism runs the whole corpus as one tree with different numbers of workers: the report is the same.
func TestParallelism(t *testing.T) {
	tree := fstest.MapFS{}
	for _, c := range corpus(t) {
		for n, f := range c.tree {
			if path.Base(n) != ConfigFile {
				tree[c.name+"/"+n] = f
			}
		}
	}
	var want *Report
	var wantErr string
	for _, p := range []int{1, 2, 16, 16} {
		r, err := Find(t.Context(), tree, Options{Parallelism: p, KeepGoing: true})
		if r == nil || err == nil {
			t.Fatalf("report %v, error %v", r, err)
		}
		if want == nil {
			want, wantErr = r, err.Error()
			if len(r.Images) < 60 {
				t.Errorf("%d images", len(r.Images))
			}
			continue
		}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("%d workers (-want +got):\n%s", p, diff)
		}
		if err.Error() != wantErr {
			t.Errorf("%d workers: errors differ:\n%s\nnot\n%s", p, err, wantErr)
		}
	}
}
