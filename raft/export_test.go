package raft

import hraft "github.com/hashicorp/raft"

// reloadTrailing changes how many entries stay behind a snapshot.
func reloadTrailing(r *Raft, n uint64) hraft.ReloadableConfig {
	c := r.raft.ReloadableConfig()
	c.TrailingLogs = n
	return c
}
