package buildkit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/builder"
)

// readOnly is the store with the images that a solve reads.
type readOnly struct{ content.Store }

// Writer implements content.Ingester: nothing is written there behind the store's back.
func (readOnly) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, fmt.Errorf("writing to the image store: %w", errdefs.ErrPermissionDenied)
}

// Delete implements content.Manager.
func (readOnly) Delete(context.Context, digest.Digest) error {
	return fmt.Errorf("deleting from the image store: %w", errdefs.ErrPermissionDenied)
}

// output receives what a solve exports. Blobs that the image store has are not sent; the others go into
// files without a name, which vanish with the process.
type output struct {
	content.Store // of the images: reads, and what is there already
	scratch       func() (*os.File, error)

	mu    sync.Mutex
	blobs map[digest.Digest]blob
}

type blob struct {
	f    *os.File
	size int64
}

func newOutput(images content.Store, scratch func() (*os.File, error)) *output {
	return &output{Store: readOnly{images}, scratch: scratch, blobs: map[digest.Digest]blob{}}
}

// Writer implements content.Ingester.
func (o *output) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var w content.WriterOpts
	for _, opt := range opts {
		if err := opt(&w); err != nil {
			return nil, err
		}
	}
	if d := w.Desc.Digest; d != "" {
		if _, err := o.Info(ctx, d); err == nil {
			return nil, fmt.Errorf("blob %s: %w", d, errdefs.ErrAlreadyExists)
		}
	}
	f, err := o.scratch()
	if err != nil {
		return nil, err
	}
	return &outputWriter{o: o, f: f, hash: digest.SHA256.Digester(), ref: w.Ref, began: time.Now()}, nil
}

// Info implements content.InfoProvider.
func (o *output) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	o.mu.Lock()
	b, ok := o.blobs[d]
	o.mu.Unlock()
	if ok {
		return content.Info{Digest: d, Size: b.size}, nil
	}
	return o.Store.Info(ctx, d)
}

// Abort implements content.IngestManager: a writer that is closed has left nothing.
func (o *output) Abort(context.Context, string) error { return nil }

// Update implements content.Manager: labels are not kept.
func (o *output) Update(_ context.Context, info content.Info, _ ...string) (content.Info, error) {
	return info, nil
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range o.blobs {
		_ = b.f.Close()
	}
	o.blobs = nil
}

func (o *output) read(d digest.Digest, v any) error {
	o.mu.Lock()
	b, ok := o.blobs[d]
	o.mu.Unlock()
	if !ok {
		return fmt.Errorf("BuildKit did not send %s", d)
	}
	return json.NewDecoder(io.NewSectionReader(b.f, 0, b.size)).Decode(v)
}

// changes are the layers that an exported image has beyond its base's.
func (o *output) changes(base ocispec.Descriptor, exported string) ([]builder.Change, error) {
	list, err := o.layers(base, exported)
	if err != nil {
		return nil, fmt.Errorf("reading what BuildKit exported: %w", err)
	}
	return list, nil
}

func (o *output) layers(base ocispec.Descriptor, exported string) ([]builder.Change, error) {
	data, err := base64.StdEncoding.DecodeString(exported)
	if err != nil {
		return nil, err
	}
	var desc ocispec.Descriptor
	if err := json.Unmarshal(data, &desc); err != nil {
		return nil, err
	}
	var below, m ocispec.Manifest
	raw, err := content.ReadBlob(context.Background(), o.Store, base)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &below); err != nil {
		return nil, err
	}
	if err := o.read(desc.Digest, &m); err != nil {
		return nil, err
	}
	if len(m.Layers) < len(below.Layers) {
		return nil, errors.New("it has fewer layers than its base")
	}
	var list []builder.Change
	seen := map[digest.Digest]bool{}
	for _, l := range m.Layers[len(below.Layers):] {
		b, ok := o.blobs[l.Digest]
		if !ok || l.MediaType != ocispec.MediaTypeImageLayer {
			return nil, fmt.Errorf("layer %s, of type %s, did not come along", l.Digest, l.MediaType)
		}
		f := b.f
		if seen[l.Digest] { // two instructions that changed the same
			if f, err = o.copy(b); err != nil {
				return nil, err
			}
		}
		seen[l.Digest] = true
		list = append(list, builder.Change{Tar: f, Size: b.size})
	}
	for d := range seen { // they are the caller's now
		delete(o.blobs, d)
	}
	return list, nil
}

func (o *output) copy(b blob) (*os.File, error) {
	f, err := o.scratch()
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, io.NewSectionReader(b.f, 0, b.size)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// outputWriter receives one blob.
type outputWriter struct {
	o     *output
	f     *os.File // nil once it is done
	hash  digest.Digester
	size  int64
	ref   string
	began time.Time
}

// Write implements io.Writer.
func (w *outputWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.hash.Hash().Write(p[:n])
	w.size += int64(n)
	return n, err
}

// Digest implements content.Writer.
func (w *outputWriter) Digest() digest.Digest { return w.hash.Digest() }

// Status implements content.Writer.
func (w *outputWriter) Status() (content.Status, error) {
	return content.Status{Ref: w.ref, Offset: w.size, StartedAt: w.began, UpdatedAt: time.Now()}, nil
}

// Truncate implements content.Writer.
func (w *outputWriter) Truncate(size int64) error {
	if size != 0 {
		return fmt.Errorf("cutting a blob to %d bytes: %w", size, errdefs.ErrNotImplemented)
	}
	w.size, w.hash = 0, digest.SHA256.Digester()
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return w.f.Truncate(0)
}

// Commit implements content.Writer.
func (w *outputWriter) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	d := w.hash.Digest()
	if size > 0 && size != w.size || expected != "" && expected != d {
		return fmt.Errorf("blob %s came as %s, %d bytes: %w", expected, d, w.size, errdefs.ErrFailedPrecondition)
	}
	w.o.mu.Lock()
	defer w.o.mu.Unlock()
	if _, ok := w.o.blobs[d]; ok || w.o.blobs == nil {
		return errors.Join(fmt.Errorf("blob %s: %w", d, errdefs.ErrAlreadyExists), w.Close())
	}
	w.o.blobs[d] = blob{f: w.f, size: w.size}
	w.f = nil
	return nil
}

// Close implements io.Closer: without Commit it discards.
func (w *outputWriter) Close() error {
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	return f.Close()
}
