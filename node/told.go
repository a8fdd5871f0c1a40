package node

import (
	"errors"

	"hacluster/placement"
	"hacluster/raft"
)

// errTellAll refuses a renewal that leaves its report out, because this leader does not have it. It is sent by its text.
var errTellAll = errors.New("this leader does not have the report that has not changed: send it")

// told is who has which version of this node's report. A leader begins each term without reports.
type told struct {
	leader  string
	term    uint64
	version uint64 // 0: none
}

// compose makes a renewal; the report is left out when the leader has it. The caller holds mu.
func (r *renewer) compose(seq uint64, leader string) renewal {
	m := renewal{Seq: seq, Boot: r.boot, Version: r.version, Report: r.report, Ending: r.ending, Term: r.n.raft.Term()}
	m.Echo = r.holder.Echo(leader, m.Term)                            // its Confirm came before mu, and so before Term
	m.Quiet = raft.Quiet(r.n.timing()) && r.n.raft.Leader() == leader // else Raft has yet to hear of it
	if has := (told{leader, r.n.raft.Term(), r.version}); r.version > 0 && r.told == has && leader != r.n.name {
		m.Same, m.Applied, m.Report = true, r.report.Applied, placement.Report{}
	}
	return m
}

// heardBack notes which version of the report a leader says that it has; one that says nothing is of a version of had that
// needs the whole report each time.
func (r *renewer) heardBack(leader string, term, version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := (told{leader, term, version}); version > 0 && (r.told.leader != leader || r.told.term != term || version > r.told.version) {
		r.told = now
	}
}

// tellAll sends the whole report at once.
func (r *renewer) tellAll() {
	r.mu.Lock()
	r.told = told{}
	r.mu.Unlock()
	r.kick()
}

// unsaid puts back what a renewal left out; an error where this leader does not have it. The caller holds mu.
func (l *leader) unsaid(m *renewal, old reported, ok bool) error {
	if !m.Same {
		return nil
	}
	if !ok || old.boot != m.Boot || old.version != m.Version {
		return errTellAll
	}
	m.Report = old.report
	m.Report.Applied = m.Applied
	return nil
}

// says reports whether a renewal tells nothing new. The version that its process counts is asked first: to compare whole
// reports ten times a second was a tenth of a leader's work at rest.
func (old reported) says(m renewal) bool {
	if m.Version > 0 && old.boot == m.Boot && old.version == m.Version {
		return true
	}
	return old.report.Same(m.Report)
}
