package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
)

// defaultDomain is the registry of names that have none.
const defaultDomain = "docker.io"

// distributionTree is the storage of a distribution registry, its blobs in the store.
type distributionTree struct {
	s     *imagestore.Store
	links map[string]digest.Digest // path below repositories
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

// image finds what a name stands for, as far as it is there; suffix is ":TAG" or "@DIGEST".
func (t distributionTree) image(ctx context.Context, repository, suffix string, d digest.Digest) ([]Found, error) {
	full := repository + suffix
	host, _, more := strings.Cut(repository, "/")
	if !more || !strings.ContainsAny(host, ".:") && host != "localhost" {
		full = defaultDomain + "/" + full
	}
	name, err := fullName(full)
	if err != nil {
		return nil, err
	}
	desc, err := t.document(d)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	found, err := whole(ctx, t.s, name, desc, true)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	return found, nil
}

// document finds out what a digest stands for.
func (t distributionTree) document(d digest.Digest) (ocispec.Descriptor, error) {
	data, err := t.s.Read(d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{Digest: d, Size: int64(len(data))}
	if desc.MediaType, err = imagestore.DocumentType(data, ""); err != nil {
		return desc, fmt.Errorf("manifest %s: %w: %w", d, ErrFormat, err)
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
