package relocate

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterimage/keg/imagestore"
)

// Rule says how the path that an image has in a mirror comes of its name.
type Rule string

// The rules, by what becomes of registry.example.com:5000/team/web.
const (
	// Scoped keeps the registry as the first element: registry.example.com-5000/team/web. No two registries
	// meet in one repository, and a container runtime can be pointed to it registry by registry.
	Scoped Rule = "scoped"
	// Path leaves the registry out: team/web; and library/nginx for docker.io/library/nginx.
	Path Rule = "path"
	// Flat keeps the last element only: web.
	Flat Rule = "flat"
)

// Rules are all of them.
func Rules() []Rule { return []Rule{Scoped, Path, Flat} }

// Placed is an image with its place in a mirror.
type Placed struct {
	Image
	// Repository is the path, such as "mirror/docker.io/library/nginx".
	Repository string
	// Reference is a tag or a digest ("sha256:...").
	Reference string
}

// String is how people write the place: "library/nginx:1.27" or "library/nginx@sha256:...".
func (p Placed) String() string {
	if strings.Contains(p.Reference, ":") {
		return p.Repository + "@" + p.Reference
	}
	return p.Repository + ":" + p.Reference
}

// CollisionError says that a rule gives two different images one place.
type CollisionError struct {
	// Place is a path with a tag.
	Place string
	// Names are the full names of the two.
	Names [2]string
	Rule  Rule
}

// Error implements error.
func (e *CollisionError) Error() string {
	return fmt.Sprintf("%s and %s are different images, and both would be %s", e.Names[0], e.Names[1], e.Place)
}

// Place gives each image its place below prefix, which may be "". It fails with *CollisionError where two names of
// different content would get the same one; of the same content, they may.
func Place(list []Image, rule Rule, prefix string) ([]Placed, error) {
	out := make([]Placed, 0, len(list))
	first := map[string]Placed{}
	for _, img := range list {
		p, err := place(img, rule, prefix)
		if err != nil {
			return nil, fmt.Errorf("placing %s: %w", img.Name, err)
		}
		if other, there := first[p.String()]; there && other.Target.Digest != img.Target.Digest {
			return nil, fmt.Errorf("placing images: %w", &CollisionError{Place: p.String(), Names: [2]string{other.Name, img.Name}, Rule: rule})
		}
		first[p.String()] = p
		out = append(out, p)
	}
	return out, nil
}

func place(img Image, rule Rule, prefix string) (Placed, error) {
	ref, err := imagestore.ParseName(img.Name)
	if err != nil {
		return Placed{}, err
	}
	repo := ref.Context()
	p := Placed{Image: img, Reference: ref.Identifier()}
	switch rule {
	case Scoped:
		p.Repository = path.Join(Host(strings.SplitN(imagestore.FullName(ref), "/", 2)[0]), repo.RepositoryStr())
	case Path:
		p.Repository = repo.RepositoryStr()
	case Flat:
		p.Repository = path.Base(repo.RepositoryStr())
	default:
		return Placed{}, fmt.Errorf("rule %q is none of %v", rule, Rules())
	}
	p.Repository = path.Join(prefix, p.Repository)
	// A registry may allow less than this; more than 255 is allowed by none (distribution's own limit).
	if len(p.Repository) > maxRepository {
		return Placed{}, fmt.Errorf("the path %s has %d characters, of which %d are allowed", p.Repository, len(p.Repository), maxRepository)
	}
	return p, nil
}

const maxRepository = 255

var notInPath = regexp.MustCompile(`[^a-z0-9.]+`)

// Host is how a registry is written in a path, where neither a colon nor the brackets of an IPv6 address
// may stand: "registry.example.com:5000" becomes "registry.example.com-5000".
func Host(registry string) string {
	return strings.Trim(notInPath.ReplaceAllString(strings.ToLower(registry), "-"), "-")
}

// Hosts are the registries that images come from, sorted, each once.
func Hosts(list []Placed) []string {
	var hosts []string
	for _, p := range list {
		host, _, _ := strings.Cut(p.Name, "/")
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
