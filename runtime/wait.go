package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrAbort in the chain of an error ends Wait at once: waiting longer would not help.
var ErrAbort = errors.New("waiting is of no use")

// Wait asks again and again, every two to five seconds, until try succeeds, says ErrAbort, or the time
// is over. The error holds the last one of try.
func Wait(ctx context.Context, limit time.Duration, what string, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	defer cancel()
	pause := time.Second
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrAbort) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(pause):
		}
		pause = min(pause+time.Second, 5*time.Second)
	}
}
