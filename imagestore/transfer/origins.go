package transfer

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/internal/lockfile"
)

// origins remembers which repositories of one registry have which blobs, so that a push to another
// repository there need not send them. It lies in the store's cache, a file for each registry:
//
//	{"sha256:...": ["library/nginx", "mirror/nginx"], ...}
//
// It is a hint. Where it is lost or wrong a push takes longer, so no failure of its own is an error.
type origins struct {
	s    *imagestore.Store
	repo name.Repository

	mu  sync.Mutex
	new []digest.Digest
}

func newOrigins(s *imagestore.Store, repo name.Repository) *origins {
	return &origins{s: s, repo: repo}
}

// add notes that the repository has the blob.
func (o *origins) add(d digest.Digest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.new = append(o.new, d)
}

const (
	// maxOrigins bounds the repositories remembered for one blob.
	maxOrigins = 4
	originsDir = "transfer"
)

func (o *origins) path() (string, error) {
	dir, err := o.s.CacheDir(originsDir)
	return filepath.Join(dir, url.PathEscape(o.repo.RegistryStr())+".json"), err
}

// load reads what is known of the registry.
func (o *origins) load() map[digest.Digest][]string {
	known := map[digest.Digest][]string{}
	path, err := o.path()
	if err != nil {
		return known
	}
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &known) != nil {
		return map[digest.Digest][]string{}
	}
	return known
}

// save writes down what add noted, also where ctx has ended: the blobs are there all the same.
func (o *origins) save(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.new) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	path, err := o.path()
	if err != nil {
		return
	}
	release, err := lockfile.Acquire(ctx, path+".lock", lockfile.Exclusive, nil)
	if err != nil {
		return
	}
	defer release()
	known := o.load()
	repo := o.repo.RepositoryStr()
	for _, d := range o.new {
		others := slices.DeleteFunc(known[d], func(r string) bool { return r == repo })
		list := append([]string{repo}, others...)
		known[d] = list[:min(len(list), maxOrigins)]
	}
	for d := range known {
		if !o.s.Has(d) {
			delete(known, d)
		}
	}
	if data, err := json.Marshal(known); err == nil {
		_ = atomicfile.Write(path, data, 0o600)
	}
	o.new = nil
}
