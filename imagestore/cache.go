package imagestore

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/internal/atomicfile"
)

// Cache keeps what can be made again, each value under a key, in a directory of the store's cache. A
// value may be about blobs: it is found as long as they are in the store, and Prune removes it with the
// first of them. What is about no blob lives until the next Prune.
type Cache struct {
	s   *Store
	dir string
}

// cacheEntry is a file of a Cache. The key tells it from other files that lie in the store's cache.
type cacheEntry struct {
	Key   string          `json:"key"`
	Blobs []digest.Digest `json:"blobs"`
	Value any             `json:"value"`
}

// Cache opens the cache of that name.
func (s *Store) Cache(name string) (*Cache, error) {
	dir, err := s.CacheDir(name)
	if err != nil {
		return nil, err
	}
	return &Cache{s: s, dir: dir}, nil
}

func (c *Cache) path(key string) string {
	return filepath.Join(c.dir, digest.FromString(key).Encoded()+".json")
}

// Get reads the value of key into v, a pointer, and says whether there is one. What cannot be read, or is
// about blobs that are gone, is not there; v may hold rests of it.
func (c *Cache) Get(key string, v any) bool {
	data, err := os.ReadFile(c.path(key))
	if err != nil {
		return false
	}
	e := cacheEntry{Value: v}
	if err := json.Unmarshal(data, &e); err != nil || e.Key != key {
		return false
	}
	for _, d := range e.Blobs {
		if !c.s.Has(d) {
			return false
		}
	}
	return true
}

// Put keeps v, as JSON, under key. blobs are those that it is about.
func (c *Cache) Put(key string, v any, blobs ...digest.Digest) error {
	data, err := json.Marshal(cacheEntry{Key: key, Blobs: blobs, Value: v})
	if err != nil {
		return fmt.Errorf("writing cache: %w", err)
	}
	if err := atomicfile.Write(c.path(key), data, 0o600); err != nil {
		return fmt.Errorf("writing cache: %w", err)
	}
	return nil
}
