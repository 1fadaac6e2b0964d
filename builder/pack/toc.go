package pack

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Annotations of a zstd:chunked layer's descriptor.
const (
	// AnnotationTOCDigest is the digest of the compressed table of contents.
	AnnotationTOCDigest = "io.github.containers.zstd-chunked.manifest-checksum"
	// AnnotationTOCPosition is OFFSET:LENGTH:UNCOMPRESSED LENGTH:TYPE of the table of contents, in bytes;
	// the type is 1.
	AnnotationTOCPosition = "io.github.containers.zstd-chunked.manifest-position"
)

// TOC is the table of contents at the end of a zstd:chunked layer: zstd-compressed JSON in a skippable
// frame. There is no tar-split; containers/storage then pulls the layer whole.
type TOC struct {
	// Version is 1.
	Version int `json:"version"`
	// Entries are in the order of the tar. A file of several frames has, right behind its own entry,
	// one of type "chunk" for each frame but the first.
	Entries []TOCEntry `json:"entries"`
}

// TOCEntry is one entry of a TOC. Offsets are in the compressed layer unless said otherwise.
type TOCEntry struct {
	// Type is reg, dir, symlink, hardlink or chunk.
	Type string `json:"type"`
	// Name is the name in the tar; a directory's ends in a slash.
	Name     string `json:"name"`
	Linkname string `json:"linkName,omitempty"`
	Mode     int64  `json:"mode,omitempty"`
	// Size is that of the file.
	Size    int64      `json:"size,omitempty"`
	UID     int        `json:"uid,omitempty"`
	GID     int        `json:"gid,omitempty"`
	ModTime *time.Time `json:"modtime,omitempty"`
	// Xattrs have their values in base64.
	Xattrs map[string]string `json:"xattrs,omitempty"`
	// Digest is that of the whole file; a file without content has none.
	Digest digest.Digest `json:"digest,omitempty"`
	// Offset and EndOffset are where the frames begin and end: in a file's own entry those of the whole
	// file, in a chunk's those of the chunk.
	Offset    int64 `json:"offset,omitempty"`
	EndOffset int64 `json:"endOffset,omitempty"`
	// ChunkSize, ChunkOffset (in the file) and ChunkDigest are of one frame's content; set where a file
	// has several frames, in all of its entries.
	ChunkSize   int64         `json:"chunkSize,omitempty"`
	ChunkOffset int64         `json:"chunkOffset,omitempty"`
	ChunkDigest digest.Digest `json:"chunkDigest,omitempty"`
}

var tocTypes = map[byte]string{tar.TypeReg: "reg", tar.TypeDir: "dir", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink"}

// toc writes a TOC while the layer is written, compressed, so that 10^6 files cost little memory.
type toc struct {
	list    []Entry
	modTime time.Time
	next    int        // of list, the first that is not written
	chunks  []TOCEntry // of the file whose frames are coming
	buf     bytes.Buffer
	zw      *zstd.Encoder
	size    int64
	err     error
	comma   bool
}

func newTOC(list []Entry, modTime time.Time) *toc {
	t := &toc{list: list, modTime: modTime}
	t.zw, t.err = zstd.NewWriter(&t.buf, zstdOptions()...)
	t.raw([]byte(`{"version":1,"entries":[`))
	return t
}

func (t *toc) raw(b []byte) {
	if t.err == nil {
		_, t.err = t.zw.Write(b)
	}
	t.size += int64(len(b))
}

func (t *toc) write(e TOCEntry) {
	b, err := json.Marshal(e)
	if err != nil && t.err == nil {
		t.err = err
	}
	if t.comma {
		t.raw([]byte{','})
	}
	t.comma = true
	t.raw(b)
}

func (t *toc) entry(i int) TOCEntry {
	h := header(&t.list[i], t.modTime)
	e := TOCEntry{
		Type: tocTypes[h.Typeflag], Name: h.Name, Linkname: h.Linkname, Mode: h.Mode, Size: h.Size,
		UID: h.Uid, GID: h.Gid, ModTime: &h.ModTime,
	}
	for k, v := range t.list[i].Xattrs {
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		e.Xattrs[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	return e
}

// before writes the entries in front of entry i; none of them has content.
func (t *toc) before(i int) {
	for ; t.next < i; t.next++ {
		t.write(t.entry(t.next))
	}
}

// frame takes note of a frame of content, which lies at begin to end in the layer.
func (t *toc) frame(f frame, begin, end, size int64) error {
	t.before(f.entry)
	c := TOCEntry{Type: "chunk", Offset: begin, EndOffset: end, ChunkSize: size, ChunkDigest: f.digest}
	if n := len(t.chunks); n > 0 {
		c.ChunkOffset = t.chunks[n-1].ChunkOffset + t.chunks[n-1].ChunkSize
	}
	t.chunks = append(t.chunks, c)
	if !f.last {
		return t.err
	}
	e := t.entry(f.entry)
	e.Digest, e.Offset, e.EndOffset = f.digest, t.chunks[0].Offset, end
	if len(t.chunks) > 1 {
		e.Digest, e.ChunkSize, e.ChunkDigest = f.whole, t.chunks[0].ChunkSize, t.chunks[0].ChunkDigest
	}
	t.write(e)
	for _, c := range t.chunks[1:] {
		c.Name = e.Name
		t.write(c)
	}
	t.chunks = t.chunks[:0]
	t.next++
	return t.err
}

const (
	skippableMagic = 0x184D2A50
	footerSize     = 64
	footerMagic    = "GNUlInUx"
)

// finish returns what follows the tar's frames, which end at offset, and the annotations. The footer is
// eight little-endian numbers: offset, length, uncompressed length and type of the TOC, the same three of
// a tar-split (0), and the magic.
func (t *toc) finish(offset int64) ([]byte, map[string]string, error) {
	t.before(len(t.list))
	t.raw([]byte(`]}`))
	if t.err == nil {
		t.err = t.zw.Close()
	}
	if t.err != nil {
		return nil, nil, fmt.Errorf("writing table of contents: %w", t.err)
	}
	packed := t.buf.Bytes()
	if int64(len(packed)) > 1<<32-1 {
		return nil, nil, fmt.Errorf("writing table of contents: %d bytes are too many", len(packed))
	}
	offset += 8
	out := appendSkippable(nil, packed)
	footer := make([]byte, 0, footerSize)
	for _, v := range []int64{offset, int64(len(packed)), t.size, 1, 0, 0, 0} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(v))
	}
	out = appendSkippable(out, append(footer, footerMagic...))
	return out, map[string]string{
		AnnotationTOCDigest:   digest.FromBytes(packed).String(),
		AnnotationTOCPosition: fmt.Sprintf("%d:%d:%d:1", offset, len(packed), t.size),
	}, nil
}

func appendSkippable(b, content []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}
