package raft

import (
	"testing"
	"time"
)

// A new leader writes its first entry before it takes up anything else, and on a slow disk that can take longer than an
// election. It leads all the same.
func TestALeaderWhoseDiskIsSlowLeads(t *testing.T) {
	c := newCluster(t)
	n := c.add("n1")
	c.must(Bootstrap(n.dir, "n1", nil))
	c.must(n.start(true))
	n.propose("it leads")

	write, err := n.raft.store.db.Begin(true) // nobody else can write until it has ended
	c.must(err)
	answers := make(chan error, 2)
	go func() { answers <- n.raft.Barrier(t.Context()) }()
	go func() {
		_, err := n.raft.Propose(t.Context(), note("late"))
		answers <- err
	}()
	select { // whichever came second is not even taken up yet
	case err = <-answers:
		t.Error("while the disk stands still: ", err)
		answers <- err
	case <-time.After(4 * c.timing.Election):
	}
	c.must(write.Rollback())
	for range 2 {
		c.must(<-answers)
	}
	if !has(n.raft.State(), "late") {
		t.Error("the command is lost")
	}
}
