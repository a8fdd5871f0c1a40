package node

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"hacluster/api"
)

// timing begins to measure a change of owner from outside; the function that it returns compares that with the record, which
// must have these phases, and underway maybe. A leader that has changed meanwhile cannot know them all, and has to say so.
func (c *cluster) timing(t *testing.T, to string, want ...string) func() {
	t.Helper()
	term, begun := c.leader().n.raft.Term(), time.Now()
	return func() {
		t.Helper()
		var m api.Move
		c.until("the move is measured", func() error {
			st, err := c.running()[0].client.Status(t.Context())
			if err != nil {
				return err
			}
			if g := group(st); g.Move == nil || g.Move.Epoch != g.Epoch || g.Move.To != to || !g.Move.Done {
				return fmt.Errorf("epoch %d, %+v", g.Epoch, g.Move)
			}
			m = *group(st).Move
			return nil
		})
		var got []string
		for _, p := range m.Phases {
			if p.Name != "underway" {
				got = append(got, p.Name)
			}
		}
		switch took := time.Since(begun); {
		case m.Part && c.leader().n.raft.Term() != term:
			t.Logf("the leader changed: %v of %v are known, %q", m.Total, took, got)
		case m.Part || !slices.Equal(got, want) || m.Total > took && want[0] != "detected":
			t.Errorf("in %v: %+v, want %q", took, m, want)
		default:
			t.Logf("%+v", m.Phases)
		}
	}
}

// rode: what became known after an event was written came into the history with later commands.
func (c *cluster) rode(t *testing.T) {
	whole := 0
	for _, e := range c.state().Events {
		if e.Took.Acquired > 0 {
			whole++
		}
		if e.Took.Acquired > 0 && !e.Moves() {
			t.Errorf("%+v", e)
		}
	}
	if whole == 0 {
		t.Error("the history knows of no change of owner what taking over took")
	}
}
