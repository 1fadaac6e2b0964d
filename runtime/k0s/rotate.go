package k0s

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// RotateTokens makes all join tokens worthless, also those that others made without an end. There are no
// other join secrets: keg makes a token for each join.
func (Driver) RotateTokens(c *runtime.Cluster) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{first.On("make all join tokens worthless", func(ctx context.Context, out writer) error {
		count, err := invalidateAll(ctx, c)
		if err != nil {
			return err
		}
		if count == 0 {
			return runtime.ErrAlready
		}
		fmt.Fprintf(out, "%d join tokens open nothing any more\n", count)
		return nil
	})}}
}

func invalidateAll(ctx context.Context, c *runtime.Cluster) (count int, err error) {
	var ids []string
	for _, role := range []string{"controller", "worker"} { // it has no list of all
		list, err := remote.Output(ctx, c.First().Runner, program, "token", "list", "--role", role)
		if err != nil {
			return 0, err
		}
		ids = append(ids, listedTokens(string(list))...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return len(ids), invalidate(ctx, c, ids...)
}

var tokenIDForm = regexp.MustCompile(`^[a-z0-9]{6}$`)

// listedTokens are the IDs in a table of `k0s token list`, which stand first in a line.
func listedTokens(table string) []string {
	var ids []string
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 1 && tokenIDForm.MatchString(f[0]) {
			ids = append(ids, f[0])
		}
	}
	return ids
}
