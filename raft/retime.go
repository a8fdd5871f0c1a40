package raft

import (
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
	// One that is somewhat shorter only steps down sooner.
	return running <= t.LeaderLease && t.LeaderLease <= 2*running, r.raft.ReloadConfig(rc)
}
