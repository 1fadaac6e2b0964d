package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/internal/lockfile"
	"github.com/clusterimage/keg/internal/writeback"
)

// Writer receives one blob, whose digest may be known beforehand or not. It is for one goroutine.
type Writer struct {
	s    *Store
	f    *os.File // under an flock until it is closed; nil if the blob was there already
	hash digest.Digester
	size int64
	// flushed is how much the kernel was told to begin writing to the disk.
	flushed int64
	// target is the digest that the content is meant to have, of a Writer from Resume; else "".
	target digest.Digest
	done   bool
}

var _ io.ReaderFrom = (*Writer)(nil)

// flushStep is how much is left to the kernel before it is told to begin writing. Without, a large
// blob waits in memory for Commit, and the disk does nothing until then.
const flushStep = 8 << 20

// Writer begins a blob. The caller closes it always; closing without Commit discards.
func (s *Store) Writer(ctx context.Context) (*Writer, error) {
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		f, err := os.CreateTemp(s.path("ingest"), "blob-*")
		if err != nil {
			return nil, fmt.Errorf("writing blob: %w", err)
		}
		// Between creation and lock Prune may take the file for an abandoned one.
		ok, err := lockfile.TryLock(f, lockfile.Exclusive)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("writing blob: %w", err), f.Close(), os.Remove(f.Name()))
		}
		if ok && named(f) {
			return &Writer{s: s, f: f, hash: digest.SHA256.Digester()}, nil
		}
		_ = f.Close()
	}
}

// Resume begins or continues the blob d, which must be of SHA-256: what an earlier Writer for it left
// is kept, and offset is its length, from which the caller goes on. While another Writer for d is open, in
// this process or another, Resume waits until ctx ends.
//
// If the blob is in the store, or appears while waiting, offset is its size; nothing more is to be
// written then and Commit just succeeds.
//
// Closing without Commit keeps what was written for the next Resume. Commit fails with ErrDigest, and
// discards everything, if the whole is not d: content left by a machine that lost power may be
// wrong, so a caller whose offset was not 0 tries once more from the beginning.
func (s *Store) Resume(ctx context.Context, d digest.Digest) (w *Writer, offset int64, err error) {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return nil, 0, fmt.Errorf("writing blob %q: the digest must be of SHA-256", d)
	}
	path := s.path("ingest", d.Algorithm().String()+"-"+d.Encoded())
	opened := false
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, 0, err
		}
		b, err := s.Open(d)
		if err == nil {
			size := b.Size
			_ = b.Close()
			return &Writer{s: s, size: size, target: d}, size, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, 0, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrPermission) && !opened && os.Chmod(path, 0o600) == nil {
			opened = true // whoever wrote it was killed just before the last step, when it was read-only already
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("writing blob %s: %w", d, err)
		}
		if err := lockfile.Lock(ctx, f, lockfile.Exclusive, nil); err != nil {
			_ = f.Close()
			return nil, 0, fmt.Errorf("writing blob %s: %w", d, err)
		}
		// Who held the lock may have committed or discarded the file: then this is not it any more.
		if !named(f) || s.Has(d) {
			_ = f.Close()
			continue
		}
		w := &Writer{s: s, f: f, hash: d.Algorithm().Digester(), target: d}
		if err := w.rehash(ctx); err != nil {
			_ = f.Close()
			return nil, 0, fmt.Errorf("writing blob %s: %w", d, err)
		}
		return w, w.size, nil
	}
}

// named says whether f still is the file that its name leads to.
func named(f *os.File) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(f.Name())
	return err == nil && os.SameFile(a, b)
}

// rehash reads what the file has, and leaves it positioned at its end.
func (w *Writer) rehash(ctx context.Context) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := w.f.Read(*buf)
		w.hash.Hash().Write((*buf)[:n])
		w.size += int64(n)
		if err == io.EOF {
			w.flushed = w.size
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var errWhole = errors.New("the blob is in the store already")

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	if w.f == nil {
		return 0, fmt.Errorf("writing blob %s: %w", w.target, errWhole)
	}
	n, err := w.f.Write(p)
	w.hash.Hash().Write(p[:n])
	w.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("writing blob: %w", err)
	}
	if w.size-w.flushed >= flushStep {
		writeback.Start(w.f, w.flushed, w.size-w.flushed)
		w.flushed = w.size
	}
	return n, nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// ReadFrom implements io.ReaderFrom, so that io.Copy reads in large pieces.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var total int64
	for {
		n, err := r.Read(*buf)
		if n > 0 {
			m, werr := w.Write((*buf)[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Restart forgets what was written, for a source that cannot continue in the middle. It is an
// error if the blob was in the store already.
func (w *Writer) Restart() error {
	if w.f == nil {
		return fmt.Errorf("writing blob %s: %w", w.target, errWhole)
	}
	if err := w.f.Truncate(0); err != nil {
		return fmt.Errorf("writing blob: %w", err)
	}
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("writing blob: %w", err)
	}
	w.hash.Hash().Reset()
	w.size, w.flushed = 0, 0
	return nil
}

// Commit makes the blob appear under its digest, which it returns. want and size are checked if want
// is not empty; a mismatch is ErrDigest and leaves the store as it was. A Writer from Resume checks its
// digest in any case. After Commit the content is on the disk; its name is there for sure once the
// image is tagged.
func (w *Writer) Commit(want digest.Digest, size int64) (digest.Digest, error) {
	if w.f == nil {
		if want != "" && (want != w.target || size != w.size) {
			return "", fmt.Errorf("writing blob: %d bytes with digest %s are in the store, want %d with %s: %w", w.size, w.target, size, want, ErrDigest)
		}
		w.done = true
		return w.target, nil
	}
	got := w.hash.Digest()
	if want == "" && w.target != "" {
		want, size = w.target, w.size
	}
	if want != "" && (want != got || size != w.size || w.target != "" && w.target != got) {
		err := fmt.Errorf("writing blob: got %d bytes with digest %s, want %d with %s: %w", w.size, got, size, want, ErrDigest)
		return "", errors.Join(err, w.discard())
	}
	// A blob of another size is one that the disk lost: it is replaced.
	if fi, err := os.Stat(w.s.BlobPath(got)); err == nil && fi.Size() == w.size {
		return got, w.discard()
	}
	if err := w.f.Chmod(blobMode); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", got, err)
	}
	if err := w.f.Sync(); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", got, err)
	}
	// The lock goes with the name: a file in ingest without one would look abandoned.
	if err := os.Rename(w.f.Name(), w.s.BlobPath(got)); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", got, err)
	}
	w.done = true
	if err := w.f.Close(); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", got, err)
	}
	return got, nil
}

// blobMode keeps a blob from being changed by accident, through one of its hard links too. Who may read
// it is up to the store's directory.
const blobMode fs.FileMode = 0o444

// Size is the number of bytes that are there: those written, and those that Resume found.
func (w *Writer) Size() int64 { return w.size }

// Close discards what was not committed; a Writer from Resume keeps it for the next one.
func (w *Writer) Close() error {
	switch {
	case w.done || w.f == nil:
		return nil
	case w.target != "" && w.size > 0:
		w.done = true
		if err := w.f.Close(); err != nil {
			return fmt.Errorf("writing blob %s: %w", w.target, err)
		}
		return nil
	}
	return w.discard()
}

// discard removes the file while it is still locked, so that nobody takes it over in between.
func (w *Writer) discard() error {
	w.done = true
	err := os.Remove(w.f.Name())
	return errors.Join(err, w.f.Close())
}
