package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
)

// defaultDomain is the registry of names that have none.
const defaultDomain = "docker.io"

// ReadDistribution reads the storage of a distribution registry (docker/registry/v2) out of a directory
// into a store, and tags nothing, like Read. fsys is the directory that contains "docker", or
// "registry/docker", or is itself the one with "blobs" and "repositories". Repositories whose first
// component is no host name belong to registryDomain; "" is docker.io. Of indexes that lack manifests,
// those that are there are taken.
func ReadDistribution(ctx context.Context, s *imagestore.Store, fsys fs.FS, registryDomain string) ([]Found, error) {
	found, err := readDistribution(ctx, s, fsys, registryDomain)
	if err != nil {
		return nil, fmt.Errorf("reading registry storage: %w", err)
	}
	return sorted(found), nil
}

func readDistribution(ctx context.Context, s *imagestore.Store, fsys fs.FS, registryDomain string) ([]Found, error) {
	root := ""
	for _, dir := range []string{"docker/registry/v2", "registry/docker/registry/v2", "."} {
		if fi, err := fs.Stat(fsys, path.Join(dir, "repositories")); err == nil && fi.IsDir() {
			root = dir
			break
		}
	}
	if root == "" {
		return nil, fmt.Errorf("it has no docker/registry/v2/repositories: %w", ErrFormat)
	}
	if registryDomain == "" {
		registryDomain = defaultDomain
	}
	t := distributionTree{s: s, links: map[string]digest.Digest{}, domain: registryDomain}
	t.fetch = func(ctx context.Context, d digest.Digest) (bool, error) { return copyFrom(ctx, s, fsys, root, d) }
	entries := 0
	err := fs.WalkDir(fsys, path.Join(root, "repositories"), func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if entries++; entries > maxEntries {
			return fmt.Errorf("it has more than %d entries: %w", maxEntries, ErrFormat)
		}
		if e.IsDir() {
			if e.Name() == "_layers" || e.Name() == "_uploads" {
				return fs.SkipDir
			}
			return nil
		}
		if e.Name() != "link" || !e.Type().IsRegular() {
			return nil
		}
		f, err := fsys.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxLink))
		if err != nil {
			return err
		}
		d := digest.Digest(strings.TrimSpace(string(data)))
		if err := d.Validate(); err != nil {
			return fmt.Errorf("%s holds no digest: %w: %w", name, ErrFormat, err)
		}
		t.links[strings.TrimPrefix(name, path.Join(root, "repositories")+"/")] = d
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t.read(ctx)
}

