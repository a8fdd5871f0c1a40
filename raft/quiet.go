package raft

import (
	"time"

	hraft "github.com/hashicorp/raft"

	"hacluster/lease"
)

// A renewal of a lease and its grant say all that a heartbeat and its answer say: the follower was in the leader's term when it asked, and
// the leader led in it when it granted. So while leases are renewed no heartbeats are sent, which were a fifth of what a cluster at rest
// used of the processor: the leader takes a renewal for the answer to the next heartbeat (Heard), the follower a grant for a heartbeat
// (Follow). Where renewals stay away, heartbeats begin again sooner than anybody stands for election.

// quietFor is how long after a renewal the next one is waited for before a heartbeat is sent; zero: renewals come too rarely to stand for
// heartbeats.
func quietFor(timeout, renew time.Duration) time.Duration {
	if 5*renew > 4*timeout {
		return 0
	}
	return min(renew+renew/4, timeout-timeout/6)
}

// Quiet says that by this timing leases are renewed so often that a leader needs no heartbeats.
func Quiet(t lease.Timing) bool { return quietFor(t.Heartbeat, t.Renew) > 0 }

// renews is the time between two renewals by the timing in force.
func (r *Raft) renews() time.Duration { return time.Duration(r.renew.Load()) }

// Heard is told on the leader that a node, which takes grants for heartbeats (Follow), has renewed its lease while its term was that one,
// and that it is granted.
func (r *Raft) Heard(name string, term uint64) {
	t := r.trans
	id := hraft.ServerID(name)
	t.mu.Lock()
	now := time.Now()
	t.heard[id], t.answered[id] = beat{term: term, begun: now, quiet: true}, now
	wake := t.waker(id)
	t.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default:
	}
	t.beat()
}

// waker wakes the heartbeats to a peer. The caller holds mu.
func (t *transport) waker(id hraft.ServerID) chan struct{} {
	if t.wakers[id] == nil {
		t.wakers[id] = make(chan struct{}, 1)
	}
	return t.wakers[id]
}

// Follow is told on a follower that a leader has granted a lease in a term, and takes it for a heartbeat: only of the leader that is known,
// and of the present term.
func (r *Raft) Follow(leader string, term uint64) {
	if term == 0 || leader == r.cfg.Name || r.raft.State() != hraft.Follower || r.Term() != term || r.Leader() != leader {
		return
	}
	addr := r.trans.EncodePeer(hraft.ServerID(leader), hraft.ServerAddress(leader))
	r.trans.handle(hraft.RPC{
		Command:  &hraft.AppendEntriesRequest{RPCHeader: hraft.RPCHeader{ProtocolVersion: hraft.ProtocolVersionMax, ID: []byte(leader), Addr: addr}, Term: term},
		RespChan: make(chan hraft.RPCResponse, 1),
	})
}

// recall has the library come back for the heartbeats after those that renewals stood for as soon as it is done with them, and wait for
// the next renewals here, instead of by timers of its own, one for each peer, that only wake this process. A leader that is asked to prove
// itself asks everybody at once: one question does for all peers, and nobody waits for the proof.
func (t *transport) recall() {
	now := time.Now()
	t.mu.Lock()
	due := now.Sub(t.recalled) >= t.r.renews()/4 && t.unheard < maxUnheard
	if due {
		t.recalled = now
		t.unheard++
	}
	t.mu.Unlock()
	if due {
		t.r.raft.VerifyLeader()
	}
}

// maxUnheard is how many questions of recall may lie with a library that stands still, as it does while its disk does: it holds 64, and
// then who asks stands still with it.
const maxUnheard = 8

// recalls is told that the library has come for a heartbeat to a peer. Sooner than its timers can ring it comes only where it was asked.
func (t *transport) recalls(id hraft.ServerID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := t.beats[id]; last.quiet && time.Since(last.begun) < t.timeout()/libraryBeats {
		t.unheard = 0
	}
}

// libraryBeats is in how many parts the library divides the timeout for its timers, which ring after one to two of them.
const libraryBeats = 10
