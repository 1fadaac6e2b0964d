package archive

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

// format is how content is compressed, as its first bytes tell.
type format string

const (
	formatNone  format = ""
	formatGzip  format = "gzip"
	formatZstd  format = "zstd"
	formatBzip2 format = "bzip2"
	formatXZ    format = "xz"
)

// magicLen is how many bytes detect wants to see.
const magicLen = 6

func detect(head []byte) format {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return formatGzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return formatZstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // a skippable frame comes first
		return formatZstd
	case bytes.HasPrefix(head, []byte("BZh")):
		return formatBzip2
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return formatXZ
	}
	return formatNone
}

// maxWindow bounds what a zstd stream may ask to keep in memory; zstd --ultra uses as much.
const maxWindow = 128 << 20

// decompress unpacks r as its first bytes say. The caller calls done after the last read.
func decompress(r io.Reader) (plain io.Reader, done func(), err error) {
	buffered := bufio.NewReaderSize(r, 1<<20)
	head, err := buffered.Peek(magicLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	if len(head) == 0 {
		return nil, nil, fmt.Errorf("it is empty: %w", ErrFormat)
	}
	done = func() {}
	kind := detect(head)
	switch kind {
	case formatGzip:
		plain, err = gzip.NewReader(buffered)
	case formatZstd:
		var d *zstd.Decoder
		d, err = zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderLowmem(true))
		if err == nil {
			plain, done = d, d.Close
		}
	case formatBzip2:
		plain = bzip2.NewReader(buffered)
	case formatXZ:
		plain, err = xz.NewReader(buffered)
	default:
		return buffered, done, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("unpacking %s: %w: %w", kind, ErrFormat, err)
	}
	return &unpacker{plain, kind}, done, nil
}

// unpacker says in its errors what was being unpacked.
type unpacker struct {
	io.Reader
	kind format
}

// Read implements io.Reader.
func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("unpacking %s: %w: %w", u.kind, ErrFormat, err)
	}
	return n, err
}
