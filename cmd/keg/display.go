package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/clusterimage/keg/internal/progress"
)

// display shows progress on stderr: bars on a terminal, lines in a log, or JSON, one event a line.
type display struct {
	event progress.Func
	close func()
}

// display makes the one that --progress asks for. The caller closes it before printing results.
func (a *app) display() (*display, error) {
	mode := a.progress
	if mode == "auto" {
		mode = "plain"
		f, ok := a.stderr.(*os.File)
		if ok && term.IsTerminal(int(f.Fd())) && a.env("CI") == "" && a.env("TERM") != "dumb" {
			mode = "tty"
		}
	}
	switch mode {
	case "none":
		return &display{close: func() {}}, nil
	case "plain":
		p := &plainDisplay{w: a.stderr, seen: map[string]*plainItem{}}
		return &display{event: p.event, close: func() {}}, nil
	case "json":
		j := &jsonDisplay{enc: json.NewEncoder(a.stderr)}
		return &display{event: j.event, close: func() {}}, nil
	case "tty":
		t := newTTYDisplay(a.stderr)
		return &display{event: t.event, close: t.close}, nil
	}
	return nil, usageErrorf("--progress %q is none of auto, tty, plain, json, none", a.progress)
}

// plainDisplay prints a heading for work that has parts, a line for each piece of work that ends, and
// one every ten seconds for those that last. What there was nothing to do about is left out.
type plainDisplay struct {
	mu   sync.Mutex
	w    io.Writer
	seen map[string]*plainItem
}

type plainItem struct {
	name        string
	began, told time.Time
	heading     bool // its name was printed, for its parts to stand under
}

const patience = 10 * time.Second

func (p *plainDisplay) event(e progress.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	item := p.seen[e.ID]
	if item == nil {
		item = &plainItem{name: e.Name, began: now, told: now}
		p.seen[e.ID] = item
		if e.Parent == "" {
			time.AfterFunc(patience, func() { p.remind(e.ID, item) })
		}
	}
	indent := ""
	if e.Parent != "" {
		indent = "  "
	}
	for line := range bytes.Lines(e.Log) {
		p.under(e.Parent)
		item.told = now
		fmt.Fprintf(p.w, "%s  %s\n", indent, bytes.TrimRight(line, "\r\n"))
	}
	switch {
	case e.End:
		delete(p.seen, e.ID)
		if item.heading || e.Skipped {
			return
		}
		p.under(e.Parent)
		how := "done" + amount(e.Done) + " in " + took(now.Sub(item.began))
		if e.Err != nil {
			how = "failed after " + took(now.Sub(item.began))
		}
		fmt.Fprintf(p.w, "%s%s: %s\n", indent, item.name, how)
	case e.Total > 0 && now.Sub(item.told) >= patience:
		p.under(e.Parent)
		item.told = now
		fmt.Fprintf(p.w, "%s%s:%s of%s\n", indent, item.name, amount(e.Done), amount(e.Total))
	}
}

// under prints the heading that what follows stands under, if it is not printed yet.
func (p *plainDisplay) under(parent string) {
	if item := p.seen[parent]; item != nil && !item.heading {
		item.heading = true
		fmt.Fprintln(p.w, item.name)
	}
}

// remind says that work of unknown size is still under way.
func (p *plainDisplay) remind(id string, item *plainItem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[id] != item {
		return
	}
	now := time.Now()
	if now.Sub(item.told) >= patience && !item.heading {
		item.told = now
		fmt.Fprintf(p.w, "%s: still at it after %s\n", item.name, took(now.Sub(item.began)))
	}
	time.AfterFunc(patience, func() { p.remind(id, item) })
}

func amount(n int64) string {
	if n == 0 {
		return ""
	}
	return " " + size(n)
}

