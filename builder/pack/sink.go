package pack

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sink takes the pieces in order: writes them, hashes tar and layer, keeps the table of contents.
type sink struct {
	w        io.Writer
	list     []Entry
	progress func(int64)
	tarHash  hash.Hash
	hash     hash.Hash
	tarSize  int64
	size     int64
	zstd     bool
	toc      *toc
}

func newSink(w io.Writer, list []Entry, o Options) *sink {
	k := &sink{w: w, list: list, progress: o.Progress, tarHash: sha256.New(), hash: sha256.New(), zstd: o.Compression != Gzip}
	if k.zstd {
		k.toc = newTOC(list, o.ModTime)
	}
	return k
}

func (k *sink) take(p *piece) error {
	if p.err != nil {
		return fmt.Errorf("compressing layer: %w", p.err)
	}
	k.tarHash.Write(p.tar)
	k.tarSize += int64(len(p.tar))
	offset := k.size
	if err := k.write(p.packed); err != nil {
		return err
	}
	begin, packedBegin := 0, offset
	for _, f := range p.frames {
		packedEnd := offset + int64(f.packedEnd)
		if f.entry >= 0 {
			if k.toc != nil {
				if err := k.toc.frame(f, packedBegin, packedEnd, int64(f.end-begin)); err != nil {
					return err
				}
			}
			if k.progress != nil {
				k.progress(int64(f.end - begin))
			}
		}
		begin, packedBegin = f.end, packedEnd
	}
	return nil
}

func (k *sink) write(b []byte) error {
	k.hash.Write(b)
	k.size += int64(len(b))
	if _, err := k.w.Write(b); err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	return nil
}

func (k *sink) finish() (Layer, error) {
	l := Layer{DiffID: digest.NewDigest(digest.SHA256, k.tarHash), Uncompressed: k.tarSize}
	l.Descriptor.MediaType = ocispec.MediaTypeImageLayerGzip
	if k.toc != nil {
		l.Descriptor.MediaType = ocispec.MediaTypeImageLayerZstd
		trailer, annotations, err := k.toc.finish(k.size)
		if err != nil {
			return Layer{}, err
		}
		if err := k.write(trailer); err != nil {
			return Layer{}, err
		}
		l.Descriptor.Annotations = annotations
	}
	l.Descriptor.Digest = digest.NewDigest(digest.SHA256, k.hash)
	l.Descriptor.Size = k.size
	return l, nil
}
