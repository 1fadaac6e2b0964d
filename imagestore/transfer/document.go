package transfer

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
)

// maxManifest bounds manifests and indexes. Registries commonly take 4 MiB.
const maxManifest = 16 << 20

var acceptManifests = http.Header{"Accept": {strings.Join([]string{
	ocispec.MediaTypeImageIndex, imagestore.MediaTypeDockerManifestList, ocispec.MediaTypeImageManifest, imagestore.MediaTypeDockerManifest, "*/*;q=0.1",
}, ", ")}}

// foreign says whether a layer need not be in its registry (image-spec, layer.md, non-distributable).
func foreign(mediaType string) bool {
	return strings.Contains(mediaType, ".nondistributable.") || strings.Contains(mediaType, ".foreign.")
}

// Resolve reads the manifest or index that ref names, whose digest it checks, from the registry.
func (c *Client) Resolve(ctx context.Context, ref name.Reference) (ocispec.Descriptor, []byte, error) {
	return c.manifest(ctx, ref.Context(), ref.Identifier())
}

// resolve is Resolve that looks into the store first: a tag then costs one HEAD, a digest nothing.
func (c *Client) resolve(ctx context.Context, s *imagestore.Store, ref name.Reference) (ocispec.Descriptor, []byte, error) {
	id := ref.Identifier()
	if _, tagged := ref.(name.Tag); tagged {
		d, err := c.head(ctx, ref.Context(), id)
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		if d != "" {
			id = d.String() // the tag may move before the next request
		}
	}
	if d := digest.Digest(id); s.Has(d) {
		data, err := s.Read(d)
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		mediaType, err := documentType(data, "")
		if err != nil {
			return ocispec.Descriptor{}, nil, fmt.Errorf("reading %s: %w", imagestore.FullName(ref), err)
		}
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}, data, nil
	}
	return c.manifest(ctx, ref.Context(), id)
}

// head asks for the digest that a tag or digest stands for; "" where the registry does not say.
func (c *Client) head(ctx context.Context, repo name.Repository, id string) (digest.Digest, error) {
	s, err := c.session(ctx, repo, pull)
	if err != nil {
		return "", err
	}
	r := request{op: "looking for manifest " + id, method: http.MethodHead, path: "manifests/" + id, header: acceptManifests}
	resp, _, err := c.call(ctx, s, r, maxErrorBody, http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusBadRequest)
	if err != nil {
		return "", err
	}
	d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if resp.StatusCode != http.StatusOK || d.Validate() != nil {
		return "", nil // the GET that follows brings the reason
	}
	return d, nil
}

// manifest reads a manifest or index by tag or digest and checks it.
func (c *Client) manifest(ctx context.Context, repo name.Repository, id string) (ocispec.Descriptor, []byte, error) {
	s, err := c.session(ctx, repo, pull)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	r := request{op: "reading manifest " + id, method: http.MethodGet, path: "manifests/" + id, header: acceptManifests}
	resp, data, err := c.call(ctx, s, r, maxManifest, http.StatusOK)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	wrong := func(err error, message string) error {
		return &RegistryError{Registry: registryName(repo.Registry), Repository: repo.RepositoryStr(), Op: r.op, Message: message, Err: err}
	}
	got := digest.FromBytes(data)
	want := digest.Digest(id)
	if want.Validate() != nil { // it is a tag: the registry's own word is all there is
		if want = digest.Digest(resp.Header.Get("Docker-Content-Digest")); want.Validate() != nil || want.Algorithm() != digest.SHA256 {
			want = got
		}
	}
	if isHTML(resp.Header.Get("Content-Type"), data) {
		return ocispec.Descriptor{}, nil, wrong(nil, htmlMessage)
	}
	if got != want {
		return ocispec.Descriptor{}, nil, wrong(imagestore.ErrDigest, fmt.Sprintf("got a document with digest %s, want %s", got, want))
	}
	mediaType, err := documentType(data, resp.Header.Get("Content-Type"))
	if err != nil {
		return ocispec.Descriptor{}, nil, wrong(err, "")
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: got, Size: int64(len(data))}, data, nil
}

// documentType is imagestore.DocumentType, whose errors are here about an image that we cannot carry.
func documentType(data []byte, said string) (string, error) {
	t, err := imagestore.DocumentType(data, said)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return t, nil
}

// checkDescriptor refuses what the store could not hold; documents come from anywhere.
func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: descriptor with digest %q: %w", ErrUnsupported, printable(d.Digest.String()), err)
	}
	if d.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%w: descriptor %s: only SHA-256 digests are supported", ErrUnsupported, d.Digest)
	}
	if d.Size < 0 {
		return fmt.Errorf("%w: descriptor %s has size %d", ErrUnsupported, d.Digest, d.Size)
	}
	return nil
}
