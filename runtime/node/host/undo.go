package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/runtime/node"
)

// Undo puts back everything that was recorded, the last thing first: units are stopped, processes
// ended, claimed paths emptied, files restored, settings set back. It goes on after a failure, and may be
// killed and started again at any point. What could not be put back is the residue; if there is
// none, the journal is closed.
func (h *Host) Undo(ctx context.Context) (node.UndoResponse, error) {
	resp := node.UndoResponse{Residue: []string{}}
	rec, done, err := h.recording(ctx)
	if err != nil {
		return resp, err
	}
	defer done()
	if rec.undone() {
		return resp, nil
	}
	u := &undo{h: h, rec: rec, failed: map[string]error{}}
	if err := u.run(ctx); err != nil {
		return resp, err
	}
	resp.Restored = u.restored
	resp.Residue = append(resp.Residue, u.residue(ctx)...)
	if err := context.Cause(ctx); err != nil {
		return resp, err
	}
	if len(resp.Residue) == 0 {
		err = rec.record(entry{Kind: kindUndone})
	}
	return resp, err
}

// Residue says what differs from what was recorded, whether it was undone or not, and changes nothing.
func (h *Host) Residue(ctx context.Context) (node.UndoResponse, error) {
	resp := node.UndoResponse{Residue: []string{}}
	rec, done, err := h.recording(ctx)
	if err != nil {
		return resp, err
	}
	defer done()
	u := &undo{h: h, rec: rec}
	resp.Residue = append(resp.Residue, u.residue(ctx)...)
	return resp, context.Cause(ctx)
}

type undo struct {
	h        *Host
	rec      *recorder
	restored int
	failed   map[string]error // by key of the entry
}

// run does the steps in the order that matters: nothing runs any more when its files go, and nothing is
// started before they are back.
func (u *undo) run(ctx context.Context) error {
	h := u.h
	back := slices.Clone(u.rec.entries)
	slices.Reverse(back)
	once := []string{""} // a step that belongs to no entry
	steps := []struct {
		kinds   []string
		entries []entry
		do      func(entry) (bool, error)
	}{
		{[]string{kindUnit}, back, func(e entry) (bool, error) { return true, h.stopUnit(ctx, e) }},
		{[]string{kindGroups}, back, func(e entry) (bool, error) { return false, h.endPods(ctx, e) }},
		{once, []entry{{}}, func(entry) (bool, error) { return false, h.endProcesses(ctx, u.rec.entries) }},
		{[]string{kindClaim}, back, u.unclaim},
		{[]string{kindUser}, back, func(e entry) (bool, error) { return h.undoUser(ctx, e) }},
		{[]string{kindLink}, back, func(e entry) (bool, error) { return h.undoLink(ctx, e) }},
		{[]string{kindRoute}, back, func(e entry) (bool, error) { return h.undoRoutes(ctx, e) }},
		{[]string{kindChains}, back, func(e entry) (bool, error) { return h.undoFilter(ctx, e) }},
		{[]string{kindGroups}, back, func(e entry) (bool, error) { return h.undoGroups(ctx, e) }},
		{[]string{kindFile, kindDir, kindBlock}, back, u.restore},
		{[]string{kindUnit}, u.rec.entries, func(e entry) (bool, error) { return false, h.startUnit(ctx, e) }},
		{[]string{kindSysctl}, back, h.undoSysctl},
		{[]string{kindModule}, back, func(e entry) (bool, error) { h.undoModule(ctx, e); return false, nil }},
	}
	for _, s := range steps {
		for _, e := range s.entries {
			if !slices.Contains(s.kinds, e.Kind) {
				continue
			}
			if err := context.Cause(ctx); err != nil {
				return err
			}
			changed, err := s.do(e)
			if err != nil {
				u.failed[e.key()] = errors.Join(u.failed[e.key()], err)
			}
			if changed {
				u.restored++
			}
		}
	}
	return nil
}

// restore puts a file or a block back, or takes a directory away if it is empty.
func (u *undo) restore(e entry) (bool, error) {
	h := u.h
	switch e.Kind {
	case kindBlock:
		return h.undoBlock(e)
	case kindDir:
		h.step("rmdir %s", e.Name)
		st, err := os.Lstat(h.path(e.Name))
		if err != nil || !st.IsDir() {
			return false, nil
		}
		// Not empty is for the residue to say, with what is in it.
		return os.Remove(h.path(e.Name)) == nil, nil
	}
	if err := os.Remove(h.path(partPath(e.Name))); err != nil && !gone(err) {
		return false, err
	}
	now, err := take(h.path(e.Name), nil)
	if err != nil || now.equal(*e.Before) {
		return false, err
	}
	if now.Type == folder {
		return false, errors.New("there is a directory now")
	}
	switch e.Before.Type {
	case absent:
		h.step("remove %s", e.Name)
		return true, os.Remove(h.path(e.Name))
	case symlink:
		if err := h.makeDirs(filepath.Dir(e.Name), 0o755); err != nil {
			return false, err
		}
		return true, h.replaceLink(e.Name, e.Before.Target, e.Before.UID, e.Before.GID)
	case regular:
		return true, u.restoreFile(e)
	}
	return false, nil
}

