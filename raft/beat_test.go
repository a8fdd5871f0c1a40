package raft

import (
	"slices"
	"testing"
	"time"

	hraft "github.com/hashicorp/raft"
)

// A leader at rest says that it leads as often as followers need, and not as often as the library would: that was the larger part of
// what a cluster at rest used of the CPU.
func TestHeartbeatsArePaced(t *testing.T) {
	c, leader := three(t)
	peer := hraft.ServerID(c.follower(leader).name)
	timeout := leader.raft.cfg.Timing.Heartbeat
	var begun []time.Time
	tr := leader.raft.trans
	c.until("heartbeats are answered", func() bool {
		tr.mu.Lock()
		last := tr.beats[peer]
		tr.mu.Unlock()
		if last.term == leader.raft.Term() && !slices.Contains(begun, last.begun) {
			begun = append(begun, last.begun)
		}
		return len(begun) == 20
	})
	var gaps []time.Duration
	for i := range begun[1:] {
		gaps = append(gaps, begun[i+1].Sub(begun[i]))
	}
	slices.Sort(gaps)
	t.Logf("timeout %v: between two heartbeats %v to %v, median %v", timeout, gaps[0], gaps[len(gaps)-1], gaps[len(gaps)/2])
	if gaps[0] < timeout/beatsPerTimeout {
		t.Errorf("two heartbeats within %v", gaps[0])
	}
	if m := gaps[len(gaps)/2]; m > timeout/2 {
		t.Errorf("heartbeats are %v apart: a lost one costs the leadership", m)
	}
}
