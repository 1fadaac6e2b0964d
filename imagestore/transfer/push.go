package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// PushOptions say how an image is pushed.
type PushOptions struct {
	// MountFrom are repositories of the same registry that may have blobs already, such as
	// "library/nginx". Those that blobs were pulled from or pushed to before, and those that embedded
	// images are named by, are known without.
	MountFrom []string
}

// Moved counts blobs (not manifests), each digest once.
type Moved struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

// PushResult says what a push did.
type PushResult struct {
	// Uploaded was sent, Mounted taken over from another repository of the registry, Skipped was there.
	Uploaded Moved `json:"uploaded"`
	Mounted  Moved `json:"mounted"`
	Skipped  Moved `json:"skipped"`
	// Manifests is the number of manifests and indexes sent.
	Manifests int `json:"manifests"`
}

// Push makes ref in its registry stand for desc, an image in the store, with everything that desc
// reaches. Documents are sent exactly as they are in the store, children before parents, the tag last.
// A digest reference must have desc's digest. ErrIncomplete, with an *imagestore.MissingError, where
// parts are not in the store; nothing was sent then.
func (c *Client) Push(ctx context.Context, s *imagestore.Store, desc ocispec.Descriptor, ref name.Reference, opts PushOptions) (PushResult, error) {
	full := imagestore.FullName(ref)
	result, err := c.pushTo(ctx, s, desc, ref, opts)
	if err != nil {
		return result, fmt.Errorf("pushing %s: %w", full, err)
	}
	return result, nil
}

func (c *Client) pushTo(ctx context.Context, s *imagestore.Store, desc ocispec.Descriptor, ref name.Reference, opts PushOptions) (PushResult, error) {
	if d, ok := ref.(name.Digest); ok && d.DigestStr() != desc.Digest.String() {
		return PushResult{}, fmt.Errorf("the name asks for digest %s, the image has %s", d.DigestStr(), desc.Digest)
	}
	release, err := s.Hold(ctx)
	if err != nil {
		return PushResult{}, err
	}
	defer release()
	top, err := readTree(s, desc)
	if err != nil {
		return PushResult{}, err
	}
	p := &pusher{c: c, s: s, repo: ref.Context(), origins: newOrigins(s, ref.Context()), blobs: map[digest.Digest]*transferred{}}
	for _, from := range opts.MountFrom {
		p.mountFrom = append(p.mountFrom, p.repo.Registry.Repo(from))
	}
	p.known = p.origins.load()
	defer p.origins.save(ctx)
	if p.session, err = c.session(ctx, p.repo, push); err != nil {
		return PushResult{}, err
	}
	err = p.top(ctx, top, ref)
	return p.count(top), err
}

// node is a manifest or index to push and what must be there before it.
type node struct {
	desc     ocispec.Descriptor
	data     []byte
	blobs    []ocispec.Descriptor
	children []*node
	// name is the full name of an embedded image, "" for others.
	name string
	sent bool
	once sync.Once
	err  error
}

// readTree reads everything desc reaches from the store and sees that it is there.
func readTree(s *imagestore.Store, desc ocispec.Descriptor) (*node, error) {
	r := &treeReader{s: s, top: desc.Digest, nodes: map[digest.Digest]*node{}}
	return r.read(desc, 0)
}

// treeReader reads each document once, however often it is named.
type treeReader struct {
	s     *imagestore.Store
	top   digest.Digest
	nodes map[digest.Digest]*node
}

func (r *treeReader) missing(d ocispec.Descriptor) error {
	return fmt.Errorf("%w: %w", ErrIncomplete, &imagestore.MissingError{Image: r.top, Blobs: []ocispec.Descriptor{d}})
}

