package imagestore

import (
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
)

// ParseName reads an image name as a person types it, and makes it full: "shop" becomes
// "docker.io/library/shop:latest". The result is the form that String gives tags and digests in.
func ParseName(s string) (name.Reference, error) {
	ref, err := name.ParseReference(s, name.WithDefaultRegistry("docker.io"))
	if err != nil {
		return nil, fmt.Errorf("reading image name: %w", err)
	}
	return ref, nil
}

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
