package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/progress"
	"github.com/clusterimage/keg/internal/registrytest"
)

type wrapper = func(http.Handler) http.Handler

// isBlobGet says whether a request is for the content of a blob.
func isBlobGet(r *http.Request) bool { return registrytest.IsBlob(r) }

// when answers by f what it says it answers.
func when(f func(w http.ResponseWriter, r *http.Request) bool) wrapper {
	return registrytest.Answered(f)
}

// served is a registry that has an image, and the store it came from.
type served struct {
	s    *imagestore.Store
	desc ocispec.Descriptor
	name string // of the image, behind the faults
	addr string
	rec  *recorder
}

// serve pushes a cluster image to a new registry and puts the faults before it.
func serve(t *testing.T, faults ...wrapper) served {
	t.Helper()
	return serveImage(t, clusterImage, faults...)
}

func serveImage(t *testing.T, build func(testing.TB, *imagestore.Store) ocispec.Descriptor, faults ...wrapper) served {
	t.Helper()
	s := newStore(t)
	desc := build(t, s)
	backend := registrytest.Handler()
	direct := httptest.NewServer(backend)
	t.Cleanup(direct.Close)
	ref := mustRef(t, strings.TrimPrefix(direct.URL, "http://")+"/shop/cluster:v1")
	if _, err := newClient(Options{}).Push(t.Context(), s, desc, ref, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	rec := &recorder{}
	h := rec.wrap(backend)
	for _, f := range slices.Backward(faults) {
		h = f(h)
	}
	srv := httptest.NewServer(h)
	srv.Config.ErrorLog = nil
	t.Cleanup(srv.Close)
	addr := strings.TrimPrefix(srv.URL, "http://")
	return served{s: s, desc: desc, addr: addr, name: addr + "/shop/cluster:v1", rec: rec}
}

func (v served) pull(t *testing.T, o Options) (*imagestore.Store, error) {
	t.Helper()
	s := newStore(t)
	d, err := newClient(o).Pull(t.Context(), s, mustRef(t, v.name), PullOptions{})
	if err == nil && d.Digest != v.desc.Digest {
		t.Errorf("pulled %s, want %s", d.Digest, v.desc.Digest)
	}
	return s, err
}

// same wants the pulled store to have exactly the blobs of a clean run and nothing half done.
func (v served) same(t *testing.T, got *imagestore.Store) {
	t.Helper()
	if diff := cmp.Diff(contents(t, v.s), contents(t, got)); diff != "" {
		t.Errorf("blobs (-served +pulled):\n%s", diff)
	}
	left, err := os.ReadDir(filepath.Join(got.Dir(), "ingest"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in ingest: %v, %v", left, err)
	}
}

func TestPullResumesAfterEveryCut(t *testing.T) {
	tiny := func(t testing.TB, s *imagestore.Store) ocispec.Descriptor {
		return putJSON(t, s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: put(t, s, ocispec.MediaTypeImageConfig, []byte("{}")),
			Layers: []ocispec.Descriptor{put(t, s, ocispec.MediaTypeImageLayer, noise(1, 300)), put(t, s, ocispec.MediaTypeImageLayer, nil)},
		})
	}
	small := func(t testing.TB, s *imagestore.Store) ocispec.Descriptor {
		return index(t, s, image(t, s, "amd64", 1, 300), image(t, s, "arm64", 2, 10, 700))
	}
	medium := func(t testing.TB, s *imagestore.Store) ocispec.Descriptor { return image(t, s, "amd64", 1, 200_000) }
	for _, tt := range []struct {
		every int
		build func(testing.TB, *imagestore.Store) ocispec.Descriptor
	}{{1, tiny}, {7, tiny}, {100, small}, {4096, medium}, {65_537, clusterImage}, {1_000_000, clusterImage}} {
		t.Run(fmt.Sprint(tt.every), func(t *testing.T) {
			v := serveImage(t, tt.build, registrytest.CutBlobs(tt.every))
			s, err := v.pull(t, Options{})
			if err != nil {
				t.Fatal(err)
			}
			v.same(t, s)
			v.rec.mu.Lock() // an answer that was cut may still be ending
			defer v.rec.mu.Unlock()
			for path, sent := range v.rec.sent {
				hex := path[strings.LastIndexByte(path, ':')+1:]
				if fi, err := os.Stat(filepath.Join(s.Dir(), "blobs", "sha256", hex)); err == nil && strings.Contains(path, "/blobs/") && int64(sent) > fi.Size()+int64(tt.every) {
					t.Errorf("%s: %d bytes sent for %d", path, sent, fi.Size())
				}
			}
		})
	}
}

func TestPullWithoutRange(t *testing.T) {
	var cuts atomic.Int32
	v := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlobGet(r) && cuts.Add(1)%2 == 1 {
				w = registrytest.CutAfter(w, 50)
			}
			next.ServeHTTP(w, r)
		})
	}, registrytest.NoRange)
	s, err := v.pull(t, Options{})
	if err != nil {
		t.Fatal(err)
	}
	v.same(t, s)

	// One that never gets further is given up.
	v = serve(t, registrytest.CutBlobs(50), registrytest.NoRange)
	if s, err = v.pull(t, Options{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("error %v, want ErrUnreachable", err)
	}
	if s.Has(v.desc.Digest) {
		t.Error("the index is in the store, its blobs are not")
	}
}

