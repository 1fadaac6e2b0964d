// Package unpack makes a directory of an image's layers (image-spec layer.md). Layers are decompressed
// and written in parallel, each into a staging directory of its own, and merged in order; the directory
// appears whole or not at all. Layers are not trusted: nothing is read or written outside.
package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/internal/progress"
)

// Errors that callers tell apart; each is wrapped in one that names the layer, and the entry if it is one.
var (
	// ErrDigest says that a layer's tar is not the one its DiffID names.
	ErrDigest = errors.New("content does not match its digest")
	// ErrMediaType says that a layer is of a media type that is no tar.
	ErrMediaType = errors.New("not a media type of a layer")
	// ErrUnsafe says that a name or a link leads out of the tree, or is none that a tree can have.
	ErrUnsafe = errors.New("leads out of the tree")
	// ErrType says that an entry is a device, a named pipe or another thing that a rootfs of ours has not.
	ErrType = errors.New("not a file, directory or link")
	// ErrLimit says that the layers hold more than Options allow.
	ErrLimit = errors.New("more than is allowed")
)

// Layer is a layer to unpack.
type Layer struct {
	// MediaType is that of the layer's descriptor. What the layer is compressed with, gzip, zstd or
	// nothing, is seen from its first bytes.
	MediaType string
	// DiffID is the digest of the uncompressed tar, from the image's config.
	DiffID digest.Digest
	// Size is that of the compressed layer in bytes, for progress; 0 if unknown.
	Size int64
	// Open opens the compressed layer. Layers may be open at the same time.
	Open func() (io.ReadCloser, error)
}

// Options say how to unpack. The zero value suits images that are trusted to be of a sane size.
type Options struct {
	// Progress is told, per layer, of the compressed bytes that were read; the ID is the DiffID.
	Progress progress.Func
	// Parallelism is the number of goroutines that decompress; 0 is GOMAXPROCS, but at most 8. Each costs
	// about 12 MB of memory.
	Parallelism int
	// Owner gives files the owners that the layers say, which takes root; otherwise they belong to who unpacks.
	Owner bool
	// MaxBytes bounds the uncompressed size of all layers together; 0 is 64 GiB.
	MaxBytes int64
	// MaxEntries bounds the number of entries of all layers together; 0 is 1,000,000.
	MaxEntries int64
	// NoSync leaves it to the system when the files become durable.
	NoSync bool
}

const (
	defaultMaxBytes   = 64 << 30
	defaultMaxEntries = 1_000_000
	maxParallelism    = 8
	// maxLayers are unpacked at a time: enough to have the next ready, few enough to bound open files.
	maxLayers = 4
)

// Rootfs unpacks layers, lowest first, into dir, which must not exist; its parent must. Modes (setuid
// too), times, symlinks, hard links and the extended attributes user.* and security.capability are
// restored, and a directory that only the name of a file below it implies has mode 0755 and the time 0.
// On error dir does not exist; what a killed process left beside dir goes at the next call for it.
func Rootfs(ctx context.Context, layers []Layer, dir string, o Options) (err error) {
	for _, l := range layers {
		if err := l.check(); err != nil {
			return fmt.Errorf("unpacking layer %s: %w", l.DiffID, err)
		}
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return fmt.Errorf("unpacking to %s: %w", dir, err)
	}
	staging, discard, err := makeStaging(dir)
	if err != nil {
		return fmt.Errorf("unpacking to %s: %w", dir, err)
	}
	defer func() {
		// Where all went well and only this fails, the next call tries again.
		if failed := discard(); err != nil {
			err = errors.Join(err, failed)
		}
	}()
	root, err := os.OpenRoot(staging)
	if err != nil {
		return fmt.Errorf("unpacking to %s: %w", dir, err)
	}
	defer root.Close()

	u := newUnpacker(root, o)
	defer u.stop()
	merged, err := u.layers(ctx, layers)
	if err != nil {
		return err
	}
	if err := merged.finish(o.Owner); err != nil {
		return fmt.Errorf("unpacking to %s: %w", dir, err)
	}
	if !o.NoSync {
		if err := syncTree(staging); err != nil {
			return fmt.Errorf("unpacking to %s: %w", dir, err)
		}
	}
	// What was merged last would otherwise still appear after the caller has given up.
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("unpacking to %s: %w", dir, err)
	}
	if err := rename(filepath.Join(staging, merged.base), dir); err != nil {
		return fmt.Errorf("unpacking to %s: %w", dir, err)
	}
	if o.NoSync {
		return nil
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("unpacking to %s: %w", dir, err)
	}
	return nil
}

func (l Layer) check() error {
	if err := l.DiffID.Validate(); err != nil {
		return err
	}
	t := l.MediaType
	known := strings.HasPrefix(t, "application/vnd.oci.image.layer.") || strings.HasPrefix(t, "application/vnd.docker.image.rootfs.")
	for _, suffix := range []string{".tar", ".tar+gzip", ".tar+zstd", ".tar.gzip", ".tar.zstd"} {
		if known && strings.HasSuffix(t, suffix) {
			return nil
		}
	}
	return fmt.Errorf("%q: %w", t, ErrMediaType)
}

// unpacker is what the layers of one Rootfs share.
type unpacker struct {
	root    *os.Root
	o       Options
	pool    *pool
	entries atomic.Int64
	// bytes are those of the tars, files those that the files have.
	bytes, files atomic.Int64
}

func newUnpacker(root *os.Root, o Options) *unpacker {
	if o.Parallelism <= 0 {
		o.Parallelism = min(goruntime.GOMAXPROCS(0), maxParallelism)
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.MaxEntries <= 0 {
		o.MaxEntries = defaultMaxEntries
	}
	return &unpacker{root: root, o: o, pool: newPool(o.Parallelism)}
}

func (u *unpacker) stop() { u.pool.stop() }

// layers stages the layers, some at a time, and merges them in order into the lowest.
func (u *unpacker) layers(ctx context.Context, layers []Layer) (*tree, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	type result struct {
		stage *stage
		err   error
	}
	results := make([]chan result, len(layers))
	slots := make(chan struct{}, maxLayers)
	for i := range layers {
		results[i] = make(chan result, 1)
	}
	group.Go(func() {
		for i, l := range layers {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			group.Go(func() {
				s, err := u.stage(ctx, l, strconv.Itoa(i))
				<-slots
				if err != nil {
					err = fmt.Errorf("unpacking layer %s: %w", l.DiffID, err)
					cancel(err)
				}
				results[i] <- result{s, err}
			})
		}
	})
	merged := newTree(u.root, "rootfs")
	if err := u.root.Mkdir(merged.base, 0o700); err != nil {
		return nil, err
	}
	for i, l := range layers {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case r := <-results[i]:
			if r.err != nil {
				return nil, context.Cause(ctx)
			}
			if err := r.stage.mergeInto(ctx, merged); err != nil {
				return nil, fmt.Errorf("unpacking layer %s: %w", l.DiffID, err)
			}
		}
	}
	return merged, nil
}
