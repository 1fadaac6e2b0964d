package node

import "fmt"

// Kind tells errors of hosts apart.
type Kind string

// The kinds.
const (
	// KindOther is everything that has no kind of its own.
	KindOther Kind = ""
	// KindRequest is a request that makes no sense: a relative path, an unknown field.
	KindRequest Kind = "bad-request"
	// KindBusy is a host on which somebody else works. Text says who.
	KindBusy Kind = "busy"
	// KindForgotten is a host that keg-node was removed from while its lock was waited for: send it
	// again.
	KindForgotten Kind = "forgotten"
	// KindForeign is a host that belongs to another cluster, named in Cluster.
	KindForeign Kind = "foreign-cluster"
	// KindState is a state file that cannot be read.
	KindState Kind = "bad-state"
	// KindDiskFull is a file system without room: Path, Need and Free are set.
	KindDiskFull Kind = "disk-full"
	// KindDigest is content that is not what its digest says, or ends early.
	KindDigest Kind = "digest-mismatch"
	// KindArchive is an archive that is broken, or wants what no honest one does.
	KindArchive Kind = "bad-archive"
	// KindHook is a hook script that failed. Text ends with its last lines.
	KindHook Kind = "hook-failed"
	// KindProgram is a program of the host that failed or is not there, such as systemctl.
	KindProgram Kind = "program-failed"
	// KindNotUndone is `forget` on a host where something recorded was not undone.
	KindNotUndone Kind = "not-undone"
)

// Error is an error on a host, as it crosses the wire.
type Error struct {
	// Host is filled in by the client.
	Host string `json:"-"`
	Kind Kind   `json:"kind,omitempty"`
	Text string `json:"error"`
	// Path is the file or directory the error is about, if it is about one.
	Path string `json:"path,omitempty"`
	// Need and Free are bytes, of KindDiskFull.
	Need int64 `json:"need,omitempty"`
	Free int64 `json:"free,omitempty"`
	// Cluster is the name of the other cluster, of KindForeign.
	Cluster string `json:"cluster,omitempty"`
}

// Error names the host and says what happened there.
func (e *Error) Error() string {
	if e.Host == "" {
		return e.Text
	}
	return e.Host + ": " + e.Text
}

// Is makes errors.Is(err, &Error{Kind: k}) a question for the kind alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && *t == Error{Kind: t.Kind} && e.Kind == t.Kind
}

// Errorf makes an error of a kind.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}
