package node

import (
	"sync"
	"time"
)

// stages are when an agent that starts got how far. Until it may act only what is left of its predecessor's lease keeps
// what runs here, so a slow start shows as an outage; one line of the log says where the time went.
type stages struct {
	begun time.Time

	mu      sync.Mutex
	running time.Time // Open has returned, the loops begin
	leader  time.Time // Raft, or the hint, says who leads
	lease   time.Time // the first grant
	told    bool
}

// reach notes the first time that a stage is reached.
func (s *stages) reach(stage *time.Time, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stage.IsZero() {
		*stage = now
	}
}

// started logs, once, that this process may act: it has a lease, and a state that is new enough for it.
func (r *renewer) started(applied uint64) {
	s := &r.start
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told || s.lease.IsZero() {
		return
	}
	if up, _ := r.caughtUp(applied); !up {
		return
	}
	s.told = true
	at := func(t time.Time) time.Duration { return t.Sub(s.begun).Round(100 * time.Microsecond) }
	r.n.log.Info("this agent may act", "opened", at(s.running), "leader", at(s.leader), "lease", at(s.lease), "caught_up", at(r.n.clock()))
}
