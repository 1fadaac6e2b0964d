package compression

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// errDictionary says that a stream wants more memory than it may have.
var errDictionary = errors.New("its dictionary is too large")

// xzGuard passes on an xz file (tukaani.org, xz-file-format-1.0.4) and stops before a block whose
// dictionary is larger than maxWindow: the decoder behind it would take what the header says, up to
// 4 GiB. To find the headers it follows the structure, down to LZMA2's chunks, and decodes nothing. What it
// does not understand it passes on, for the decoder to complain.
type xzGuard struct {
	r    *bufio.Reader
	left int64                // bytes to pass on before the next look
	next func(*xzGuard) error // nil is a stream's header
	// check is the size of the checksum behind a block; block the bytes of its chunks so far; index those
	// of the index, and records the numbers in it that are to come.
	check, block, index, records int64
}

// Read implements io.Reader.
func (g *xzGuard) Read(p []byte) (int, error) {
	for g.left == 0 {
		if g.next == nil {
			g.next = (*xzGuard).streamHeader
		}
		if err := g.next(g); err != nil {
			return 0, err
		}
	}
	n, err := g.r.Read(p[:min(int64(len(p)), g.left)])
	g.left -= int64(n)
	return n, err
}

// peek looks at the next n bytes. Where there are fewer it gives nil, and passes all the rest on.
func (g *xzGuard) peek(n int) []byte {
	head, _ := g.r.Peek(n) // the error comes again when they are read
	if len(head) < n {
		g.giveUp()
		return nil
	}
	return head
}

func (g *xzGuard) giveUp() { g.left = math.MaxInt64 }

func (g *xzGuard) pass(n int64, next func(*xzGuard) error) error {
	g.left, g.next = n, next
	return nil
}

func (g *xzGuard) streamHeader() error {
	head := g.peek(4)
	if head == nil {
		return nil
	}
	if binary.LittleEndian.Uint32(head) == 0 { // padding between streams
		return g.pass(4, (*xzGuard).streamHeader)
	}
	if head = g.peek(12); head == nil {
		return nil
	}
	if Detect(head) != XZ {
		g.giveUp()
		return nil
	}
	g.check = []int64{0, 4, 8, 16, 32, 64}[(head[7]&15+2)/3]
	return g.pass(12, (*xzGuard).blockHeader)
}

func (g *xzGuard) blockHeader() error {
	head := g.peek(1)
	if head == nil {
		return nil
	}
	if head[0] == 0 {
		g.index, g.records = 1, -1
		return g.pass(1, (*xzGuard).indexNumber)
	}
	size := (int(head[0]) + 1) * 4
	if head = g.peek(size); head == nil {
		return nil
	}
	if err := checkFilters(head[1], head[2:]); err != nil {
		return err
	}
	g.block = 0
	return g.pass(int64(size), (*xzGuard).chunk)
}

// checkFilters reads the flags of a block header, and what follows them.
func checkFilters(flags byte, rest []byte) error {
	number := func() uint64 {
		v, n := binary.Uvarint(rest)
		rest = rest[max(n, 0):]
		return v
	}
	for _, present := range []byte{0x40, 0x80} { // sizes of the block
		if flags&present != 0 {
			number()
		}
	}
	for range flags&3 + 1 {
		id, size := number(), number()
		if size > uint64(len(rest)) {
			return nil // the decoder says what is wrong
		}
		if id == 0x21 && size == 1 {
			if bits := rest[0] & 63; bits > 40 || dictionary(bits) > maxWindow {
				return fmt.Errorf("%w: at most %d bytes are allowed", errDictionary, maxWindow)
			}
		}
		rest = rest[size:]
	}
	return nil
}

// dictionary is the size that a byte of LZMA2's properties stands for.
func dictionary(bits byte) uint64 { return (2 | uint64(bits&1)) << (bits/2 + 11) }

func (g *xzGuard) chunk() error {
	head := g.peek(1)
	if head == nil {
		return nil
	}
	var size int64
	switch control := head[0]; {
	case control == 0: // the last; padding and checksum follow
		g.block++
		return g.pass(1+(-g.block&3)+g.check, (*xzGuard).blockHeader)
	case control <= 2:
		if head = g.peek(3); head == nil {
			return nil
		}
		size = 3 + int64(binary.BigEndian.Uint16(head[1:])) + 1
	case control >= 0x80:
		if head = g.peek(5); head == nil {
			return nil
		}
		size = 5 + int64(binary.BigEndian.Uint16(head[3:])) + 1
		if control >= 0xC0 { // properties
			size++
		}
	default:
		g.giveUp()
		return nil
	}
	g.block += size
	return g.pass(size, (*xzGuard).chunk)
}

// indexNumber passes one number of the index: how many records there are, and two of each.
func (g *xzGuard) indexNumber() error {
	if g.records == 0 { // padding, checksum, and the stream's footer
		return g.pass(-g.index&3+4+12, (*xzGuard).streamHeader)
	}
	head, _ := g.r.Peek(binary.MaxVarintLen64) // the end of the file may be nearer
	v, n := binary.Uvarint(head)
	if n <= 0 || v > math.MaxInt64/2 {
		g.giveUp()
		return nil
	}
	if g.records < 0 {
		g.records = int64(v) * 2
	} else {
		g.records--
	}
	g.index += int64(n)
	return g.pass(int64(n), (*xzGuard).indexNumber)
}

var _ io.Reader = (*xzGuard)(nil)
