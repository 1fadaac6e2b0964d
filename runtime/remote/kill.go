package remote

import (
	"context"
	"errors"
	"time"

	_ "embed"
)

// killScript ends every process that carries a mark: politely, and after two seconds for good. Looking
// at environments finds what sudo and scripts moved to other process groups. Exit code 1 means that
// something is still there.
//
//go:embed kill.sh
var killScript string

// killCmd kills the processes of the command that ran under token.
func killCmd(token string) Cmd {
	return Cmd{Args: []string{"sh", "-c", killScript, "sh", runVariable + "=" + token}}
}

// killKey marks the context of a command that kills others: it must not wait for their sessions.
type killKey struct{}

func withKill(ctx context.Context) context.Context { return context.WithValue(ctx, killKey{}, true) }

// killMarked runs a killCmd until it has found something to kill: a command that was only just started
// may not carry its mark yet. gone says that the command has ended by itself.
func killMarked(ctx context.Context, gone <-chan struct{}, run func(context.Context) error) error {
	const nothingFound = 3
	for range 5 {
		err := run(ctx)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != nothingFound {
			return err
		}
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

func isKill(ctx context.Context) bool { return ctx.Value(killKey{}) != nil }

// startKey holds the context within which a command must start. sudo needs it: its commands may only be
// killed from inside, so the Runner below must not see the end of the context once they run.
type startKey struct{}

func withStart(ctx, start context.Context) context.Context {
	return context.WithValue(ctx, startKey{}, start)
}

func startOf(ctx context.Context) context.Context {
	if isKill(ctx) {
		return ctx
	}
	if start, ok := ctx.Value(startKey{}).(context.Context); ok {
		return start
	}
	return ctx
}