func (r *treeReader) read(desc ocispec.Descriptor, depth int) (*node, error) {
	if n, there := r.nodes[desc.Digest]; there {
		return n, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: indexes are nested more than %d deep", ErrUnsupported, maxDepth)
	}
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	n := &node{desc: desc, name: desc.Annotations[clusterimage.AnnotationName]}
	r.nodes[desc.Digest] = n
	var err error
	if n.data, err = r.s.Read(desc.Digest); errors.Is(err, imagestore.ErrNotFound) {
		return nil, r.missing(desc)
	} else if err != nil {
		return nil, err
	}
	if n.desc.MediaType, err = documentType(n.data, desc.MediaType); err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", desc.Digest, err)
	}
	if imagestore.IsManifest(n.desc.MediaType) {
		blobs, err := manifestBlobs(desc, n.data)
		if err != nil {
			return nil, err
		}
		return n, r.blobs(n, blobs)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(n.data, &idx); err != nil {
		return nil, fmt.Errorf("reading index %s: %w", desc.Digest, err)
	}
	for _, d := range idx.Manifests {
		if !imagestore.IsIndex(d.MediaType) && !imagestore.IsManifest(d.MediaType) {
			if err := r.blobs(n, []ocispec.Descriptor{d}); err != nil {
				return nil, err
			}
			continue
		}
		child, err := r.read(d, depth+1)
		if err != nil {
			return nil, err
		}
		n.children = append(n.children, child)
	}
	return n, nil
}

// blobs adds to those that the node needs. A layer that need not be distributed may be missing.
func (r *treeReader) blobs(n *node, list []ocispec.Descriptor) error {
	for _, d := range list {
		if err := checkDescriptor(d); err != nil {
			return err
		}
		there, err := present(r.s, d)
		if err != nil {
			return err
		}
		if there {
			n.blobs = append(n.blobs, d)
		} else if !foreign(d.MediaType) {
			return r.missing(d)
		}
	}
	return nil
}

// pusher pushes one image to one repository.
type pusher struct {
	c         *Client
	s         *imagestore.Store
	repo      name.Repository
	session   *session
	origins   *origins
	known     map[digest.Digest][]string
	mountFrom []name.Repository

	mu    sync.Mutex
	blobs map[digest.Digest]*transferred
}

// way is how a blob came to be in the repository.
type way int

const (
	skipped way = iota
	mounted
	uploaded
)

// transferred is one blob of the push; how and err are set when done is closed.
type transferred struct {
	size int64
	done chan struct{}
	how  way
	err  error
}

// top pushes the whole and sets the name, unless it stands for the image already.
func (p *pusher) top(ctx context.Context, n *node, ref name.Reference) error {
	id := ref.Identifier()
	there, err := p.has(ctx, id, n.desc.Digest)
	if err != nil || there {
		return err
	}
	if id == n.desc.Digest.String() {
		if err := p.parts(ctx, n); err != nil {
			return err
		}
	} else if there, err = p.has(ctx, n.desc.Digest.String(), n.desc.Digest); err != nil {
		return err
	} else if !there {
		if err := p.parts(ctx, n); err != nil {
			return err
		}
	}
	return p.put(ctx, n, id)
}

// tree pushes a manifest and what it needs, unless it is there: a registry has all parts of what it has.
func (p *pusher) tree(ctx context.Context, n *node) error {
	n.once.Do(func() { n.err = p.treeOnce(ctx, n) })
	return n.err
}

func (p *pusher) treeOnce(ctx context.Context, n *node) error {
	there, err := p.has(ctx, n.desc.Digest.String(), n.desc.Digest)
	if err != nil || there {
		return err
	}
	if err := p.parts(ctx, n); err != nil {
		return err
	}
	return p.put(ctx, n, n.desc.Digest.String())
}

func (p *pusher) parts(ctx context.Context, n *node) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxBranches)
	for _, child := range n.children {
		g.Go(func() error { return p.tree(gctx, child) })
	}
	for _, d := range n.blobs {
		g.Go(func() error { return p.blob(gctx, d, n.name) })
	}
	return g.Wait()
}

