package unpack

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxFrame bounds the frames that are decoded each by itself; it is the size of those that keg packs.
	// Larger ones, and those that do not say their size, are decoded as a stream.
	maxFrame = 4 << 20
	// batchSize is what a block holds of small frames, or of a stream.
	batchSize = 1 << 20
	// maxWindow is what a zstd stream may make the decoder remember. Encoders use 8 MiB or less unless
	// told otherwise.
	maxWindow = 64 << 20
)

// block is a stretch of a layer's tar. Its buffers are used again and again.
type block struct {
	packed []byte // whole zstd frames, until they are decoded
	want   int    // bytes of what packed holds
	data   []byte
	err    error
	ready  chan struct{}
	users  atomic.Int32
}

// pool has the blocks and the decoding goroutines that all layers share, which bounds the memory. A layer
// takes its blocks in order and gives each back without having to wait for another one, so that layers
// cannot wait for each other.
type pool struct {
	free chan *block
	work chan *block
	done sync.WaitGroup
}

func newPool(parallelism int) *pool {
	n := 2*parallelism + maxLayers
	p := &pool{free: make(chan *block, n), work: make(chan *block, n)}
	for range n {
		p.free <- &block{ready: make(chan struct{}, 1)}
	}
	for range parallelism {
		p.done.Go(p.decode)
	}
	return p
}

func (p *pool) stop() {
	close(p.work)
	p.done.Wait()
}

func (p *pool) decode() {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxFrame), zstd.WithDecoderLowmem(true))
	for b := range p.work {
		b.err = err
		if err == nil {
			b.decode(d)
		}
		b.ready <- struct{}{}
	}
	if err == nil {
		d.Close()
	}
}

func (b *block) decode(d *zstd.Decoder) {
	if cap(b.data) < b.want {
		size := batchSize
		if b.want > size {
			size = maxFrame
		}
		b.data = make([]byte, 0, size)
	}
	b.data, b.err = d.DecodeAll(b.packed, b.data[:0])
	if b.err == nil && len(b.data) != b.want {
		b.err = fmt.Errorf("frames hold %d bytes and say %d", len(b.data), b.want)
	}
}

var errCorrupt = errors.New("corrupt zstd frame")

// release gives the block back once all its users have.
func (p *pool) release(b *block) {
	if b.users.Add(-1) == 0 {
		p.free <- b
	}
}
