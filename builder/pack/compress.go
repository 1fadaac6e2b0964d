package pack

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// compressor compresses pieces, one after the other; each goroutine has its own.
type compressor interface {
	compress(p *piece) error
}

var compressors = map[Compression]func() (compressor, error){
	"":   newZstd,
	Zstd: newZstd,
	Gzip: newGzip,
}

// zstdCompressor makes a frame of each frame of the piece. A frame depends on nothing but its content.
type zstdCompressor struct{ enc *zstd.Encoder }

// zstdOptions decide the bytes of a layer: whoever changes them changes formatVersion too.
func zstdOptions() []zstd.EOption {
	return []zstd.EOption{
		zstd.WithEncoderConcurrency(1),
		// On Go binaries: ratio 0.295; default takes 40 % more time and gives 0.280, better twice as much
		// and gives 0.269.
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(chunkSize),
		zstd.WithLowerEncoderMem(true),
		// The layer's digest, the DiffID and those of the table of contents guard the content already.
		zstd.WithEncoderCRC(false),
	}
}

func newZstd() (compressor, error) {
	enc, err := zstd.NewWriter(nil, zstdOptions()...)
	if err != nil {
		return nil, fmt.Errorf("making zstd encoder: %w", err)
	}
	return &zstdCompressor{enc: enc}, nil
}

func (c *zstdCompressor) compress(p *piece) error {
	begin := 0
	for i := range p.frames {
		f := &p.frames[i]
		content := p.tar[begin:f.end]
		p.packed = c.enc.EncodeAll(content, p.packed)
		f.packedEnd = len(p.packed)
		if f.entry >= 0 {
			f.digest = digest.SHA256.FromBytes(content)
		}
		begin = f.end
	}
	return nil
}

// gzipCompressor makes a member of each piece; members in a row are one gzip stream (RFC 1952 §2.2).
type gzipCompressor struct{ zw *gzip.Writer }

// gzipLevel was chosen by numbers, on Go binaries: 4 saves 16 % of the time and gives 3 % more bytes, 6
// takes 7 % more and gives 1.4 % less.
const gzipLevel = 5

func newGzip() (compressor, error) {
	zw, err := gzip.NewWriterLevel(nil, gzipLevel)
	if err != nil {
		return nil, fmt.Errorf("making gzip writer: %w", err)
	}
	return &gzipCompressor{zw: zw}, nil
}

func (c *gzipCompressor) compress(p *piece) error {
	buf := bytes.NewBuffer(p.packed)
	c.zw.Reset(buf)
	if _, err := c.zw.Write(p.tar); err != nil {
		return err
	}
	if err := c.zw.Close(); err != nil {
		return err
	}
	p.packed = buf.Bytes()
	return nil
}