func TestPassingFailures(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault func() wrapper
	}{
		{"500", func() wrapper { return registrytest.FailOnce(500) }},
		{"502", func() wrapper { return registrytest.FailOnce(502, "Content-Type", "text/html") }},
		{"503", func() wrapper { return registrytest.FailOnce(503) }},
		{"429", func() wrapper { return registrytest.FailOnce(429, "Retry-After", "0") }},
		{"408", func() wrapper { return registrytest.FailOnce(408) }},
		{"reset", func() wrapper { return registrytest.FailOnce(0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := serve(t, tt.fault())
			s, err := v.pull(t, Options{})
			if err != nil {
				t.Fatal(err)
			}
			v.same(t, s)
			addr := registrytest.Start(t, tt.fault())
			if _, err := newClient(Options{}).Push(t.Context(), v.s, v.desc, mustRef(t, addr+"/a/b:c"), PushOptions{}); err != nil {
				t.Fatal(err)
			}
			back := newStore(t)
			if _, err := newClient(Options{}).Pull(t.Context(), back, mustRef(t, addr+"/a/b:c"), PullOptions{}); err != nil {
				t.Fatal(err)
			}
			v.same(t, back)
		})
	}
}

func TestRetryAfter(t *testing.T) {
	resp := &http.Response{StatusCode: 429, Header: http.Header{"Retry-After": {"7"}}, Body: http.NoBody}
	err := answerError(mustRef(t, "a.b/c").Context(), "x", resp)
	var re *RegistryError
	if !errors.As(err, &re) || re.retryAfter != 7*time.Second || !re.Temporary() {
		t.Errorf("%#v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := quick.withDefaults().pause(ctx, 0, err); !errors.Is(err, context.Canceled) {
		t.Errorf("pause of 7 s ended with %v", err)
	}
	if quick.withDefaults().again(t.Context(), 0, err) {
		t.Error("a pause of 7 s is more than 20 times the longest, and was accepted")
	}
	if d := retryAfter(time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)); d < 59*time.Minute || d > time.Hour {
		t.Errorf("Retry-After as a date: %s", d)
	}
}