type jsonDisplay struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (j *jsonDisplay) event(e progress.Event) {
	line := struct {
		Time    time.Time `json:"time"`
		ID      string    `json:"id"`
		Parent  string    `json:"parent,omitempty"`
		Name    string    `json:"name,omitempty"`
		Done    int64     `json:"done,omitempty"`
		Total   int64     `json:"total,omitempty"`
		Log     string    `json:"log,omitempty"`
		Error   string    `json:"error,omitempty"`
		End     bool      `json:"end,omitempty"`
		Skipped bool      `json:"skipped,omitempty"`
	}{Time: time.Now().UTC(), ID: e.ID, Parent: e.Parent, Name: e.Name, Done: e.Done, Total: e.Total, Log: string(e.Log), End: e.End, Skipped: e.Skipped}
	if e.Err != nil {
		line.Error = e.Err.Error()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.enc.Encode(line) // a display that cannot write must not stop the work
}

// ttyDisplay draws a bar for work of known size and a line for the rest.
type ttyDisplay struct {
	mu   sync.Mutex
	p    *mpb.Progress
	bars map[string]*ttyBar
	wide int // of a name, in columns
}

type ttyBar struct {
	*mpb.Bar
	began  time.Time
	counts bool         // it was made with a total
	took   atomic.Int64 // a time.Duration, set when the work ends; it is drawn later
}

func newTTYDisplay(w io.Writer) *ttyDisplay {
	t := &ttyDisplay{p: mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithAutoRefresh()), bars: map[string]*ttyBar{}, wide: 60}
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil {
			t.wide = max(20, columns-40) // what stands behind the name stays in sight
		}
	}
	return t
}

func (t *ttyDisplay) event(e progress.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	bar := t.bars[e.ID]
	if bar != nil && e.Total > 0 && !bar.counts { // its size has become known: a bar replaces the spinner
		bar.Abort(true)
		bar = nil
	}
	if bar == nil {
		bar = t.add(e)
		t.bars[e.ID] = bar
	}
	for line := range bytes.Lines(e.Log) {
		fmt.Fprintf(t.p, "  %s\n", bytes.TrimRight(line, "\r\n"))
	}
	if e.Total > 0 {
		bar.SetTotal(e.Total, false)
	}
	if e.Done > 0 {
		bar.SetCurrent(e.Done)
	}
	if !e.End {
		return
	}
	delete(t.bars, e.ID)
	if e.Err != nil || e.Skipped {
		bar.Abort(e.Skipped)
		return
	}
	bar.took.Store(int64(time.Since(bar.began)))
	bar.SetTotal(-1, true)
}

func (t *ttyDisplay) add(e progress.Event) *ttyBar {
	b := &ttyBar{began: time.Now(), counts: e.Total > 0}
	name := decor.Name(shorten(e.Name, t.wide), decor.WC{C: decor.DindentRight | decor.DextraSpace})
	elapsed := decor.OnAbort(decor.OnComplete(decor.Elapsed(decor.ET_STYLE_GO, decor.WC{}), ""), "failed")
	finished := decor.OnCompleteMeta(decor.Any(func(s decor.Statistics) string {
		if s.Completed {
			return "done in " + took(time.Duration(b.took.Load()))
		}
		return ""
	}), func(s string) string { return s })
	if e.Total == 0 {
		b.Bar = t.p.New(0, mpb.SpinnerStyle(), mpb.PrependDecorators(name), mpb.AppendDecorators(elapsed, finished), mpb.BarFillerClearOnComplete())
		return b
	}
	counters := decor.OnComplete(decor.CountersKiloByte("% .1f / % .1f"), "")
	b.Bar = t.p.AddBar(e.Total, mpb.PrependDecorators(name), mpb.AppendDecorators(counters, finished), mpb.BarFillerClearOnComplete())
	return b
}

func (t *ttyDisplay) close() {
	t.mu.Lock()
	for _, bar := range t.bars {
		bar.Abort(true)
	}
	t.bars = map[string]*ttyBar{}
	t.mu.Unlock()
	t.p.Wait()
}
