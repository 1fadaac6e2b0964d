package lock

import (
	"fmt"
	"slices"
	"strings"
)

// Change is a difference between two locks, about one reference. One of Old and New may be nil.
type Change struct {
	Old, New *Entry
}

// String is one line: "+ image nginx:1.27 sha256:...", "- ...", or "~ image nginx:1.27 sha256:A -> sha256:B". What is
// not resolved yet has no digest.
func (c Change) String() string {
	switch {
	case c.Old == nil:
		return strings.TrimSpace(fmt.Sprintf("+ %s %s", title(*c.New), c.New.Digest))
	case c.New == nil:
		return fmt.Sprintf("- %s %s", title(*c.Old), c.Old.Digest)
	case c.Old.Digest != c.New.Digest:
		return fmt.Sprintf("~ %s %s -> %s", title(*c.New), c.Old.Digest, c.New.Digest)
	}
	return fmt.Sprintf("~ %s %s for %s -> for %s", title(*c.New), c.New.Digest, platformNames(c.Old), platformNames(c.New))
}

func platformNames(e *Entry) string {
	var out []string
	for _, p := range e.Platforms {
		out = append(out, p.Platform)
	}
	return strings.Join(out, ",")
}

// Diff lists what must be done to old to make it new: additions, removals, other digests and other
// platforms, in the order of the file. How a reference is written does not matter.
func Diff(old, new *File) []Change {
	var out []Change
	for _, n := range New(append(entriesOf(new), entriesOf(old)...)...).Entries {
		o, had := old.Find(n.Kind, n.Ref)
		e, has := new.Find(n.Kind, n.Ref)
		switch {
		case !had:
			out = append(out, Change{New: &e})
		case !has:
			out = append(out, Change{Old: &o})
		case o.Digest != e.Digest || !slices.Equal(o.Platforms, e.Platforms):
			out = append(out, Change{Old: &o, New: &e})
		}
	}
	return out
}

func entriesOf(f *File) []Entry {
	if f == nil {
		return nil
	}
	return slices.Clone(f.Entries)
}

// DiffError says that a build would not be the one that its lock describes.
type DiffError struct {
	// File is the lock, for people.
	File    string
	Changes []Change
}

// Error lists the changes, one a line.
func (e *DiffError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s does not match this build:", e.File)
	for _, c := range e.Changes {
		b.WriteString("\n  " + c.String())
	}
	return b.String()
}
