package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
)

// TestLayoutContext holds that images of OCI layouts that other tools wrote can be built on and copied from.
func TestLayoutContext(t *testing.T) {
	other := storetest.New(t)
	one := storetest.Image(t, other, storetest.Spec{Files: []string{"one"}})
	two := storetest.Image(t, other, storetest.Spec{Files: []string{"two"}})
	storetest.Tag(t, other, "example.com/x:one", one)
	storetest.Tag(t, other, "example.com/x:latest", storetest.Index(t, other, two))
	single := storetest.New(t)
	storetest.Tag(t, single, "example.com/only:v7", storetest.Image(t, single, storetest.Spec{Files: []string{"only"}}))
	for _, tt := range []struct{ name, context, want, wrong string }{
		{"tag", other.Dir() + ":one", "one", ""},
		{"latest, an index", other.Dir(), "two", ""},
		{"digest", other.Dir() + "@" + one.Digest.String(), "one", ""},
		{"digest in an index", other.Dir() + "@" + two.Digest.String(), "two", ""},
		{"the only one", single.Dir(), "only", ""},
		{"no such tag", other.Dir() + ":three", "", "which has"},
		{"no such digest", other.Dir() + "@sha256:" + strings.Repeat("0", 64), "", "no such image"},
		{"no digest", other.Dir() + "@three", "", "digest"},
		{"no layout", t.TempDir(), "", "opening OCI layout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tb := &testBuild{kubefile: "FROM base\n", request: func(r *Request) { r.BuildContexts = map[string]string{"base": "oci-layout://" + tt.context} }}
			res, err := tb.run(t)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) || !strings.Contains(err.Error(), "build context base") {
					t.Errorf("%v, not %q", err, tt.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := tb.layers(t, res); len(got) != 1 || len(got[0]) != 1 || !strings.HasSuffix(got[0][0], " "+tt.want) {
				t.Errorf("it was built on %q", got)
			}
		})
	}
	t.Run("damaged", func(t *testing.T) {
		var m ocispec.Manifest
		if err := single.ReadJSON(mustResolve(t, single, "example.com/only:v7").Digest, &m); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Clean(single.BlobPath(m.Layers[0].Digest)), []byte("spoilt"), 0o600); err != nil {
			t.Fatal(err)
		}
		tb := &testBuild{kubefile: "FROM base\n", request: func(r *Request) { r.BuildContexts = map[string]string{"base": "oci-layout://" + single.Dir()} }}
		if _, err := tb.run(t); !errors.Is(err, imagestore.ErrDigest) {
			t.Error(err)
		}
	})
}

func mustResolve(t *testing.T, s *imagestore.Store, name string) ocispec.Descriptor {
	t.Helper()
	tagged, err := s.Resolve(name)
	if err != nil {
		t.Fatal(err)
	}
	return tagged.Target
}
