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

// loadTiming reads the timing that was in force when this node last ran.
func (n *Node) loadTiming() (lease.Timing, error) {
	text, err := os.ReadFile(filepath.Join(n.cfg.DataDir, timingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return lease.Derive(lease.LAN, lease.Address, lease.Overrides{})
	}
	if err != nil {
		return lease.Timing{}, err
	}
	var t lease.Timing
	if err := json.Unmarshal(text, &t); err != nil || t.Validate() != nil {
		n.log.Warn("the kept timing cannot be used; taking the default", "file", timingFile, "err", errors.Join(err, t.Validate()))
		return lease.Derive(lease.LAN, lease.Address, lease.Overrides{})
	}
	return t, nil
}

// follow takes up the timing of a new configuration.
func (n *Node) follow(t lease.Timing) {
	if t == n.timing() {
		return
	}
	n.log.Info("timing changes", "profile", t.Profile, "lease", t.Duration, "renew", t.Renew)
	n.now.Store(&t)
	n.renewer.retime(t)
	settled, err := n.raft.Retime(t)
	n.logError("timing of raft", err)
	if !settled {
		n.log.Warn("part of the new timing takes effect at the next start of had: restart it on one node after the other", "profile", t.Profile)
	}
	text, err := json.MarshalIndent(t, "", "  ")
	if err == nil {
		err = pki.WriteFile(filepath.Join(n.cfg.DataDir, timingFile), append(text, '\n'))
	}
	n.logError("keeping the timing", err)
}
