package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// transfer brings a blob into the repository the cheapest way there is.
func (p *pusher) transfer(ctx context.Context, d ocispec.Descriptor, from []name.Repository, m *meter) (way, error) {
	if there, err := p.hasBlob(ctx, d); err != nil || there {
		return skipped, err
	}
	for _, repo := range from {
		if done, err := p.mount(ctx, d, repo); err != nil || done {
			return mounted, err
		}
	}
	leave, err := enter(ctx, p.c.blobs)
	if err != nil {
		return uploaded, err
	}
	defer leave()
	again := false
	err = p.c.retry.do(ctx, func() error {
		if again { // the answer may be what was lost, not the blob
			if there, err := p.hasBlob(ctx, d); err != nil || there {
				return err
			}
		}
		again = true
		return p.upload(ctx, d, m)
	})
	return uploaded, err
}

func (p *pusher) hasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	r := request{op: "looking for blob " + d.Digest.String(), method: http.MethodHead, path: "blobs/" + d.Digest.String()}
	resp, _, err := p.c.call(ctx, p.session, r, maxErrorBody, http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed)
	if err != nil {
		return false, err
	}
	return resp.StatusCode == http.StatusOK && (resp.ContentLength < 0 || resp.ContentLength == d.Size), nil
}

// mount takes a blob over from another repository of the registry. That it cannot is no error: the
// blob is uploaded then.
func (p *pusher) mount(ctx context.Context, d ocispec.Descriptor, from name.Repository) (bool, error) {
	s, err := p.c.session(ctx, p.repo, push, from)
	if err == nil {
		query := url.Values{"mount": {d.Digest.String()}, "from": {from.RepositoryStr()}}
		r := request{op: "mounting blob " + d.Digest.String(), method: http.MethodPost, path: "blobs/uploads/?" + query.Encode()}
		var resp *http.Response
		resp, _, err = p.c.call(ctx, s, r, maxErrorBody, http.StatusCreated, http.StatusAccepted)
		if err == nil && resp.StatusCode == http.StatusCreated {
			return true, nil
		}
		if err == nil {
			p.cancel(ctx, resp)
		}
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return false, nil
}

// cancel ends an upload that a registry began in place of a mount. It would time out otherwise.
func (p *pusher) cancel(ctx context.Context, begun *http.Response) {
	at, err := begun.Location()
	if err != nil {
		return
	}
	r := request{op: "ending upload", method: http.MethodDelete, url: at.String()}
	if resp, err := p.session.send(ctx, r); err == nil {
		drain(resp)
	}
}

// upload sends the blob, all of it.
func (p *pusher) upload(ctx context.Context, d ocispec.Descriptor, m *meter) error {
	op := "pushing blob " + d.Digest.String()
	resp, err := p.expect(ctx, request{op: op, method: http.MethodPost, path: "blobs/uploads/"}, http.StatusAccepted)
	if err != nil {
		return err
	}
	at, err := p.location(op, resp)
	if err != nil {
		return err
	}
	least, _ := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64)
	if !p.session.chunked.Load() {
		err := p.send(ctx, d, m, request{op: op, method: http.MethodPut, url: withDigest(at, d.Digest)}, 0, d.Size, http.StatusCreated)
		var re *RegistryError
		if !errors.As(err, &re) || !inPieces(re.Status) || d.Size <= chunkSize {
			return err
		}
		// Something before the registry does not let so much pass in one request.
		p.session.chunked.Store(true)
		return p.upload(ctx, d, m)
	}
	size := max(chunkSize, least)
	for off := int64(0); off < d.Size; {
		n := min(size, d.Size-off)
		r := request{op: op, method: http.MethodPatch, url: at.String(), header: http.Header{"Content-Range": {fmt.Sprintf("%d-%d", off, off+n-1)}}}
		if at, err = p.sendPiece(ctx, d, m, r, off, n); err != nil {
			return err
		}
		off += n
	}
	_, err = p.expect(ctx, request{op: op, method: http.MethodPut, url: withDigest(at, d.Digest)}, http.StatusCreated, http.StatusNoContent)
	return err
}

