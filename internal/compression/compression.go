// Package compression reads compressed content, whichever way it is compressed, with bounded memory: what
// a hostile header asks for is refused.
package compression

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Format is how content is compressed.
type Format string

// The formats that are known.
const (
	None  Format = ""
	Gzip  Format = "gzip"
	Zstd  Format = "zstd"
	Bzip2 Format = "bzip2"
	XZ    Format = "xz"
)

// MagicLen is how many bytes Detect wants to see.
const MagicLen = 6

// Detect finds the format by the first bytes of the content.
func Detect(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // a skippable frame comes first
		return Zstd
	case bytes.HasPrefix(head, []byte("BZh")):
		return Bzip2
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return XZ
	}
	return None
}

// maxWindow bounds what a zstd or xz stream may make us remember. zstd --ultra uses as much, xz -9 half
// of it.
const maxWindow = 128 << 20

// Reader gives the content uncompressed. Errors of compressed content begin with
// "unpacking FORMAT:".
type Reader struct {
	Format Format
	plain  io.Reader
	close  func()
}

// NewReader reads r through the compression that its first bytes tell.
func NewReader(r io.Reader) (*Reader, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	head, err := buffered.Peek(MagicLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	u := &Reader{Format: Detect(head), plain: buffered, close: func() {}}
	switch u.Format {
	case Gzip:
		u.plain, err = gzip.NewReader(buffered)
	case Zstd:
		var d *zstd.Decoder
		d, err = zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderLowmem(true))
		if err == nil {
			u.plain, u.close = d, d.Close
		}
	case Bzip2:
		u.plain = bzip2.NewReader(buffered)
	case XZ:
		// DictCap is what is used at least; the guard holds what is at most.
		u.plain, err = xz.ReaderConfig{DictCap: 1 << 16}.NewReader(&xzGuard{r: buffered})
	default:
		return u, nil
	}
	if err != nil {
		return nil, u.wrap(err)
	}
	return u, nil
}

func (u *Reader) wrap(err error) error { return fmt.Errorf("unpacking %s: %w", u.Format, err) }

// Read implements io.Reader.
func (u *Reader) Read(p []byte) (int, error) {
	n, err := u.plain.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && u.Format != None {
		err = u.wrap(err)
	}
	return n, err
}

// Close ends the decoder; the source stays open.
func (u *Reader) Close() { u.close() }
