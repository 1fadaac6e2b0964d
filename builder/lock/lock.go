// Package lock is the format of Kubefile.lock: what every reference of a build stood for when it was
// locked. A build that has one takes digests from it, so that the same Kubefile gives the same image
// whatever happened to tags meanwhile. lock.schema.json says the same as a JSON schema, docs/lock.md in prose.
package lock

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/atomicfile"
)

const (
	// FileName is what a lock is called beside its Kubefile.
	FileName = "Kubefile.lock"
	// Version is that of the format.
	Version = 1
)

// Kind is what the build does with a reference.
type Kind string

// The kinds, in the order in which they stand in the file.
const (
	// From is an image that the build reads: FROM, COPY --from, RUN --mount=from, and the tools of RUN.
	From Kind = "from"
	// Add is a file that ADD downloads.
	Add Kind = "add"
	// App is a file that APP, CNI or CSI downloads, such as a packed chart.
	App Kind = "app"
	// Image is a container image that is embedded.
	Image Kind = "image"
)

var kinds = []Kind{From, Add, App, Image}

// OfImage says whether references of this kind are names of images; else they are URLs.
func (k Kind) OfImage() bool { return k == From || k == Image }

// File is a lock. Its entries are in order and each (Kind, Name) stands there once: New sees to it.
type File struct {
	Version int     `json:"version"`
	Entries []Entry `json:"entries"`
}

// Entry is one reference.
type Entry struct {
	Kind Kind `json:"kind"`
	// Ref is as it was written: "nginx:1.27", "https://example.com/a.tgz". A password in a URL is left out.
	Ref string `json:"ref"`
	// Digest is that of the index or manifest that the registry has under Ref, or of the file.
	Digest digest.Digest `json:"digest"`
	// Size is that of a file in bytes; images have sizes by platform.
	Size int64 `json:"size,omitempty"`
	// Embed embeds an image that nothing in the tree names.
	Embed bool `json:"embed,omitempty"`
	// Platforms are those of an image that were locked, sorted by name.
	Platforms []Platform `json:"platforms,omitempty"`
}

// Platform is an image for one platform.
type Platform struct {
	// Platform is the one asked for, such as "linux/amd64".
	Platform string `json:"platform"`
	// Digest is that of the image's own manifest.
	Digest digest.Digest `json:"digest"`
	// Size is the sum of the manifest, the config and the layers in bytes.
	Size int64 `json:"size"`
}

// Name is by what an entry is found: the full name of an image, such as "docker.io/library/nginx:1.27",
// or the URL.
func (e Entry) Name() string {
	if !e.Kind.OfImage() {
		return e.Ref
	}
	if n, err := ImageName(e.Ref); err == nil {
		return n
	}
	return e.Ref
}

// For returns what is locked for a platform.
func (e Entry) For(platform string) (Platform, bool) {
	i := slices.IndexFunc(e.Platforms, func(p Platform) bool { return p.Platform == platform })
	if i < 0 {
		return Platform{}, false
	}
	return e.Platforms[i], true
}

// ImageName is the full name that an image is known by. NAME:TAG@DIGEST is known as NAME:TAG.
func ImageName(ref string) (string, error) {
	before, pinned := cut(ref)
	if pinned != "" && strings.Contains(before[strings.LastIndex(before, "/")+1:], ":") {
		if _, err := imagestore.ParseName(ref); err != nil {
			return "", err
		}
		ref = before
	}
	parsed, err := imagestore.ParseName(ref)
	if err != nil {
		return "", err
	}
	return imagestore.FullName(parsed), nil
}

// cut separates the digest that a reference itself has, or "".
func cut(ref string) (before string, d digest.Digest) {
	before, after, _ := strings.Cut(ref, "@")
	return before, digest.Digest(after)
}

// New makes a lock of entries in any order. Of two for one thing the first one counts, with the platforms
// of both.
func New(entries ...Entry) *File {
	f := &File{Version: Version, Entries: []Entry{}}
	at := map[key]int{}
	for _, e := range entries {
		k := keyOf(e)
		if i, had := at[k]; had {
			f.Entries[i] = merge(f.Entries[i], e)
			continue
		}
		e.Platforms = sorted(e.Platforms)
		at[k] = len(f.Entries)
		f.Entries = append(f.Entries, e)
	}
	slices.SortFunc(f.Entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), strings.Compare(a.Name(), b.Name()))
	})
	return f
}

type key struct {
	kind Kind
	name string
}

func keyOf(e Entry) key { return key{e.Kind, e.Name()} }

func merge(a, b Entry) Entry {
	a.Embed = a.Embed || b.Embed
	if a.Digest == b.Digest {
		for _, p := range b.Platforms {
			if _, had := a.For(p.Platform); !had {
				a.Platforms = sorted(append(slices.Clone(a.Platforms), p))
			}
		}
	}
	return a
}

func sorted(list []Platform) []Platform {
	return slices.SortedFunc(slices.Values(list), func(a, b Platform) int { return strings.Compare(a.Platform, b.Platform) })
}

// Find returns the entry of a reference, however it is written. A nil File has none.
func (f *File) Find(kind Kind, ref string) (Entry, bool) {
	if f == nil {
		return Entry{}, false
	}
	want := keyOf(Entry{Kind: kind, Ref: ref})
	i := slices.IndexFunc(f.Entries, func(e Entry) bool { return e.Kind == kind && keyOf(e) == want })
	if i < 0 {
		return Entry{}, false
	}
	return f.Entries[i], true
}

// Platforms are all that some image is locked for, sorted.
func (f *File) Platforms() []string {
	if f == nil {
		return nil
	}
	var out []string
	for _, e := range f.Entries {
		for _, p := range e.Platforms {
			out = append(out, p.Platform)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Encode is the file's text: the same entries give the same bytes.
func (f *File) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(New(f.Entries...)); err != nil {
		return nil, fmt.Errorf("writing lock: %w", err)
	}
	return b.Bytes(), nil
}

// Read reads a lock; the error is fs.ErrNotExist where there is none.
func Read(path string) (*File, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading lock: %w", err)
	}
	if fi.Size() > maxSize {
		return nil, &Error{File: path, Err: fmt.Errorf("%w: %d bytes", ErrFormat, fi.Size())}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading lock: %w", err)
	}
	return Parse(path, data)
}

// Write replaces the lock at path, whole or not at all. One that says the same is left alone; changed says
// whether it was not.
func Write(path string, f *File) (changed bool, err error) {
	data, err := f.Encode()
	if err != nil {
		return false, err
	}
	if had, err := os.ReadFile(path); err == nil && bytes.Equal(had, data) {
		return false, nil
	}
	mode := fs.FileMode(0o644)
	if fi, err := os.Stat(path); err == nil {
		mode = fi.Mode().Perm()
	}
	if err := atomicfile.Write(path, data, mode); err != nil {
		return false, fmt.Errorf("writing lock: %w", err)
	}
	return true, nil
}
