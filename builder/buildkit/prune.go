package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/moby/buildkit/client"

	"github.com/clusterimage/keg/internal/lockfile"
)

// lockName is the file in the state directory that who uses it has locked.
const lockName = "lock"

// PruneOptions say what of the state of BuildKit in this process goes.
type PruneOptions struct {
	// Dir is the state directory; see Options.
	Dir string
	// Keep is how many bytes may stay, of what was used last; 0 removes everything. It wants what running
	// BuildKit wants: Linux, root and runc.
	Keep int64
	// DryRun removes nothing, and counts what would go.
	DryRun bool
	// Waiting is told, once, that another process uses Dir; nil is nobody.
	Waiting func(dir string)
}

// PruneResult says what was removed.
type PruneResult struct {
	// Bytes went, Left are there still, as Usage counts them.
	Bytes int64 `json:"bytes"`
	Left  int64 `json:"left"`
}

// Usage is how much of the disk the state in dir takes, in bytes. Layers that the image store has as well, by hard
// link, are not counted. It is 0 where there is no state.
func Usage(ctx context.Context, dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	var total int64
	names := map[inode]uint64{} // seen so far of files with several
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		var fi fs.FileInfo
		if err == nil {
			fi, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) { // a build runs
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			total += fi.Size()
			return nil
		}
		size := st.Blocks * 512
		if links := uint64(st.Nlink); links > 1 && !fi.IsDir() { //nolint:unconvert // of another type elsewhere
			at := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // of another type elsewhere
			if names[at]++; names[at] < links {
				return nil
			}
		}
		total += size
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measuring %s: %w", dir, err)
	}
	return total, nil
}

// Prune removes state. It waits for who uses the directory.
func Prune(ctx context.Context, o PruneOptions) (PruneResult, error) {
	before, err := Usage(ctx, o.Dir)
	if err != nil {
		return PruneResult{}, err
	}
	if o.DryRun || before <= o.Keep {
		left := min(before, o.Keep)
		return PruneResult{Bytes: before - left, Left: left}, nil
	}
	if o.Keep > 0 {
		err = shrink(ctx, o)
	} else {
		err = empty(ctx, o)
	}
	left, uerr := Usage(ctx, o.Dir)
	return PruneResult{Bytes: max(0, before-left), Left: left}, errors.Join(err, uerr)
}

// shrink lets BuildKit choose.
func shrink(ctx context.Context, o PruneOptions) (err error) {
	c, stop, err := Embed(ctx, Options{Dir: o.Dir, Waiting: o.Waiting})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := c.Prune(ctx, nil, client.PruneAll, client.WithKeepOpt(0, 0, o.Keep, 0)); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("pruning %s: %w", o.Dir, innermost(err))
	}
	return nil
}

// empty removes everything, also what BuildKit has lost sight of. It needs no BuildKit for that.
func empty(ctx context.Context, o PruneOptions) error {
	release, err := acquire(ctx, o.Dir, o.Waiting)
	if err != nil {
		return fmt.Errorf("pruning %s: %w", o.Dir, err)
	}
	defer release()
	if err := sweep(ctx, o.Dir); err != nil {
		return fmt.Errorf("removing what a killed build left in %s: %w", o.Dir, err)
	}
	list, err := os.ReadDir(o.Dir)
	if err != nil {
		return fmt.Errorf("pruning: %w", err)
	}
	for _, e := range list {
		if e.Name() == lockName {
			continue
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err := os.RemoveAll(filepath.Join(o.Dir, e.Name())); err != nil {
			return fmt.Errorf("pruning: %w", err)
		}
	}
	return nil
}

// acquire makes this process the one that uses dir.
func acquire(ctx context.Context, dir string, waiting func(dir string)) (release func(), err error) {
	return lockfile.Acquire(ctx, filepath.Join(dir, lockName), lockfile.Exclusive, func() {
		if waiting != nil {
			waiting(dir)
		}
	})
}