func TestFailuresThatStay(t *testing.T) {
	const large = 1_000_000 // one layer is
	manifests, everything := registrytest.IsManifest, registrytest.IsAny
	page := registrytest.HTML
	alter := func(change func([]byte) []byte) wrapper { return registrytest.AlterBlobs(large, change) }
	answer := func(match func(*http.Request) bool, with func(http.ResponseWriter)) wrapper {
		return registrytest.Answer(match, func(w http.ResponseWriter, _ *http.Request) { with(w) })
	}
	for _, tt := range []struct {
		name  string
		fault wrapper
		is    error
		says  string
	}{
		{"wrong digest", registrytest.WrongDigest(large), imagestore.ErrDigest, "other content"},
		{"says too little", registrytest.LieLength(large, -10), nil, "was cut after"},
		{"limited for ever", registrytest.FailTimes(-1, 429), ErrLimited, "429"},
		{"limited for an hour", registrytest.FailTimes(-1, 429, "Retry-After", "3600"), ErrLimited, "again in 1h0m0s"},
		{"blobs limited", answer(isBlobGet, func(w http.ResponseWriter) { w.WriteHeader(429) }), ErrLimited, "429"},
		{"too long", alter(func(b []byte) []byte { return append(b, "more"...) }), imagestore.ErrDigest, "more than"},
		{"too short", alter(func(b []byte) []byte { return b[:len(b)-1] }), nil, "was cut after"},
		{"empty", alter(func([]byte) []byte { return nil }), nil, "was cut after 0 of"},
		{"HTML for a manifest", page(manifests, 200), ErrNotRegistry, "HTML"},
		{"HTML for a blob", page(isBlobGet, 200), ErrNotRegistry, "HTML"},
		{"HTML for everything", page(everything, 200), ErrNotRegistry, "HTML"},
		{"HTML with 403", page(manifests, 403), ErrUnauthorized, "HTML"},
		{"HTML with 404", page(everything, 404), ErrNotFound, "HTML"},
		{"denied", answer(manifests, func(w http.ResponseWriter) {
			w.WriteHeader(403)
			_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"not for \u001b[31myou"}]}`)
		}), ErrUnauthorized, "DENIED: not for  [31myou"},
		{"blob missing", answer(isBlobGet, func(w http.ResponseWriter) { w.WriteHeader(404) }), ErrNotFound, "404"},
		{"blob with 500 for ever", answer(isBlobGet, func(w http.ResponseWriter) { w.WriteHeader(500) }), nil, "500"},
		{"manifest of schema 1", answer(manifests, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", imagestore.MediaTypeDockerSchema1Signed)
			_, _ = io.WriteString(w, `{"schemaVersion":1,"name":"old"}`)
		}), nil, ""},
		{"other manifest", answer(manifests, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			_, _ = io.WriteString(w, `{"schemaVersion":2,"config":{},"layers":[]}`)
		}), imagestore.ErrDigest, "got a document with digest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := serve(t, tt.fault)
			s, err := v.pull(t, Options{})
			if err == nil {
				t.Fatal("no error")
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v is not %v", err, tt.is)
			}
			for _, part := range []string{tt.says, v.addr, "shop/cluster"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "wifi") {
				t.Errorf("error shows the page: %q", err)
			}
			for hex := range contents(t, v.s) {
				fi, err := os.Stat(filepath.Join(v.s.Dir(), "blobs", "sha256", hex))
				if err != nil {
					t.Fatal(err)
				}
				d := digest.NewDigestFromEncoded(digest.SHA256, hex)
				if s.Has(d) && (d == v.desc.Digest || fi.Size() > large) {
					t.Errorf("%s is in the store", d)
				}
				partial := filepath.Join(s.Dir(), "ingest", "sha256-"+hex)
				if _, err := os.Stat(partial); err == nil && fi.Size() > large && errors.Is(tt.is, imagestore.ErrDigest) {
					t.Errorf("wrong content of %s was kept", d)
				}
			}
		})
	}
}

// TestHarmlessLies has a registry that says of blobs that they are longer than they are, and one that is
// slow: what comes is right, and is taken.
func TestHarmlessLies(t *testing.T) {
	for name, fault := range map[string]wrapper{
		"says too much": registrytest.LieLength(100, 10),
		"slow":          registrytest.Slow(64<<10, time.Millisecond),
	} {
		t.Run(name, func(t *testing.T) {
			v := serve(t, fault)
			s, err := v.pull(t, Options{})
			if err != nil {
				t.Fatal(err)
			}
			v.same(t, s)
		})
	}
}

// TestOneDownloadOverImages pulls images of several repositories at once that share a layer, over
// connections that are cut: the layer comes once.
func TestOneDownloadOverImages(t *testing.T) {
	rec := &recorder{}
	addr := registrytest.Start(t, registrytest.CutBlobs(40_000), rec.wrap)
	s := newStore(t)
	shared := put(t, s, ocispec.MediaTypeImageLayer, noise(77, 300_000))
	c := newClient(Options{})
	const images = 6
	for i := range images {
		own := put(t, s, ocispec.MediaTypeImageLayer, noise(uint64(100+i), 1000))
		desc := putJSON(t, s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: put(t, s, ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`)),
			Layers: []ocispec.Descriptor{shared, own},
		})
		if _, err := c.Push(t.Context(), s, desc, mustRef(t, fmt.Sprintf("%s/team%d/app:v1", addr, i)), PushOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	rec.reset()
	back := newStore(t)
	var wg sync.WaitGroup
	for i := range images {
		wg.Go(func() {
			if _, err := c.PullImage(t.Context(), back, mustRef(t, fmt.Sprintf("%s/team%d/app:v1", addr, i)), "linux/amd64"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	served{s: s}.same(t, back)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	sent := 0
	for path, n := range rec.sent {
		if strings.HasSuffix(path, shared.Digest.String()) {
			sent += n
		}
	}
	if sent > int(shared.Size)+8*40_000 { // what a cut connection had in its buffers does not count as received
		t.Errorf("%d bytes were sent of a layer of %d", sent, shared.Size)
	}
}

// TestWhatWasCompleteStays has one layer be wrong: the others are there for the next run, which fetches that
// one alone.
func TestWhatWasCompleteStays(t *testing.T) {
	const large = 1_000_000
	var wrong atomic.Bool
	wrong.Store(true)
	v := serve(t, func(next http.Handler) http.Handler {
		bad := registrytest.WrongDigest(large)(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if wrong.Load() {
				bad.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	s, c := newStore(t), newClient(Options{Parallelism: 1})
	if _, err := c.Pull(t.Context(), s, mustRef(t, v.name), PullOptions{}); !errors.Is(err, imagestore.ErrDigest) {
		t.Fatalf("error %v, want ErrDigest", err)
	}
	before := contents(t, s)
	wrong.Store(false)
	v.rec.reset()
	if _, err := c.Pull(t.Context(), s, mustRef(t, v.name), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	v.same(t, s)
	for hex := range before {
		if n := v.rec.count("GET", "/blobs/sha256:"+hex); n > 0 {
			t.Errorf("%s was there and was fetched again", hex)
		}
	}
}

func TestSchema1(t *testing.T) {
	addr := registrytest.Start(t, when(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", imagestore.MediaTypeDockerSchema1Signed)
		_, _ = io.WriteString(w, `{"schemaVersion":1,"name":"old","fsLayers":[]}`)
		return true
	}))
	_, err := newClient(Options{}).Pull(t.Context(), newStore(t), mustRef(t, addr+"/old/image:1"), PullOptions{})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "schema 1") {
		t.Errorf("error %v", err)
	}
}

func TestStalledConnection(t *testing.T) {
	var stalled atomic.Int32
	v := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlobGet(r) && stalled.Add(1)%2 == 1 {
				defer func() {
					if recover() != nil {
						<-r.Context().Done()
						panic(http.ErrAbortHandler)
					}
				}()
				w = registrytest.CutAfter(w, 100)
			}
			next.ServeHTTP(w, r)
		})
	})
	s, err := v.pull(t, Options{StallTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	v.same(t, s)
}

func TestCancelledPullContinues(t *testing.T) {
	const half = 1_500_000
	var hold atomic.Bool
	hold.Store(true)
	reached := make(chan struct{}, 100)
	v := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlobGet(r) && hold.Load() {
				defer func() {
					if recover() != nil {
						reached <- struct{}{}
						<-r.Context().Done()
						panic(http.ErrAbortHandler)
					}
				}()
				w = registrytest.CutAfter(w, half)
			}
			next.ServeHTTP(w, r)
		})
	})
	s := newStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user had enough")
	begun := make(chan struct{}, 1000)
	c := newClient(Options{Progress: func(e progress.Event) {
		if e.Total > half && e.Done > 0 && !e.End {
			begun <- struct{}{}
		}
	}})
	go func() {
		<-reached
		<-begun
		cancel(why)
	}()
	if _, err := c.Pull(ctx, s, mustRef(t, v.name), PullOptions{}); !errors.Is(err, why) {
		t.Fatalf("error %v, want %v", err, why)
	}
	contents(t, s) // what is there is right
	if s.Has(v.desc.Digest) {
		t.Error("the index is in the store")
	}
	hold.Store(false)
	v.rec.reset()
	if _, err := c.Pull(t.Context(), s, mustRef(t, v.name), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	v.same(t, s)
	ranges := 0
	v.rec.mu.Lock()
	defer v.rec.mu.Unlock()
	for _, h := range v.rec.headers {
		if h.Get("Range") != "" {
			ranges++
		}
	}
	if ranges == 0 {
		t.Error("the second run did not continue where the first stopped")
	}
}

func TestOneDownloadForEachBlob(t *testing.T) {
	const limit = 3
	var now, most atomic.Int32
	v := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlobGet(r) {
				n := now.Add(1)
				defer now.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(5 * time.Millisecond)
			}
			next.ServeHTTP(w, r)
		})
	})
	s, c := newStore(t), newClient(Options{Parallelism: limit})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.Pull(t.Context(), s, mustRef(t, v.name), PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v.same(t, s)
	for hex := range contents(t, s) {
		if n := v.rec.count("GET", "/blobs/sha256:"+hex); n > 1 {
			t.Errorf("blob %s was fetched %d times", hex, n)
		}
	}
	if most.Load() > limit {
		t.Errorf("%d blobs at a time, the limit is %d", most.Load(), limit)
	}
	v.rec.reset()
	if _, err := c.Pull(t.Context(), s, mustRef(t, v.name), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := v.rec.count("GET", "/"); n > 0 {
		t.Errorf("pulling again made %d GET requests", n)
	}
}

func TestUploadIsRepeatedWhole(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after int64
		reply bool
	}{{"cut in the middle", 100_000, false}, {"answer lost", 1 << 40, false}, {"error after the body", 1 << 40, true}} {
		t.Run(tt.name, func(t *testing.T) {
			var done sync.Map
			rec := &recorder{}
			addr := registrytest.Start(t, rec.wrap, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					key := r.URL.Query().Get("digest")
					if _, again := done.LoadOrStore(key, true); r.Method != http.MethodPut || key == "" || again {
						next.ServeHTTP(w, r)
						return
					}
					if tt.after < r.ContentLength {
						_, _ = io.CopyN(io.Discard, r.Body, tt.after)
						panic(http.ErrAbortHandler)
					}
					if tt.reply {
						_, _ = io.Copy(io.Discard, r.Body)
						w.WriteHeader(http.StatusInternalServerError)
						return
					}
					next.ServeHTTP(httptest.NewRecorder(), r)
					panic(http.ErrAbortHandler)
				})
			})
			s := newStore(t)
			desc := clusterImage(t, s)
			if _, err := newClient(Options{}).Push(t.Context(), s, desc, mustRef(t, addr+"/a/b:c"), PushOptions{}); err != nil {
				t.Fatal(err)
			}
			back := newStore(t)
			if _, err := newClient(Options{}).Pull(t.Context(), back, mustRef(t, addr+"/a/b:c"), PullOptions{}); err != nil {
				t.Fatal(err)
			}
			served{s: s}.same(t, back)
			last := rec.requests[slices.IndexFunc(rec.requests, func(r string) bool { return r == "PUT /v2/a/b/manifests/c" })-1]
			if !strings.HasPrefix(last, "PUT /v2/a/b/manifests/sha256:") && !strings.HasPrefix(last, "PUT") {
				t.Errorf("before the tag came %s", last)
			}
		})
	}
}

