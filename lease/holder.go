package lease

import (
	"maps"
	"time"
)

// Grant is the leader's answer to a renewal: the node may go on acting for what Held lists, until t0 + D of the request
// with that Seq. It is sent only after a quorum has confirmed, later than the request, that the leader still leads.
type Grant struct {
	Seq    uint64            `json:"seq"`
	Leader string            `json:"leader"`
	Index  uint64            `json:"index"` // Raft index up to which Held is true
	Held   map[string]uint64 `json:"held"`  // group -> epoch
	// Duration is the D that the leader counts with. The node uses the shorter of this and its own, so that a change of the
	// timing is safe whoever learns of it first. 0: the node's own.
	Duration time.Duration `json:"duration_ns"`
	// Voters are those that the leader counts, sorted: gates are armed only by a grant that counts as the node does.
	Voters []string `json:"voters,omitempty"`
	// Term is the leader's, in which it granted: who gets it need not hear a heartbeat as well. 0: not told.
	Term uint64 `json:"term,omitempty"`
	// Next is how long after this grant the leader wants the next renewal, at the latest after the interval of the timing. 0: not told.
	Next time.Duration `json:"next_ns,omitempty"`
}

// maxPending bounds the renewals that are remembered while unanswered.
const maxPending = 64

// Holder is a node's half of its lease. The zero value holds nothing. Not safe for concurrent use. Instants are the
// node's own boot-time clock.
type Holder struct {
	Duration time.Duration // D; required
	seq      uint64
	pending  map[uint64]time.Time // t0 of renewals sent and not answered
	t0       time.Time            // of the newest confirmed renewal
	grant    Grant
	held     bool   // a grant was received and not dropped since
	first    uint64 // Index of the first grant of this process
	started  bool
}

// Send notes a renewal that is about to be sent and returns its sequence number. now must be read before the first byte
// leaves; a later instant would let the lease outlive what the leader counts.
func (h *Holder) Send(now time.Time) uint64 {
	h.seq++
	if h.pending == nil {
		h.pending = map[uint64]time.Time{}
	}
	h.pending[h.seq] = now
	delete(h.pending, h.seq-maxPending)
	return h.seq
}

// Confirm takes the leader's answer. It is false for an answer to nothing, to something older than what is already
// confirmed, or that arrives when its lease has ended: such an answer changes nothing.
func (h *Holder) Confirm(g Grant, now time.Time) bool {
	t0, ok := h.pending[g.Seq]
	if !ok || now.Before(t0) || (h.held && g.Seq <= h.grant.Seq) {
		return false
	}
	// order-free: deletes every one that is old enough
	for seq := range h.pending {
		if seq <= g.Seq {
			delete(h.pending, seq)
		}
	}
	if g.Duration <= 0 || g.Duration > h.Duration {
		g.Duration = h.Duration
	}
	if !now.Before(t0.Add(g.Duration)) {
		return false
	}
	g.Held = maps.Clone(g.Held)
	if !h.started {
		h.first, h.started = g.Index, true
	}
	h.t0, h.grant, h.held = t0, g, true
	return true
}

// Drop forgets every lease and every request under way: answers to them no longer count.
func (h *Holder) Drop() {
	h.pending, h.held, h.grant = nil, false, Grant{Seq: h.seq}
}

// Until is when the lease ends; the zero time when there is none. It may lie in the past.
func (h *Holder) Until() time.Time {
	if !h.held {
		return time.Time{}
	}
	return h.t0.Add(min(h.Duration, h.grant.Duration))
}

// Leader is who granted the newest lease.
func (h *Holder) Leader() string { return h.grant.Leader }

// Echo is the number of the newest grant that this process has of that leader in that term, for Echoes; zero: none. What was only asked for, or
// dropped, is no grant.
func (h *Holder) Echo(leader string, term uint64) uint64 {
	if !h.held || term == 0 || h.grant.Leader != leader || h.grant.Term != term {
		return 0
	}
	return h.grant.Seq
}

// UntilFor is until when the node may act for an epoch of a group that was given to it at the Raft index assigned, where
// applied is the index up to which its own copy of the state goes.
//
// A grant that knows of the assignment and does not list the epoch has revoked it. And a process that has just started
// may have a copy from before its predecessor promised an epoch away: it may act only when it has caught up with what the
// leader knew at the first grant, which includes everything such a promise was an answer to.
func (h *Holder) UntilFor(group string, epoch, assigned, applied uint64) (time.Time, bool) {
	if !h.held || applied < h.first || (h.grant.Index >= assigned && h.grant.Held[group] != epoch) {
		return time.Time{}, false
	}
	return h.Until(), true
}

// CaughtUp says that this process has had a grant, and that a copy of the state that goes up to applied has what the
// leader knew then: only such a copy can say that this node owns nothing.
func (h *Holder) CaughtUp(applied uint64) bool { return h.started && applied >= h.first }

// KernelLifetime is the lifetime, in whole seconds, that may be given to an address now so that the kernel removes it no
// later than until (plus KernelSlack): the remaining time rounded down. Zero: too little is left, do not arm.
func KernelLifetime(now, until time.Time) time.Duration {
	left := until.Sub(now)
	if left < time.Second {
		return 0
	}
	return left.Truncate(time.Second)
}

// Ledger is the leader's half: whom it confirmed when, and what it is about to give away. Made anew at each election;
// not safe for concurrent use. Instants are the leader's boot-time clock.
type Ledger struct {
	since     time.Time
	confirmed map[string]time.Time
	withheld  map[string]uint64
}

// NewLedger starts at the instant after the barrier of an election. Every grant of an earlier leader was verified by a
// quorum that elected this one later, so its t0 is older than since.
func NewLedger(since time.Time) *Ledger {
	return &Ledger{since: since, confirmed: map[string]time.Time{}, withheld: map[string]uint64{}}
}

// Since is the instant the ledger was made for.
func (l *Ledger) Since() time.Time { return l.since }

// Confirm notes that a renewal is confirmed at now, which must be read after the quorum's answer and before the grant is
// sent, and returns what the grant may list: what the node owns, without what is being taken from it.
func (l *Ledger) Confirm(node string, owned map[string]uint64, now time.Time) map[string]uint64 {
	if now.After(l.confirmed[node]) {
		l.confirmed[node] = now
	}
	held := make(map[string]uint64, len(owned))
	// order-free: fills another map
	for group, epoch := range owned {
		if w, ok := l.withheld[group]; !ok || w != epoch {
			held[group] = epoch
		}
	}
	return held
}

// Confirmed is when the node was confirmed last, zero: never by this leader.
func (l *Ledger) Confirmed(node string) time.Time { return l.confirmed[node] }

// Withhold must be called when a takeover by expiry has been decided and before it is proposed, in the same critical
// section that read Confirmed: from then on no grant covers that epoch, however the proposal ends. Otherwise a renewal
// confirmed while the proposal is under way would let the old owner act beside the new one.
func (l *Ledger) Withhold(group string, epoch uint64) { l.withheld[group] = epoch }

// Withheld lists what was withheld, group -> epoch, for the next decision: a takeover whose proposal was lost must be
// proposed again, or nobody would ever hold the group.
func (l *Ledger) Withheld() map[string]uint64 { return maps.Clone(l.withheld) }
