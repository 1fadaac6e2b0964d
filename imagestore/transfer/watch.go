package transfer

import (
	"context"
	"io"
	"time"

	"github.com/clusterimage/keg/internal/progress"
)

// watch reads an answer's body and cancels the request when nothing comes any more.
type watch struct {
	body  io.Reader
	timer *time.Timer
	stall time.Duration
	// err is the first error of reading other than io.EOF.
	err error
	// moved, if not nil, is told how many bytes each Read brought.
	moved func(n int)
}

func newWatch(body io.Reader, stall time.Duration, cancel context.CancelCauseFunc) *watch {
	return &watch{body: body, stall: stall, timer: time.AfterFunc(stall, func() { cancel(errStalled) })}
}

// Read implements io.Reader.
func (w *watch) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	if n > 0 {
		w.timer.Reset(w.stall)
		if w.moved != nil {
			w.moved(n)
		}
	}
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

func (w *watch) stop() { w.timer.Stop() }

// meter reports how far one blob is, not more often than somebody can see.
type meter struct {
	to          progress.Func
	id, name    string
	done, total int64
	last        time.Time
}

const meterInterval = 100 * time.Millisecond

func (m *meter) set(done int64) {
	m.done = done
	if m.to == nil || time.Since(m.last) < meterInterval {
		return
	}
	m.last = time.Now()
	m.to.Emit(progress.Event{ID: m.id, Name: m.name, Done: m.done, Total: m.total})
}

func (m *meter) end(err error) {
	if err == nil {
		m.done = m.total
	}
	m.to.Emit(progress.Event{ID: m.id, Name: m.name, Done: m.done, Total: m.total, Err: err, End: true})
}
