package runtime

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Event is what happened to a run, a phase or a step.
type Event string

// The events.
const (
	Began   Event = "began"
	Ended   Event = "ended"
	Skipped Event = "skipped" // there was nothing to do
	Failed  Event = "failed"
)

// Entry is one line of the journal: about a step, about a phase if Step is "", about the run if Phase
// is "" too.
type Entry struct {
	Time  time.Time `json:"time"`
	Phase string    `json:"phase,omitempty"`
	Host  string    `json:"host,omitempty"`
	Step  string    `json:"step,omitempty"`
	Event Event     `json:"event"`
	Error string    `json:"error,omitempty"`
}

const journalFile = "journal.jsonl"

// journal appends entries to a file. It is a hint for people: a line that cannot be written is
// reported at the end, and stops nothing. A nil journal writes nothing.
type journal struct {
	mu   sync.Mutex
	file *os.File
	err  error
}

func openJournal(dir string) (*journal, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	return &journal{file: f}, nil
}

func (j *journal) write(e Entry) {
	if j == nil {
		return
	}
	e.Time = time.Now().UTC()
	e.Error = redact(e.Error)
	line, err := json.Marshal(e)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		_, err = j.file.Write(append(line, '\n'))
	}
	j.err = errors.Join(j.err, err)
}

func (j *journal) close() error {
	if j == nil {
		return nil
	}
	if err := errors.Join(j.err, j.file.Close()); err != nil {
		return fmt.Errorf("writing journal: %w", err)
	}
	return nil
}

// dropJournal removes the journal of a run that ended before it began with any host: where there is no
// record there is no cluster to remember anything of.
func (c *Cluster) dropJournal() error {
	if c.Dir == "" {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(c.Dir, recordFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.Remove(filepath.Join(c.Dir, journalFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing journal: %w", err)
	}
	_ = os.Remove(c.Dir) // unless somebody else has something there
	return nil
}

// ReadJournal reads the journal in an operator's directory of a cluster. A last line that was cut off
// by a crash is left out; no journal is no error.
func ReadJournal(dir string) ([]Entry, error) {
	f, err := os.Open(filepath.Join(dir, journalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading journal: %w", err)
	}
	defer f.Close()
	var list []Entry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Entry
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			list = append(list, e)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading journal: %w", err)
	}
	return list, nil
}
