// Package pack turns files into an image layer: one read of the source, compressed on all cores, a
// zstd frame per file (several for a large one), hashed in the same pass. The same entries give the
// same bytes at any parallelism.
package pack

import (
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Entry is one file of a layer. Entries are values; Write sorts a copy by name.
type Entry struct {
	// Name is a clean slash-separated path without a leading slash; directories have no trailing one.
	Name string
	// Type is a type flag of archive/tar: TypeReg, TypeDir, TypeSymlink, TypeLink.
	Type byte
	// Mode holds the permission bits with setuid (04000), setgid (02000) and sticky (01000), as in tar.
	Mode int64
	// UID and GID are numeric owners.
	UID, GID int
	// Size is in bytes, for TypeReg.
	Size int64
	// Linkname is the target of a symlink, or the Name of the entry a hard link shares its file with.
	Linkname string
	// Whiteout says that Name is meant as a whiteout (image-spec, layer.md): the last element begins with
	// ".wh.", and the entry is an empty TypeReg.
	Whiteout bool
	// Xattrs are extended attributes, by full name such as "security.capability".
	Xattrs map[string]string
	// Open opens the content of a TypeReg of more than 0 bytes. It is called once, from any goroutine.
	Open func() (io.ReadCloser, error)
	// Identity changes whenever the content may have: for a file, its device, inode, size, mtime and
	// ctime. "" says that nothing cheap identifies the content.
	Identity string
}

// Compression is how a layer is compressed.
type Compression string

// The compressions. Zstd is the zstd:chunked form, which any zstd reader can read.
const (
	Zstd Compression = "zstd"
	Gzip Compression = "gzip"
)

// Options say how to pack. The zero value packs zstd on all cores with times of 1970.
type Options struct {
	Compression Compression
	// Parallelism is the number of compressing goroutines; 0 is GOMAXPROCS, but at most 8: more do not
	// help, as one goroutine must hash the tar in order, and each costs about 12 MB of memory. It does
	// not change the result.
	Parallelism int
	// ModTime is the time of every entry, cut to whole seconds; the zero value is 1970.
	ModTime time.Time
	// Progress is told of every packed piece, in bytes of source; may be nil.
	Progress func(n int64)
}

// Layer is a packed layer.
type Layer struct {
	// Descriptor has media type, digest, size and, for zstd, the zstd:chunked annotations.
	Descriptor ocispec.Descriptor
	// DiffID is the digest of the uncompressed tar.
	DiffID digest.Digest
	// Uncompressed is the size of that tar in bytes.
	Uncompressed int64
}
