// Package registry serves images as a read-only OCI registry (distribution-spec v1.1, the pull side).
// It understands the query parameter ns, by which containerd tells a mirror which registry an image
// comes from, so that equal paths of two registries never meet.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
)

// Source is what a registry serves. It is used from many goroutines. What it does not have is an error
// that is imagestore.ErrNotFound.
type Source interface {
	// Resolve finds a manifest or index. ns is the registry that the client means, "" if it does not
	// say; repository is the path in the URL; reference is a tag or a digest.
	Resolve(ctx context.Context, ns, repository, reference string) (ocispec.Descriptor, error)
	// Open opens a blob, or a document that Resolve named.
	Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error)
}

// Lister is a Source that can be listed. Without it, every list is an error.
type Lister interface {
	// Tags lists the tags of a repository, named as for Resolve.
	Tags(ctx context.Context, ns, repository string) ([]string, error)
	// Repositories lists the full names of all repositories.
	Repositories(ctx context.Context) ([]string, error)
}

// Options of Handler.
type Options struct {
	// OnMiss, if not nil, is called for each request of a manifest or blob that is not there; ref is a
	// tag or digest. It is called from several goroutines.
	OnMiss func(ns, repository, ref string)
	// OnError, if not nil, is called with what made the registry answer 500.
	OnError func(error)
}

// Handler serves src under /v2/.
func Handler(src Source, opts Options) http.Handler { return &handler{src: src, opts: opts} }

type handler struct {
	src  Source
	opts Options
}

var (
	// A repository's path may begin with a registry's host and port.
	repositoryPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$`)
	tagPattern        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

const maxRepository = 512 // bytes; distribution-spec knows clients that stop at 255

// ServeHTTP routes by hand, since repositories contain slashes.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if r.URL.Path == "/v2" {
		rest, ok = "", true
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
		return
	}
	switch rest {
	case "":
		answer(w, "application/json", []byte("{}"))
		return
	case "_catalog":
		h.catalog(w, r)
		return
	}
	q := request{ns: r.URL.Query().Get("ns")}
	var serve func(http.ResponseWriter, *http.Request, request)
	if repository, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		q.repository, serve = repository, h.tags
	} else {
		for part, fn := range map[string]func(http.ResponseWriter, *http.Request, request){
			"/manifests/": h.manifest, "/blobs/": h.blob, "/referrers/": h.referrers,
		} {
			i := strings.LastIndex(rest, part)
			if i > 0 && !strings.Contains(rest[i+len(part):], "/") {
				q.repository, q.ref, serve = rest[:i], rest[i+len(part):], fn
			}
		}
	}
	switch {
	case serve == nil:
		http.NotFound(w, r)
	case len(q.repository) > maxRepository || !repositoryPattern.MatchString(q.repository):
		fail(w, http.StatusBadRequest, "NAME_INVALID", "not the name of a repository")
	default:
		serve(w, r, q)
	}
}

type request struct{ ns, repository, ref string }

func (h *handler) manifest(w http.ResponseWriter, r *http.Request, q request) {
	if strings.Contains(q.ref, ":") {
		if !valid(w, q.ref) {
			return
		}
	} else if !tagPattern.MatchString(q.ref) {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "not a tag")
		return
	}
	desc, err := h.src.Resolve(r.Context(), q.ns, q.repository, q.ref)
	if err != nil {
		h.failed(w, q, err, "MANIFEST_UNKNOWN")
		return
	}
	h.content(w, r, q, desc.Digest, desc.MediaType, "MANIFEST_UNKNOWN")
}

func (h *handler) blob(w http.ResponseWriter, r *http.Request, q request) {
	if valid(w, q.ref) {
		h.content(w, r, q, digest.Digest(q.ref), "application/octet-stream", "BLOB_UNKNOWN")
	}
}

func valid(w http.ResponseWriter, ref string) bool {
	if err := digest.Digest(ref).Validate(); err != nil {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return false
	}
	return true
}

// content answers with a blob, or the parts of it that were asked for.
func (h *handler) content(w http.ResponseWriter, r *http.Request, q request, d digest.Digest, mediaType, unknown string) {
	c, err := h.src.Open(r.Context(), d)
	if err != nil {
		h.failed(w, q, err, unknown)
		return
	}
	defer c.Close()
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Etag", `"`+d.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, c)
}

// referrers says that nothing refers to the image: what an image is signed with comes in its own ways.
func (h *handler) referrers(w http.ResponseWriter, _ *http.Request, q request) {
	if !valid(w, q.ref) {
		return
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	idx.SchemaVersion = 2
	answerJSON(w, ocispec.MediaTypeImageIndex, idx)
}

func (h *handler) tags(w http.ResponseWriter, r *http.Request, q request) {
	lister, ok := h.src.(Lister)
	if !ok {
		fail(w, http.StatusNotFound, "UNSUPPORTED", "this registry has no lists")
		return
	}
	list, err := lister.Tags(r.Context(), q.ns, q.repository)
	if err != nil {
		h.failed(w, request{}, err, "NAME_UNKNOWN")
		return
	}
	if list, ok = page(w, r, list); ok {
		answerJSON(w, "application/json", map[string]any{"name": q.repository, "tags": list})
	}
}

func (h *handler) catalog(w http.ResponseWriter, r *http.Request) {
	lister, ok := h.src.(Lister)
	if !ok {
		fail(w, http.StatusNotFound, "UNSUPPORTED", "this registry has no lists")
		return
	}
	list, err := lister.Repositories(r.Context())
	if err != nil {
		h.failed(w, request{}, err, "NAME_UNKNOWN")
		return
	}
	if list, ok = page(w, r, list); ok {
		answerJSON(w, "application/json", map[string]any{"repositories": list})
	}
}

// page sorts a list and cuts it by the parameters n and last.
func page(w http.ResponseWriter, r *http.Request, list []string) ([]string, bool) {
	list = slices.Clone(list)
	slices.Sort(list)
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		list = list[sort.Search(len(list), func(i int) bool { return list[i] > last }):]
	}
	if text := query.Get("n"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			fail(w, http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n must be a number, 0 or greater")
			return nil, false
		}
		if n < len(list) {
			list = list[:n]
			if n > 0 {
				query.Set("last", list[n-1])
				next := url.URL{Path: r.URL.Path, RawQuery: query.Encode()}
				w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next.String()))
			}
		}
	}
	if list == nil {
		list = []string{}
	}
	return list, true
}

// failed answers for an error of the source.
func (h *handler) failed(w http.ResponseWriter, q request, err error, unknown string) {
	if errors.Is(err, imagestore.ErrNotFound) {
		h.miss(w, q, unknown, err.Error())
		return
	}
	if h.opts.OnError != nil {
		h.opts.OnError(err)
	}
	fail(w, http.StatusInternalServerError, "UNKNOWN", "internal error")
}

func (h *handler) miss(w http.ResponseWriter, q request, code, message string) {
	if h.opts.OnMiss != nil && q.repository != "" {
		h.opts.OnMiss(q.ns, q.repository, q.ref)
	}
	fail(w, http.StatusNotFound, code, message)
}

// fail answers with an error document of the distribution-spec.
func fail(w http.ResponseWriter, status int, code, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	data, err := json.Marshal(map[string][]entry{"errors": {{code, message}}})
	if err != nil {
		data = []byte(`{"errors":[]}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone, or not
}

func answerJSON(w http.ResponseWriter, mediaType string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN", "internal error")
		return
	}
	answer(w, mediaType, data)
}

func answer(w http.ResponseWriter, mediaType string, data []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data) // nothing is sent for HEAD
}