// copyFrom brings a blob into the store; false if it is not in the directory either.
func copyFrom(ctx context.Context, s *imagestore.Store, fsys fs.FS, root string, d digest.Digest) (bool, error) {
	if s.Has(d) {
		return true, nil
	}
	if d.Algorithm() != digest.SHA256 {
		return false, fmt.Errorf("blob %s: it is not named by a SHA-256 digest: %w", d, ErrFormat)
	}
	f, err := fsys.Open(path.Join(root, "blobs", "sha256", d.Encoded()[:2], d.Encoded(), "data"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() {
		return false, fmt.Errorf("blob %s is not a file: %w", d, ErrFormat)
	}
	return true, copyBlob(ctx, s, d, fi.Size(), f)
}

// distributionTree is a registry's storage: its link files, and a way to bring its blobs into the
// store.
type distributionTree struct {
	s      *imagestore.Store
	links  map[string]digest.Digest // path below repositories
	domain string
	// fetch makes sure that a blob is in the store, and says whether it is.
	fetch func(context.Context, digest.Digest) (bool, error)
}

var (
	tagLink      = regexp.MustCompile(`^(.+)/_manifests/tags/([^/]+)/current/link$`)
	revisionLink = regexp.MustCompile(`^(.+)/_manifests/revisions/sha256/([0-9a-f]{64})/link$`)
)

// read finds the tagged images, and those that are there by digest alone. The latter may be what is
// left of deleted ones: they are taken if they are whole.
func (t distributionTree) read(ctx context.Context) ([]Found, error) {
	var list []Found
	covered := map[string]bool{} // repository@digest, of what is found under another name
	names := slices.Sorted(maps.Keys(t.links))
	for _, link := range names {
		m := tagLink.FindStringSubmatch(link)
		if m == nil {
			continue
		}
		found, err := t.image(ctx, m[1], ":"+m[2], t.links[link])
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
		covered[m[1]+"@"+t.links[link].String()] = true
		if err := t.coverChildren(covered, m[1], t.links[link]); err != nil {
			return nil, err
		}
	}
	lone := map[string][]Found{}
	for _, link := range names {
		m := revisionLink.FindStringSubmatch(link)
		if m == nil || covered[m[1]+"@"+t.links[link].String()] {
			continue
		}
		found, err := t.image(ctx, m[1], "@"+t.links[link].String(), t.links[link])
		if errors.Is(err, imagestore.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		lone[m[1]+"@"+t.links[link].String()] = found
		if err := t.coverChildren(covered, m[1], t.links[link]); err != nil {
			return nil, err
		}
	}
	for key, found := range lone {
		if !covered[key] {
			list = append(list, found...)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("the registry storage names no image: %w", ErrFormat)
	}
	return list, nil
}

// image brings what a name needs into the store; suffix is ":TAG" or "@DIGEST".
func (t distributionTree) image(ctx context.Context, repository, suffix string, d digest.Digest) ([]Found, error) {
	full := repository + suffix
	host, _, more := strings.Cut(repository, "/")
	if !more || !strings.ContainsAny(host, ".:") && host != "localhost" {
		full = t.domain + "/" + full
	}
	name, err := fullName(full)
	if err != nil {
		return nil, err
	}
	desc, err := t.document(ctx, d, 0)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	found, err := whole(ctx, t.s, name, desc, true)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	return found, nil
}

const maxDepth = 16 // of nested indexes

// document brings a manifest or index into the store, with what it needs as far as it is there.
func (t distributionTree) document(ctx context.Context, d digest.Digest, depth int) (ocispec.Descriptor, error) {
	there, err := t.fetch(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if !there {
		return ocispec.Descriptor{}, fmt.Errorf("manifest %s: %w", d, imagestore.ErrNotFound)
	}
	data, err := t.s.Read(d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{Digest: d, Size: int64(len(data))}
	if desc.MediaType, err = sniff(data); err != nil {
		return desc, fmt.Errorf("manifest %s: %w", d, err)
	}
	if depth > maxDepth {
		return desc, fmt.Errorf("manifest %s: indexes are nested more than %d deep: %w", d, maxDepth, ErrFormat)
	}
	children, err := imagestore.Children(desc.MediaType, data)
	if err != nil {
		return desc, fmt.Errorf("manifest %s: %w", d, err)
	}
	for _, c := range children {
		if err := c.Digest.Validate(); err != nil {
			return desc, fmt.Errorf("manifest %s: %w: %w", d, ErrFormat, err)
		}
		if imagestore.IsIndex(desc.MediaType) {
			_, err = t.document(ctx, c.Digest, depth+1)
			if errors.Is(err, imagestore.ErrNotFound) {
				err = nil
			}
		} else {
			_, err = t.fetch(ctx, c.Digest)
		}
		if err != nil {
			return desc, err
		}
	}
	return desc, nil
}

// coverChildren notes the manifests of an index.
func (t distributionTree) coverChildren(covered map[string]bool, repository string, d digest.Digest) error {
	data, err := t.s.Read(d)
	if err != nil {
		return err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return fmt.Errorf("manifest %s: %w: %w", d, ErrFormat, err)
	}
	for _, m := range idx.Manifests { // a manifest has none
		covered[repository+"@"+m.Digest.String()] = true
	}
	return nil
}

// sniff finds the media type of a document that says it itself, or whose fields do.
func sniff(data []byte) (string, error) {
	var doc struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return "", fmt.Errorf("%w: %w", ErrFormat, err)
	}
	switch {
	case imagestore.IsIndex(doc.MediaType) || imagestore.IsManifest(doc.MediaType):
		return doc.MediaType, nil
	case doc.MediaType != "" || doc.SchemaVersion != 2:
		return "", fmt.Errorf("schema version %d, media type %.200q are not supported: %w", doc.SchemaVersion, doc.MediaType, ErrFormat)
	case doc.Manifests != nil:
		return ocispec.MediaTypeImageIndex, nil
	default:
		return ocispec.MediaTypeImageManifest, nil
	}
}
