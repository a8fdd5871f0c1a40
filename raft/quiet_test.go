package raft

import (
	"sync"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"

	"hacluster/lease"
)

// renewing has every follower renew a lease with the leader as often as its timing says, until stop is called.
func (c *cluster) renewing(leader *node, follow bool) (stop func()) {
	end := make(chan struct{})
	var all sync.WaitGroup
	for name, n := range c.nodes {
		if n == leader {
			continue
		}
		all.Go(func() {
			tick := time.NewTicker(c.timing.Renew / 2) // this machine may be slow
			defer tick.Stop()
			for {
				select {
				case <-end:
					return
				case <-tick.C:
				}
				term := n.raft.Term()
				if leader.raft.IsLeader() && leader.raft.Term() == term {
					leader.raft.Heard(name, term)
					if follow {
						n.raft.Follow(leader.name, term)
					}
				}
			}
		})
	}
	return func() { close(end); all.Wait() }
}

// sent counts how many heartbeats were sent to each follower within a while.
func (c *cluster) sent(leader *node, while time.Duration) map[hraft.ServerID]int {
	tr := leader.raft.trans
	out, last := map[hraft.ServerID]int{}, map[hraft.ServerID]time.Time{}
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(time.Millisecond) {
		tr.mu.Lock()
		for id, b := range tr.beats {
			if !b.quiet && !b.begun.Equal(last[id]) {
				last[id] = b.begun
				out[id]++
			}
		}
		tr.mu.Unlock()
	}
	return out
}

// While leases are renewed no heartbeats are sent, and nobody stands for election; when they are not, heartbeats go on.
func TestRenewalsStandForHeartbeats(t *testing.T) {
	c, leader := three(t)
	c.begun(leader, 2)
	term := leader.raft.Term()
	beats := int(2 * time.Second / leader.raft.trans.every())
	stop := c.renewing(leader, true)
	defer func() { stop() }()
	for id, n := range c.sent(leader, 2*time.Second) {
		if n > beats/4 {
			t.Errorf("%d heartbeats to %s while leases were renewed; without, %d", n, id, beats)
		}
	}
	if !leader.raft.IsLeader() || leader.raft.Term() != term {
		t.Errorf("%s led in term %d; now term %d", leader.name, term, leader.raft.Term())
	}
	for name, n := range c.nodes {
		if n != leader && n.raft.Leader() != leader.name {
			t.Errorf("%s follows %q", name, n.raft.Leader())
		}
	}
	leader.propose("while it is quiet")
	c.everyoneHas("while it is quiet")

	stop()
	stop = func() {}
	for _, n := range c.sent(leader, 2*time.Second) {
		if n < beats/2 {
			t.Errorf("%d heartbeats after the renewals had ended, want %d", n, beats)
		}
	}
	if !leader.raft.IsLeader() || leader.raft.Term() != term {
		t.Errorf("the end of the renewals cost the leadership: term %d, now %d", term, leader.raft.Term())
	}
}

// The library needs no timers to come for the heartbeats that renewals stand for: by them it would come five times a second at most here.
func TestTheLibraryComesWithoutTimers(t *testing.T) {
	c := newCluster(t)
	c.timing.Heartbeat, c.timing.Election, c.timing.LeaderLease = 2*time.Second, 2*time.Second, 2*time.Second
	c.timing.Renew, c.timing.Duration, c.timing.Drift = 100*time.Millisecond, 20*time.Second, 100*time.Millisecond
	leader := c.form()
	c.begun(leader, 2)
	defer c.renewing(leader, true)()
	tr := leader.raft.trans
	stood, last := map[hraft.ServerID]int{}, map[hraft.ServerID]time.Time{}
	const while = 4 * time.Second
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(time.Millisecond) {
		tr.mu.Lock()
		for id, b := range tr.beats {
			if b.quiet && !b.begun.Equal(last[id]) {
				last[id] = b.begun
				stood[id]++
			}
		}
		tr.mu.Unlock()
	}
	if len(stood) != 2 {
		t.Fatalf("renewals stood for heartbeats to %d peers, want 2", len(stood))
	}
	for id, n := range stood {
		if byTimers := int(while / (c.timing.Heartbeat / libraryBeats)); n <= byTimers {
			t.Errorf("the library came %d times for a heartbeat to %s; by its timers up to %d", n, id, byTimers)
		}
	}
}

