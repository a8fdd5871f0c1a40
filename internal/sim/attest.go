package sim

import (
	"maps"
	"slices"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// The half of the pulses of voters, and of the leader that asks them, as in package node.

const (
	proofLasts  = 500 * time.Millisecond // from the instant before the question
	attestPause = 20 * time.Millisecond  // between two questions
	attestWait  = 40 * time.Millisecond  // a voter waits so long for its own clock
	deafAfter   = 5 * time.Millisecond   // a timer that rings so late has missed something
)

// voter is what a process knows as a voter.
type voter struct {
	ledger  lease.PulseLedger
	lapsed  [maxNodes]bool // its timer rang, and in time
	set     time.Time      // when it rings next; zero: it is not set
	gen     int
	waiting []func() // questions
}

// loadBars takes up what former processes said, from a file. After a reboot there is none: then nobody is answered for as long as a bar
// lasts.
func (p *proc) loadBars() {
	m := p.m
	if p.w.opt.Weak == WeakPulseBars {
		return
	}
	for node, until := range m.bars { // order-free
		p.voter.ledger.Bar(node, until)
	}
}

// hears takes a pulse; true: it counts.
func (q *proc) hears(from *machine, pulse lease.Pulse) bool {
	v, now := &q.voter, q.m.clock()
	if q.abandoned || now.Before(q.m.mute) {
		return false
	}
	if q.w.opt.Weak == WeakPulseVoter {
		pulse.To = v.ledger.Boot
	}
	if !v.ledger.Hear(from.name, pulse, now) {
		return false
	}
	v.lapsed[from.i] = false
	q.watchPulses()
	return true
}

// watchPulses sets the timer for the next promise that ends.
func (q *proc) watchPulses() {
	v, now := &q.voter, q.m.clock()
	known := map[string]bool{}
	for i, m := range q.w.nodes {
		known[m.name] = v.lapsed[i]
	}
	next := v.ledger.Next(known)
	if next.IsZero() || !v.set.IsZero() && !next.Before(v.set) {
		return
	}
	v.set = next // it may be over already: then it is rung at once
	v.gen++
	gen := v.gen
	q.w.timer(q.m.span(next.Sub(now))+time.Microsecond, &q.actor, func() {
		if v.gen == gen {
			v.set = time.Time{}
			q.promisesEnd(next)
		}
	})
}

// promisesEnd is the timer.
func (q *proc) promisesEnd(due time.Time) {
	v, now := &q.voter, q.m.clock()
	if now.Sub(due) > deafAfter {
		v.ledger.Deaf(now, 2*q.timing.Pulse+time.Millisecond)
		v.lapsed = [maxNodes]bool{}
	} else {
		for _, m := range q.w.nodes {
			if ends, ok := v.ledger.Ends(m.name); ok && !now.Before(ends) {
				v.lapsed[m.i] = true
				q.lead.lapsed(m)
			}
		}
	}
	waiting := v.waiting
	v.waiting = nil
	for _, fn := range waiting {
		fn()
	}
	q.watchPulses()
}

// attest says whether the promise of a node has ended, for this voter too; then the node is barred, and that is on file first.
func (q *proc) attest(node *machine, hold time.Duration) bool {
	v, now := &q.voter, q.m.clock()
	if !v.lapsed[node.i] {
		return false
	}
	if q.w.opt.Weak == WeakPulseNoBar {
		ends, ok := v.ledger.Ends(node.name)
		return ok && !now.Before(ends)
	}
	if !v.ledger.Attest(node.name, now, now.Add(hold)) {
		return false
	}
	q.m.bars = v.ledger.Barred(now)
	return true
}

// asked is a leader's question.
func (q *proc) asked(node *machine, hold time.Duration, reply func(bool)) {
	v := &q.voter
	if _, promised := v.ledger.Ends(node.name); v.lapsed[node.i] || !promised {
		reply(q.attest(node, hold))
		return
	}
	done := false
	end := func(always bool) {
		if done || !always && !v.lapsed[node.i] {
			return
		}
		done = true
		reply(q.attest(node, hold))
	}
	var again func()
	again = func() {
		end(false)
		if !done {
			v.waiting = append(v.waiting, again)
		}
	}
	v.waiting = append(v.waiting, again)
	q.w.timer(attestWait, &q.actor, func() { end(true) })
}

// question is what a leader asks about one node.
type question struct {
	at   time.Time
	hold time.Duration
	yes  map[string]bool
}

// lapsed is called by the leader's own timer, and again while the node stays silent and nothing is proven.
func (l *leader) lapsed(node *machine) {
	p, w := l.p, l.p.w
	if l.ledger == nil || p.raft.role != leading || node == p.m || !p.voter.lapsed[node.i] || l.asking[node.i] || !l.onPulse(node) {
		return
	}
	l.asking[node.i] = true
	w.timer(p.m.span(attestPause), &p.actor, func() {
		l.asking[node.i] = false
		l.lapsed(node)
	})
	if q, now := l.proofs[node.i], p.m.clock(); q == nil || now.Sub(q.at) >= proofLasts/2 {
		l.inquire(node, now)
	}
}

// inquire asks every other voter.
func (l *leader) inquire(node *machine, now time.Time) {
	p, w := l.p, l.p.w
	ledger, term := l.ledger, l.term
	q := &question{at: now, hold: l.hold(), yes: map[string]bool{}}
	for _, m := range w.nodes {
		if m == p.m || m == node {
			continue
		}
		w.carryPulse(p.m, m, func(v *proc) {
			v.asked(node, q.hold, func(ok bool) {
				if !ok {
					return
				}
				w.carryPulse(v.m, p.m, func(r *proc) {
					if r == p && l.ledger == ledger && l.term == term {
						l.attested(node, q, v.m)
					}
				})
			})
		})
	}
	if w.opt.Weak == WeakPulseOne {
		l.attested(node, q, p.m)
	}
}

// attested takes a voter's word. The leader's own is the last.
func (l *leader) attested(node *machine, q *question, by *machine) {
	p, w := l.p, l.p.w
	q.yes[by.name] = true
	if old := l.proofs[node.i]; old != nil && !old.at.Before(q.at) {
		return
	}
	with := maps.Clone(q.yes)
	with[p.m.name] = true
	enough := func(of map[string]bool) bool {
		return lease.AttestedBy(w.voters, node.name, of) || w.opt.Weak == WeakPulseOne && len(of) > 0
	}
	if !enough(with) || !p.attest(node, q.hold) {
		return
	}
	q.yes = with
	l.proofs[node.i] = q
	w.log("%s: the promises of %s have ended, says %v", p.m.name, node.name, slices.Sorted(maps.Keys(with)))
	l.kick()
}

// onPulse says that a node owns something that its pulse ends.
func (l *leader) onPulse(node *machine) bool {
	st := l.p.state
	for _, g := range st.Policy.Groups {
		if g.OnPulse && st.Groups[g.Name].Owner == node.name {
			return true
		}
	}
	return false
}

// hold is for how long nobody may answer the node: a proof may be used until it is as old as that, and a lease that was granted in the
// moment before ends a takeover wait later.
func (l *leader) hold() time.Duration {
	if l.p.w.opt.Weak == WeakPulseHold {
		return 50 * time.Millisecond
	}
	return barFor(l.p.state)
}

func barFor(st *placement.State) time.Duration {
	wait := st.Floor
	for _, g := range st.Policy.Groups {
		wait = max(wait, g.TakeoverWait)
	}
	return proofLasts + wait
}

// lapses is the evidence that is young enough, and whose bars last as long as they must by now.
func (l *leader) lapses(now time.Time) map[string]placement.Lapse {
	w := l.p.w
	out := map[string]placement.Lapse{}
	for i, q := range l.proofs {
		if q == nil || w.opt.Weak != WeakPulseProof && (now.Sub(q.at) >= proofLasts || q.hold < l.hold()) {
			continue
		}
		name := w.nodes[i].name
		out[name] = placement.Lapse{Silent: now.Sub(l.p.voter.ledger.Heard(name)), Bound: l.p.voter.ledger.Bound(name), By: slices.Sorted(maps.Keys(q.yes))}
	}
	return out
}

// unheard is whom this voter does not answer, or has not heard since what it promised has ended.
func (l *leader) unheard() map[string]bool {
	out := map[string]bool{}
	for node := range l.p.voter.ledger.Barred(l.p.m.clock()) { // order-free
		out[node] = l.p.w.opt.Weak != WeakPulseGiven
	}
	for i, lapsed := range l.p.voter.lapsed {
		if lapsed && l.p.w.opt.Weak != WeakPulseGiven {
			out[l.p.w.nodes[i].name] = true
		}
	}
	return out
}