// chunkSize is that of the pieces of a blob where it cannot be sent at once.
const chunkSize = 8 << 20

// inPieces says whether a status says that a blob cannot be sent at once.
func inPieces(status int) bool {
	return status == http.StatusRequestEntityTooLarge || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented
}

// expect makes a request without a body once and wants one of these statuses.
func (p *pusher) expect(ctx context.Context, r request, ok ...int) (*http.Response, error) {
	resp, err := p.session.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	if !isOneOf(resp.StatusCode, ok) {
		return nil, answerError(p.repo, r.op, resp)
	}
	return resp, nil
}

// location is where an upload goes on.
func (p *pusher) location(op string, resp *http.Response) (*url.URL, error) {
	at, err := resp.Location()
	if err != nil {
		return nil, &RegistryError{Registry: registryName(p.repo.Registry), Repository: p.repo.RepositoryStr(), Op: op, Status: resp.StatusCode,
			Message: "the answer does not say where to send the blob"}
	}
	return at, nil
}

// withDigest adds the digest to an upload's URL, whose own query must stay as it is.
func withDigest(at *url.URL, d digest.Digest) string {
	u := *at
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "digest=" + url.QueryEscape(d.String())
	return u.String()
}

func (p *pusher) sendPiece(ctx context.Context, d ocispec.Descriptor, m *meter, r request, off, n int64) (*url.URL, error) {
	var at *url.URL
	err := p.sendThen(ctx, d, m, r, off, n, func(resp *http.Response) (err error) {
		at, err = p.location(r.op, resp)
		return err
	}, http.StatusAccepted, http.StatusNoContent)
	return at, err
}

func (p *pusher) send(ctx context.Context, d ocispec.Descriptor, m *meter, r request, off, n int64, ok ...int) error {
	return p.sendThen(ctx, d, m, r, off, n, nil, ok...)
}

// sendThen sends n bytes of the blob from off on. The body is the file itself, so that the kernel can
// move it to the socket (sendfile); how far it is can be seen at the file's position.
func (p *pusher) sendThen(ctx context.Context, d ocispec.Descriptor, m *meter, r request, off, n int64, then func(*http.Response) error, ok ...int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var file atomic.Pointer[os.File]
	r.length = n
	r.body = func() (io.ReadCloser, error) {
		b, err := p.s.Open(d.Digest)
		if err != nil {
			return nil, err
		}
		if _, err := b.Seek(off, io.SeekStart); err != nil {
			return nil, errors.Join(fmt.Errorf("reading blob %s: %w", d.Digest, err), b.Close())
		}
		file.Store(b.File)
		if off+n < b.Size {
			return piece{io.LimitReader(b.File, n), b.File}, nil
		}
		return b.File, nil
	}
	if r.header == nil {
		r.header = http.Header{}
	}
	r.header.Set("Content-Type", "application/octet-stream")
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.watch(&file, off+n, m, ended, cancel)
	}()
	resp, err := p.session.send(ctx, r)
	close(ended)
	<-watched
	if err != nil {
		return err
	}
	defer drain(resp)
	if !isOneOf(resp.StatusCode, ok) {
		return answerError(p.repo, r.op, resp)
	}
	if then != nil {
		return then(resp)
	}
	return nil
}

// piece is a part of a file as a request's body.
type piece struct {
	io.Reader
	io.Closer
}

// watch reports how far file is read, and cancels when it stands still before its end. Once all is
// sent the registry may take its time.
func (p *pusher) watch(file *atomic.Pointer[os.File], end int64, m *meter, ended <-chan struct{}, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(min(meterInterval, p.c.stall))
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		f := file.Load()
		if f == nil {
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil || at >= end {
			since = time.Now()
			continue
		}
		if at != last {
			last, since = at, time.Now()
			m.set(at)
		} else if time.Since(since) > p.c.stall {
			cancel(errStalled)
			return
		}
	}
}
