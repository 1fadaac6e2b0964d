package runtime

import (
	"context"
	"fmt"
	"strings"

	"github.com/clusterimage/keg/runtime/node"
)

// UnitStaysDown tells who waits for a program on the host whether waiting is of use. It is err, or ErrAbort with what
// the program said last, in lines that match said, where its unit failed or was started again by itself that many times.
func (n *Node) UnitStaysDown(ctx context.Context, unit string, restarts int, said string, err error) error {
	s, statusErr := n.Host.Unit(ctx, node.UnitQuery{Unit: unit})
	if statusErr != nil || s.Active != "failed" && s.Restarts < restarts {
		return err
	}
	last, _ := n.Host.Unit(ctx, node.UnitQuery{Unit: unit, Lines: 5, Match: said})
	return fmt.Errorf("%w: %s does not stay up (%s, started again %d times): %s", ErrAbort, unit, s.Active, s.Restarts, strings.Join(last.Said, "\n"))
}
