package unpack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// stream is the tar of a layer. One goroutine reads the layer, the pool's decode, one hashes; whoever
// calls Read is the fourth.
type stream struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	u       *unpacker
	hash    hash.Hash
	ordered chan *block // as they stand in the tar
	tar     chan *block // the same, ready
	current *block
	rest    []byte
	group   sync.WaitGroup
}

func newStream(ctx context.Context, u *unpacker, r io.Reader, h hash.Hash) *stream {
	ctx, cancel := context.WithCancelCause(ctx)
	n := cap(u.pool.free)
	s := &stream{ctx: ctx, cancel: cancel, u: u, hash: h, ordered: make(chan *block, n), tar: make(chan *block, n)}
	s.group.Go(func() {
		defer close(s.ordered)
		if err := s.read(r); err != nil {
			cancel(err)
		}
	})
	s.group.Go(func() {
		defer close(s.tar)
		for b := range s.ordered {
			<-b.ready
			s.pass(b)
		}
	})
	return s
}

// block waits for a free block.
func (s *stream) block() (*block, error) {
	select {
	case b := <-s.u.pool.free:
		b.users.Store(2)
		b.err = nil
		return b, context.Cause(s.ctx)
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
}

// giveBack is for a block that nobody else saw.
func (s *stream) giveBack(b *block) {
	if b != nil {
		s.u.pool.free <- b
	}
}

func (s *stream) read(raw io.Reader) error {
	r := bufio.NewReaderSize(raw, 256<<10)
	magic, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(r)
		if err != nil {
			return fmt.Errorf("decompressing: %w", err)
		}
		return s.plain(zr)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		return s.frames(frames{r})
	default:
		return s.plain(r)
	}
}

// frames gives the pool frames to decode, for as long as they are small.
func (s *stream) frames(f frames) error {
	for {
		b, err := s.block()
		if err == nil {
			err = f.fill(b)
		}
		if err != nil {
			s.giveBack(b)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errStream):
			zr, err := zstd.NewReader(f.r, zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(min(s.u.o.Parallelism, 2)))
			if err != nil {
				return fmt.Errorf("decompressing: %w", err)
			}
			defer zr.Close()
			return s.plain(zr)
		case err != nil:
			return fmt.Errorf("decompressing: %w", err)
		}
		s.u.pool.work <- b
		s.ordered <- b
	}
}

// plain passes on what r gives.
func (s *stream) plain(r io.Reader) error {
	for {
		b, err := s.block()
		if err != nil {
			s.giveBack(b)
			return err
		}
		if cap(b.data) < batchSize {
			b.data = make([]byte, 0, batchSize)
		}
		// Not ReadFull: it would make a decompressor's io.ErrUnexpectedEOF look like a short last block.
		b.data = b.data[:0]
		for len(b.data) < batchSize && err == nil {
			var n int
			n, err = r.Read(b.data[len(b.data):batchSize])
			b.data = b.data[:len(b.data)+n]
		}
		if err != nil && !errors.Is(err, io.EOF) {
			s.giveBack(b)
			return fmt.Errorf("decompressing: %w", err)
		}
		b.ready <- struct{}{}
		s.ordered <- b
		if err != nil {
			return nil
		}
	}
}

// pass hands a block to the reader of the tar and hashes it.
func (s *stream) pass(b *block) {
	if b.err != nil {
		s.cancel(fmt.Errorf("decompressing: %w", b.err))
	} else if s.u.bytes.Add(int64(len(b.data))) > s.u.o.MaxBytes {
		s.cancel(fmt.Errorf("%d bytes, uncompressed: %w", s.u.o.MaxBytes, ErrLimit))
	}
	if s.ctx.Err() != nil {
		s.giveBack(b)
		return
	}
	s.tar <- b
	s.hash.Write(b.data)
	s.u.pool.release(b)
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.current != nil {
			s.u.pool.release(s.current)
			s.current = nil
		}
		b, ok := <-s.tar
		if err := context.Cause(s.ctx); err != nil {
			if ok {
				s.u.pool.release(b)
			}
			return 0, err
		}
		if !ok {
			return 0, io.EOF
		}
		s.current, s.rest = b, b.data
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// close ends the stream, whether it was read to its end or not, and waits for its goroutines.
func (s *stream) close() {
	s.cancel(io.ErrClosedPipe)
	if s.current != nil {
		s.u.pool.release(s.current)
		s.current = nil
	}
	for b := range s.tar {
		s.u.pool.release(b)
	}
	s.group.Wait()
}
