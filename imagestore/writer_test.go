package imagestore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
)

func randomBytes(seed uint64, n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(data) // never fails
	return data
}

func TestWriter(t *testing.T) {
	s := storetest.New(t)
	data := randomBytes(1, 20<<20)
	want := digest.FromBytes(data)
	for _, tt := range []struct {
		name string
		want digest.Digest
		size int64
		err  error
	}{
		{"wrong digest", digest.FromString("x"), int64(len(data)), imagestore.ErrDigest},
		{"wrong size", want, 5, imagestore.ErrDigest},
		{"right", want, int64(len(data)), nil},
		{"again", want, int64(len(data)), nil},
		{"unknown", "", 0, nil},
	} {
		w, err := s.Writer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if w.Size() != int64(len(data)) {
			t.Errorf("size %d", w.Size())
		}
		got, err := w.Commit(tt.want, tt.size)
		if !errors.Is(err, tt.err) || err == nil && got != want {
			t.Errorf("%s: %s, %v", tt.name, got, err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if s.Has(want) != (tt.name != "wrong digest" && tt.name != "wrong size") {
			t.Errorf("%s: has %v", tt.name, s.Has(want))
		}
		if rest := names(t, s, "ingest"); len(rest) != 0 {
			t.Errorf("%s: ingest has %v", tt.name, rest)
		}
	}
	// A blob that the disk lost is written anew.
	if err := os.Remove(s.BlobPath(want)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.BlobPath(want), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	w, err := s.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(want, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(s.BlobPath(want)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Writer(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestResume(t *testing.T) {
	s := storetest.New(t)
	data := randomBytes(2, 10<<20)
	d := digest.FromBytes(data)
	resume := func(wantOffset int) *imagestore.Writer {
		t.Helper()
		w, offset, err := s.Resume(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if offset != int64(wantOffset) || w.Size() != offset {
			t.Errorf("offset %d, size %d, want %d", offset, w.Size(), wantOffset)
		}
		return w
	}
	write := func(w *imagestore.Writer, p []byte) {
		t.Helper()
		if _, err := io.Copy(w, bytes.NewReader(p)); err != nil {
			t.Fatal(err)
		}
	}
	closeWriter := func(w *imagestore.Writer) {
		t.Helper()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	// Nothing is left of nothing.
	closeWriter(resume(0))
	if rest := names(t, s, "ingest"); len(rest) != 0 {
		t.Errorf("ingest has %v", rest)
	}
	w := resume(0)
	write(w, data[:3<<20])
	closeWriter(w)
	w = resume(3 << 20)
	write(w, data[3<<20:9<<20])
	closeWriter(w)
	w = resume(9 << 20)
	// The rest is wrong: all of it goes.
	write(w, data[:1<<20])
	if _, err := w.Commit(d, int64(len(data))); !errors.Is(err, imagestore.ErrDigest) {
		t.Errorf("wrong content: %v", err)
	}
	closeWriter(w)
	if rest := names(t, s, "ingest"); len(rest) != 0 || s.Has(d) {
		t.Errorf("ingest has %v", rest)
	}
	// A source that begins anew.
	w = resume(0)
	write(w, data[:1<<20])
	if err := w.Restart(); err != nil {
		t.Fatal(err)
	}
	write(w, data)
	// Whatever the caller wants, it is the digest of Resume.
	if got, err := w.Commit("", 0); err != nil || got != d {
		t.Errorf("%s, %v", got, err)
	}
	closeWriter(w)
	// It is there already.
	w = resume(len(data))
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("wrote to a whole blob")
	}
	if err := w.Restart(); err == nil {
		t.Error("restarted a whole blob")
	}
	if _, err := w.Commit(d, 3); !errors.Is(err, imagestore.ErrDigest) {
		t.Errorf("other size: %v", err)
	}
	if got, err := w.Commit(d, int64(len(data))); err != nil || got != d {
		t.Errorf("%s, %v", got, err)
	}
	closeWriter(w)
	for _, bad := range []digest.Digest{"", "x", digest.SHA512.FromString("x")} {
		if _, _, err := s.Resume(t.Context(), bad); err == nil {
			t.Errorf("resumed %q", bad)
		}
	}
}

// What a writer finds may be longer than the blob, or rubbish from a power loss.
func TestResumeRubbish(t *testing.T) {
	s := storetest.New(t)
	data := []byte("content")
	d := digest.FromBytes(data)
	for _, rubbish := range []string{"\x00\x00\x00", "content and more"} {
		if err := os.WriteFile(filepath.Join(s.Dir(), "ingest", "sha256-"+d.Encoded()), []byte(rubbish), 0o600); err != nil {
			t.Fatal(err)
		}
		w, offset, err := s.Resume(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if offset < int64(len(data)) {
			_, err = w.Write(data[offset:])
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(d, int64(len(data))); !errors.Is(err, imagestore.ErrDigest) {
			t.Errorf("%q: %v", rubbish, err)
		}
		if w, offset, err = s.Resume(t.Context(), d); err != nil || offset != 0 {
			t.Errorf("after %q: offset %d, %v", rubbish, offset, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Many want one blob: one writes, the others wait and find it.
func TestResumeConcurrent(t *testing.T) {
	s := storetest.New(t)
	data := randomBytes(3, 1<<20)
	d := digest.FromBytes(data)
	var mu sync.Mutex
	var written int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			w, offset, err := s.Resume(t.Context(), d)
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			end := int64(len(data))
			if i < 3 {
				end = min(end, offset+100_000) // interrupted
			}
			n, err := w.ReadFrom(bytes.NewReader(data[offset:end]))
			if err != nil && offset < end {
				t.Error(err)
				return
			}
			mu.Lock()
			written += n
			mu.Unlock()
			if end == int64(len(data)) {
				if _, err := w.Commit(d, end); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if !s.Has(d) || written != int64(len(data)) {
		t.Errorf("has %v, %d bytes written", s.Has(d), written)
	}
	if rest := names(t, s, "ingest"); len(rest) != 0 {
		t.Errorf("ingest has %v", rest)
	}
}

func TestResumeWaits(t *testing.T) {
	s := storetest.New(t)
	d := digest.FromString("x")
	w, _, err := s.Resume(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := s.Resume(ctx, d); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A blob of 160 MB, as kubelet's layer has; how long Commit takes of it.
func BenchmarkWriter(b *testing.B) {
	data := randomBytes(4, 160<<20)
	b.SetBytes(int64(len(data)))
	var commit time.Duration
	for i := range b.N {
		data[0]++
		data[1] = byte(i)
		s := storetest.New(b)
		w, err := s.Writer(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.ReadFrom(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if _, err := w.Commit("", 0); err != nil {
			b.Fatal(err)
		}
		commit += time.Since(start)
		if err := os.RemoveAll(s.Dir()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(commit.Milliseconds())/float64(b.N), "commit-ms/op")
}

// TestResumeReadOnly: a blob is made read-only just before it gets its name, and who writes it may be
// killed in between.
func TestResumeReadOnly(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write what is read-only")
	}
	s, err := imagestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("blob")
	file := filepath.Join(s.Dir(), "ingest", "sha256-"+d.Encoded())
	if err := os.WriteFile(file, []byte("blob"), 0o444); err != nil {
		t.Fatal(err)
	}
	w, offset, err := s.Resume(t.Context(), d)
	if err != nil || offset != 4 {
		t.Fatalf("offset %d, %v", offset, err)
	}
	defer w.Close()
	if _, err := w.Commit(d, 4); err != nil {
		t.Error(err)
	}
}
