package node

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"hacluster/internal/pki"
	"hacluster/lease"
)

const timingFile = "timing.json"

// firstTiming is what a node runs with until it knows the cluster's. Its Raft timers are those of the shorter layer: the
// library can lengthen them while it runs, and not shorten its leader lease.
func firstTiming() (lease.Timing, error) {
	gate, err := lease.Derive(lease.LAN, lease.Gate, lease.Overrides{})
	if err != nil {
		return gate, err
	}
	return lease.Derive(lease.LAN, lease.Address, lease.Overrides{Heartbeat: gate.Heartbeat, Election: gate.Election, LeaderLease: gate.LeaderLease})
}

// loadTiming reads the timing that was in force when this node last ran.
func (n *Node) loadTiming() (lease.Timing, error) {
	text, err := os.ReadFile(filepath.Join(n.cfg.DataDir, timingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return firstTiming()
	}
	if err != nil {
		return lease.Timing{}, err
	}
	var t lease.Timing
	if err := json.Unmarshal(text, &t); err != nil || t.Validate() != nil {
		n.log.Warn("the kept timing cannot be used; taking the default", "file", timingFile, "err", errors.Join(err, t.Validate()))
		return firstTiming()
	}
	return t, nil
}

// follow takes up the timing of a new configuration. What Raft cannot change while it runs waits for the next start of this
// agent, which the leader brings about where a dead man stands behind it.
func (n *Node) follow(t lease.Timing) {
	if t == n.timing() {
		return
	}
	n.log.Info("timing changes", "profile", t.Profile, "kernel_lease", t.Layer, "lease", t.Duration, "renew", t.Renew)
	n.now.Store(&t)
	n.renewer.retime(t)
	settled, err := n.raft.Retime(t)
	n.logError("timing of raft", err)
	text, err := json.MarshalIndent(t, "", "  ")
	if err == nil {
		err = pki.WriteFile(filepath.Join(n.cfg.DataDir, timingFile), append(text, '\n'))
	}
	n.logError("keeping the timing", err)
	n.unsettled.Store(!settled && err == nil) // a start that would find the old timing mends nothing
	if !settled && !n.guarded {
		n.log.Warn("part of the new timing takes effect at the next start of had: restart it on one node after the other", "profile", t.Profile)
	}
}
