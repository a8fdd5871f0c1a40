package raft

import (
	"testing"
	"time"

	"hacluster/lease"
)

// Timers that become ten times as long while the group runs must not cost it its leader: the library's leader lease stays the
// short one until the next start, and its own heartbeats would come only after that.
func TestALeaderKeepsLeadingWithMuchLongerTimers(t *testing.T) {
	c, leader := three(t)
	wan, err := lease.Derive(lease.WAN, lease.Address, lease.Overrides{})
	c.must(err)
	wan.Heartbeat, wan.Election, wan.LeaderLease = 10*time.Second, 10*time.Second, 10*time.Second // the library's own would come after seconds
	for _, n := range c.nodes {
		settled, err := n.raft.Retime(wan)
		c.must(err)
		if settled {
			t.Fatalf("%s: a leader lease of %v is taken up while it runs: this test shows nothing", n.name, wan.LeaderLease)
		}
	}
	term := leader.raft.Term()
	for end := time.Now().Add(6 * c.timing.LeaderLease); time.Now().Before(end); time.Sleep(c.timing.LeaderLease / 10) {
		if !leader.raft.IsLeader() || leader.raft.Term() != term {
			t.Fatalf("%s led in term %d and does not any more", leader.name, term)
		}
	}
	leader.propose("with longer timers")
	c.everyoneHas("with longer timers")
}
