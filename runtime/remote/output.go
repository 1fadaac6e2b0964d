package remote

import (
	"bytes"
	"context"
	"fmt"
)

// outputLimit bounds what Output keeps in memory.
const outputLimit = 64 << 20

// Output runs a command and gives what it wrote to stdout, at most 64 MiB.
func Output(ctx context.Context, r Runner, args ...string) ([]byte, error) {
	var out limited
	err := r.Run(ctx, Cmd{Args: args, Stdout: &out})
	return out.buf.Bytes(), err
}

// limited is a buffer that refuses to grow without end.
type limited struct{ buf bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > outputLimit {
		return 0, fmt.Errorf("more than %d MiB", outputLimit>>20)
	}
	return l.buf.Write(p)
}

// hostOf and userOf name the two in errors, where a Runner says them.
func hostOf(r Runner) string {
	if h, ok := r.(interface{ Host() string }); ok {
		return h.Host()
	}
	return ""
}

func userOf(r Runner) string {
	if u, ok := r.(interface{ User() string }); ok {
		return u.User()
	}
	return ""
}
