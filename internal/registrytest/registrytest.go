// Package registrytest starts registries for tests: one in the test's own process, and Debian's
// docker-registry (distribution) with its storage in a temporary directory. Both listen on loopback
// and end with the test.
package registrytest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Start starts a registry in this process that keeps everything in memory, and returns its address
// ("127.0.0.1:PORT"), which is also its name in image references. The handlers of wrap see the
// requests first, the first one outermost.
func Start(t testing.TB, wrap ...func(http.Handler) http.Handler) string {
	t.Helper()
	h := Handler()
	for i := len(wrap) - 1; i >= 0; i-- {
		h = wrap[i](h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// Handler is a new, empty registry in memory, for servers of a test's own making. It finds a blob in
// every repository, whichever it was pushed to.
func Handler() http.Handler {
	return registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
}
