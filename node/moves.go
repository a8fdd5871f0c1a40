package node

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"hacluster/api"
	"hacluster/internal/boottime"
	"hacluster/placement"
)

// maxUntold bounds the finished records that wait for a command to ride on; the oldest go first.
const maxUntold = 256

// moves is where the time of each change of owner goes, as the leader measures it by its own clock: what lies between two
// messages of a node is that node's word (placement.Lap), the rest was underway. It begins anew with each term. Nothing
// waits for it and nothing is decided by it.
type moves struct {
	clock boottime.Clock
	log   *slog.Logger

	mu       sync.Mutex
	of       map[string]*move    // the newest of each group
	triggers map[string]*trigger // what the next proposal about a group will be about
	deciding time.Time           // when the newest decision began
	untold   []placement.Timed   // finished, and not in the history yet
}

// trigger is what a decision follows from.
type trigger struct {
	rule     placement.Rule
	at       time.Time // when the leader heard of it
	detected time.Duration
}

// move is one change of owner.
type move struct {
	kind     placement.CommandKind // of the newest command of it
	rule     placement.Rule
	from, to string
	epoch    uint64 // that is given up; once handed on, that is given
	seq      uint64 // of its event
	heard    time.Time
	proposed time.Time
	applied  time.Time // when the newest command of it was, here; zero: not yet
	took     placement.Took
	done     bool
}

// forget begins a term. What was finished in an earlier one may still go into the history.
func (m *moves) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of, m.triggers = map[string]*move{}, map[string]*trigger{}
}

// begin notes when a decision begins.
func (m *moves) begin(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deciding = now
}

// because notes what the next proposal about a group will follow from.
func (m *moves) because(group string, rule placement.Rule, detected time.Duration, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.triggers != nil {
		m.triggers[group] = &trigger{rule, at, detected}
	}
}

// heard takes the news from a changed report.
func (m *moves) heard(node string, old, report placement.Report) {
	now := m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		return
	}
	for group, r := range report.Groups {
		if r.Trouble != placement.TroubleNone && (old.Groups[group].Trouble != r.Trouble || old.Groups[group].Lap.Detected != r.Lap.Detected) {
			m.triggers[group] = &trigger{placement.RuleFailover, now, r.Lap.Detected}
		}
		mv := m.of[group]
		switch {
		case mv == nil || mv.done:
		case mv.kind == placement.CmdRelease && node == mv.from && r.Released >= mv.epoch && mv.heard.IsZero():
			mv.heard = now
			mv.took.Released = mv.leg(now, r.Lap.Epoch, r.Lap.Released)
		case mv.kind != placement.CmdRelease && node == mv.to && r.Lap.Epoch == mv.epoch && r.Lap.Acquired > 0:
			mv.leg(now, r.Lap.Epoch, r.Lap.Acquired+r.Lap.Announced+r.Lap.Online)
			mv.took.Acquired, mv.took.Announced, mv.took.Online, mv.took.Tickled = r.Lap.Acquired, r.Lap.Announced, r.Lap.Online, r.Lap.Tickled
			m.finish(group, mv)
		}
	}
}

// leg divides the time from a commit to the report of what a node did about it: what the node measured, and what was
// underway. A node whose word is not there, or cannot be, is given the whole.
func (mv *move) leg(now time.Time, epoch uint64, told time.Duration) time.Duration {
	var whole time.Duration
	if !mv.applied.IsZero() {
		whole = now.Sub(mv.applied)
	}
	if epoch != mv.epoch || told <= 0 || mv.applied.IsZero() {
		return max(whole, told)
	}
	mv.took.Underway += max(0, whole-told)
	return told
}

// finish keeps the record of a move for the history. The caller holds mu.
func (m *moves) finish(group string, mv *move) {
	mv.done = true
	m.untold = append(m.untold, placement.Timed{Seq: mv.seq, Took: mv.took})
	m.untold = slices.Clone(m.untold[max(0, len(m.untold)-maxUntold):])
	t := mv.took
	m.log.Info("a change of owner is done", "group", group, "from", mv.from, "to", mv.to, "epoch", mv.epoch, "rule", mv.rule,
		"detected", t.Detected, "decided", t.Decided, "committed", t.Committed, "released", t.Released, "handed_on", t.HandedOn,
		"acquired", t.Acquired, "announced", t.Announced, "online", t.Online, "underway", t.Underway, "tickled", t.Tickled)
}

