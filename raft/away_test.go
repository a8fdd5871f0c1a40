package raft

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestReturningNodeCatchesUpAtOnce: the library alone would back off and let it wait for up to ten seconds.
func TestReturningNodeCatchesUpAtOnce(t *testing.T) {
	c, leader := three(t)
	away := c.follower(leader)
	c.everyoneKnows(leader)
	away.stop()
	// Long enough for the library's back-off (10 ms doubled at every failure) to pass a second.
	until := time.Now().Add(3 * time.Second)
	for i := 0; time.Now().Before(until); i++ {
		leader.propose(fmt.Sprint("while away ", i))
		time.Sleep(50 * time.Millisecond)
	}
	leader = c.leader()
	leader.propose("last")
	c.must(away.start(false))
	start := time.Now()
	c.until("it has caught up", func() bool { return has(away.raft.State(), "last") })
	took := time.Since(start)
	t.Logf("caught up after %v", took)
	if took > 1500*time.Millisecond {
		t.Errorf("caught up only after %v", took)
	}
}

func (c *cluster) everyoneKnows(leader *node) {
	c.t.Helper()
	for _, n := range c.nodes {
		c.until(n.name+" knows the leader", func() bool { return n.raft.Leader() == leader.name })
	}
}

// TestHandingOverToDeadNode: neither a dead target nor asking again and again may stop the leader's work.
func TestHandingOverToDeadNode(t *testing.T) {
	c, leader := three(t)
	dead := c.follower(leader)
	leader.propose("one")
	dead.stop()
	c.until("its silence is noticed", func() bool {
		err := leader.raft.TransferLeadership(t.Context(), dead.name)
		return err != nil && strings.Contains(err.Error(), "does not answer")
	})
	leader = c.leader()
	start := time.Now()
	if _, err := leader.raft.Propose(t.Context(), note("two")); err != nil && !errors.As(err, new(ErrNotLeader)) {
		t.Error(err)
	}
	leader.propose("three")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("proposing took %v", took)
	}
	if err := leader.raft.TransferLeadership(t.Context(), "n9"); err == nil || !strings.Contains(err.Error(), "not another voter") {
		t.Errorf("to a stranger: %v", err)
	}
	c.must(leader.raft.TransferLeadership(t.Context(), ""))
	c.until("the only other node leads", func() bool { l := c.leader(); return l != leader && l != dead })
}
