package transfer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrOffline says that a connection was needed and Options.Offline forbids any.
	ErrOffline = errors.New("offline: no connection is allowed")
	// ErrPlainHTTP says that a registry speaks plain HTTP, or leads there, and is neither loopback nor
	// named insecure.
	ErrPlainHTTP = errors.New("plain HTTP is not allowed")
	// ErrUnauthorized says that a registry refused the credentials, or the lack of them.
	ErrUnauthorized = errors.New("access refused")
	// ErrUnreachable says that no connection could be made, or none that lasted.
	ErrUnreachable = errors.New("registry cannot be reached")
	// ErrNotFound says that the registry has no such image or blob.
	ErrNotFound = errors.New("not found in the registry")
	// ErrUnsupported says that an image is of a form that keg does not carry.
	ErrUnsupported = errors.New("unsupported image")
	// ErrLimited says that a registry takes no more requests from us for a while.
	ErrLimited = errors.New("too many requests")
	// ErrNotRegistry says that something else answered in a registry's place, such as a proxy's login page.
	ErrNotRegistry = errors.New("not a registry's answer")
	// ErrIncomplete says that an image cannot be pushed since parts of it are not in the store.
	ErrIncomplete = errors.New("image is not complete in the store")
)

// RegistryError is what went wrong between us and a registry.
type RegistryError struct {
	// Registry and Repository as people write them: "docker.io", "library/nginx".
	Registry, Repository string
	// Op is what was done, such as "reading manifest v1".
	Op string
	// Status is the HTTP status of the answer, 0 if there was none.
	Status int
	// Code is the registry's own code for the error (distribution-spec, Error Codes), "" if it gave none.
	Code string
	// Message is what the registry said, or what is wrong with its answer.
	Message string
	// Err is the cause where there was no answer.
	Err error

	retryAfter time.Duration
}

// Error implements error.
func (e *RegistryError) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	b.WriteString(": ")
	b.WriteString(e.Registry)
	if e.Repository != "" {
		b.WriteString("/" + e.Repository)
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, ": the registry answered %d %s", e.Status, http.StatusText(e.Status))
	}
	if e.Code != "" {
		b.WriteString(": " + e.Code)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.retryAfter > 0 {
		fmt.Fprintf(&b, ": it may be asked again in %s", e.retryAfter.Round(time.Second))
	}
	if e.Err != nil {
		b.WriteString(": " + causeText(e.Err))
	}
	return b.String()
}

// causeText leaves out the method and URL that net/http puts before the cause: we have named the
// registry and what was done, and URLs of uploads hold secrets.
func causeText(err error) string {
	if request, ok := err.(*url.Error); ok { //nolint:errorlint // only the outermost is left out
		return request.Err.Error()
	}
	return err.Error()
}

// Unwrap returns the cause.
func (e *RegistryError) Unwrap() error { return e.Err }

// Is matches ErrUnauthorized, ErrUnreachable, ErrNotFound, ErrLimited, ErrNotRegistry and ErrPlainHTTP.
func (e *RegistryError) Is(target error) bool {
	switch target {
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrLimited:
		return e.Status == http.StatusTooManyRequests || e.Code == string(transport.TooManyRequestsErrorCode)
	case ErrNotRegistry:
		return e.Message == htmlMessage
	case ErrUnreachable:
		return e.Status == 0 && e.Err != nil && unreachable(e.Err)
	case ErrPlainHTTP:
		return errors.Is(e.Err, http.ErrSchemeMismatch)
	}
	return false
}

// Temporary says whether the same request may work later.
func (e *RegistryError) Temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case 0:
		return e.Err != nil && unreachable(e.Err)
	}
	// An upload whose state the registry lost can be begun anew.
	return e.Code == string(transport.BlobUploadUnknownErrorCode) || e.Code == string(transport.BlobUploadInvalidErrorCode) || e.Code == string(transport.TooManyRequestsErrorCode)
}

