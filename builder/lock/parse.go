package lock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// What an Error is about.
var (
	// ErrFormat says that the text is no lock.
	ErrFormat = errors.New("not a Kubefile.lock")
	// ErrVersion says that it is one of another version of keg.
	ErrVersion = errors.New("unknown version of the format")
	// ErrField says that there is a field that the format does not have, or one twice.
	ErrField = errors.New("bad field")
	// ErrDuplicate says that one reference has two entries.
	ErrDuplicate = errors.New("second entry for the same reference")
	// ErrEntry says that an entry is not complete, or that its parts do not fit.
	ErrEntry = errors.New("bad entry")
	// ErrDigest says that a digest is none, or not that of the reference.
	ErrDigest = errors.New("bad digest")
)

// Error is what is wrong with a lock.
type Error struct {
	File string
	Line int // from 1, 0 if it is about the whole file
	// Entry is such as "image nginx:1.27", "" where the error is about none.
	Entry string
	Err   error
}

// Error implements error.
func (e *Error) Error() string {
	s := e.File
	if e.Line > 0 {
		s += fmt.Sprintf(":%d", e.Line)
	}
	if e.Entry != "" {
		s += ": " + e.Entry
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

const (
	// maxSize bounds the file: some ten thousand images.
	maxSize = 16 << 20
	// maxBytes bounds a size in it, so that sums do not overflow.
	maxBytes = 1 << 50
)

// Fields of the format, by the object that they stand in.
var (
	fileFields     = []string{"version", "entries"}
	entryFields    = []string{"kind", "ref", "digest", "size", "embed", "platforms"}
	platformFields = []string{"platform", "digest", "size"}
)

// Parse reads a lock strictly. Errors are *Error; file is what they call it.
func Parse(file string, data []byte) (*File, error) {
	p := &parser{file: file, data: data}
	if len(data) > maxSize {
		return nil, p.fail(0, "", fmt.Errorf("%w: %d bytes", ErrFormat, len(data)))
	}
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, p.syntax(0, "", err)
	}
	// What a newer keg writes may be of any form.
	if top, ok := doc.(map[string]any); ok && top["version"] != nil && top["version"] != float64(Version) {
		text, _ := json.Marshal(top["version"])
		return nil, p.fail(0, "", fmt.Errorf("%w: %.20s, this keg knows %d", ErrVersion, text, Version))
	}
	f := &File{}
	var entries []place
	err := p.object(0, data, "", fileFields, func(name string, v place) error {
		switch name {
		case "version":
			return p.value(v, "", &f.Version)
		case "entries":
			var err error
			entries, err = p.array(v, "")
			return err
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case f.Version != Version:
		return nil, p.fail(0, "", fmt.Errorf("%w: it has no version", ErrFormat))
	case entries == nil:
		return nil, p.fail(0, "", fmt.Errorf("%w: it has no entries", ErrFormat))
	}
	lines := map[key]int{}
	list := make([]Entry, 0, len(entries))
	for i, v := range entries {
		e, err := p.entry(i, v)
		if err != nil {
			return nil, err
		}
		k := keyOf(e)
		if line := lines[k]; line > 0 {
			return nil, p.fail(v.offset, title(e), fmt.Errorf("%w: the first one is in line %d", ErrDuplicate, line))
		}
		lines[k] = p.line(v.offset)
		list = append(list, e)
	}
	return New(list...), nil
}

// title names an entry for people.
func title(e Entry) string { return fmt.Sprintf("%s %.200s", e.Kind, e.Ref) }

type parser struct {
	file string
	data []byte
}

// place is a value of the document.
type place struct {
	offset int
	raw    []byte
}

func (p *parser) line(offset int) int { return bytes.Count(p.data[:offset], []byte("\n")) + 1 }

func (p *parser) fail(offset int, entry string, err error) error {
	e := &Error{File: p.file, Entry: entry, Err: err}
	if offset > 0 {
		e.Line = p.line(offset)
	}
	return e
}

// syntax places an error of encoding/json about what begins at offset.
func (p *parser) syntax(offset int, entry string, err error) error {
	var se *json.SyntaxError
	var te *json.UnmarshalTypeError
	switch {
	case errors.As(err, &se):
		offset += int(se.Offset)
	case errors.As(err, &te):
		return p.fail(offset, entry, fmt.Errorf("%w: a %s is not what stands there", ErrField, te.Value))
	}
	return p.fail(min(offset, len(p.data)), entry, fmt.Errorf("%w: %w", ErrFormat, err))
}

// walk reads the elements between the brackets open and its counterpart.
func (p *parser) walk(offset int, raw []byte, entry string, open json.Delim, element func(d *json.Decoder) error) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	t, err := d.Token()
	if err != nil {
		return p.syntax(offset, entry, err)
	}
	if t != open {
		return p.fail(max(offset, 1), entry, fmt.Errorf("%w: a %s is missing", ErrFormat, open))
	}
	for d.More() {
		if err := element(d); err != nil {
			return err
		}
	}
	return nil
}

// next reads the value that follows.
func (p *parser) next(offset int, entry string, d *json.Decoder) (place, error) {
	var v json.RawMessage
	if err := d.Decode(&v); err != nil {
		return place{}, p.syntax(offset, entry, err)
	}
	return place{offset: offset + int(d.InputOffset()) - len(v), raw: v}, nil
}

// object reads the fields of an object, which it may have once each, spelled as known has them.
func (p *parser) object(offset int, raw []byte, entry string, known []string, field func(name string, v place) error) error {
	seen := map[string]bool{}
	return p.walk(offset, raw, entry, '{', func(d *json.Decoder) error {
		t, err := d.Token()
		if err != nil {
			return p.syntax(offset, entry, err)
		}
		name, _ := t.(string)
		at := offset + int(d.InputOffset())
		switch {
		case !slices.Contains(known, name):
			return p.fail(at, entry, fmt.Errorf("%w: there is no %.100q: it may be one of %s", ErrField, name, strings.Join(known, ", ")))
		case seen[name]:
			return p.fail(at, entry, fmt.Errorf("%w: %q stands there twice", ErrField, name))
		}
		seen[name] = true
		v, err := p.next(offset, entry, d)
		if err != nil {
			return err
		}
		return field(name, v)
	})
}

func (p *parser) array(v place, entry string) ([]place, error) {
	list := []place{}
	err := p.walk(v.offset, v.raw, entry, '[', func(d *json.Decoder) error {
		e, err := p.next(v.offset, entry, d)
		list = append(list, e)
		return err
	})
	return list, err
}

func (p *parser) value(v place, entry string, to any) error {
	if err := json.Unmarshal(v.raw, to); err != nil {
		return p.syntax(v.offset, entry, err)
	}
	if bytes.Equal(v.raw, []byte("null")) {
		return p.fail(v.offset, entry, fmt.Errorf("%w: null is not what stands there", ErrField))
	}
	return nil
}

func (p *parser) entry(i int, v place) (Entry, error) {
	var e Entry
	name := fmt.Sprintf("entry %d", i+1)
	var platforms []place
	var sized bool
	err := p.object(v.offset, v.raw, name, entryFields, func(field string, v place) (err error) {
		switch field {
		case "kind":
			err = p.value(v, name, &e.Kind)
		case "ref":
			err = p.value(v, name, &e.Ref)
		case "digest":
			err = p.value(v, name, &e.Digest)
		case "size":
			sized = true
			err = p.value(v, name, &e.Size)
		case "embed":
			err = p.value(v, name, &e.Embed)
		case "platforms":
			platforms, err = p.array(v, name)
		}
		if err == nil && e.Kind != "" && e.Ref != "" {
			name = title(e)
		}
		return err
	})
	if err != nil {
		return e, err
	}
	for _, v := range platforms {
		var one Platform
		err := p.object(v.offset, v.raw, name, platformFields, func(field string, v place) error {
			return p.value(v, name, map[string]any{"platform": &one.Platform, "digest": &one.Digest, "size": &one.Size}[field])
		})
		if err == nil {
			err = p.place(v, name, checkPlatform(e, one))
		}
		if err != nil {
			return e, err
		}
		e.Platforms = append(e.Platforms, one)
	}
	return e, p.place(v, name, check(e, sized))
}

func (p *parser) place(v place, entry string, err error) error {
	if err == nil {
		return nil
	}
	return p.fail(v.offset, entry, err)
}

// check says what is wrong with an entry.
func check(e Entry, sized bool) error {
	switch {
	case !slices.Contains(kinds, e.Kind):
		return fmt.Errorf("%w: kind %.50q: it is from, add, app or image", ErrEntry, e.Kind)
	case e.Ref == "":
		return fmt.Errorf("%w: it has no ref", ErrEntry)
	case e.Embed && e.Kind != Image:
		return fmt.Errorf("%w: embed is for images", ErrEntry)
	case e.Kind.OfImage() && sized:
		return fmt.Errorf("%w: the size of an image stands with its platforms", ErrEntry)
	case e.Kind.OfImage() && len(e.Platforms) == 0:
		return fmt.Errorf("%w: it has no platforms", ErrEntry)
	case !e.Kind.OfImage() && len(e.Platforms) > 0:
		return fmt.Errorf("%w: a file has no platforms", ErrEntry)
	case e.Size < 0 || e.Size > maxBytes:
		return fmt.Errorf("%w: size %d", ErrEntry, e.Size)
	}
	if err := checkDigest(e.Digest); err != nil {
		return err
	}
	if !e.Kind.OfImage() {
		return checkURL(e.Ref)
	}
	if _, err := ImageName(e.Ref); err != nil {
		return fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if _, pinned := cut(e.Ref); pinned != "" && pinned != e.Digest {
		return fmt.Errorf("%w: %s is not that of the reference", ErrDigest, e.Digest)
	}
	return nil
}

func checkPlatform(e Entry, one Platform) error {
	// With the registry's names alone: what is asked for may be "linux/arm/v7".
	if _, err := clusterimage.ParsePlatform(one.Platform); err != nil || strings.ContainsAny(one.Platform, " \t\r\n") {
		return fmt.Errorf("%w: platform %.100q is not such as linux/amd64", ErrEntry, one.Platform)
	}
	if _, again := e.For(one.Platform); again {
		return fmt.Errorf("%w: platform %s stands there twice", ErrEntry, one.Platform)
	}
	if one.Size < 0 || one.Size > maxBytes {
		return fmt.Errorf("%w: platform %s: size %d", ErrEntry, one.Platform, one.Size)
	}
	if err := checkDigest(one.Digest); err != nil {
		return fmt.Errorf("platform %s: %w", one.Platform, err)
	}
	return nil
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%w: %.100q is not sha256: and 64 hexadecimal digits", ErrDigest, d)
	}
	return nil
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "oci" {
		return fmt.Errorf("%w: %.200q is no URL", ErrEntry, s)
	}
	return nil
}

// URL is how a URL stands in a lock: without its password.
func URL(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.User == nil {
		return rawURL
	}
	return u.Redacted()
}
