package discover

import (
	"errors"
	"fmt"
	"strings"
)

// findings are what one unit of the search found.
type findings struct {
	search   *search
	file     string
	rendered bool // lines are those of what came of a template
	loose    bool // outside of the roots
	found    []Found
	skipped  []Skipped
	errs     []error
}

// add takes a text that is an image, or skips it with the reason why it cannot be one.
func (f *findings) add(ref string, kind Kind, confidence Confidence, reason string, where Where) {
	where.Rendered = f.rendered && where.Line > 0
	ref = strings.TrimSpace(ref)
	switch {
	case ref == "":
		f.skip(where, "the image is empty")
		return
	case strings.Contains(ref, hole):
		f.skip(where, "the image's name needs a value that is known only when the cluster runs: "+strings.Join(holesIn(ref), ", "))
		return
	}
	full, err := fullName(ref)
	if err != nil {
		if kind != Candidate {
			f.skip(where, fmt.Sprintf("%.200q is not the name of an image", ref))
		}
		return
	}
	f.found = append(f.found, Found{Ref: full, Kind: kind, Confidence: confidence, Reason: reason, Where: []Where{where}})
}

func (f *findings) skip(where Where, reason string) {
	where.Rendered = f.rendered && where.Line > 0
	f.skipped = append(f.skipped, Skipped{where, reason})
}

// fail keeps an error; outside of the roots it is only a reason to skip.
func (f *findings) fail(err error) {
	if !f.loose {
		f.errs = append(f.errs, err)
		return
	}
	where, reason := Where{File: f.file}, err.Error()
	var fe *FileError
	if errors.As(err, &fe) {
		where, reason = Where{File: fe.File, Line: fe.Line, Rendered: fe.Rendered}, fe.Err.Error()
	}
	f.skipped = append(f.skipped, Skipped{where, "it cannot be read: " + reason})
}

func (f *findings) errorAt(line int, err error) error {
	var le *lineError
	if errors.As(err, &le) {
		line, err = le.line, le.err
	}
	return &FileError{File: f.file, Line: line, Rendered: f.rendered && line > 0, Err: err}
}

// manifest finds the images in a YAML or JSON text.
func (f *findings) manifest(data []byte) {
	docs, err := readDocuments(data)
	if err != nil {
		f.fail(f.errorAt(0, err))
		return
	}
	for _, d := range docs {
		f.document(d)
	}
}
