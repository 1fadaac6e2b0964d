package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/remote"
)

// copyApps gives a control plane what app images that came before it embed. The operator may not have them
// any more; another control plane has, and what one registry lacks, workers miss by chance.
func (c *Cluster) copyApps(n *Node) []Step {
	var steps []Step
	seen := map[digest.Digest]bool{}
	for _, from := range c.madeMasters() {
		for _, app := range slices.Sorted(maps.Keys(from.State.Apps)) {
			name := from.State.Apps[app]
			if from == n || seen[app] || n.State.Apps[app] != "" {
				continue
			}
			seen[app] = true
			steps = append(steps, n.On(fmt.Sprintf("copy the containers of app %s from %s", name, from.Address), func(ctx context.Context, out io.Writer) error {
				store := hostStore{from}
				blobs, err := store.app(ctx, app)
				if err != nil {
					return fmt.Errorf("copying app %s: %w", name, err)
				}
				if err := send(ctx, n, store, blobs, out); err != nil && err != ErrAlready { //nolint:errorlint // send returns it bare
					return err
				}
				return n.noteApp(ctx, app, name)
			}))
		}
	}
	return steps
}

// hostStore is the store of a host, read from afar.
type hostStore struct{ n *Node }

// file is where a blob lies (OCI image layout).
func (hostStore) file(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("reading blob %q: %w", d, err)
	}
	return node.StoreDir + "/blobs/" + d.Algorithm().String() + "/" + d.Encoded(), nil
}

// Open implements Content. Whoever receives the blob checks it.
func (s hostStore) Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	file, err := s.file(d)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(s.n.Runner.Run(ctx, remote.Cmd{Args: []string{"cat", file}, Stdout: w}))
	}()
	return &blobStream{r, cancel}, nil
}

// blobStream ends the command that it reads from when it is closed.
type blobStream struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (s *blobStream) Close() error {
	s.cancel()
	return s.PipeReader.Close()
}

// document reads a small blob.
func (s hostStore) document(ctx context.Context, d digest.Digest, v any) (size int64, err error) {
	file, err := s.file(d)
	if err != nil {
		return 0, err
	}
	data, err := readFile(ctx, s.n.Runner, file)
	if err != nil {
		return 0, err
	}
	if d.Algorithm().FromBytes(data) != d {
		return 0, fmt.Errorf("reading blob %s on %s: it is not there, or not what its digest says", d, s.n.Address)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return 0, fmt.Errorf("reading blob %s on %s: %w", d, s.n.Address, err)
	}
	return int64(len(data)), nil
}

// app lists what the store has of the images that an app image embeds, and its index last: a document on a
// host says that its blobs are there. Images for other architectures were never sent.
func (s hostStore) app(ctx context.Context, app digest.Digest) ([]ocispec.Descriptor, error) {
	var index ocispec.Index
	size, err := s.document(ctx, app, &index)
	if err != nil {
		return nil, err
	}
	img, err := clusterimage.Parse(index)
	if err != nil {
		return nil, err
	}
	manifests := slices.Clone(img.Refs)
	for _, e := range img.Embedded {
		manifests = append(manifests, e.Manifest)
	}
	var names []digest.Digest
	for _, m := range manifests {
		names = append(names, m.Digest)
	}
	missing, err := s.n.Host.Missing(ctx, names)
	if err != nil {
		return nil, err
	}
	var list []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	add := func(descs ...ocispec.Descriptor) {
		for _, d := range descs {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				list = append(list, d)
			}
		}
	}
	for _, d := range manifests {
		if slices.Contains(missing, d.Digest) {
			continue
		}
		var m ocispec.Manifest
		if _, err := s.document(ctx, d.Digest, &m); err != nil {
			return nil, err
		}
		add(m.Config)
		add(m.Layers...)
		add(d)
	}
	add(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: app, Size: size})
	return list, nil
}
