package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/storetest"
)

// hostile are archives of which each must be an error that says what is wrong.
func hostile(t testing.TB) []struct {
	name string
	data []byte
	want string // in the error
	is   error
} {
	s := storetest.New(t)
	img := storetest.Tag(t, s, "shop:v1", storetest.Image(t, s, storetest.Spec{}))
	oci := readTar(t, save(t, s, img))
	docker, _ := dockerArchive(t)
	with := func(list []entry, more ...entry) []byte { return writeTar(t, slices.Concat(list, more)...) }
	replace := func(list []entry, name, content string) []byte {
		list = slices.Clone(list)
		for i := range list {
			if strings.Contains(list[i].name, name) {
				list[i].content = content
				return writeTar(t, list...)
			}
		}
		t.Fatalf("no entry %s", name)
		return nil
	}
	var bomb bytes.Buffer
	gz, err := gzip.NewWriterLevel(&bomb, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(gz)
	if err := tw.WriteHeader(&tar.Header{Name: "manifest.json", Mode: 0o644, Size: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(tw, zeros{}, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	layer := "id1/layer.tar"
	manifest := docker[9].content
	format := archive.ErrFormat
	return []struct {
		name string
		data []byte
		want string
		is   error
	}{
		{"empty", nil, "empty", format},
		{"text", []byte(strings.Repeat("no archive\n", 200)), "not a tar", format},
		{"empty tar", writeTar(t), "no index.json", format},
		{"other tar", writeTar(t, entry{name: "README", content: "hello"}), "no index.json", format},
		{"broken gzip", []byte("\x1f\x8b\x08rubbish"), "gzip", format},
		{"broken zstd", []byte("\x28\xb5\x2f\xfdrubbish rubbish"), "zstd", format},
		{"broken bzip2", []byte("BZh9rubbish"), "bzip2", format},
		{"broken xz", []byte("\xfd7zXZ\x00rubbish rubbish rubbish"), "xz", format},
		{"absolute name", with(oci, entry{name: "/etc/passwd", content: "x"}), "/etc/passwd", format},
		{"dots", with(oci, entry{name: "blobs/../../x", content: "x"}), "leads out", format},
		{"dots in a directory", with(oci, entry{name: "../", kind: tar.TypeDir}), "leads out", format},
		{"link out", with(docker, entry{name: "x/layer.tar", kind: tar.TypeSymlink, link: "../../etc/passwd"}), "leads out", format},
		{"link to root", with(docker, entry{name: "x/layer.tar", kind: tar.TypeSymlink, link: "/etc/passwd"}), "absolute", format},
		{"hard link out", with(docker, entry{name: "x/layer.tar", kind: tar.TypeLink, link: "../passwd"}), "leads out", format},
		{"device", with(oci, entry{name: "null", kind: tar.TypeChar}), "neither", format},
		{"fifo", with(oci, entry{name: "pipe", kind: tar.TypeFifo}), "neither", format},
		{"block device", with(oci, entry{name: "sda", kind: tar.TypeBlock}), "neither", format},
		{"long name", with(oci, entry{name: strings.Repeat("x/", 4000) + "x", content: "x"}), "a name of", format},
		{"duplicate", with(oci, oci[len(oci)-1]), "twice", format},
		{"duplicate by another spelling", with(oci, entry{name: "./" + oci[0].name, content: oci[0].content}), "twice", format},
		{"wrong digest", replace(oci, "blobs/sha256/"+img.Target.Digest.Encoded(), "{}"), img.Target.Digest.String(), imagestore.ErrDigest},
		{"no digest", with(oci, entry{name: "blobs/sha256/abc", content: "x"}), "SHA-256", format},
		{"other algorithm", with(oci, entry{name: "blobs/sha512/" + strings.Repeat("a", 128), content: "x"}), "SHA-256", format},
		{"no layout", slices.Concat(writeTar(t, oci[0])), "oci-layout", format},
		{"other layout", replace(oci, "oci-layout", `{"imageLayoutVersion":"2.0.0"}`), "oci-layout", format},
		{"index is no JSON", replace(oci, "index.json", "{"), "index.json", format},
		{"index is empty", replace(oci, "index.json", "{}"), "names no image", format},
		{"index of null", replace(oci, "index.json", "null"), "names no image", format},
		{"other media type", replace(oci, "index.json", `{"manifests":[{"mediaType":"text/plain"}]}`), "text/plain", format},
		{"bad digest in index", replace(oci, "index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"../../x"}]}`), "../../x", imagestore.ErrDocument},
		{"bad name", replace(oci, "index.json", strings.ReplaceAll(oci[0].content, "docker.io/library/shop:v1", "Not A Name")), "Not A Name", format},
		{"wrong size", replace(oci, "index.json", strings.Replace(oci[0].content, `"size":`, `"size":1`, 1)), "bytes and should have", imagestore.ErrDigest},
		{"huge index.json", with([]entry{{name: "index.json", content: strings.Repeat(" ", 5<<20)}}), "too many", format},
		{"bomb in manifest.json", bomb.Bytes(), "too many", format},
		{"sparse", bytes.ReplaceAll(with(oci, entry{name: "x.tar", content: "1\n0\n1\n" + strings.Repeat("\x00", 506) + "x",
			pax: map[string]string{"GNU_sparse.major": "1", "GNU_sparse.minor": "0", "GNU_sparse.realsize": "1000000000"}}), []byte("GNU_"), []byte("GNU.")), "sparse", format},
		{"garbage behind", append(with(oci), "garbage"...), "follows", format},
		{"another tar behind", append(with(oci), with(oci)...), "follows", format},
		{"no trailer", with(oci)[:len(with(oci))-1024], "cut off", format},
		{"deep JSON", replace(oci, "index.json", strings.Repeat("[", 1<<20)), "index.json", format},

		{"docker: no JSON", replace(docker, "manifest.json", "["), "manifest.json", format},
		{"docker: nothing", replace(docker, "manifest.json", "[]"), "names no image", format},
		{"docker: null", replace(docker, "manifest.json", "[null]"), "names no config", format},
		{"docker: config missing", replace(docker, "manifest.json", strings.ReplaceAll(manifest, `"Config":"`, `"Config":"no`)), "is not in the archive", imagestore.ErrNotFound},
		{"docker: layer missing", replace(docker, "manifest.json", strings.ReplaceAll(manifest, "id1/", "id9/")), "id9/layer.tar", imagestore.ErrNotFound},
		{"docker: layer outside", replace(docker, "manifest.json", strings.ReplaceAll(manifest, "id1/", "../id1/")), "leads out", format},
		{"docker: wrong layer", replace(docker, layer, "other"), "has digest", imagestore.ErrDigest},
		{"docker: wrong config", replace(docker, docker[4].name, "{}"), "has digest", imagestore.ErrDigest},
		{"docker: layers left out", replace(docker, "manifest.json", strings.ReplaceAll(manifest, `"id1/layer.tar"`, ``+`"id1/layer.tar","id2/layer.tar"`)), "tells of 2 layers", format},
		{"docker: bad name", replace(docker, "manifest.json", strings.ReplaceAll(manifest, "shop:v1", "Shop:v1")), "Shop:v1", format},
		{"docker: links in a circle", with(slices.Concat(docker[:5], docker[6:]), entry{name: "id1/layer.tar", kind: tar.TypeSymlink, link: "../a"}, entry{name: "a", kind: tar.TypeSymlink, link: "id1/layer.tar"}), "links lead nowhere", format},

		{"storage: no digest", with([]entry{{name: "docker/registry/v2/repositories/x/_manifests/tags/v1/current/link", content: "latest"}}), "holds no digest", format},
		{"storage: nothing there", with([]entry{{name: "docker/registry/v2/repositories/x/_manifests/tags/v1/current/link", content: digest.FromString("x").String()}}), digest.FromString("x").String(), imagestore.ErrNotFound},
		{"storage: huge link", with([]entry{{name: "docker/registry/v2/repositories/x/_manifests/tags/v1/current/link", content: strings.Repeat("x", 2000)}}), "too many", format},
		{"storage: wrong content", with([]entry{{name: "docker/registry/v2/blobs/sha256/ab/" + digest.FromString("x").Encoded() + "/data", content: "y"}}), "want", imagestore.ErrDigest},
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestHostile(t *testing.T) {
	for _, tt := range hostile(t) {
		t.Run(tt.name, func(t *testing.T) {
			s := storetest.New(t)
			_, err := archive.Load(t.Context(), s, bytes.NewReader(tt.data), archive.Options{})
			if !errors.Is(err, tt.is) || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("got %v, want %q and %v", err, tt.want, tt.is)
			}
			if len(fmt.Sprint(err)) > 2000 {
				t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
			}
			unchanged(t, s)
		})
	}
}

func TestManyEntries(t *testing.T) {
	s := storetest.New(t)
	r, w := io.Pipe()
	go func() {
		gz, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			_ = w.CloseWithError(err)
			return
		}
		tw := tar.NewWriter(gz)
		for i := range 1_000_000 {
			if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d.json", i), Mode: 0o644}); err != nil {
				return // the reader has had enough
			}
		}
	}()
	_, err := archive.Load(t.Context(), s, r, archive.Options{})
	if !errors.Is(err, archive.ErrFormat) || !strings.Contains(err.Error(), "entries") {
		t.Errorf("got %v", err)
	}
	_ = r.Close()
	unchanged(t, s)
}

// Cut anywhere, an archive is an error; what arrived of it helps the next attempt.
func TestTruncated(t *testing.T) {
	s, list := sample(t)
	files, _ := distributionFiles(t)
	var storage []entry
	for name, f := range files {
		storage = append(storage, entry{name: name, content: string(f.Data)})
	}
	slices.SortFunc(storage, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	docker, _ := dockerArchive(t)
	plain := save(t, s, list[3])
	for name, data := range map[string][]byte{
		"oci": plain, "docker": writeTar(t, docker...), "storage": writeTar(t, storage...),
		"gzip": compress(t, "gzip", plain), "zstd": compress(t, "zstd", plain), "xz": compress(t, "xz", plain),
	} {
		t.Run(name, func(t *testing.T) {
			other := storetest.New(t)
			for cut := 0; cut < len(data); {
				if _, err := archive.Load(t.Context(), other, bytes.NewReader(data[:cut]), archive.Options{}); err == nil {
					t.Fatalf("cut at %d of %d: no error", cut, len(data))
				}
				unchanged(t, other)
				switch step := max(1, len(data)/50); {
				case step > 512:
					cut += (cut%512+1)%3*255 + step/512*512 // near the edges of blocks
				default:
					cut += step
				}
			}
			if _, err := archive.Load(t.Context(), other, bytes.NewReader(data), archive.Options{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLoadCanceled(t *testing.T) {
	s, list := sample(t)
	data := save(t, s, list...)
	other := storetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := io.MultiReader(bytes.NewReader(data[:len(data)/2]), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }), bytes.NewReader(data[len(data)/2:]))
	if _, err := archive.Load(ctx, other, r, archive.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unchanged(t, other)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) {
	n, err := f(p)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

func FuzzLoad(f *testing.F) {
	for _, tt := range hostile(f) {
		if len(tt.data) < 1<<20 {
			f.Add(tt.data)
		}
	}
	s, list := sample(f)
	f.Add(save(f, s, list...))
	docker, _ := dockerArchive(f)
	for i := range docker {
		if len(docker[i].content) > 4096 {
			docker[i].content = docker[i].content[:512]
		}
	}
	f.Add(writeTar(f, docker...))
	files, _ := distributionFiles(f)
	var storage []entry
	for name, file := range files {
		storage = append(storage, entry{name: name, content: string(file.Data)})
	}
	f.Add(compress(f, "gzip", writeTar(f, storage...)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := storetest.New(t)
		got, err := archive.Load(t.Context(), s, bytes.NewReader(data), archive.Options{})
		if err != nil {
			unchanged(t, s)
			return
		}
		// What was loaded is whole, and a document like any other.
		if err := archive.Save(t.Context(), io.Discard, s, got); err != nil {
			t.Errorf("loaded, but not to be saved: %v", err)
		}
		for _, img := range got {
			sum, err := s.Inspect(t.Context(), img)
			if err == nil {
				_, err = json.Marshal(sum)
			}
			if err != nil && !errors.Is(err, imagestore.ErrDocument) {
				t.Logf("inspecting %s: %v", img.Name, err)
			}
		}
	})
}