// Where the library does not hear, it is not asked without end, so that nobody waits for it; where it hears again, so does asking.
func TestALibraryThatStandsStillIsNotAskedOn(t *testing.T) {
	_, leader := three(t)
	tr := leader.raft.trans
	const id = "nobody" // the others have their own heartbeats
	asked := func() int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.unheard
	}
	for range 3 * maxUnheard { // as if it did not come
		tr.mu.Lock()
		tr.recalled = time.Time{}
		tr.mu.Unlock()
		tr.recall()
	}
	if n := asked(); n != maxUnheard {
		t.Errorf("asked %d times, want %d", n, maxUnheard)
	}
	quiet := func(ago time.Duration) {
		tr.mu.Lock()
		tr.unheard = maxUnheard
		tr.beats[id] = beat{term: leader.raft.Term(), begun: time.Now().Add(-ago), quiet: true}
		tr.mu.Unlock()
		tr.recalls(id)
	}
	if quiet(tr.timeout()); asked() != maxUnheard {
		t.Error("what may have been a timer counts as an answer")
	}
	if quiet(-time.Second); asked() != 0 {
		t.Error("a library that comes at once is not asked again")
	}
}

// A leader that nobody renews a lease with any more steps down as it did by heartbeats.
func TestAQuietLeaderStepsDown(t *testing.T) {
	c, leader := three(t)
	c.begun(leader, 2)
	stop := c.renewing(leader, true)
	c.sent(leader, time.Second)
	stop()
	for _, n := range c.nodes {
		if n != leader {
			n.stop()
		}
	}
	c.until("the leader steps down", func() bool { return !leader.raft.IsLeader() })
}

// A grant is contact with the leader.
func TestAGrantIsAHeartbeat(t *testing.T) {
	c, leader := three(t)
	f := c.follower(leader)
	contacts := 0
	c.until("grants are contact with the leader", func() bool {
		begun := time.Now()
		f.raft.Follow(leader.name, f.raft.Term())
		if contacts++; f.raft.raft.LastContact().Before(begun) {
			contacts = 0 // or it knows no leader just now
		}
		return contacts == 5
	})
}

// A grant prolongs what a follower knows, and teaches it nothing.
func TestWhatAGrantIsNotAHeartbeatOf(t *testing.T) {
	c, leader := three(t)
	f := c.follower(leader)
	term := f.raft.Term()
	var other string
	for name, n := range c.nodes {
		if n != leader && n != f {
			other = name
		}
	}
	f.raft.Follow(leader.name, term+1)
	f.raft.Follow(leader.name, term-1)
	f.raft.Follow(leader.name, 0)
	f.raft.Follow(other, term)
	if f.raft.Term() != term || f.raft.Leader() != leader.name {
		t.Errorf("in term %d it followed %s; now term %d and %s", term, leader.name, f.raft.Term(), f.raft.Leader())
	}
	leader.raft.Follow(f.name, term)
	if !leader.raft.IsLeader() {
		t.Error("a leader follows")
	}
	for _, n := range c.nodes {
		if n != f {
			n.stop()
		}
	}
	c.until("nobody leads", func() bool { return f.raft.Leader() == "" })
	f.raft.Follow(leader.name, f.raft.Term())
	if got := f.raft.Leader(); got != "" {
		t.Errorf("a late grant makes %s the leader again", got)
	}
}

// A node begins with Raft timers of the gate and renewals of the address lifetime (package node), and learns the cluster's timing then.
func TestHeartbeatsAreLeftOutByTheTimingInForce(t *testing.T) {
	c := newCluster(t)
	gate, err := lease.Derive(lease.LAN, lease.Gate, lease.Overrides{})
	c.must(err)
	c.timing.Heartbeat, c.timing.Election, c.timing.LeaderLease = gate.Heartbeat, gate.Election, gate.LeaderLease
	tr := c.form().raft.trans
	waits := func() time.Duration {
		last := beat{begun: time.Now(), quiet: true}
		return tr.due(last).Sub(last.begun)
	}
	if got := waits(); got > tr.every() {
		t.Errorf("a heartbeat waits %v for a renewal, which comes each %v", got, c.timing.Renew)
	}
	if _, err := tr.r.Retime(gate); err != nil {
		t.Fatal(err)
	}
	if got := waits(); got <= gate.Renew || got >= gate.Heartbeat {
		t.Errorf("a heartbeat waits %v for a renewal that comes each %v, with a timeout of %v", got, gate.Renew, gate.Heartbeat)
	}
}

func TestQuietFor(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct{ timeout, renew, want time.Duration }{
		{150 * ms, 100 * ms, 125 * ms},
		{250 * ms, 200 * ms, 250*ms - 250*ms/6},
		{1500 * ms, 1000 * ms, 1250 * ms},
		{150 * ms, 121 * ms, 0}, // a renewal that is a little late would cost the leadership
		{150 * ms, 1000 * ms, 0},
	} {
		got := quietFor(c.timeout, c.renew)
		if got != c.want || got >= c.timeout || got > 0 && got <= c.renew {
			t.Errorf("timeout %v, renewals every %v: quiet for %v, want %v", c.timeout, c.renew, got, c.want)
		}
	}
	for _, p := range lease.Profiles {
		for _, l := range lease.Layers {
			timing, err := lease.Derive(p, l, lease.Overrides{})
			if err != nil || !Quiet(timing) {
				t.Errorf("%s with %s needs heartbeats (%v)", p, l, err)
			}
		}
	}
}
