package pack_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore/unpack"
)

// randomTree makes files of all kinds below dir, in an order and of sizes that rng decides.
func randomTree(t *testing.T, rng *rand.Rand, dir string) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	letters := []string{"a", "b", "-", "é", "x.y", " z", strings.Repeat("long", 40)}
	dirs, files := []string{dir}, []string{}
	for i := range 60 {
		parent := dirs[rng.IntN(len(dirs))]
		name := filepath.Join(parent, fmt.Sprintf("%s%d", letters[rng.IntN(len(letters))], i))
		if len(name) > 3000 {
			continue
		}
		switch k := rng.IntN(10); {
		case k < 2:
			check(os.Mkdir(name, 0o700))
			check(os.Chmod(name, []fs.FileMode{0o755, 0o700, fs.ModeSticky | 0o777, fs.ModeSetgid | 0o750}[rng.IntN(4)]))
			dirs = append(dirs, name)
		case k < 3:
			check(os.Symlink([]string{"/etc/passwd", "../..", "gone", "."}[rng.IntN(4)], name))
		case k < 4 && len(files) > 0:
			check(os.Link(files[rng.IntN(len(files))], name))
		default:
			size := []int{0, 1, 511, 512, 513, rng.IntN(2000), rng.IntN(100_000)}[rng.IntN(7)]
			if i%20 == 7 {
				size = []int{4 << 20, 4<<20 + 1, rng.IntN(9 << 20)}[rng.IntN(3)]
			}
			content := make([]byte, size)
			for j := 0; j < size; j += 1 + rng.IntN(50) {
				content[j] = byte(rng.IntN(256))
			}
			check(os.WriteFile(name, content, 0o600))
			check(os.Chmod(name, []fs.FileMode{0o644, 0o600, 0o755, fs.ModeSetuid | 0o755, 0o444}[rng.IntN(5)]))
			if rng.IntN(5) == 0 {
				_ = setXattr(name, "user.keg", []byte{0, byte(i)}) // where there are any
			}
			files = append(files, name)
		}
	}
}

// describe is all of a tree that a layer keeps: a line for each file.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%q %v", rel, fi.Mode())
		switch {
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		case d.Type().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			ino := fi.Sys().(*syscall.Stat_t).Ino
			if inodes[ino] == "" {
				inodes[ino] = rel
			}
			line += fmt.Sprintf(" %d %x = %q %x", len(data), sha256.Sum256(data), inodes[ino], getXattr(p, "user.keg"))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func packTree(t *testing.T, dir string, o pack.Options) (string, pack.Layer) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	entries, err := (&pack.Scanner{Root: root}).Dir(t.Context(), ".")
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	l, err := pack.Write(t.Context(), &buf, entries, o)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(name, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name, l
}

func TestRoundTrip(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			src := t.TempDir()
			randomTree(t, rand.New(rand.NewPCG(seed, 1)), src)
			want := describe(t, src)
			for _, c := range []pack.Compression{pack.Zstd, pack.Gzip} {
				when := time.Unix(1_600_000_000, 0)
				name, l := packTree(t, src, pack.Options{Compression: c, Parallelism: 1 + int(seed%3), ModTime: when})
				dst := filepath.Join(t.TempDir(), "rootfs")
				layer := unpack.Layer{MediaType: l.Descriptor.MediaType, DiffID: l.DiffID, Open: func() (io.ReadCloser, error) { return os.Open(name) }}
				if err := unpack.Rootfs(t.Context(), []unpack.Layer{layer}, dst, unpack.Options{NoSync: true}); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, describe(t, dst)); diff != "" {
					t.Errorf("%s: %s", c, diff)
				}
				err := filepath.WalkDir(dst, func(p string, d fs.DirEntry, err error) error {
					if err != nil || p == dst {
						return err
					}
					if fi, err := d.Info(); err != nil || !fi.ModTime().Equal(when) {
						t.Errorf("%s has the time %v, %v", p, fi.ModTime(), err)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// layout puts a layer into an OCI layout, as image "t".
func layout(t *testing.T, blob string, l pack.Layer) string {
	t.Helper()
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, v any) ocispec.Descriptor {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		if err := os.WriteFile(filepath.Join(blobs, desc.Digest.Encoded()), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	if err := os.Link(blob, filepath.Join(blobs, l.Descriptor.Digest.Encoded())); err != nil {
		t.Fatal(err)
	}
	config := put(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}},
	})
	manifest := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{l.Descriptor},
	})
	manifest.Annotations = map[string]string{ocispec.AnnotationRefName: "t"}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{manifest}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"index.json": index, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(ctx context.Context, t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
}

func TestUmociUnpacksGzip(t *testing.T) {
	if _, err := exec.LookPath("umoci"); err != nil {
		t.Skip("umoci is not installed")
	}
	if os.Getuid() != 0 {
		t.Skip("umoci unpacks owners as root only")
	}
	src := t.TempDir()
	randomTree(t, rand.New(rand.NewPCG(99, 1)), src)
	name, l := packTree(t, src, pack.Options{Compression: pack.Gzip})
	dst := filepath.Join(t.TempDir(), "bundle")
	run(t.Context(), t, "umoci", "unpack", "--image", layout(t, name, l)+":t", dst)
	if diff := cmp.Diff(describe(t, src), describe(t, filepath.Join(dst, "rootfs"))); diff != "" {
		t.Error(diff)
	}
}

func TestSkopeoDecompressesZstd(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed")
	}
	src := t.TempDir()
	randomTree(t, rand.New(rand.NewPCG(98, 1)), src)
	name, l := packTree(t, src, pack.Options{})
	dst := t.TempDir()
	run(t.Context(), t, "skopeo", "--insecure-policy", "copy", "--dest-decompress", "oci:"+layout(t, name, l)+":t", "dir:"+dst)
	fi, err := os.Stat(filepath.Join(dst, l.DiffID.Encoded()))
	if err != nil || fi.Size() != l.Uncompressed {
		t.Errorf("skopeo made no layer of %d bytes with the DiffID: %v", l.Uncompressed, err)
	}
}
