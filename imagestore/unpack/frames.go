package unpack

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	zstdMagic      = 0xFD2FB528
	skippableMagic = 0x184D2A50 // to 0x184D2A5F
	// zstdHeader is how long a frame's magic and header are at most.
	zstdHeader = 18
	// zstdBlock is how long a block is at most, packed or not.
	zstdBlock = 128 << 10
)

// frames cuts a zstd stream into its frames (RFC 8878 §3.1) without decoding them.
type frames struct{ r *bufio.Reader }

// errStream says that the next frame must be decoded as a stream; nothing of it was read.
var errStream = errors.New("frame is too large")

// fill puts whole frames into b: one, or small ones together. io.EOF says that there is none left.
func (f frames) fill(b *block) error {
	b.packed, b.want = b.packed[:0], 0
	for {
		content, err := f.next()
		if err == nil && b.want+content > batchSize && len(b.packed) > 0 {
			return nil
		}
		if err == nil {
			err = f.frame(b, content)
		}
		if len(b.packed) > 0 && (errors.Is(err, io.EOF) || errors.Is(err, errStream)) {
			return nil // next says so again
		}
		if err != nil {
			return err
		}
		b.want += content
		if b.want >= batchSize || len(b.packed) >= batchSize {
			return nil
		}
	}
}

// next passes over skippable frames and says how many bytes the next frame decodes to.
func (f frames) next() (content int, err error) {
	for {
		h, err := f.r.Peek(zstdHeader)
		if len(h) == 0 && errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if len(h) < 8 {
			return 0, io.ErrUnexpectedEOF // not even a skippable frame or a frame of nothing is shorter
		}
		magic := binary.LittleEndian.Uint32(h)
		if magic&^0xF == skippableMagic {
			if _, err := f.r.Discard(8); err != nil {
				return 0, unexpected(err)
			}
			if err := discard(f.r, int64(binary.LittleEndian.Uint32(h[4:]))); err != nil {
				return 0, err
			}
			continue
		}
		if magic != zstdMagic {
			return 0, fmt.Errorf("%w: magic is %08x", errCorrupt, magic)
		}
		size, known := contentSize(h)
		if !known || size > maxFrame {
			return 0, errStream
		}
		return int(size), nil
	}
}

func discard(r *bufio.Reader, n int64) error {
	for n > 0 {
		k, err := r.Discard(int(min(n, 1<<20)))
		if err != nil {
			return unexpected(err)
		}
		n -= int64(k)
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// headerSize is the length of magic and header, by the header's first byte.
func headerSize(desc byte) int {
	n := 5 + []int{0, 1, 2, 4}[desc&3] + []int{0, 2, 4, 8}[desc>>6]
	if single := desc&0x20 != 0; !single || desc>>6 == 0 {
		n++ // a window, or the content size of one byte that only a single segment has
	}
	return n
}

func contentSize(h []byte) (size uint64, known bool) {
	desc := h[4]
	n := headerSize(desc)
	if len(h) < n {
		return 0, false // the stream's decoder says what is wrong
	}
	switch desc >> 6 {
	case 0:
		return uint64(h[n-1]), desc&0x20 != 0
	case 1:
		return uint64(binary.LittleEndian.Uint16(h[n-2:])) + 256, true
	case 2:
		return uint64(binary.LittleEndian.Uint32(h[n-4:])), true
	default:
		return binary.LittleEndian.Uint64(h[n-8:]), true
	}
}

// frame appends one frame to b.packed, header, blocks and checksum.
func (f frames) frame(b *block, content int) error {
	begin := len(b.packed)
	h, err := f.r.Peek(5)
	if err != nil {
		return unexpected(err)
	}
	checksum := h[4]&4 != 0
	if err := f.take(b, headerSize(h[4])); err != nil {
		return err
	}
	for {
		if err := f.take(b, 3); err != nil {
			return err
		}
		n := len(b.packed)
		head := int(b.packed[n-3]) | int(b.packed[n-2])<<8 | int(b.packed[n-1])<<16
		last, kind, size := head&1 != 0, head>>1&3, head>>3
		if size > zstdBlock || kind == 3 {
			return fmt.Errorf("%w: block of kind %d and %d bytes", errCorrupt, kind, size)
		}
		if kind == 1 {
			size = 1 // that is repeated
		}
		if err := f.take(b, size); err != nil {
			return err
		}
		if last {
			break
		}
		if len(b.packed)-begin > 2*content+zstdBlock {
			return fmt.Errorf("%w: it is much larger than its content", errCorrupt)
		}
	}
	if checksum {
		return f.take(b, 4)
	}
	return nil
}

func (f frames) take(b *block, n int) error {
	begin := len(b.packed)
	for cap(b.packed) < begin+n {
		b.packed = append(b.packed[:cap(b.packed)], 0)[:begin]
	}
	b.packed = b.packed[:begin+n]
	_, err := io.ReadFull(f.r, b.packed[begin:])
	return unexpected(err)
}
