package archive_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/imagestore/storetest"
)

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed (Debian package %s)", program, program)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return string(out)
}

func write(t *testing.T, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "images.tar")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// What skopeo reads of a saved cluster image, and writes as other kinds of archive, is what we had. (Debian
// 12's loses the artifact type of an index that it copies. On its way to an oci-archive it turns images
// with Docker's media types into OCI's, with other digests; so there are none here.)
func TestSkopeo(t *testing.T) {
	s := storetest.New(t)
	ci, err := s.ClusterImage(t.Context(), storetest.ClusterImage(t, s).Desc)
	if err != nil {
		t.Fatal(err)
	}
	ci.Embedded = slices.DeleteFunc(ci.Embedded, func(e clusterimage.Embedded) bool {
		return e.Manifest.MediaType == imagestore.MediaTypeDockerManifest
	})
	img := storetest.Tag(t, s, "reg.example.com/shop:v1", storetest.PutJSON(t, s, ocispec.MediaTypeImageIndex, ci.Index()))
	file := write(t, save(t, s, img))
	var info struct{ Labels map[string]string }
	if err := json.Unmarshal([]byte(run(t, "skopeo", "--override-os=linux", "--override-arch=amd64", "inspect", "oci-archive:"+file)), &info); err != nil {
		t.Fatal(err)
	}
	if info.Labels["io.clusterimage.runtime"] != "kubernetes" {
		t.Errorf("labels: %v", info.Labels)
	}
	ref := "oci-archive:" + file + ":" + img.Name
	all := filepath.Join(t.TempDir(), "all.tar")
	run(t, "skopeo", "copy", "--all", ref, "oci-archive:"+all+":"+img.Name)
	other := storetest.New(t)
	got := loadFile(t, other, all)
	if len(got) != 1 || got[0].Name != img.Name {
		t.Fatalf("by skopeo copy --all: %v, want %v", got, img)
	}
	copied, err := other.ClusterImage(t.Context(), got[0].Target)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ci.Index(), copied.Index()); diff != "" {
		t.Errorf("by skopeo copy --all (-want +got):\n%s", diff)
	}
	docker := filepath.Join(t.TempDir(), "docker.tar")
	run(t, "skopeo", "--override-os=linux", "--override-arch=amd64", "copy", ref, "docker-archive:"+docker+":shop:v2")
	got = loadFile(t, other, docker)
	if len(got) != 1 || got[0].Name != "docker.io/library/shop:v2" {
		t.Errorf("docker-archive: %v", got)
	}
	want, err := s.Inspect(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := other.Inspect(t.Context(), got[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range sum.Layers {
		if l.DiffID != want.Layers[i].DiffID {
			t.Errorf("layer %d: %s, want %s", i, l.DiffID, want.Layers[i].DiffID)
		}
	}
}

func loadFile(t *testing.T, s *imagestore.Store, file string) []imagestore.Tagged {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := archive.Load(t.Context(), s, f, archive.Options{})
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return got
}

func TestPodman(t *testing.T) {
	s := storetest.New(t)
	img := storetest.Tag(t, s, "localhost/shop:v1", storetest.Image(t, s, storetest.Spec{Files: []string{"a", "b"}}))
	file := write(t, save(t, s, img))
	if os.Geteuid() != 0 {
		t.Skip("podman load wants root here")
	}
	dir := t.TempDir()
	podman := func(args ...string) string {
		return run(t, "podman", append([]string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}, args...)...)
	}
	if out := podman("load", "-i", file); !strings.Contains(out, "localhost/shop:v1") {
		t.Errorf("podman load: %s", out)
	}
	for _, format := range []string{"docker-archive", "oci-archive"} {
		out := filepath.Join(dir, format)
		podman("save", "--format", format, "-o", out, "localhost/shop:v1")
		other := storetest.New(t)
		got := loadFile(t, other, out)
		if len(got) != 1 || got[0].Name != "localhost/shop:v1" {
			t.Errorf("%s: %v", format, got)
		}
		if _, err := other.Inspect(t.Context(), got[0]); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

func readFile(t *testing.T, s *imagestore.Store, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir(), name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
