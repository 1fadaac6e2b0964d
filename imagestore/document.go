package imagestore

import (
	"encoding/json"
	"fmt"
	"mime"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of image manifests of schema 1, of before 2016, whose content cannot be verified.
const (
	MediaTypeDockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	MediaTypeDockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// DocumentType finds out what a manifest or index is: by what it says itself, by what whoever gave it said
// (a descriptor's media type or a Content-Type, "" if nothing), by its shape. Everything else, and schema
// 1, is ErrDocument.
func DocumentType(data []byte, said string) (string, error) {
	var doc struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Manifests     *json.RawMessage `json:"manifests"`
		Config        *json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return "", fmt.Errorf("%w: the manifest is not JSON: %w", ErrDocument, err)
	}
	said, _, _ = mime.ParseMediaType(said)
	if doc.SchemaVersion == 1 || said == MediaTypeDockerSchema1 || said == MediaTypeDockerSchema1Signed {
		return "", fmt.Errorf("%w: a manifest of schema 1, the format of before 2016, whose content cannot be verified", ErrDocument)
	}
	for _, t := range []string{doc.MediaType, said} {
		if IsIndex(t) && doc.Manifests != nil || IsManifest(t) && doc.Config != nil {
			return t, nil
		}
	}
	switch {
	case doc.MediaType != "" && !IsIndex(doc.MediaType) && !IsManifest(doc.MediaType):
		return "", fmt.Errorf("%w: a document of type %.200q is neither an image nor an index", ErrDocument, doc.MediaType)
	case doc.Manifests != nil && doc.Config == nil:
		return ocispec.MediaTypeImageIndex, nil
	case doc.Config != nil && doc.Manifests == nil:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", fmt.Errorf("%w: it is neither an image nor an index", ErrDocument)
}
