package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/runtime/node"
)

var markerForm = regexp.MustCompile(`^[A-Za-z0-9._ -]{1,64}$`)

// Block puts a block of lines into a text file, or takes it out.
func (h *Host) Block(ctx context.Context, req node.BlockRequest) (node.InstallResponse, error) {
	var resp node.InstallResponse
	if err := checkTarget(req.Path); err != nil {
		return resp, err
	}
	if !markerForm.MatchString(req.Marker) {
		return resp, node.Errorf(node.KindRequest, "marker %q has other characters than letters, digits, dots, dashes", req.Marker)
	}
	begin, end := markers(req.Marker)
	for line := range strings.Lines(req.Text) {
		if l := strings.TrimRight(line, "\r\n"); l == begin || l == end {
			return resp, node.Errorf(node.KindRequest, "the block for %s contains its own marker line", req.Path)
		}
	}
	rec, done, err := h.recording(ctx)
	if err != nil {
		return resp, err
	}
	defer done()
	path, err := h.follow(req.Path)
	if err != nil {
		return resp, err
	}
	before, err := take(h.path(path), nil)
	if err != nil {
		return resp, err
	}
	if before.Type != regular && before.Type != absent {
		return resp, node.Errorf(node.KindRequest, "%s is no regular file", req.Path)
	}
	old, err := os.ReadFile(h.path(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return resp, fmt.Errorf("reading %s: %w", path, err)
	}
	rest, err := withoutBlock(old, req.Marker)
	if err != nil {
		return resp, fmt.Errorf("reading %s: %w", path, err)
	}
	text := withBlock(rest, req.Marker, req.Text)
	if bytes.Equal(text, old) {
		return resp, nil
	}
	parents, err := h.missingDirs(filepath.Dir(path))
	if err != nil {
		return resp, err
	}
	if err := rec.record(append(parents, entry{Kind: kindBlock, Name: path, Marker: req.Marker, Before: &before})...); err != nil {
		return resp, err
	}
	if err := h.makeDirs(filepath.Dir(path), 0o755); err != nil {
		return resp, err
	}
	want := before
	want.MTime = 0
	if before.Type == absent {
		want = snapshot{Mode: 0o644, UID: -1, GID: -1}
	}
	if err := h.rewrite(path, want, text); err != nil {
		return resp, h.diskFull(err, path, int64(len(text)))
	}
	resp.Changed = []string{path}
	return resp, nil
}

// rewrite is replaceFile, but for files that cannot be renamed over since they are mounted, as
// /etc/hosts is in a container.
func (h *Host) rewrite(path string, want snapshot, text []byte) error {
	err := h.replaceFile(path, want, bytes.NewReader(text))
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	f, err := os.OpenFile(h.path(path), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := h.dress(f, want); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Sync()
}

// follow is the path of the file itself where path is a symlink.
func (h *Host) follow(path string) (string, error) {
	for range 40 {
		target, err := os.Readlink(h.path(path))
		if err != nil {
			return path, nil // no symlink, or nothing at all
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = filepath.Clean(target)
	}
	return "", node.Errorf(node.KindRequest, "%s is a loop of symlinks", path)
}

func markers(marker string) (begin, end string) {
	return "# BEGIN " + marker, "# END " + marker
}

// withBlock appends the block to text; an empty block is none.
func withBlock(text []byte, marker, block string) []byte {
	if block == "" {
		return text
	}
	begin, end := markers(marker)
	var b bytes.Buffer
	b.Write(text)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		b.WriteByte('\n')
	}
	b.WriteString(begin + "\n" + block)
	if !strings.HasSuffix(block, "\n") {
		b.WriteByte('\n')
	}
	b.WriteString(end + "\n")
	return b.Bytes()
}

// withoutBlock takes blocks of the marker out. A block without an end is left for a person to look at.
func withoutBlock(text []byte, marker string) ([]byte, error) {
	begin, end := markers(marker)
	var out bytes.Buffer
	inside, number, started := false, 0, 0
	for line := range bytes.Lines(text) {
		number++
		switch l := string(bytes.TrimRight(line, "\r\n")); {
		case !inside && l == begin:
			inside, started = true, number
		case inside && l == end:
			inside = false
		case !inside:
			out.Write(line)
		}
	}
	if inside {
		return nil, fmt.Errorf("line %d, %q, has no line %q after it", started, begin, end)
	}
	return out.Bytes(), nil
}

// undoBlock takes the block out. If nobody else changed the file it is then as it was to the byte.
func (h *Host) undoBlock(e entry) (restored bool, err error) {
	_ = os.Remove(h.path(partPath(e.Name)))
	now, err := take(h.path(e.Name), nil)
	if err != nil || now.equal(*e.Before) || now.Type != regular {
		return false, err
	}
	text, err := os.ReadFile(h.path(e.Name))
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", e.Name, err)
	}
	rest, err := withoutBlock(text, e.Marker)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", e.Name, err)
	}
	want := now
	want.MTime = 0
	switch {
	case e.Before.Type == absent && len(rest) == 0:
		h.step("remove %s", e.Name)
		return true, os.Remove(h.path(e.Name))
	case e.Before.Digest == digest.FromBytes(rest):
		want = *e.Before
	case len(rest) > 0 && e.Before.Digest == digest.FromBytes(rest[:len(rest)-1]): // it had no last newline
		want, rest = *e.Before, rest[:len(rest)-1]
	case len(rest) == len(text):
		return false, nil
	}
	return true, h.rewrite(e.Name, want, rest)
}

// blockResidue says what is left of a block, or "".
func (h *Host) blockResidue(e entry) string {
	text, err := os.ReadFile(h.path(e.Name))
	if err != nil {
		return ""
	}
	begin, _ := markers(e.Marker)
	for line := range bytes.Lines(text) {
		if string(bytes.TrimRight(line, "\r\n")) == begin {
			return e.Name + ": still has the block " + begin
		}
	}
	return ""
}
