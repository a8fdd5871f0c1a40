package node

import (
	"sync"
	"sync/atomic"
	"time"

	"hacluster/placement"
)

// laps measures this node's own part in changes of owner, by its own clock: how long knowing of a failure, giving a group up
// and taking one took. It goes with the report that is sent anyway, for people and benchmarks (placement.Took); nothing
// waits for it and nothing is decided by it. The zero value is ready.
type laps struct {
	newest atomic.Uint64 // event

	mu   sync.Mutex
	live bool // this process has caught up with what was decided before it: only then is an entry news
	of   map[string]*lap
}

// lap is the part in the newest change of one group that concerned this node.
type lap struct {
	placement.Lap
	gives  bool      // the group was to be given up; else taken
	begun  time.Time // when the decision was seen here
	failed time.Time // the failure that Detected belongs to
}

// seen notes the event of an entry that was applied just now.
func (l *laps) seen(e placement.Event, self string, now time.Time) {
	gives := e.Kind == string(placement.CmdRelease) && e.From == self
	if !gives && !(e.Moves() && e.To == self) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live {
		l.of[e.Group] = &lap{Lap: placement.Lap{Epoch: e.Epoch}, gives: gives, begun: now}
	}
}

// begin has the entries count from now on.
func (l *laps) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.live {
		l.live, l.of = true, map[string]*lap{}
	}
}

// lapse puts this node's laps into the report it is about to send.
func (s *slots) lapse(report placement.Report, st placement.State, self string) {
	s.laps.mu.Lock()
	defer s.laps.mu.Unlock()
	if !s.laps.live {
		return
	}
	for _, g := range st.Policy.Groups {
		r, ok := report.Groups[g.Name]
		l := s.laps.of[g.Name]
		if !ok || l == nil && r.Trouble == placement.TroubleNone {
			continue
		}
		if l == nil {
			l = &lap{}
			s.laps.of[g.Name] = l
		}
		gs, now := st.Groups[g.Name], s.clock()
		s.detected(l, g.Name, r, now)
		switch {
		case l.gives && l.Released == 0 && r.Released >= l.Epoch:
			l.Released = now.Sub(l.begun)
		case !l.gives && l.Acquired == 0 && gs.Owner == self && gs.Epoch == l.Epoch && !l.begun.IsZero() && allOnline(g, gs, r):
			s.acquired(l, g.Name, now)
		}
		r.Lap = l.Lap
		report.Groups[g.Name] = r
	}
}

// detected is how long it took to know of the failure that is reported.
func (s *slots) detected(l *lap, group string, r placement.GroupReport, now time.Time) {
	if r.Trouble == placement.TroubleNone {
		l.Detected, l.failed = 0, time.Time{}
		return
	}
	sl := s.live[key{group, r.Resource}]
	if sl == nil {
		return
	}
	if sign, failed := sl.signs(); !failed.Equal(l.failed) && !sign.IsZero() {
		l.failed, l.Detected = failed, max(1, now.Sub(sign))
	}
}

// acquired divides the time since the assignment at the moments that the addresses of the group noted.
func (s *slots) acquired(l *lap, group string, now time.Time) {
	open, told := l.begun, time.Time{}
	l.Tickled = 0
	for k, sl := range s.live {
		if a, ok := sl.drv.(*address); ok && k.group == group {
			l.Tickled += a.clients(l.Epoch)
			if at, announced := a.moments(); at.After(open) {
				open, told = at, announced
			}
		}
	}
	if told.Before(open) { // no address of this group was added for the epoch, or it could not be announced
		l.Acquired = now.Sub(l.begun)
		return
	}
	l.Acquired, l.Announced, l.Online = open.Sub(l.begun), told.Sub(open), now.Sub(told)
}

// allOnline says that all of a group runs where it is owned.
func allOnline(g placement.GroupPolicy, gs placement.GroupState, r placement.GroupReport) bool {
	for _, res := range g.Resources {
		if !gs.Resources[res.Name] && r.Resources[res.Name].State != placement.StateOnline {
			return false
		}
	}
	return true
}

// suspect notes a sign of what may come to a failure. The caller holds mu.
func (s *slot) suspect(at time.Time) {
	if s.sign.IsZero() {
		s.sign = at
	}
}

// signs are the first sign of the newest failure, and when it was known for one.
func (s *slot) signs() (sign, failed time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sign, s.failedAt
}
