package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/ctxio"
)

// Fetcher brings files that ADD and APP name by URL.
type Fetcher interface {
	// Fetch opens what is at the URL; anything but the file itself (a 404, a login page's status) is an
	// error. The caller closes it.
	Fetch(ctx context.Context, url string) (io.ReadCloser, error)
}

// Errors of downloads that callers tell apart.
var (
	// ErrNoFetcher says that the build may not download.
	ErrNoFetcher = errors.New("this build may not download files")
	// ErrChecksum says that a downloaded file is not the one the Kubefile means.
	ErrChecksum = errors.New("the file does not have the given checksum")
)

// StatusError is an HTTP answer other than 200.
type StatusError struct {
	URL    string
	Status string // such as "404 Not Found"
	Code   int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("downloading %s: the server answered %s", e.URL, e.Status)
}

// HTTP is the Fetcher for https:// and, where the caller lets it, http://. The zero value is useful.
type HTTP struct {
	// Client is used for requests; nil is one that waits a minute for an answer's header.
	Client *http.Client
	// Stall is how long the content may stand still; 0 is one minute.
	Stall time.Duration
}

var _ Fetcher = HTTP{}

// Fetch implements Fetcher.
func (h HTTP) Fetch(ctx context.Context, rawURL string) (io.ReadCloser, error) {
	client := h.Client
	if client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = time.Minute
		client = &http.Client{Transport: t}
	}
	stall := h.Stall
	if stall == 0 {
		stall = time.Minute
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("downloading: %w", err)
	}
	rawURL = req.URL.Redacted()                   // for errors: a password in it is not for logs
	req.Header.Set("Accept-Encoding", "identity") // a .tgz is to arrive as it is
	resp, err := client.Do(req)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("downloading %s: %w", rawURL, err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		cancel(nil)
		return nil, &StatusError{URL: rawURL, Status: resp.Status, Code: resp.StatusCode}
	}
	b := &body{ctx: ctx, rc: resp.Body, stall: stall, cancel: cancel}
	b.timer = time.AfterFunc(stall, func() { cancel(fmt.Errorf("downloading %s: nothing came for %s", rawURL, stall)) })
	return b, nil
}

// body is a response that is given up when it stands still.
type body struct {
	ctx    context.Context
	rc     io.ReadCloser
	timer  *time.Timer
	stall  time.Duration
	cancel context.CancelCauseFunc
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.rc.Read(p)
	b.timer.Reset(b.stall)
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.rc.Close()
}

// downloads keeps fetched files as blobs, so that one whose checksum is known is fetched once, until the
// store is pruned.
type downloads struct {
	fetch Fetcher
	store *imagestore.Store
}

// fetched is a downloaded file, a blob of the store.
type fetched struct {
	store *imagestore.Store
	sum   digest.Digest
	size  int64
}

// get downloads a file and checks it, where want says what it must be.
func (d downloads) get(ctx context.Context, rawURL string, want digest.Digest) (fetched, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return fetched{}, fmt.Errorf("reading URL: %w", err)
	}
	show := u.Redacted()
	f := fetched{store: d.store, sum: want}
	if want != "" {
		if err := want.Validate(); err != nil || want.Algorithm() != digest.SHA256 {
			return fetched{}, fmt.Errorf("checksum %q: it must be sha256: and 64 hexadecimal digits", want)
		}
		if blob, err := d.store.Open(want); err == nil {
			f.size = blob.Size
			return f, blob.Close()
		}
	} else if u.Scheme == "http" && !transfer.Loopback(u.Hostname()) {
		return fetched{}, fmt.Errorf("%s: plain HTTP needs a checksum", show)
	}
	if d.fetch == nil {
		return fetched{}, fmt.Errorf("%s: %w", show, ErrNoFetcher)
	}
	body, err := d.fetch.Fetch(ctx, rawURL)
	if err != nil {
		return fetched{}, err
	}
	defer body.Close()
	w, err := d.store.Writer(ctx)
	if err != nil {
		return fetched{}, fmt.Errorf("downloading %s: %w", show, err)
	}
	defer w.Close() // after Commit it does nothing
	if f.size, err = io.Copy(w, ctxio.Reader(ctx, body)); err != nil {
		return fetched{}, fmt.Errorf("downloading %s: %w", show, err)
	}
	f.sum, err = w.Commit(want, f.size)
	if errors.Is(err, imagestore.ErrDigest) {
		err = fmt.Errorf("%w: %w", ErrChecksum, err)
	}
	if err != nil {
		return fetched{}, fmt.Errorf("downloading %s: %w", show, err)
	}
	return f, nil
}

// urlFile is the last element of a URL's path, or "".
func urlFile(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || strings.HasSuffix(u.Path, "/") || u.Path == "" {
		return ""
	}
	return path.Base(u.Path)
}

func (f fetched) open() (io.ReadCloser, error) {
	b, err := f.store.Open(f.sum)
	if err != nil {
		return nil, err // not a *Blob that is nil
	}
	return b, nil
}
