package buildkit

import (
	"bytes"
	"errors"
	"strings"
	"syscall"

	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/internal/progress"
)

// tailSize is how much of a command's output an error repeats.
const tailSize = 4 << 10

// display turns what BuildKit tells of a solve into events, and keeps the end of what commands print. It is for
// one goroutine.
type display struct {
	emit   progress.Func
	parent string
	steps  map[digest.Digest]*step
}

type step struct {
	name string
	over bool
	err  string
	part []byte // of a line that has no end yet
	tail []byte
}

func newDisplay(emit progress.Func, parent string) *display {
	return &display{emit: emit, parent: parent, steps: map[digest.Digest]*step{}}
}

func (d *display) id(v digest.Digest) string { return d.parent + " " + v.String() }

func (d *display) update(st *client.SolveStatus) {
	for _, v := range st.Vertexes {
		s := d.steps[v.Digest]
		if s == nil {
			s = &step{name: v.Name}
			d.steps[v.Digest] = s
		}
		if v.Error != "" {
			s.err = v.Error
		}
		if s.over || hidden(v.Name) {
			continue
		}
		switch {
		case v.Completed != nil:
			s.over = true
			d.flush(v.Digest, s)
			e := progress.Event{ID: d.id(v.Digest), Name: v.Name, Parent: d.parent, End: true, Skipped: v.Cached}
			if v.Error != "" {
				e.Err = errors.New(v.Error)
			}
			d.emit.Emit(e)
		case v.Started != nil:
			d.emit.Emit(progress.Event{ID: d.id(v.Digest), Name: v.Name, Parent: d.parent})
		}
	}
	for _, l := range st.Logs {
		s := d.steps[l.Vertex]
		if s == nil {
			continue
		}
		s.tail = append(s.tail, l.Data...)
		if over := len(s.tail) - tailSize; over > 0 {
			s.tail = append([]byte(nil), s.tail[over:]...)
		}
		s.part = append(s.part, l.Data...)
		if end := bytes.LastIndexByte(s.part, '\n') + 1; end > 0 {
			d.log(l.Vertex, s, s.part[:end])
			s.part = append([]byte(nil), s.part[end:]...)
		}
	}
}

// hidden says whether a step is of no interest: how the Kubefile and the image so far come to BuildKit, and
// go back.
func hidden(name string) bool {
	return strings.HasPrefix(name, "[internal]") || strings.HasPrefix(name, "[context "+builder.FromName+"]") ||
		strings.HasPrefix(name, "exporting to ") || strings.HasPrefix(name, "resolve image config")
}

func (d *display) flush(v digest.Digest, s *step) {
	if len(s.part) > 0 {
		d.log(v, s, append(s.part, '\n'))
		s.part = nil
	}
}

func (d *display) log(v digest.Digest, s *step, text []byte) {
	d.emit.Emit(progress.Event{ID: d.id(v), Name: s.name, Parent: d.parent, Log: bytes.Clone(text)})
}

// end closes what is still open: BuildKit does not always say how a step ended when the solve failed.
func (d *display) end(err error) {
	for v, s := range d.steps {
		if !s.over && !hidden(s.name) {
			s.over = true
			d.flush(v, s)
			d.emit.Emit(progress.Event{ID: d.id(v), Name: s.name, Parent: d.parent, End: true, Err: err, Skipped: err == nil})
		}
	}
}

// output is the end of what the step that failed printed.
func (d *display) output() string {
	for _, s := range d.steps {
		if s.err != "" && len(s.tail) > 0 {
			text := s.tail
			if len(text) == tailSize { // begin with a whole line
				_, text, _ = bytes.Cut(text, []byte("\n"))
			}
			return strings.TrimRight(string(text), "\n")
		}
	}
	return ""
}

// translate makes an error of a solve one that builder knows.
func translate(err error, d *display) error {
	out := innermost(err)
	var exit *gatewaypb.ExitError
	if errors.As(err, &exit) {
		out = &builder.ExecError{ExitCode: int(exit.ExitCode), Output: d.output()}
	}
	for _, src := range errdefs.Sources(err) {
		for _, r := range src.Ranges {
			return &builder.InstructionError{Line: int(r.Start.Line), Err: out}
		}
	}
	return out
}

// innermost takes off the words that BuildKit's client and frontend put around an error.
func innermost(err error) error {
	msg := err.Error()
	for _, prefix := range []string{"failed to solve: ", "rpc error: code = Unknown desc = "} {
		msg = strings.TrimPrefix(msg, prefix)
	}
	if strings.Contains(msg, syscall.ENOSPC.Error()) { // of an error that came by gRPC the words alone are left
		err = errors.Join(err, syscall.ENOSPC)
	}
	return &solveError{msg: msg, err: err}
}

// solveError is an error of BuildKit in fewer words.
type solveError struct {
	msg string
	err error
}

// Error implements error.
func (e *solveError) Error() string { return e.msg }

// Unwrap returns BuildKit's own.
func (e *solveError) Unwrap() error { return e.err }
