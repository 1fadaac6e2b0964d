// Package progress carries what a long operation is doing from the library that does it to
// whoever shows it. Producers emit; only commands render.
package progress

// Event is one step forward of one piece of work. Events of one ID arrive in order.
type Event struct {
	// ID names the piece of work; unique within one operation, such as a digest or "node 10.0.0.1".
	ID string
	// Name is what a person reads, such as "pushing docker.io/library/nginx:1.27".
	Name string
	// Parent is the ID of the work that this is a part of, or "".
	Parent string
	// Done and Total are bytes (or items); Total is 0 where it is not known.
	Done, Total int64
	// Log is output of a command that the piece of work runs; whole lines where possible.
	Log []byte
	// Err says that the work failed; End says that it is over, well or not.
	Err error
	End bool
	// Skipped says, with End, that there was nothing to do.
	Skipped bool
}

// Func receives events; it may be called from several goroutines at once and must not block for long.
// A nil Func discards.
type Func func(Event)

// Emit sends e, if anybody listens.
func (f Func) Emit(e Event) {
	if f != nil {
		f(e)
	}
}