// unreachable says whether err is one of the connection, not of what we asked for or allow.
func unreachable(err error) bool {
	for _, final := range []error{ErrOffline, ErrPlainHTTP, http.ErrSchemeMismatch} {
		if errors.Is(err, final) {
			return false
		}
	}
	var alert tls.AlertError
	if untrusted(err) || errors.As(err, &alert) {
		return false
	}
	var request *url.Error // whatever http.Client.Do could not do
	return errors.As(err, &request) || errors.Is(err, errCut) || errors.Is(err, errStalled)
}

// untrusted says whether a certificate could not be verified.
func untrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

var (
	// errCut says that an answer ended before its end.
	errCut = errors.New("the connection was cut")
	// errStalled is the cause of giving up a connection on which nothing moves.
	errStalled = errors.New("nothing moved on the connection")
)

// registryError makes err, from a request or from ggcr's authentication, a *RegistryError; nil stays
// nil, and the end of ctx is reported as such.
func registryError(ctx context.Context, repo name.Repository, op string, err error) error {
	if err == nil {
		return nil
	}
	e := &RegistryError{Registry: registryName(repo.Registry), Repository: repo.RepositoryStr(), Op: op}
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if !errors.Is(cause, errStalled) {
			return fmt.Errorf("%s: %s: %w", op, repoName(repo), cause)
		}
		err = cause
	}
	var answer *transport.Error
	if untrusted(err) || !errors.As(err, &answer) {
		e.Err = err
		return e
	}
	e.Status = answer.StatusCode
	if len(answer.Errors) > 0 {
		e.Code, e.Message = string(answer.Errors[0].Code), diagnostics(answer.Errors)
	} else if text := strings.ToLower(answer.Error()); strings.Contains(text, "<html") || strings.Contains(text, "<!doctype html") {
		e.Message = htmlMessage
	}
	return e
}

const htmlMessage = "the answer is an HTML page, not a registry's"

// maxErrorBody bounds what is read of a registry's explanation.
const maxErrorBody = 16 << 10

// answerError makes an error of an answer with an unexpected status. It reads the body.
func answerError(repo name.Repository, op string, resp *http.Response) error {
	e := &RegistryError{Registry: registryName(repo.Registry), Repository: repo.RepositoryStr(), Op: op, Status: resp.StatusCode}
	e.retryAfter = retryAfter(resp.Header.Get("Retry-After"))
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var doc struct {
		Errors []transport.Diagnostic `json:"errors"`
	}
	switch {
	case isHTML(resp.Header.Get("Content-Type"), body):
		e.Message = htmlMessage
	case json.Unmarshal(body, &doc) == nil && len(doc.Errors) > 0:
		e.Code, e.Message = string(doc.Errors[0].Code), diagnostics(doc.Errors)
	default:
		e.Message = printable(string(body[:min(len(body), 300)]))
	}
	return e
}

func diagnostics(list []transport.Diagnostic) string {
	var parts []string
	for _, d := range list {
		text := d.Message
		if d.Detail != nil {
			if detail, err := json.Marshal(d.Detail); err == nil && string(detail) != "{}" {
				text += " (" + string(detail[:min(len(detail), 300)]) + ")"
			}
		}
		parts = append(parts, printable(text))
	}
	return strings.Join(parts, "; ")
}

// printable keeps what a registry says from steering the terminal it is shown on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
}

func isHTML(contentType string, body []byte) bool {
	body = bytes.TrimSpace(body)
	return strings.HasPrefix(contentType, "text/html") ||
		len(body) > 0 && body[0] == '<' && strings.HasPrefix(http.DetectContentType(body), "text/html")
}

// retryAfter reads the header of that name: seconds or a date.
func retryAfter(header string) time.Duration {
	if s, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// PlatformError says that an image does not exist for a platform.
type PlatformError struct {
	// Ref is the full name of the image.
	Ref string
	// Want is the platform asked for, Have those there are.
	Want string
	Have []string
}

// Error implements error.
func (e *PlatformError) Error() string {
	have := strings.Join(e.Have, ", ")
	if have == "" {
		have = "none"
	}
	return fmt.Sprintf("%s has no image for platform %s (it has: %s)", e.Ref, e.Want, have)
}
