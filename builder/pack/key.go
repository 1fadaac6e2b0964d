package pack

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// formatVersion stands for everything in this package, and in the compressor, that decides a layer's
// bytes beside entries and options. A test with a golden digest fails where it should have been raised.
const formatVersion = "keg.pack.2"

// Key is a digest over all that decides what Write makes of entries: two calls with equal keys give the
// same layer. ok is false where the content of some file has no identity.
func Key(entries []Entry, o Options) (key string, ok bool) {
	list := slices.Clone(entries)
	slices.SortStableFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	h := sha256.New()
	var buf []byte
	str := func(s string) {
		buf = binary.AppendUvarint(buf, uint64(len(s)))
		buf = append(buf, s...)
	}
	compression := o.Compression
	if compression == "" {
		compression = Zstd
	}
	str(formatVersion)
	str(string(compression))
	buf = binary.AppendVarint(buf, modTime(o.ModTime).Unix())
	for _, e := range list {
		if e.Type == tar.TypeReg && e.Size > 0 && e.Identity == "" {
			return "", false
		}
		str(e.Name)
		buf = append(buf, e.Type)
		for _, n := range []int64{e.Mode, int64(e.UID), int64(e.GID), e.Size} {
			buf = binary.AppendVarint(buf, n)
		}
		str(e.Linkname)
		buf = binary.AppendUvarint(buf, uint64(len(e.Xattrs)))
		for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
			str(k)
			str(e.Xattrs[k])
		}
		str(e.Identity)
		h.Write(buf)
		buf = buf[:0]
	}
	h.Write(buf)
	return hex.EncodeToString(h.Sum(nil)), true
}
