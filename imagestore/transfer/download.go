package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
)

// blob brings a blob into the store, if it is not there. moved says that it came from this repository.
func (c *Client) blob(ctx context.Context, s *imagestore.Store, repo name.Repository, d ocispec.Descriptor) (moved bool, err error) {
	if err := checkDescriptor(d); err != nil {
		return false, err
	}
	land, err := c.fly(ctx, s.BlobPath(d.Digest))
	if err != nil {
		return false, err
	}
	defer land()
	m := &meter{to: c.progress, id: d.Digest.String(), total: d.Size, name: fmt.Sprintf("pulling %s %.12s", repoName(repo), d.Digest.Encoded())}
	if there, err := present(s, d); there || err != nil {
		m.end(err)
		return false, err
	}
	leave, err := enter(ctx, c.blobs)
	if err != nil {
		return false, err
	}
	defer leave()
	err = c.download(ctx, s, repo, d, m)
	m.end(err)
	return err == nil, err
}

// fly waits until nobody else in this process fetches the same; land lets the next one in, who will
// usually find it done.
func (c *Client) fly(ctx context.Context, key string) (land func(), err error) {
	for {
		c.mu.Lock()
		busy, there := c.flights[key]
		if !there {
			done := make(chan struct{})
			c.flights[key] = done
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				delete(c.flights, key)
				c.mu.Unlock()
				close(done)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// present says whether the store has the blob, which must have the size that its descriptor says.
func present(s *imagestore.Store, d ocispec.Descriptor) (bool, error) {
	fi, err := os.Stat(s.BlobPath(d.Digest))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for blob %s: %w", d.Digest, err)
	}
	if fi.Size() != d.Size {
		return false, fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, fi.Size(), d.Size, imagestore.ErrDigest)
	}
	return true, nil
}

func (c *Client) download(ctx context.Context, s *imagestore.Store, repo name.Repository, d ocispec.Descriptor, m *meter) error {
	resumed, err := c.downloadOnce(ctx, s, repo, d, m)
	if resumed && errors.Is(err, imagestore.ErrDigest) {
		// What an earlier run or an earlier connection left may have been wrong; this time all is new.
		_, err = c.downloadOnce(ctx, s, repo, d, m)
	}
	if errors.Is(err, imagestore.ErrDigest) {
		return &RegistryError{Registry: registryName(repo.Registry), Repository: repo.RepositoryStr(), Op: "pulling blob " + d.Digest.String(),
			Message: "the registry sent other content", Err: err}
	}
	return err
}

// downloadOnce continues what is there of the blob until it is whole. resumed says that parts of it
// came over more than one connection.
func (c *Client) downloadOnce(ctx context.Context, s *imagestore.Store, repo name.Repository, d ocispec.Descriptor, m *meter) (resumed bool, err error) {
	w, offset, err := s.Resume(ctx, d.Digest)
	if err != nil {
		return false, err
	}
	defer w.Close()
	resumed = offset > 0
	// A registry that cannot continue in the middle brings the same bytes again and again: only
	// going beyond what was reached before is going on.
	farthest := offset
	for n := 0; w.Size() != d.Size; n++ {
		err := c.receive(ctx, w, repo, d, m)
		if err == nil {
			break
		}
		if w.Size() > farthest {
			farthest, n = w.Size(), 0
		}
		if !c.retry.again(ctx, n, err) {
			return resumed, err
		}
		if err := c.retry.pause(ctx, n, err); err != nil {
			return resumed, err
		}
		resumed = resumed || w.Size() > 0
	}
	_, err = w.Commit(d.Digest, d.Size)
	return resumed, err
}

// receive asks for what is missing of the blob and writes it until the connection ends.
func (c *Client) receive(ctx context.Context, w *imagestore.Writer, repo name.Repository, d ocispec.Descriptor, m *meter) error {
	if w.Size() > d.Size {
		if err := w.Restart(); err != nil {
			return err
		}
	}
	s, err := c.session(ctx, repo, pull)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := request{op: "pulling blob " + d.Digest.String(), method: http.MethodGet, path: "blobs/" + d.Digest.String()}
	if w.Size() > 0 {
		// Both ends are named: some registries do not know the open form.
		r.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", w.Size(), d.Size-1)}}
	}
	resp, err := s.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := c.position(w, repo, r.op, resp); err != nil {
		return err
	}
	body := newWatch(resp.Body, c.stall, cancel)
	defer body.stop()
	at := w.Size()
	body.moved = func(n int) { at += int64(n); m.set(at) }
	// One byte more than there should be tells a longer answer from a right one.
	_, err = io.Copy(w, io.LimitReader(body, d.Size-w.Size()+1))
	switch {
	case body.err != nil:
		return registryError(ctx, repo, r.op, fmt.Errorf("%w after %d of %d bytes: %w", errCut, w.Size(), d.Size, body.err))
	case err != nil:
		return err // of the disk
	case w.Size() > d.Size:
		return errors.Join(fmt.Errorf("more than the %d bytes of blob %s: %w", d.Size, d.Digest, imagestore.ErrDigest), w.Restart())
	case w.Size() < d.Size:
		return registryError(ctx, repo, r.op, fmt.Errorf("%w after %d of %d bytes", errCut, w.Size(), d.Size))
	}
	return nil
}

// position makes w ready for the answer to a request for the rest of a blob.
func (c *Client) position(w *imagestore.Writer, repo name.Repository, op string, resp *http.Response) error {
	if resp.StatusCode/100 == 2 && isHTML(resp.Header.Get("Content-Type"), nil) {
		return &RegistryError{Registry: registryName(repo.Registry), Repository: repo.RepositoryStr(), Op: op, Message: htmlMessage}
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if w.Size() > 0 { // it does not know ranges
			return w.Restart()
		}
		return nil
	case http.StatusPartialContent:
		var start int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &start); err == nil && start == w.Size() {
			return nil
		}
	case http.StatusRequestedRangeNotSatisfiable:
	default:
		return answerError(repo, op, resp)
	}
	if err := w.Restart(); err != nil {
		return err
	}
	return &RegistryError{Registry: registryName(repo.Registry), Repository: repo.RepositoryStr(), Op: op,
		Err: fmt.Errorf("%w: the registry answered another range than was asked for (%d)", errCut, resp.StatusCode)}
}