// gone says that there is nothing at a path, or no directory on the way to it.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

// restoreFile copies the saved content back, after a look whether it still is what was saved.
func (u *undo) restoreFile(e entry) error {
	f, err := os.Open(u.rec.savedPath(e.Before.Digest))
	if err != nil {
		return fmt.Errorf("reading saved copy: %w", err)
	}
	defer f.Close()
	if d, err := digest.SHA256.FromReader(f); err != nil {
		return fmt.Errorf("reading saved copy: %w", err)
	} else if d != e.Before.Digest {
		return errors.New("the saved copy is damaged")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := u.h.makeDirs(filepath.Dir(e.Name), 0o755); err != nil {
		return err
	}
	return u.h.diskFull(u.h.replaceFile(e.Name, *e.Before, f), e.Name, 0)
}

// residue compares the host with the journal.
func (u *undo) residue(ctx context.Context) []string {
	h := u.h
	var all []string
	blocks := map[string]bool{}
	for _, e := range u.rec.entries {
		if ctx.Err() != nil {
			return all
		}
		var found []string
		one := func(s string) {
			if s != "" {
				found = append(found, s)
			}
		}
		switch e.Kind {
		case kindFile:
			if !blocks[e.Name] { // else what was before the file is not what was first
				one(h.fileResidue(e))
			}
		case kindDir:
			one(h.dirResidue(e))
		case kindBlock:
			blocks[e.Name] = true
			one(h.blockResidue(e))
		case kindClaim:
			found = u.claimResidue(e)
		case kindLink:
			for _, l := range h.cameLinks(e) {
				found = append(found, "network device "+l+": was not there before")
			}
		case kindRoute:
			came, err := h.cameRoutes(ctx, e)
			if err != nil {
				one("routes into " + e.Name + ": " + err.Error())
			}
			for _, r := range came {
				found = append(found, "route to "+r+": was not there before")
			}
		case kindUnit:
			one(h.unitResidue(ctx, e))
		case kindSysctl:
			one(h.sysctlResidue(e))
		case kindChains:
			found = h.filterResidue(ctx, e)
		case kindUser:
			if h.hasUser(e.Name) {
				one("account " + e.Name + ": was not there before")
			}
		case kindGroups:
			for _, g := range h.cameGroups(e) {
				found = append(found, g+": was not there before")
			}
		}
		for _, f := range found {
			if err := u.failed[e.key()]; err != nil {
				f += " (" + err.Error() + ")"
			}
			all = append(all, f)
		}
	}
	return all
}

func (h *Host) fileResidue(e entry) string {
	now, err := take(h.path(e.Name), nil)
	if err != nil {
		return e.Name + ": " + err.Error()
	}
	if !now.equal(*e.Before) {
		return e.Name + ": " + e.Before.describe(now)
	}
	if _, err := os.Lstat(h.path(partPath(e.Name))); err == nil {
		return partPath(e.Name) + ": was not there before"
	}
	return ""
}

func (h *Host) dirResidue(e entry) string {
	f, err := os.Open(h.path(e.Name))
	if err != nil {
		return ""
	}
	defer f.Close()
	names, _ := f.Readdirnames(4)
	if len(names) == 0 {
		return e.Name + ": was not there before"
	}
	slices.Sort(names)
	return e.Name + ": was not there before; in it: " + strings.Join(names, ", ")
}

// Forget removes node.Dir with the program that runs, and the lock file, once everything is undone.
func (h *Host) Forget(ctx context.Context) error {
	if _, err := os.Lstat(h.path(node.Dir)); err != nil {
		return h.forgetLock()
	}
	release, err := h.alone(ctx)
	if err != nil {
		return err
	}
	defer release()
	rec, err := h.openRecorder()
	if err != nil {
		return err
	}
	if !rec.undone() {
		return node.Errorf(node.KindNotUndone, "%d things that keg changed on this host are not put back yet", len(rec.entries))
	}
	// A disk that somebody mounted there stays, empty.
	if err := h.unmountBelow(node.Dir, []string{node.Dir}); err != nil {
		return err
	}
	names, err := os.ReadDir(h.path(node.Dir))
	if err != nil {
		return fmt.Errorf("removing %s: %w", node.Dir, err)
	}
	// The journal, the state and the program go last: who is interrupted can begin again. verbLock goes
	// after the program: settle, which finds it unlocked or gone, then sees that the program is gone too.
	last := []string{filepath.Base(node.Recorder), filepath.Base(node.State), filepath.Base(node.Binary), verbLock}
	for _, n := range names {
		if slices.Contains(last, n.Name()) {
			continue
		}
		if err := h.removeTree(filepath.Join(node.Dir, n.Name()), nil); err != nil {
			return err
		}
	}
	for _, n := range last {
		if err := h.removeTree(filepath.Join(node.Dir, n), nil); err != nil {
			return err
		}
	}
	if !slices.Contains(h.mounts(), node.Dir) {
		if err := h.removeTree(node.Dir, nil); err != nil {
			return err
		}
	}
	return h.forgetLock()
}

func (h *Host) forgetLock() error {
	if err := os.Remove(h.path(node.LockFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing lock file: %w", err)
	}
	return nil
}
