package registry

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
)

// table is what the names of a source stand for. It does not change once it is made.
type table struct {
	// repositories: full name, such as "docker.io/library/nginx", to tag to document.
	repositories map[string]map[string]ocispec.Descriptor
	// bare: path without registry to the full names that end so.
	bare map[string][]string
	// documents are the manifests and indexes that may be asked for by digest, in any repository: what
	// a digest stands for does not depend on the repository.
	documents map[digest.Digest]ocispec.Descriptor
}

func newTable() *table {
	return &table{
		repositories: map[string]map[string]ocispec.Descriptor{},
		bare:         map[string][]string{},
		documents:    map[digest.Digest]ocispec.Descriptor{},
	}
}

// add makes a full name ("registry/path:tag" or "registry/path@digest") stand for desc.
func (t *table) add(fullName string, desc ocispec.Descriptor) {
	t.documents[desc.Digest] = desc
	repository, tag := splitName(fullName)
	registry, path, ok := strings.Cut(repository, "/")
	if !ok {
		return
	}
	repository = canonical(registry) + "/" + path
	tags := t.repositories[repository]
	if tags == nil {
		tags = map[string]ocispec.Descriptor{}
		t.repositories[repository] = tags
		t.bare[path] = append(t.bare[path], repository)
	}
	if tag != "" {
		tags[tag] = desc
	}
}

// splitName cuts "registry:port/path:tag@digest" into repository and tag; the tag may be "".
func splitName(fullName string) (repository, tag string) {
	repository, _, _ = strings.Cut(fullName, "@")
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		return repository[:i], repository[i+1:]
	}
	return repository, ""
}

// canonical gives Docker Hub one name.
func canonical(registry string) string {
	registry = strings.ToLower(registry)
	switch registry {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return registry
}

// find gives the full name of a repository as a client asks for it. With ns only that registry is
// meant, whatever others have under the same path. Without, the path may begin with the registry; or it is
// the path alone, if one registry only has it.
func (t *table) find(ns, repository string) (string, error) {
	if ns != "" {
		full := canonical(ns) + "/" + repository
		if _, ok := t.repositories[full]; ok {
			return full, nil
		}
		return "", fmt.Errorf("repository %s: %w", full, imagestore.ErrNotFound)
	}
	if registry, path, ok := strings.Cut(repository, "/"); ok {
		full := canonical(registry) + "/" + path
		if _, ok := t.repositories[full]; ok {
			return full, nil
		}
	}
	switch full := t.bare[repository]; len(full) {
	case 0:
		return "", fmt.Errorf("repository %s: %w", repository, imagestore.ErrNotFound)
	case 1:
		return full[0], nil
	default:
		return "", fmt.Errorf("repository %s alone could be %s: %w", repository, strings.Join(slices.Sorted(slices.Values(full)), " or "), imagestore.ErrNotFound)
	}
}

func (t *table) resolve(ns, repository, reference string) (ocispec.Descriptor, error) {
	if strings.Contains(reference, ":") {
		if desc, ok := t.documents[digest.Digest(reference)]; ok {
			return desc, nil
		}
		return ocispec.Descriptor{}, fmt.Errorf("manifest %s: %w", reference, imagestore.ErrNotFound)
	}
	full, err := t.find(ns, repository)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, ok := t.repositories[full][reference]
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("image %s:%s: %w", full, reference, imagestore.ErrNotFound)
	}
	return desc, nil
}

func (t *table) tags(ns, repository string) ([]string, error) {
	full, err := t.find(ns, repository)
	if err != nil {
		return nil, err
	}
	return slices.Collect(maps.Keys(t.repositories[full])), nil
}

func (t *table) names() []string { return slices.Collect(maps.Keys(t.repositories)) }
