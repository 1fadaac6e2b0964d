package buildkit_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/buildkit"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/kubefile"
)

// rig is a store with a base image that has a shell, and what builds on it.
type rig struct {
	t      testing.TB
	store  *imagestore.Store
	solver builder.Solver
}

// needRunc skips where BuildKit cannot run in this process.
func needRunc(t testing.TB) {
	t.Helper()
	if err := buildkit.New(buildkit.Options{}).Available(t.Context()); err != nil {
		t.Skip(err)
	}
}

// newRig makes one with BuildKit in this process, in dir.
func newRig(t testing.TB, o buildkit.Options) *rig {
	t.Helper()
	needRunc(t)
	root := t.TempDir()
	s, err := imagestore.Open(filepath.Join(root, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(root, "store", "buildkit")
	}
	solver := buildkit.New(o)
	t.Cleanup(func() {
		if err := solver.Close(); err != nil {
			t.Error(err)
		}
		unchanged(t, root)
	})
	r := &rig{t: t, store: s, solver: solver}
	r.build("FROM scratch\nCOPY . /\n", busybox(t), "base:v1")
	return r
}

// unchanged fails if a mount or a process is left of what ran below a directory.
func unchanged(t testing.TB, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.Contains(line, dir) && fields[4] != dir { // a disk of the test's own
			t.Errorf("a mount is left: %s", line)
		}
	}
	if bundles, _ := filepath.Glob(filepath.Join(dir, "store", "buildkit", "runc-*", "executor", "*", "config.json")); len(bundles) > 0 {
		t.Errorf("containers are left: %v", bundles)
	}
}

// busybox is a directory with a shell and what it needs.
func busybox(t testing.TB) string {
	t.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("there is no busybox (apt install busybox-static)")
	}
	dir := t.TempDir()
	copyFile := func(from, to string) {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(program, "bin/busybox")
	libraries, _ := exec.CommandContext(t.Context(), "ldd", program).Output() // fails for a static one
	for _, word := range strings.Fields(string(libraries)) {
		if path.IsAbs(word) {
			copyFile(word, word)
		}
	}
	for _, applet := range []string{"sh", "cat", "chmod", "chown", "cp", "dd", "echo", "env", "id", "ln", "ls", "mkdir", "mv", "rm", "sleep", "stat", "touch", "test", "wc", "wget"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type change func(*builder.Builder, *builder.Request)

func (r *rig) try(text, dir, tag string, changes ...change) (builder.Result, error) {
	r.t.Helper()
	file, err := kubefile.Parse("Kubefile", strings.NewReader(text))
	if err != nil {
		r.t.Fatal(err)
	}
	ref, err := imagestore.ParseName(tag)
	if err != nil {
		r.t.Fatal(err)
	}
	b := &builder.Builder{Store: r.store, Solver: r.solver}
	req := builder.Request{File: file, Context: dir, Tags: []name.Reference{ref}, Compression: "zstd"}
	for _, c := range changes {
		c(b, &req)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	return b.Build(ctx, req)
}

func (r *rig) build(text, dir, tag string, changes ...change) builder.Result {
	r.t.Helper()
	res, err := r.try(text, dir, tag, changes...)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, text)
	}
	return res
}

// tree is what unpacking an image gives: a line for each path.
func (r *rig) tree(desc ocispec.Descriptor) map[string]string {
	r.t.Helper()
	var m ocispec.Manifest
	if err := r.store.ReadJSON(desc.Digest, &m); err != nil {
		r.t.Fatal(err)
	}
	files := map[string]string{}
	for _, l := range m.Layers {
		blob, err := r.store.Open(l.Digest)
		if err != nil {
			r.t.Fatal(err)
		}
		applyLayer(r.t, files, blob)
		_ = blob.Close()
	}
	return files
}

func applyLayer(t testing.TB, files map[string]string, blob io.Reader) {
	t.Helper()
	lower := maps.Clone(files)
	unpacked, err := compression.NewReader(blob)
	if err != nil {
		t.Fatal(err)
	}
	defer unpacked.Close()
	tr := tar.NewReader(unpacked)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		base := path.Base(name)
		gone := ""
		switch {
		case base == ".wh..wh..opq":
			gone = path.Dir(name) + "/"
		case strings.HasPrefix(base, ".wh."):
			gone = path.Join(path.Dir(name), strings.TrimPrefix(base, ".wh."))
			delete(files, gone)
			gone += "/"
		default:
			data, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			content := string(data)
			if h.Typeflag == tar.TypeLink { // its file's line, so that an order of names changes nothing
				files[name] = files[path.Clean(h.Linkname)]
				continue
			}
			if h.Typeflag != tar.TypeDir {
				for n := range lower { // a file takes the place of a directory
					if strings.HasPrefix(n, name+"/") {
						delete(files, n)
					}
				}
			}
			files[name] = fmt.Sprintf("%c %04o %d:%d %d %v %q %q", h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), xattrs(h), h.Linkname, content)
			continue
		}
		for n := range lower {
			if strings.HasPrefix(n, gone) {
				delete(files, n)
			}
		}
	}
}

func xattrs(h *tar.Header) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			out = append(out, k+"="+h.PAXRecords[k])
		}
	}
	return out
}
