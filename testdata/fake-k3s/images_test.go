package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func archive(t *testing.T, files ...string) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestArchiveNames(t *testing.T) {
	annotated := func(key, value string) string {
		return `{"manifests": [{"digest": "sha256:00", "annotations": {"` + key + `": "` + value + `"}}]}`
	}
	docker := archive(t, "manifest.json", `[{"RepoTags": ["rancher/pause:3.6", "registry.test:5000/a/b:c"]}]`)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte(docker)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, file, content string
		want                []string
		err                 string
	}{
		{"docker", "a.tar", docker, []string{"docker.io/rancher/pause:3.6", "registry.test:5000/a/b:c"}, ""},
		{"gzip", "a.tar.gz", packed.String(), []string{"docker.io/rancher/pause:3.6", "registry.test:5000/a/b:c"}, ""},
		{"gzip by another name", "a.tar", packed.String(), nil, "EOF"},
		{"zstd that is gzip", "a.tar.zst", packed.String(), nil, "not what its name says"},
		{"containerd's name", "a.tar", archive(t, "index.json", annotated("io.containerd.image.name", "docker.io/library/a:b")), []string{"docker.io/library/a:b"}, ""},
		{"full ref.name", "a.tar", archive(t, "index.json", annotated("org.opencontainers.image.ref.name", "r.test/a:b")), []string{"r.test/a:b"}, ""},
		{"both lists", "a.tar", archive(t, "manifest.json", `[{"RepoTags": ["x:y"]}]`, "index.json", annotated("io.containerd.image.name", "r.test/a:b")), []string{"r.test/a:b"}, ""},
		{"tag alone", "a.tar", archive(t, "index.json", annotated("org.opencontainers.image.ref.name", "v1")), nil, "failed to parse tag"},
		{"digest", "a.tar", archive(t, "index.json", annotated("io.containerd.image.name", "r.test/a@sha256:00")), nil, "failed to parse tag"},
		{"no name", "a.tar", archive(t, "index.json", `{"manifests": [{"digest": "sha256:00"}]}`), nil, "failed to parse tag"},
		{"no tags", "a.tar", archive(t, "manifest.json", `[{"RepoTags": null}]`), nil, "failed to parse tag"},
		{"something else", "a.tar", archive(t, "readme", "x"), nil, "unrecognized image format"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), test.file)
			if err := write(file, test.content, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := archiveNames(file)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
