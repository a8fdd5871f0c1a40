package sim

import "time"

// network is who can send to whom, and how well.
type network struct {
	cut  [][]bool // [from][to]
	loss float64
	slow time.Duration   // added at random to every message
	lag  []time.Duration // added to every message to that node

	// Renewals and grants besides: some come twice, some late, so that they overtake each other.
	twice, late float64
	lateness    time.Duration
}

// send delivers fn at another node's agent, if the link is up at both ends of the way.
func (w *World) send(from, to *machine, fn func(p *proc)) {
	w.carry(from, to, 0, fn)
}

func (w *World) carry(from, to *machine, extra time.Duration, fn func(p *proc)) {
	p := to.proc
	if from == to {
		if p != nil {
			w.after(extra+w.upTo(50*time.Microsecond), &p.actor, func() { fn(p) })
		}
		return
	}
	if p == nil || w.net.cut[from.i][to.i] || w.chance(w.net.loss) {
		return
	}
	delay := extra + 100*time.Microsecond + w.upTo(400*time.Microsecond) + w.net.lag[to.i]
	if w.net.slow > 0 {
		delay += w.upTo(w.net.slow)
	}
	w.after(delay, &p.actor, func() {
		if !w.net.cut[from.i][to.i] && to.up {
			fn(p)
		}
	})
}

// sendLease sends a renewal or a grant, slowed by that much at least.
func (w *World) sendLease(from, to *machine, slowed time.Duration, fn func(p *proc)) {
	if w.net.late == 0 && w.net.twice == 0 {
		w.carry(from, to, slowed, fn)
		return
	}
	extra := func() time.Duration {
		if w.chance(w.net.late) {
			return slowed + w.upTo(w.net.lateness)
		}
		return slowed
	}
	w.carry(from, to, extra(), fn)
	if w.chance(w.net.twice) {
		w.carry(from, to, extra(), fn)
	}
}
