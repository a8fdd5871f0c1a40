package raft

import (
	"slices"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"
)

// begun collects when heartbeats to each follower began, by what the leader notes of those that were answered.
func (c *cluster) begun(leader *node, enough int) map[hraft.ServerID][]time.Time {
	c.t.Helper()
	all := map[hraft.ServerID][]time.Time{}
	tr := leader.raft.trans
	c.until("heartbeats are answered", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		done := len(tr.beats) == len(c.nodes)-1
		for peer, last := range tr.beats {
			if last.term == leader.raft.Term() && !slices.Contains(all[peer], last.begun) {
				all[peer] = append(all[peer], last.begun)
			}
			done = done && len(all[peer]) >= enough
		}
		return done
	})
	return all
}

// A leader at rest says that it leads as often as followers need, and not as often as the library would: that was the larger part of
// what a cluster at rest used of the CPU.
func TestHeartbeatsArePaced(t *testing.T) {
	c, leader := three(t)
	timeout, every := leader.raft.cfg.Timing.Heartbeat, leader.raft.trans.every()
	tr := leader.raft.trans
	c.begun(leader, 2)
	tr.mu.Lock() // as after a failure: the next one is sent when the library wants to, between those to others
	delete(tr.beats, hraft.ServerID(c.follower(leader).name))
	tr.mu.Unlock()
	var apart []time.Duration
	all := c.begun(leader, 20)
	for peer, begun := range all {
		var gaps []time.Duration
		for i := range begun[1:] {
			gaps = append(gaps, begun[i+1].Sub(begun[i]))
		}
		slices.Sort(gaps)
		m := gaps[len(gaps)/2]
		t.Logf("%s: timeout %v, interval %v: between two heartbeats %v to %v, median %v", peer, timeout, every, gaps[0], gaps[len(gaps)-1], m)
		if m < every*9/10 {
			t.Errorf("heartbeats to %s are %v apart", peer, m)
		}
		if m > timeout/2 {
			t.Errorf("heartbeats to %s are %v apart: a lost one costs the leadership", peer, m)
		}
		for other, theirs := range all {
			for _, at := range begun {
				if other != peer {
					apart = append(apart, nearest(at, theirs))
				}
			}
		}
	}
	slices.Sort(apart)
	m := apart[len(apart)/2]
	t.Logf("a heartbeat is %v from the other follower's", m)
	if m > every/10 {
		t.Errorf("heartbeats to two followers are %v apart: each of them wakes the leader up", m)
	}
}

// nearest is how far the nearest of all is.
func nearest(at time.Time, all []time.Time) time.Duration {
	least := time.Hour
	for _, x := range all {
		least = min(least, at.Sub(x).Abs())
	}
	return least
}

// Both sides of a heartbeat can tell that this process is awake.
func TestBeat(t *testing.T) {
	c, leader := three(t)
	c.begun(leader, 2)
	for name, n := range c.nodes {
		var last time.Time
		var gaps []time.Duration
		for range 12 {
			select {
			case <-n.raft.Beat():
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: no beat", name)
			}
			now := time.Now()
			gaps = append(gaps, now.Sub(last))
			last = now
		}
		slices.Sort(gaps)
		every := leader.raft.trans.every()
		if m := gaps[len(gaps)/2]; m > 2*every {
			t.Errorf("%s: beats are %v apart, wanted %v", name, m, every)
		}
	}
}

func TestInterval(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct{ timeout, renew, want time.Duration }{
		{150 * ms, 100 * ms, 49 * ms},                      // two in one renewal
		{45 * ms, 40 * ms, 39200 * time.Microsecond / 3},   // three
		{1500 * ms, 1000 * ms, 490 * ms},                   // two
		{250 * ms, 200 * ms, 250 * ms / beatsPerTimeout},   // neither two nor three fit: as rarely as may be
		{1500 * ms, 100 * ms, 1500 * ms / beatsPerTimeout}, // more than one renewal in between
	} {
		if got := interval(c.timeout, c.renew); got != c.want || got > c.timeout/beatsPerTimeout {
			t.Errorf("timeout %v, renewals every %v: heartbeats every %v, want %v", c.timeout, c.renew, got, c.want)
		}
	}
}