// proposing completes a command that is about to be proposed; failed takes back what rides on it when it was not applied.
func (m *moves) proposing(c *placement.Command, st placement.State) (failed func()) {
	now := m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		return func() {}
	}
	switch c.Kind {
	case placement.CmdAssign, placement.CmdRelease, placement.CmdTakeover:
		mv := &move{kind: c.Kind, rule: c.Reason.Rule, from: st.Groups[c.Group].Owner, epoch: c.Epoch, proposed: now}
		at := m.deciding
		if t := m.triggers[c.Group]; t != nil && t.rule == c.Reason.Rule {
			at, mv.took.Detected = t.at, t.detected
		}
		delete(m.triggers, c.Group)
		mv.took.Decided = max(1, now.Sub(at))
		m.of[c.Group], c.Took = mv, mv.took
	case placement.CmdReleased:
		mv := m.of[c.Group]
		if mv == nil || mv.done || mv.epoch != c.Epoch {
			mv = &move{rule: c.Reason.Rule, from: st.Groups[c.Group].Owner, epoch: c.Epoch}
			m.of[c.Group] = mv
		}
		if mv.kind, mv.proposed, mv.applied = c.Kind, now, (time.Time{}); mv.heard.IsZero() {
			mv.heard = m.deciding
		}
		c.Took = mv.took
	}
	riding := m.untold[:min(len(m.untold), placement.MaxTimed)]
	c.Timed, m.untold = riding, m.untold[len(riding):]
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.untold = slices.Concat(riding, m.untold)
	}
}

// seen notes the event of an entry that was applied just now; on the leader that is the moment at which it is committed.
func (m *moves) seen(e placement.Event) {
	now := m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	mv := m.of[e.Group]
	if mv == nil || mv.done || e.Kind != string(mv.kind) || !mv.applied.IsZero() {
		return
	}
	mv.seq, mv.applied = e.Seq, now
	switch mv.kind {
	case placement.CmdRelease:
		mv.took.Committed = now.Sub(mv.proposed)
		return
	case placement.CmdReleased:
		mv.took.HandedOn = now.Sub(mv.heard)
	default:
		mv.took.Committed = now.Sub(mv.proposed)
	}
	if mv.epoch, mv.to = e.Epoch, e.To; e.To == "" {
		m.finish(e.Group, mv)
	}
}

// lend adds to the word of a new owner what it measured as the leader that decided for itself: such a leader hands leadership on as soon
// as it owns, and the next one cannot know it.
func (m *moves) lend(report placement.Report, self string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for group, r := range report.Groups {
		if mv := m.of[group]; mv != nil && mv.to == self && mv.epoch == r.Lap.Epoch && !mv.applied.IsZero() && r.Lap.Acquired > 0 {
			r.Lap.Committed, r.Lap.HandedOn = mv.took.Committed, mv.took.HandedOn
			report.Groups[group] = r
		}
	}
}

// status is a recorded change of owner and where its time went, as far as it is known by now. What the new owner says counts
// also where an earlier leader began to measure.
func (m *moves) status(e placement.Event, lap placement.Lap) *api.Move {
	m.mu.Lock()
	defer m.mu.Unlock()
	took := e.Took
	if mv := m.of[e.Group]; mv != nil && mv.seq == e.Seq {
		took = mv.took
	}
	if took.Acquired == 0 && lap.Epoch == e.Epoch {
		took.Acquired, took.Announced, took.Online, took.Tickled = lap.Acquired, lap.Announced, lap.Online, lap.Tickled
		took.Committed, took.HandedOn = max(took.Committed, lap.Committed), max(took.HandedOn, lap.HandedOn)
	}
	out := api.NewMove(e, took, e.To == "" || took.Acquired > 0)
	return &out
}

// seenEntry tells who measures of the newest event, once.
func (n *Node) seenEntry(st placement.State) {
	if n.slots == nil || len(st.Events) == 0 || st.Seq == n.slots.laps.newest.Swap(st.Seq) {
		return
	}
	e := st.Events[len(st.Events)-1]
	n.slots.laps.seen(e, n.name, n.clock())
	n.leader.moves.seen(e)
}

// newestMoves are the newest changes of owner of each group, as far as the history goes.
func newestMoves(st placement.State) map[string]placement.Event {
	out := map[string]placement.Event{}
	for _, e := range slices.Backward(st.Events) {
		if e.Moves() && out[e.Group].Seq == 0 {
			out[e.Group] = e
		}
	}
	return out
}

// lastContact is when this leader last heard of a node, or could have.
func lastContact(v placement.View, node string, now time.Time) time.Time {
	if lapse, ok := v.Lapsed[node]; ok {
		return now.Add(-lapse.Silent)
	}
	if at := v.Nodes[node].Confirmed; at.After(v.LeaderSince) {
		return at
	}
	return v.LeaderSince
}
