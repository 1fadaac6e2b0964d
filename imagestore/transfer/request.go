package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// request is one request to a registry.
type request struct {
	op     string // for errors, such as "reading manifest v1"
	method string
	path   string // within the repository, such as "manifests/v1"
	url    string // in place of path, where the registry gave one
	header http.Header
	// body opens what is sent, length bytes; nil sends nothing. It is called again where the
	// request has to be sent again.
	body   func() (io.ReadCloser, error)
	length int64
}

// send makes the request once. The caller closes the answer's body.
func (s *session) send(ctx context.Context, r request) (*http.Response, error) {
	url := r.url
	if url == "" {
		// The authenticating layer knows better which scheme the registry speaks.
		url = "https://" + s.repo.RegistryStr() + "/v2/" + s.repo.RepositoryStr() + "/" + r.path
	}
	req, err := http.NewRequestWithContext(withRequest(ctx, s.repo.RegistryStr()), r.method, url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", r.op, repoName(s.repo), err)
	}
	if r.header != nil {
		req.Header = r.header.Clone()
	}
	if r.body != nil && r.length > 0 {
		if req.Body, err = r.body(); err != nil {
			return nil, fmt.Errorf("%s: %w", r.op, err)
		}
		req.GetBody, req.ContentLength = r.body, r.length
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, registryError(ctx, s.repo, r.op, err)
	}
	return resp, nil
}

// call makes the request, again where that may help, and hands the body, at most limit bytes, to the
// caller whole. Statuses other than those in ok are errors.
func (c *Client) call(ctx context.Context, s *session, r request, limit int64, ok ...int) (*http.Response, []byte, error) {
	leave, err := enter(ctx, c.documents)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	var resp *http.Response
	var data []byte
	err = c.retry.do(ctx, func() error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var err error
		resp, err = s.send(ctx, r)
		if err != nil {
			return err
		}
		defer drain(resp)
		if !isOneOf(resp.StatusCode, ok) {
			return answerError(s.repo, r.op, resp)
		}
		body := newWatch(resp.Body, c.stall, cancel)
		defer body.stop()
		data, err = io.ReadAll(io.LimitReader(body, limit+1))
		if err != nil {
			return registryError(ctx, s.repo, r.op, fmt.Errorf("%w: %w", errCut, err))
		}
		if int64(len(data)) > limit {
			return &RegistryError{Registry: registryName(s.repo.Registry), Repository: s.repo.RepositoryStr(), Op: r.op,
				Status: resp.StatusCode, Message: fmt.Sprintf("the answer is larger than %d bytes", limit)}
		}
		return nil
	})
	return resp, data, err
}

func isOneOf(status int, ok []int) bool {
	for _, s := range ok {
		if s == status {
			return true
		}
	}
	return false
}

// drain lets the connection be used again, if little is left of the answer.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}

// inMemory is a request's body.
func inMemory(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// absent says whether err is the registry's "no such thing".
func absent(err error) bool { return errors.Is(err, ErrNotFound) }
