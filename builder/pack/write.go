package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	goruntime "runtime"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// chunkSize is what a frame holds at most of a file. Smaller chunks cost ratio, larger ones memory.
	chunkSize = 4 << 20
	// batchSize is when a piece is given away, so that small files do not travel one by one.
	batchSize = 1 << 20
	// maxParallelism bounds the default: the goroutine that hashes the tar in order keeps up with
	// about six that compress.
	maxParallelism = 8
	// blockSize is tar's.
	blockSize = 512
)

// piece is a stretch of the tar that is compressed by itself. Its buffers are used again and again.
type piece struct {
	tar    []byte
	frames []frame
	packed []byte
	err    error
	ready  chan struct{}
}

// frame is a stretch of a piece that becomes one zstd frame.
type frame struct {
	// end and packedEnd are where it ends in the piece's tar and packed bytes.
	end, packedEnd int
	// entry is the index of the entry whose content it is, -1 for tar headers and padding.
	entry int
	// digest is that of the content; whole, in a file's last frame, that of the file if it has several.
	digest, whole digest.Digest
	last          bool
}

// Write packs entries into w as one compressed layer. Parents that are missing are added, as directories
// of mode 0755 and owner 0:0. On error what w holds is worthless.
func Write(ctx context.Context, w io.Writer, entries []Entry, o Options) (Layer, error) {
	newCompressor, ok := compressors[o.Compression]
	if !ok {
		return Layer{}, fmt.Errorf("packing layer: unknown compression %q", o.Compression)
	}
	list, err := prepare(entries)
	if err != nil {
		return Layer{}, err
	}
	o.ModTime = modTime(o.ModTime)
	workers := o.Parallelism
	if workers <= 0 {
		workers = min(goruntime.GOMAXPROCS(0), maxParallelism)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// Every piece is in exactly one of these channels or in one goroutine's hands, so no send blocks.
	n := workers + 3
	free, work, ordered := make(chan *piece, n), make(chan *piece, n), make(chan *piece, n)
	for range n {
		free <- &piece{ready: make(chan struct{}, 1)}
	}
	var group sync.WaitGroup
	for range workers {
		c, err := newCompressor()
		if err != nil {
			close(work)
			group.Wait()
			return Layer{}, fmt.Errorf("packing layer: %w", err)
		}
		group.Go(func() {
			for p := range work {
				if ctx.Err() == nil {
					p.err = c.compress(p)
				}
				p.ready <- struct{}{}
			}
		})
	}
	group.Go(func() {
		defer close(ordered)
		defer close(work)
		s := &source{ctx: ctx, free: free, modTime: o.ModTime, give: func(p *piece) { work <- p; ordered <- p }}
		if err := s.run(list); err != nil {
			cancel(err)
		}
	})

	k := newSink(w, list, o)
	for p := range ordered {
		<-p.ready
		if ctx.Err() == nil {
			if err := k.take(p); err != nil {
				cancel(err)
			}
		}
		free <- p
	}
	group.Wait()
	if ctx.Err() != nil {
		return Layer{}, context.Cause(ctx)
	}
	return k.finish()
}

func modTime(t time.Time) time.Time {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Truncate(time.Second)
}

// source makes the tar, piece by piece: the only reader of the files.
type source struct {
	ctx     context.Context
	free    <-chan *piece
	give    func(*piece)
	modTime time.Time
	p       *piece
	header  bytes.Buffer
}

func (s *source) run(list []Entry) error {
	if err := s.next(); err != nil {
		return err
	}
	for i := range list {
		if err := s.entry(i, &list[i]); err != nil {
			return fmt.Errorf("packing %q: %w", list[i].Name, err)
		}
	}
	s.p.tar = append(s.p.tar, make([]byte, 2*blockSize)...)
	s.endFrame(frame{entry: -1})
	s.give(s.p)
	return nil
}

// next begins a piece, waiting for one that is free.
func (s *source) next() error {
	select {
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case s.p = <-s.free:
	}
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	s.p.tar, s.p.frames, s.p.packed, s.p.err = s.p.tar[:0], s.p.frames[:0], s.p.packed[:0], nil
	return nil
}

// endFrame ends the frame at what the piece holds, if that is more than the frame before.
func (s *source) endFrame(f frame) {
	begin := 0
	if n := len(s.p.frames); n > 0 {
		begin = s.p.frames[n-1].end
	}
	if f.end = len(s.p.tar); f.end > begin {
		s.p.frames = append(s.p.frames, f)
	}
}

// flush gives the piece away if it holds enough.
func (s *source) flush() error {
	if len(s.p.tar) < batchSize {
		return nil
	}
	s.endFrame(frame{entry: -1})
	s.give(s.p)
	return s.next()
}

func (s *source) entry(i int, e *Entry) error {
	if err := s.flush(); err != nil {
		return err
	}
	s.header.Reset()
	if err := tar.NewWriter(&s.header).WriteHeader(header(e, s.modTime)); err != nil {
		return err
	}
	s.p.tar = append(s.p.tar, s.header.Bytes()...)
	if e.Type != tar.TypeReg || e.Size == 0 {
		return nil
	}
	s.endFrame(frame{entry: -1})
	if err := s.content(i, e); err != nil {
		return err
	}
	if pad := -e.Size & (blockSize - 1); pad > 0 {
		s.p.tar = append(s.p.tar, make([]byte, pad)...)
	}
	return nil
}

func (s *source) content(i int, e *Entry) (err error) {
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var whole hash.Hash
	if e.Size > chunkSize {
		whole = sha256.New()
	}
	for left := e.Size; left > 0; {
		if err := s.flush(); err != nil {
			return err
		}
		begin, size := len(s.p.tar), int(min(left, chunkSize))
		if cap(s.p.tar) < begin+size {
			// Exactly what a piece can need, where append would double.
			s.p.tar = append(make([]byte, 0, max(begin+size, need(begin+size))), s.p.tar...)
		}
		s.p.tar = s.p.tar[:begin+size]
		n, err := io.ReadFull(r, s.p.tar[begin:])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("it had %d bytes and now has %d: %w", e.Size, e.Size-left+int64(n), ErrChanged)
		}
		if err != nil {
			return err
		}
		left -= int64(size)
		f := frame{entry: i, last: left == 0}
		if whole != nil {
			whole.Write(s.p.tar[begin:])
			if f.last {
				f.whole = digest.NewDigest(digest.SHA256, whole)
			}
		}
		s.endFrame(f)
	}
	for range 100 {
		switch n, err := r.Read(make([]byte, 1)); {
		case n > 0:
			return fmt.Errorf("it had %d bytes and now has more: %w", e.Size, ErrChanged)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// need rounds a buffer's size up to the few that occur, so that buffers stop growing soon.
func need(n int) int {
	for _, c := range []int{batchSize / 4, 2 * batchSize, batchSize + chunkSize + 64<<10} {
		if n <= c {
			return c
		}
	}
	return n
}

// header is the tar header of e: USTAR where that can say it, PAX otherwise, no names of owners.
func header(e *Entry, t time.Time) *tar.Header {
	h := &tar.Header{
		Name: e.Name, Typeflag: e.Type, Mode: e.Mode, Uid: e.UID, Gid: e.GID,
		Size: e.Size, Linkname: e.Linkname, ModTime: t,
	}
	if e.Type == tar.TypeDir {
		h.Name += "/"
	}
	for k, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string, len(e.Xattrs))
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	return h
}
