package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/internal/lockfile"
	"github.com/clusterimage/keg/runtime/node"
)

// Lock takes the lock of the host, says so on out, and holds it until in ends, or is silent for
// node.LockSilence, or ctx ends. Where somebody else holds it, the error is of KindBusy and says who;
// where somebody removes keg-node meanwhile, it is of KindForgotten.
func (h *Host) Lock(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(io.LimitReader(in, 64<<10))
	line, err := lines.ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading request: %w", err)
	}
	var req node.LockRequest
	if err := decode(strings.NewReader(string(line)), &req); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(h.path(node.LockFile)), 0o755); err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	release, err := h.tryLock(ctx, time.Duration(req.WaitSeconds)*time.Second)
	if err != nil {
		return err
	}
	defer release()
	if err := h.settle(ctx); err != nil {
		return err
	}
	// Written in place: a rename would take the locked inode away.
	holder, err := json.Marshal(holder{Owner: req.Owner, Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	if err := os.WriteFile(h.path(node.LockFile), append(holder, '\n'), 0o644); err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	if _, err := fmt.Fprintln(out, node.Locked); err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	return hold(ctx, in)
}

// hold waits for the end of in, of ctx, or of the patience with a silent one.
func hold(ctx context.Context, in io.Reader) error {
	words, ended := make(chan struct{}, 1), make(chan struct{})
	go func() { // ends with its stdin, or with the process
		defer close(ended)
		buf := make([]byte, 64)
		for {
			n, err := in.Read(buf)
			if n > 0 {
				select {
				case words <- struct{}{}:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	}()
	patience := time.NewTimer(node.LockSilence)
	defer patience.Stop()
	for {
		select {
		case <-words:
			patience.Reset(node.LockSilence)
		case <-patience.C:
			return fmt.Errorf("holding the lock: given up after %s without a word", node.LockSilence)
		case <-ended:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// holder is the content of LockFile.
type holder struct {
	Owner string    `json:"owner"`
	Since time.Time `json:"since"`
}

func (h *Host) tryLock(ctx context.Context, wait time.Duration) (func(), error) {
	busy := errors.New("held by somebody else")
	waiting, cancel := context.WithTimeoutCause(ctx, wait, busy)
	defer cancel()
	f, err := os.OpenFile(h.path(node.LockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	release := func() { _ = f.Close() }
	if err = lockfile.Lock(waiting, f, lockfile.Exclusive, nil); err == nil {
		err = h.stillThere(f)
	}
	if err == nil {
		return release, nil
	}
	release()
	if !errors.Is(err, busy) {
		return nil, err
	}
	var who holder
	data, _ := os.ReadFile(h.path(node.LockFile))
	if json.Unmarshal(data, &who) != nil || who.Owner == "" {
		who.Owner = "another keg"
	}
	e := node.Errorf(node.KindBusy, "%s is at work on this host since %s", who.Owner, who.Since.Format(time.RFC3339))
	e.Path = node.LockFile
	return nil, e
}

// settle waits for a verb that is still at work for a keg that was killed. If that is Forget, this
// program is gone from the host afterwards: it has no name any more.
func (h *Host) settle(ctx context.Context) error {
	f, err := os.OpenFile(h.path(node.Dir+"/"+verbLock), os.O_RDWR, 0)
	if err == nil {
		err = lockfile.Lock(ctx, f, lockfile.Exclusive, nil)
		_ = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("locking: %w", err)
	}
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &self); err == nil && self.Nlink == 0 {
		return node.Errorf(node.KindForgotten, "another keg has taken keg-node off this host meanwhile")
	}
	return nil
}

// stillThere makes sure that a lock is that of LockFile, which whoever held it before may have removed,
// and keg-node with it.
func (h *Host) stillThere(f *os.File) error {
	ours, err := f.Stat()
	if err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	now, err := os.Stat(h.path(node.LockFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(ours, now) {
		return node.Errorf(node.KindForgotten, "another keg has taken keg-node off this host meanwhile")
	}
	if err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	return nil
}
