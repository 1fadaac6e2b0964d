package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// QuorumError says that a step would leave etcd without a majority of its voters: the cluster's API
// would stand still, and only a backup would bring it back.
type QuorumError struct {
	// Doing is the step, such as "removing m2".
	Doing string
	// Voters is how many members vote afterwards, Healthy how many of them answer.
	Voters, Healthy int
}

// Error says how many answer and how many must.
func (e *QuorumError) Error() string {
	return fmt.Sprintf("%s: %d of the %d members of etcd that are left answer, %d must", e.Doing, e.Healthy, e.Voters, majority(e.Voters))
}

func majority(voters int) int { return voters/2 + 1 }

// checkQuorum says whether etcd goes on without some of its members. A healthy one must not go while a
// dead one stays: that makes two of one failure.
func checkQuorum(members []Member, leaving func(m Member) bool) error {
	var names []string
	var healthyGoes bool
	var dead []string
	voters, healthy := 0, 0
	for _, m := range members {
		switch {
		case leaving(m):
			names = append(names, m.Name)
			healthyGoes = healthyGoes || m.Healthy
		case m.Learner:
		case m.Healthy:
			voters, healthy = voters+1, healthy+1
		default:
			voters++
			dead = append(dead, m.Name)
		}
	}
	doing := "removing " + strings.Join(names, ", ")
	if voters == 0 {
		return &QuorumError{Doing: doing}
	}
	if healthyGoes && len(dead) > 0 {
		return fmt.Errorf("%s: %s of etcd does not answer: remove that one first", doing, strings.Join(dead, ", "))
	}
	if healthy < majority(voters) {
		return &QuorumError{Doing: doing, Voters: voters, Healthy: healthy}
	}
	return nil
}

// gateHold is how long everything must stay well before anything else is touched: a kubelet that was just
// started lets the API server run for some seconds before it replaces it.
const gateHold = 5 * time.Second

// Gate waits until the control plane is well: every one answers by itself, every member of etcd votes
// and answers; and it stays so for some seconds.
func (c *Cluster) Gate(ctx context.Context) error {
	var since time.Time
	return Wait(ctx, NodeReadyLimit, "the control planes", func(ctx context.Context) error {
		if err := c.wellOnce(ctx); err != nil {
			since = time.Time{}
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) < gateHold {
			return errors.New("they are well, but not for long enough yet")
		}
		return nil
	})
}

func (c *Cluster) madeMasters() []*Node {
	return slices.DeleteFunc(c.ByRole(Master), func(n *Node) bool { return !n.Made() })
}

// OtherMaster is a control plane beside n that was made; nil if there is none.
func (c *Cluster) OtherMaster(n *Node) *Node {
	if i := slices.IndexFunc(c.madeMasters(), func(m *Node) bool { return m != n }); i >= 0 {
		return c.madeMasters()[i]
	}
	return nil
}

// settleAlive chooses First like settleLead, but of several control planes one that answers by itself: the host
// of another may be up, and its control plane down.
func (c *Cluster) settleAlive(ctx context.Context) {
	c.settleLead()
	made := slices.DeleteFunc(c.madeMasters(), func(n *Node) bool { return n.State.Cluster != c.Name || n.Runner == nil })
	if len(made) < 2 {
		return
	}
	for _, n := range made {
		if c.Driver.Alive(ctx, c, n) == nil {
			c.lead = n
			return
		}
	}
}

// wellOnce asks once.
func (c *Cluster) wellOnce(ctx context.Context) error {
	for _, n := range c.madeMasters() {
		if err := c.Driver.Alive(ctx, c, n); err != nil {
			return fmt.Errorf("the control plane on %s: %w", n.Address, err)
		}
	}
	members, err := c.Driver.Members(ctx, c)
	if err != nil {
		return err
	}
	for _, m := range members {
		switch {
		case m.Learner:
			return fmt.Errorf("member %s of etcd does not vote yet", m.Name)
		case !m.Healthy:
			return fmt.Errorf("member %s of etcd does not answer", m.Name)
		}
	}
	return nil
}

// memberOf is the member of etcd on a host; ok is false where it has none.
func memberOf(members []Member, n *Node) (m Member, ok bool) {
	i := slices.IndexFunc(members, func(m Member) bool {
		return parseAddr(n.IP).IsValid() && parseAddr(m.Address) == parseAddr(n.IP)
	})
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}

// removeMember makes the member on n leave and sees that it is gone.
func (c *Cluster) removeMember(ctx context.Context, n *Node, out io.Writer) error {
	members, err := c.Driver.Members(ctx, c)
	if err != nil {
		return err
	}
	m, ok := memberOf(members, n)
	if !ok {
		return ErrAlready
	}
	// Another may have died since all of this was judged.
	if err := checkQuorum(members, func(o Member) bool { return o.ID == m.ID }); err != nil {
		return err
	}
	if err := c.Driver.RemoveMember(ctx, c, m, out); err != nil {
		return err
	}
	return Wait(ctx, 2*time.Minute, "member "+m.Name+" to leave etcd", func(ctx context.Context) error {
		members, err := c.Driver.Members(ctx, c)
		if err != nil {
			return err
		}
		if _, ok := memberOf(members, n); ok {
			return errors.New("it is still one of the members")
		}
		return nil
	})
}
