package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/runtime/node"
)

// Kinds of an entry.
const (
	kindFile   = "file"   // Before, its content saved
	kindDir    = "dir"    // was absent
	kindBlock  = "block"  // Before, without content; Marker
	kindClaim  = "claim"  // Before; Listing and Mounts if it was there
	kindLink   = "link"   // Names are the network devices there were of that name or pattern
	kindRoute  = "route"  // Names are the routes there were into a range
	kindUnit   = "unit"   // Enabled, Active
	kindSysctl = "sysctl" // Value
	kindModule = "module" // was not loaded
	kindChains = "chains" // Names are the chains and tables there were, by Name, the program
	kindGroups = "groups" // Names are the control groups kubepods* there were
	kindUser   = "user"   // there was none of that name
	kindUndone = "undone" // everything before this line is put back
)

// entry is one line of the journal: what was there before keg changed it.
type entry struct {
	Kind    string        `json:"kind"`
	Name    string        `json:"name,omitempty"`
	Before  *snapshot     `json:"before,omitempty"`
	Marker  string        `json:"marker,omitempty"`
	Listing digest.Digest `json:"listing,omitempty"`
	Mounts  []string      `json:"mounts,omitempty"`
	Names   []string      `json:"names,omitempty"`
	Enabled string        `json:"enabled,omitempty"`
	Active  string        `json:"active,omitempty"`
	Value   string        `json:"value,omitempty"`
}

func (e entry) key() string { return e.Kind + "\x00" + e.Name + "\x00" + e.Marker }

// recorder is a write-ahead journal, one JSON document a line, in node.Recorder, beside the saved
// contents. A line is on the disk before the change it speaks of is made. The first line about a thing
// counts; a line for a change that was never made does no harm.
type recorder struct {
	h       *Host
	entries []entry
	seen    map[string]bool
	f       *os.File // opened by the first record
	end     int64    // of the last whole line
}

func (h *Host) journalPath() string { return filepath.Join(h.path(node.Recorder), "journal") }

// recording opens the recorder for a verb that changes the host, alone until done is called.
func (h *Host) recording(ctx context.Context) (rec *recorder, done func(), err error) {
	release, err := h.alone(ctx)
	if err != nil {
		return nil, nil, err
	}
	rec, err = h.openRecorder()
	if err != nil {
		release()
		return nil, nil, err
	}
	return rec, func() { rec.close(); release() }, nil
}

// openRecorder reads the journal. The caller holds alone() and closes.
func (h *Host) openRecorder() (*recorder, error) {
	r := &recorder{h: h, seen: map[string]bool{}}
	f, err := os.Open(h.journalPath())
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading journal: %w", err)
	}
	defer f.Close()
	if r.entries, r.end, err = readJournal(f); err != nil {
		return nil, err
	}
	for _, e := range r.entries {
		r.seen[e.key()] = true
	}
	return r, nil
}

// readJournal reads whole lines. A last line without its end was being written when the host died: the
// change it announces was not made, so it does not count. end is where it begins.
func readJournal(in io.Reader) (entries []entry, end int64, err error) {
	b := bufio.NewReader(in)
	for {
		line, err := b.ReadBytes('\n')
		if err == io.EOF {
			return entries, end, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("reading journal: %w", err)
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil || e.Kind == "" {
			return nil, 0, fmt.Errorf("reading journal: line %d is broken: %.80q", len(entries)+1, line)
		}
		entries = append(entries, e)
		end += int64(len(line))
	}
}

func (r *recorder) close() {
	if r.f != nil {
		_ = r.f.Close()
	}
}

// undone says that nothing recorded awaits being put back.
func (r *recorder) undone() bool {
	return len(r.entries) == 0 || r.entries[len(r.entries)-1].Kind == kindUndone
}

// has says whether there is a line about that thing already.
func (r *recorder) has(e entry) bool { return !r.undone() && r.seen[e.key()] }

// made says whether keg made the directory p or one that it lies in.
func (r *recorder) made(p string) bool {
	for ; p != "/"; p = filepath.Dir(p) {
		if r.has(entry{Kind: kindDir, Name: p}) {
			return true
		}
	}
	return false
}

// record writes the entries about things that have none yet, and returns when they are on the disk.
func (r *recorder) record(list ...entry) error {
	if err := r.begin(); err != nil {
		return err
	}
	var lines bytes.Buffer
	for _, e := range list {
		if r.seen[e.key()] {
			continue
		}
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("recording %s %s: %w", e.Kind, e.Name, err)
		}
		lines.Write(append(line, '\n'))
		r.seen[e.key()] = true
		r.entries = append(r.entries, e)
	}
	if lines.Len() == 0 {
		return nil
	}
	r.h.step("record")
	if _, err := r.f.WriteAt(lines.Bytes(), r.end); err != nil {
		return fmt.Errorf("recording: %w", r.h.diskFull(err, node.Recorder, int64(lines.Len())))
	}
	if err := r.f.Sync(); err != nil {
		return fmt.Errorf("recording: %w", r.h.diskFull(err, node.Recorder, int64(lines.Len())))
	}
	r.end += int64(lines.Len())
	return nil
}

