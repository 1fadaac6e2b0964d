package pack

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/internal/atomicfile"
)

// formatVersion stands for everything in this package, and in the compressor, that decides a layer's
// bytes beside entries and options. A test with a golden digest fails where it should have been raised.
const formatVersion = "keg.pack.1"

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
		for _, k := range sortedKeys(e.Xattrs) {
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

// Cache remembers, in one directory, which layer a key stands for. That the layer's blob is still in the
// store is for the caller to see.
type Cache struct{ dir string }

// Open opens the cache in dir, which must be there.
func Open(dir string) *Cache { return &Cache{dir: dir} }

func (c *Cache) path(key string) string { return filepath.Join(c.dir, key+".json") }

// Lookup returns the layer of key. What cannot be read is not there.
func (c *Cache) Lookup(key string) (Layer, bool) {
	data, err := os.ReadFile(c.path(key))
	if err != nil {
		return Layer{}, false
	}
	var l Layer
	if err := json.Unmarshal(data, &l); err != nil || !l.valid() {
		return Layer{}, false
	}
	return l, true
}

// Store remembers l as the layer of key.
func (c *Cache) Store(key string, l Layer) error {
	if !l.valid() {
		return fmt.Errorf("caching layer: %q is not a layer", l.Descriptor.Digest)
	}
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("caching layer: %w", err)
	}
	if err := atomicfile.Write(c.path(key), data, 0o600); err != nil {
		return fmt.Errorf("caching layer: %w", err)
	}
	return nil
}

func (l Layer) valid() bool {
	known := l.Descriptor.MediaType == ocispec.MediaTypeImageLayerZstd || l.Descriptor.MediaType == ocispec.MediaTypeImageLayerGzip
	return known && l.Descriptor.Digest.Validate() == nil && l.Descriptor.Size > 0 &&
		l.DiffID.Validate() == nil && l.Uncompressed > 0
}

// sortedKeys is for what must not depend on the order of a map.
func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