// has says whether a tag or digest stands for the manifest d in the registry.
func (p *pusher) has(ctx context.Context, id string, d digest.Digest) (bool, error) {
	r := request{op: "looking for manifest " + id, method: http.MethodHead, path: "manifests/" + id, header: acceptManifests}
	resp, _, err := p.c.call(ctx, p.session, r, maxErrorBody, http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed)
	if err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusOK {
		return false, nil
	}
	got := resp.Header.Get("Docker-Content-Digest")
	return got == d.String() || got == "" && id == d.String(), nil
}

// put sends a manifest, byte for byte.
func (p *pusher) put(ctx context.Context, n *node, id string) error {
	r := request{
		op: "writing manifest " + id, method: http.MethodPut, path: "manifests/" + id,
		header: http.Header{"Content-Type": {n.desc.MediaType}},
		body:   inMemory(n.data), length: int64(len(n.data)),
	}
	resp, _, err := p.c.call(ctx, p.session, r, maxErrorBody, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != n.desc.Digest.String() && digest.Digest(got).Validate() == nil && digest.Digest(got).Algorithm() == digest.SHA256 {
		return &RegistryError{Registry: registryName(p.repo.Registry), Repository: p.repo.RepositoryStr(), Op: r.op, Status: resp.StatusCode,
			Message: fmt.Sprintf("the registry stored it as %s, want %s", got, n.desc.Digest)}
	}
	n.sent = true
	return nil
}

// blob sees to it that the repository has the blob, once for each digest.
func (p *pusher) blob(ctx context.Context, d ocispec.Descriptor, embedded string) error {
	p.mu.Lock()
	b, there := p.blobs[d.Digest]
	if !there {
		b = &transferred{size: d.Size, done: make(chan struct{})}
		p.blobs[d.Digest] = b
	}
	p.mu.Unlock()
	if there {
		select {
		case <-b.done:
			return b.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(b.done)
	m := &meter{to: p.c.progress, id: d.Digest.String(), total: d.Size, name: fmt.Sprintf("pushing %s %.12s", repoName(p.repo), d.Digest.Encoded())}
	b.how, b.err = p.transfer(ctx, d, p.candidates(d.Digest, embedded), m)
	if b.err == nil {
		p.origins.add(d.Digest)
	}
	m.end(b.err)
	return b.err
}

// maxMounts bounds how many repositories are asked for one blob.
const maxMounts = 3

// candidates lists repositories of the registry that may have the blob, likeliest first.
func (p *pusher) candidates(d digest.Digest, embedded string) []name.Repository {
	var list []name.Repository
	add := func(r name.Repository) {
		if r.RegistryStr() == p.repo.RegistryStr() && r.RepositoryStr() != p.repo.RepositoryStr() && !slices.Contains(list, r) && len(list) < maxMounts {
			list = append(list, r)
		}
	}
	for _, r := range p.known[d] {
		add(p.repo.Registry.Repo(r))
	}
	if embedded != "" {
		if ref, err := imagestore.ParseName(embedded); err == nil && ref.Context().RegistryStr() == p.repo.RegistryStr() {
			add(p.repo.Registry.Repo(ref.Context().RepositoryStr()))
		}
	}
	for _, r := range p.mountFrom {
		add(r)
	}
	return list
}

// count sums up; a blob below a manifest that was there was not looked at, and is skipped.
func (p *pusher) count(top *node) PushResult {
	var r PushResult
	for _, b := range p.blobs {
		if b.err == nil {
			r.add(b.how, b.size)
		}
	}
	seen := map[digest.Digest]bool{}
	counted := map[*node]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		if counted[n] {
			return
		}
		counted[n] = true
		if n.sent {
			r.Manifests++
		}
		for _, d := range n.blobs {
			if _, done := p.blobs[d.Digest]; !done && !seen[d.Digest] {
				seen[d.Digest] = true
				r.add(skipped, d.Size)
			}
		}
		for _, child := range n.children {
			walk(child)
		}
	}
	walk(top)
	return r
}

func (r *PushResult) add(how way, size int64) {
	m := [...]*Moved{skipped: &r.Skipped, mounted: &r.Mounted, uploaded: &r.Uploaded}[how]
	m.Blobs++
	m.Bytes += size
}
