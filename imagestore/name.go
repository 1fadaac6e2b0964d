package imagestore

import (
	"fmt"
	"regexp"

	"github.com/google/go-containerregistry/pkg/name"
)

// ParseName reads an image name as a person types it, and makes it full: "shop" becomes
// "docker.io/library/shop:latest". The result is the form that String gives tags and digests in.
func ParseName(s string) (name.Reference, error) {
	ref, err := name.ParseReference(s, name.WithDefaultRegistry("docker.io"))
	if err != nil {
		return nil, fmt.Errorf("reading image name: %w", err)
	}
	repo := ref.Context()
	if !registryForm.MatchString(repo.RegistryStr()) || !pathForm.MatchString(repo.RepositoryStr()) {
		return nil, fmt.Errorf("reading image name: %.300q is not of the form [REGISTRY/]PATH[:TAG][@DIGEST]", s)
	}
	if tag, ok := ref.(name.Tag); ok && !tagForm.MatchString(tag.TagStr()) {
		return nil, fmt.Errorf("reading image name: %.300q has no good tag", s)
	}
	return ref, nil
}

// What distribution-spec (Pulling manifests) and every registry allow; name.ParseReference takes "../../x".
var (
	registryForm = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$`)
	pathForm     = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm      = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// FullName is the form in which names stand in annotations and in lists.
func FullName(ref name.Reference) string {
	repo := ref.Context()
	registry := repo.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	switch r := ref.(type) {
	case name.Digest:
		return registry + "/" + repo.RepositoryStr() + "@" + r.DigestStr()
	default:
		return registry + "/" + repo.RepositoryStr() + ":" + ref.Identifier()
	}
}
