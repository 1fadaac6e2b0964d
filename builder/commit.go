package builder

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/internal/progress"
)

// commit packs a layer, or takes it from the cache.
func (a *assembly) commit(ctx context.Context, l *layer, text, id, name string) error {
	entries := l.list()
	if len(entries) == 0 {
		a.history(text, true)
		return nil
	}
	var total int64
	for _, e := range entries {
		total += e.Size
	}
	o := pack.Options{Compression: a.req.Compression, Parallelism: a.b.Parallelism, ModTime: a.req.SourceDateEpoch}
	key, cacheable := pack.Key(entries, o)
	key = "layer " + key
	var packed pack.Layer
	a.res.Layers++
	if cacheable && !a.req.NoCache && a.cache.Get(key, &packed) {
		a.res.Cached++
	} else {
		var done atomic.Int64
		o.Progress = func(n int64) {
			a.b.Progress.Emit(progress.Event{ID: id, Name: name, Done: done.Add(n), Total: total})
		}
		var err error
		if packed, err = a.b.pack(ctx, entries, o); err != nil {
			return err
		}
		if cacheable {
			if err := a.cache.Put(key, packed, packed.Descriptor.Digest); err != nil {
				return err
			}
		}
		if err := a.writeListing(packed.Descriptor.Digest, entries); err != nil {
			return err
		}
	}
	a.layers = append(a.layers, packed.Descriptor)
	a.image.RootFS.DiffIDs = append(a.image.RootFS.DiffIDs, packed.DiffID)
	a.history(text, false)
	return nil
}

// pack writes a layer into the store.
func (b *Builder) pack(ctx context.Context, entries []pack.Entry, o pack.Options) (pack.Layer, error) {
	w, err := b.Store.Writer(ctx)
	if err != nil {
		return pack.Layer{}, fmt.Errorf("packing: %w", err)
	}
	defer w.Close() // after Commit it does nothing
	packed, err := pack.Write(ctx, w, entries, o)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return pack.Layer{}, plain(err)
	}
	if _, err := w.Commit(packed.Descriptor.Digest, packed.Descriptor.Size); err != nil {
		return pack.Layer{}, fmt.Errorf("packing: %w", err)
	}
	return packed, nil
}
