package basefs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Line is one line of an image list that names an image.
type Line struct {
	Ref    string // as written
	LineNo int    // from 1
}

// LineError says what is wrong with a line of an image list.
type LineError struct {
	File   string // of the list
	LineNo int
	Text   string // the line, shortened
	Err    error
}

// Error names the line and shows it.
func (e *LineError) Error() string {
	return fmt.Sprintf("%s:%d: %q: %v", e.File, e.LineNo, e.Text, e.Err)
}

// Unwrap gives what is wrong.
func (e *LineError) Unwrap() error { return e.Err }

// lineLimit is longer than any image name.
const lineLimit = 64 << 10

// ParseImageList reads a list of image names, one a line; file is for errors. A # at the beginning of a
// line or after a blank starts a comment. All wrong lines are reported, each as a *LineError, joined.
func ParseImageList(file string, r io.Reader) ([]Line, error) {
	var out []Line
	var wrong []error
	s := bufio.NewScanner(r)
	s.Buffer(nil, lineLimit)
	n := 0
	for s.Scan() {
		n++
		text := string(bytes.TrimPrefix(s.Bytes(), []byte("\uFEFF")))
		fields := strings.Fields(uncomment(text))
		switch {
		case len(fields) == 0:
			continue
		case len(fields) > 1:
			wrong = append(wrong, &LineError{file, n, shorten(text), errors.New("more than one word: write one image name a line")})
			continue
		}
		if _, err := name.ParseReference(fields[0]); err != nil {
			wrong = append(wrong, &LineError{file, n, shorten(text), errors.New("not an image name: write it like registry.example.com/path/name:tag")})
			continue
		}
		out = append(out, Line{Ref: fields[0], LineNo: n})
	}
	switch err := s.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		wrong = append(wrong, &LineError{file, n + 1, "", fmt.Errorf("longer than %d bytes", lineLimit)})
	case err != nil:
		wrong = append(wrong, fmt.Errorf("reading %s: %w", file, err))
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	return out, nil
}

func uncomment(text string) string {
	for i := range len(text) {
		if text[i] == '#' && (i == 0 || text[i-1] == ' ' || text[i-1] == '\t') {
			return text[:i]
		}
	}
	return text
}

func shorten(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > 80 {
		return text[:77] + "..."
	}
	return text
}
