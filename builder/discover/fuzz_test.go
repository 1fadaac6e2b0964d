package discover

import (
	"testing"
	"testing/fstest"
	"time"
)

// FuzzManifest reads any text as a manifest: it ends, does not panic, and finds only names that are names, at lines that
// are there.
func FuzzManifest(f *testing.F) {
	for _, c := range corpus(f) {
		for n, file := range c.tree {
			if isManifest(n) {
				f.Add(file.Data)
			}
		}
	}
	for _, s := range []string{"", "---", "&a [*a]", "a: &a\n  <<: *a\n", "<<: {a: 1}", "{\"a\":", "[[[[[[", "? a\n: b", "!!binary x", "\xff\xfe", "a: \"\\u12\"", "kind: List\napiVersion: v1\nitems: &x [*x]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			t.Skip("long texts are only slow")
		}
		began := time.Now()
		r, err := Find(t.Context(), fstest.MapFS{"m.yaml": {Data: data}}, Options{Candidates: true, KeepGoing: true})
		if took := time.Since(began); took > 20*time.Second {
			t.Fatalf("took %v", took)
		}
		if r == nil {
			t.Fatal(err)
		}
		for _, i := range r.Images {
			if full, err := fullName(i.Ref); err != nil || full != i.Ref {
				t.Errorf("%q read again is %q, %v", i.Ref, full, err)
			}
			for _, w := range i.Where {
				if w.Line < 1 {
					t.Errorf("%s has no line", w)
				}
			}
		}
	})
}
