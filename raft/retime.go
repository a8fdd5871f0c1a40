package raft

import (
	"time"

	hraft "github.com/hashicorp/raft"

	"hacluster/lease"
)

// Retime takes up other timers while running. The library cannot change its leader lease while it runs, and refuses a
// heartbeat below it, so settled is false when a part takes effect only at the next Open.
func (r *Raft) Retime(t lease.Timing) (settled bool, err error) {
	running := r.cfg.Timing.LeaderLease
	rc := hraft.ReloadableConfig{
		TrailingLogs:      trailingLogs,
		SnapshotInterval:  snapshotInterval,
		SnapshotThreshold: snapshotThreshold,
		HeartbeatTimeout:  max(t.Heartbeat, running),
		ElectionTimeout:   max(t.Election, t.Heartbeat, running),
	}
	if tooSlow(rc.HeartbeatTimeout, running) {
		r.mu.Lock() // Close must not begin to wait while this begins
		if r.ctx.Err() == nil {
			r.hasten.Do(func() { r.wg.Go(r.hastenBeats) })
		}
		r.mu.Unlock()
	}
	r.renew.Store(int64(t.Renew))
	// One that is somewhat shorter only steps down sooner.
	return running <= t.LeaderLease && t.LeaderLease <= 2*running, r.raft.ReloadConfig(rc)
}

// tooSlow says that the library's own heartbeats, one in each tenth to fifth of the timeout, come too rarely for a leader lease.
func tooSlow(heartbeat, leaderLease time.Duration) bool { return heartbeat/5 > leaderLease/2 }

// hastenBeats has the library send heartbeats more often than it would by itself: where timers became much longer while it runs, it
// would step down before the next one, because its leader lease is still the short one. A leader that is asked to prove itself
// asks everybody at once.
func (r *Raft) hastenBeats() {
	tick := time.NewTicker(r.cfg.Timing.LeaderLease / 3)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		if r.IsLeader() && tooSlow(r.raft.ReloadableConfig().HeartbeatTimeout, r.cfg.Timing.LeaderLease) {
			r.raft.VerifyLeader()
		}
	}
}