// begin opens the journal for writing: a new one if the old one is undone, without a torn last line.
func (r *recorder) begin() error {
	if r.f != nil {
		return nil
	}
	dir := r.h.path(node.Recorder)
	if err := os.MkdirAll(filepath.Join(dir, "saved"), 0o700); err != nil {
		return fmt.Errorf("recording: %w", r.h.diskFull(err, node.Recorder, 0))
	}
	if len(r.entries) > 0 && r.undone() {
		if err := os.Remove(r.h.journalPath()); err != nil {
			return fmt.Errorf("recording: %w", err)
		}
		r.entries, r.seen, r.end = nil, map[string]bool{}, 0
	}
	f, err := os.OpenFile(r.h.journalPath(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("recording: %w", err)
	}
	if err := f.Truncate(r.end); err != nil {
		_ = f.Close()
		return fmt.Errorf("recording: %w", err)
	}
	if err := errors.Join(atomicfile.SyncDir(dir), atomicfile.SyncDir(filepath.Dir(dir))); err != nil {
		_ = f.Close()
		return err
	}
	r.f = f
	return nil
}

// save takes a snapshot of a host's path and keeps its content for restoring.
func (r *recorder) save(path string) (snapshot, error) {
	if s, err := take(r.h.path(path), io.Discard); err != nil || s.Type != regular || r.saved(s.Digest) {
		return s, err
	}
	var s snapshot
	d, err := r.keep(func(w io.Writer) (err error) {
		s, err = take(r.h.path(path), w)
		return err
	})
	if err == nil && s.Type == regular && d != s.Digest {
		err = fmt.Errorf("saving %s: it changes while it is read", path)
	}
	return s, err
}

func (r *recorder) savedPath(d digest.Digest) string {
	return filepath.Join(r.h.path(node.Recorder), "saved", d.Encoded())
}

func (r *recorder) saved(d digest.Digest) bool {
	_, err := os.Stat(r.savedPath(d))
	return err == nil
}

// keep writes what fill writes to a file named by its digest, on the disk when it returns.
func (r *recorder) keep(fill func(io.Writer) error) (digest.Digest, error) {
	dir := filepath.Join(r.h.path(node.Recorder), "saved")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("saving: %w", r.h.diskFull(err, node.Recorder, 0))
	}
	tmp := filepath.Join(dir, "part") // one writer at a time: alone()
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("saving: %w", r.h.diskFull(err, node.Recorder, 0))
	}
	defer f.Close()
	hash := digest.SHA256.Digester()
	buf := bufio.NewWriterSize(io.MultiWriter(f, hash.Hash()), 64<<10)
	if err := fill(buf); err != nil {
		return "", fmt.Errorf("saving: %w", r.h.diskFull(err, node.Recorder, 0))
	}
	if err := errors.Join(buf.Flush(), f.Sync()); err != nil {
		return "", fmt.Errorf("saving: %w", r.h.diskFull(err, node.Recorder, 0))
	}
	r.h.step("saved")
	if err := os.Rename(tmp, r.savedPath(hash.Digest())); err != nil {
		return "", fmt.Errorf("saving: %w", err)
	}
	return hash.Digest(), atomicfile.SyncDir(dir)
}