func TestUploadInPieces(t *testing.T) {
	rec := &recorder{}
	addr := registrytest.Start(t, rec.wrap, when(func(w http.ResponseWriter, r *http.Request) bool {
		if r.ContentLength > 9<<20 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			_, _ = io.WriteString(w, "<html>413 Request Entity Too Large</html>")
			return true
		}
		return false
	}))
	s := newStore(t)
	desc := image(t, s, "amd64", 1, 20<<20)
	if _, err := newClient(Options{}).Push(t.Context(), s, desc, mustRef(t, addr+"/a/b:c"), PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := rec.count("PATCH", ""); n < 3 { // more where a connection was lost after the refusal
		t.Errorf("20 MiB were sent in %d pieces", n)
	}
	back := newStore(t)
	if _, err := newClient(Options{}).Pull(t.Context(), back, mustRef(t, addr+"/a/b:c"), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	served{s: s}.same(t, back)
}

func TestPushIncomplete(t *testing.T) {
	rec := &recorder{}
	addr := registrytest.Start(t, rec.wrap)
	s := newStore(t)
	desc := image(t, s, "amd64", 1, 1000)
	var m ocispec.Manifest
	if err := s.ReadJSON(desc.Digest, &m); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.BlobPath(m.Layers[0].Digest)); err != nil {
		t.Fatal(err)
	}
	_, err := newClient(Options{}).Push(t.Context(), s, desc, mustRef(t, addr+"/a/b:c"), PushOptions{})
	var missing *imagestore.MissingError
	if !errors.Is(err, ErrIncomplete) || !errors.As(err, &missing) || !strings.Contains(err.Error(), m.Layers[0].Digest.String()) {
		t.Errorf("error %v", err)
	}
	if len(rec.requests) > 0 {
		t.Errorf("something was sent: %v", rec.requests)
	}
	if _, err := newClient(Options{}).Push(t.Context(), s, desc, mustRef(t, addr+"/a/b@sha256:"+strings.Repeat("0", 64)), PushOptions{}); err == nil {
		t.Error("pushed under another digest")
	}
}

