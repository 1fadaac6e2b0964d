package buildkit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
)

// ForeignError says that a RUN is for a platform whose programs BuildKit's machine cannot start.
type ForeignError struct {
	// Want is such as "linux/arm64"; Have are those that it can start.
	Want string
	Have []string
}

// Error implements error.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("programs for %s cannot be started: BuildKit's machine runs those for %s, and binfmt_misc knows no emulator", e.Want, strings.Join(e.Have, ", "))
}

// runnable says whether programs for a platform can be started, natively or by an emulator that the kernel knows.
func runnable(ctx context.Context, c *client.Client, platform string) error {
	want, err := platforms.Parse(platform)
	if err != nil {
		return fmt.Errorf("platform %q: %w", platform, err)
	}
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("asking BuildKit for its platforms: %w", err)
	}
	var have []string
	for _, w := range workers {
		for _, p := range w.Platforms {
			if platforms.Only(p).Match(want) {
				return nil
			}
			have = append(have, platforms.Format(p))
		}
	}
	slices.Sort(have)
	return &ForeignError{Want: platform, Have: slices.Compact(have)}
}
