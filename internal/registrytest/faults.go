package registrytest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault stands before a registry and spoils what it answers. Faults are put one before the other as
// the wrap of Start, the first one outermost.
type Fault = func(http.Handler) http.Handler

// IsBlob says whether a request is for the content of a blob.
func IsBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:")
}

// IsManifest says whether a request is for a manifest or index.
func IsManifest(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/")
}

// IsAny says yes to every request.
func IsAny(*http.Request) bool { return true }

// Answer answers the requests that match itself.
func Answer(match func(*http.Request) bool, with http.HandlerFunc) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if match(r) {
				with(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// cutter ends the connection after so many bytes of an answer.
type cutter struct {
	http.ResponseWriter
	left int
}

// Write implements io.Writer.
func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	if err == nil && n < len(p) {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// CutAfter is w that ends its connection where more than k bytes are written.
func CutAfter(w http.ResponseWriter, k int) http.ResponseWriter {
	return &cutter{ResponseWriter: w, left: k}
}

// CutBlobs ends every answer that brings a blob after k bytes.
func CutBlobs(k int) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if IsBlob(r) {
				w = CutAfter(w, k)
			}
			next.ServeHTTP(w, r)
		})
	}
}

// NoRange is a registry that sends the whole, whatever range is asked for.
func NoRange(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	})
}

// FailOnce answers each request with the status and these pairs of headers when it comes for the first
// time. A status of 0 ends the connection without an answer.
func FailOnce(status int, header ...string) Fault {
	return FailTimes(1, status, header...)
}

// FailTimes is FailOnce for the first n times; n < 0 is always.
func FailTimes(n, status int, header ...string) Fault {
	var mu sync.Mutex
	failed := map[string]int{}
	return Answered(func(w http.ResponseWriter, r *http.Request) bool {
		key := r.Method + r.URL.Path
		if strings.Contains(r.URL.Path, "/uploads") {
			key = r.Method // the path is new each time
		}
		mu.Lock()
		failed[key]++
		times := failed[key]
		mu.Unlock()
		if n >= 0 && times > n {
			return false
		}
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		return true
	})
}

// Answered leaves to the registry what f says that it did not answer.
func Answered(f func(w http.ResponseWriter, r *http.Request) bool) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !f(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// AlterBlobs changes the content of blobs of more than this many bytes. They are sent whole.
func AlterBlobs(larger int, change func([]byte) []byte) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !IsBlob(r) {
				next.ServeHTTP(w, r)
				return
			}
			r.Header.Del("Range")
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			data := rec.Body.Bytes()
			if rec.Code == http.StatusOK && len(data) > larger {
				data = change(data)
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(data) // the client may be gone
		})
	}
}

// WrongDigest changes the last byte of such blobs.
func WrongDigest(larger int) Fault {
	return AlterBlobs(larger, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
}

// LieLength says of each such blob that it has this many bytes more (or fewer) than there are.
func LieLength(larger, more int) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !IsBlob(r) {
				next.ServeHTTP(w, r)
				return
			}
			r.Header.Del("Range")
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			data := rec.Body.Bytes()
			if rec.Code == http.StatusOK && len(data) > larger {
				w.Header().Set("Content-Length", strconv.Itoa(len(data)+more))
				data = data[:min(len(data), len(data)+more)]
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(data) // net/http ends the connection where it is less than was said
		})
	}
}

// Page is what HTML answers; an error that shows any of it shows too much.
const Page = "<!DOCTYPE html><html><body>Please log in to the wifi</body></html>"

// HTML answers the requests that match with a page for people, as captive portals and proxies do.
func HTML(match func(*http.Request) bool, status int) Fault {
	return Answer(match, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, Page)
	})
}

// Slow sends answers that bring blobs in pieces of so many bytes, with a pause before each.
func Slow(piece int, pause time.Duration) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if IsBlob(r) {
				w = &slowWriter{ResponseWriter: w, r: r, piece: piece, pause: pause}
			}
			next.ServeHTTP(w, r)
		})
	}
}

type slowWriter struct {
	http.ResponseWriter
	r     *http.Request
	piece int
	pause time.Duration
}

// Write implements io.Writer.
func (s *slowWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		select {
		case <-time.After(s.pause):
		case <-s.r.Context().Done():
			return done, s.r.Context().Err()
		}
		n, err := s.ResponseWriter.Write(p[done:min(len(p), done+s.piece)])
		done += n
		if err != nil {
			return done, err
		}
		s.ResponseWriter.(http.Flusher).Flush()
	}
	return done, nil
}

// RedirectBlobs sends whoever asks for a blob to another server ("http://127.0.0.1:PORT"), as
// registries do that keep blobs in a bucket.
func RedirectBlobs(to string) Fault {
	return Answer(IsBlob, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, to+r.URL.RequestURI(), http.StatusTemporaryRedirect)
	})
}

// Private lets one user in, by basic authentication.
func Private(user, password string) Fault {
	return Answered(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`)
		return true
	})
}