func TestCorruptBlobIsNotPushed(t *testing.T) {
	addr := registrytest.StartReal(t)
	s := newStore(t)
	desc := image(t, s, "amd64", 1, 1000)
	var m ocispec.Manifest
	if err := s.ReadJSON(desc.Digest, &m); err != nil {
		t.Fatal(err)
	}
	path := s.BlobPath(m.Layers[0].Digest)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[500] ^= 1
	if err := errors.Join(os.Remove(path), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err = newClient(Options{}).Push(t.Context(), s, desc, mustRef(t, addr+"/a/b:c"), PushOptions{})
	if re := (*RegistryError)(nil); !errors.As(err, &re) || re.Code != "DIGEST_INVALID" || re.Status != http.StatusBadRequest {
		t.Errorf("error %v", err)
	}
}

func TestProgress(t *testing.T) {
	v := serve(t)
	var mu sync.Mutex
	ended := map[string]int64{}
	_, err := v.pull(t, Options{Progress: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.End {
			if e.Err != nil || e.Done != e.Total || !strings.Contains(e.Name, "shop/cluster") {
				t.Errorf("%+v", e)
			}
			ended[e.ID] = e.Total
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for id, total := range ended {
		hex := strings.TrimPrefix(id, "sha256:")
		if fi, err := os.Stat(filepath.Join(v.s.Dir(), "blobs", "sha256", hex)); err != nil || fi.Size() != total {
			t.Errorf("%s: %d bytes: %v", id, total, err)
		}
	}
	if want := len(contents(t, v.s)) - 5; len(ended) != want {
		t.Errorf("%d blobs were reported, want %d", len(ended), want)
	}
}
