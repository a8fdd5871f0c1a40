package sim

import (
	"strconv"
	"time"

	"hacluster/lease"
)

// The half of the pulses of a node that holds addresses, as node/pulse.go has it: what it promises, and until when its gates may be
// armed. When it promises is drawn, and sooner than in production, so that promises are made and taken back all the time.
//
// Voters are fixed here: the rules for a change of voters are not modelled.

// Pulses are delivered to whichever process runs when they arrive, late and twice, also one that was started since.

// promise is what a node has said with its pulses.
type promise int

const (
	free    promise = iota // nothing
	binding                // nothing yet; gates are armed in short steps
	bound
)

const pulseRetry = 100 * time.Millisecond // between two pulses that take the promises back

// pulser is that half.
type pulser struct {
	p       *proc
	holder  lease.PulseHolder
	mode    promise
	calm    time.Time           // no promise before this
	armed   time.Time           // until when a gate may be open by what was armed, by anybody
	sent    [maxNodes]time.Time // newest pulse to each voter
	heard   [maxNodes]time.Time // when the newest one was sent that it answered
	slept   time.Duration       // of the machine, as noticed
	gen     int
	stretch int // quarters by which a promise is longer than the timing says
}

// startPulser begins with what the kernel still lets through: a former process may have armed it for longer than a promise lasts.
func (p *proc) startPulser() {
	w, m := p.w, p.m
	u := &p.pulser
	u.p, u.holder.Boot, u.slept = p, strconv.Itoa(p.boot), m.slept
	p.voter.ledger.Boot = u.holder.Boot
	now := m.clock()
	if w.opt.Weak != WeakPulseHeritage {
		for i := range m.things {
			if left := m.things[i].open - m.ticks(); left > 0 && w.keys[i].address {
				u.armed = later(u.armed, now.Add(left*21/20))
			}
		}
	}
	u.holder.Armed(u.armed)
	u.calm = now.Add(u.quietFor())
	p.loadBars()
	if w.pulses {
		u.tick()
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// quietFor is how long a node waits before it promises again.
func (u *pulser) quietFor() time.Duration {
	w := u.p.w
	if !w.pulses || w.opt.Storm != StormForget && w.prng.IntN(4) == 0 {
		return 0
	}
	return time.Duration(w.prng.Int64N(int64(w.patience)))
}

// noticed drops everything when the machine was suspended, first thing: the kernel's timeouts end too late by as long.
func (p *proc) noticed() {
	u, m := &p.pulser, p.m
	if !p.w.pulses || u.slept == m.slept {
		return
	}
	u.slept = m.slept
	p.w.log("%s was suspended; its lease is over", m.name)
	p.holder.Drop()
	m.will = m.clock()
	for i := range m.things {
		if p.w.keys[i].address && m.things[i].on {
			m.unleased(i)
			p.removed(i, &p.slots[i], "the machine was suspended")
		}
	}
	u.free()
	p.kickAct()
}

// capped is until when a gate may be armed now where the lease lasts until then; zero: not at all. What is armed is noted.
func (p *proc) capped(until time.Time) time.Time {
	w, u := p.w, &p.pulser
	if !w.pulses {
		return until
	}
	p.noticed()
	now := p.m.clock()
	answered, open := u.holder.Until(w.voters, p.m.name)
	if w.opt.Weak == WeakPulseAdopt && u.mode == free && !u.everBound() {
		open = true
	}
	limit := answered
	switch {
	case open && u.mode == free:
		limit = until
	case open:
		limit = now.Add(p.bound())
	}
	if w.opt.Weak == WeakPulseCap && u.mode == bound {
		limit = until
	}
	if limit.After(until) {
		limit = until
	}
	if !limit.After(now) {
		return time.Time{}
	}
	if w.opt.Weak != WeakPulseEarly {
		u.armed = later(u.armed, limit)
		if open || u.mode != bound {
			u.holder.Armed(limit)
		}
	}
	return limit
}

func (u *pulser) everBound() bool {
	for _, v := range u.p.w.voters {
		if !u.holder.Heard(v).IsZero() {
			return true
		}
	}
	return false
}

// unbound says that nothing is promised to anybody who could say that it has ended: what is served without a gate is safe then.
func (p *proc) unbound() bool {
	if !p.w.pulses {
		return true
	}
	_, open := p.pulser.holder.Until(p.w.voters, p.m.name)
	return open && p.pulser.mode == free
}

// bound is how long a promise lasts, by the timing that this node follows and by how late it takes its pulses to be.
func (p *proc) bound() time.Duration {
	return min(p.timing.PulseBound*time.Duration(4+p.pulser.stretch)/4, p.timing.PulseMost())
}

// wanted says that there is something to promise.
func (u *pulser) wanted() bool {
	p := u.p
	if p.timing.Pulse == 0 || p.timing.Layer != lease.Gate || !p.m.gate || p.leaving || p.abandoned {
		return false
	}
	for i := range p.w.keys {
		if p.w.keys[i].address && p.online(i) {
			return true
		}
	}
	return false
}

// tick is one turn of the loop.
func (u *pulser) tick() {
	p, w, m := u.p, u.p.w, u.p.m
	p.noticed()
	now := m.clock()
	wanted := u.wanted()
	if w.longer && w.prng.IntN(100) == 0 {
		u.stretch = w.prng.IntN(13)
	}
	u.decide(now, wanted)
	if m.gate && m.flushed && (wanted || u.mode != free) {
		m.setGate()
	}
	switch u.mode {
	case free:
		for _, v := range w.nodes {
			if v != m && !u.holder.Open(v.name) && now.Sub(u.sent[v.i]) >= pulseRetry {
				u.beat(0, v)
			}
		}
	case binding:
		u.beat(0, w.nodes...)
		p.rearm()
	case bound:
		u.beat(p.bound(), w.nodes...)
	}
	wait := pulseRetry
	if wanted || u.mode != free {
		wait = p.timing.Pulse
	}
	u.gen++
	gen := u.gen
	w.timer(m.span(wait)+w.faults.jitter(w), &p.actor, func() {
		if u.gen == gen {
			u.tick()
		}
	})
}

// decide is when to promise.
func (u *pulser) decide(now time.Time, wanted bool) {
	p, w := u.p, u.p.w
	if !wanted {
		u.free()
		return
	}
	until, open := u.holder.Until(w.voters, p.m.name)
	speak := u.speak(now)
	switch u.mode {
	case free:
		if !now.Before(u.calm) {
			u.mode = binding
			w.log("%s is about to promise", p.m.name)
		}
	case binding:
		switch {
		case !speak:
			if w.prng.IntN(20) == 0 {
				u.free()
			}
		case !u.armed.After(now.Add(p.bound())), w.prng.IntN(50) == 0: // else the first promise lasts longer
			u.mode = bound
			w.log("%s promises", p.m.name)
		}
	case bound:
		low := !open && until.Sub(now) < p.bound()/2
		if (!speak || low) && w.prng.IntN(4) > 0 || w.prng.IntN(400) == 0 {
			u.free()
		}
	}
}

// speak says that every voter has answered lately.
func (u *pulser) speak(now time.Time) bool {
	for _, v := range u.p.w.nodes {
		if v != u.p.m && now.Sub(u.heard[v.i]) > 3*u.p.timing.Pulse+u.p.timing.Pulse/2 {
			return false
		}
	}
	return true
}

// free takes the promise back: from now on pulses that are not bound are sent.
func (u *pulser) free() {
	if u.mode == free {
		return
	}
	if u.mode == bound {
		u.p.w.log("%s takes its promise back", u.p.m.name)
	}
	u.mode = free
	u.sent = [maxNodes]time.Time{}
	u.calm = u.p.m.clock().Add(u.quietFor())
	u.p.rearm() // what was armed in short steps must not end before the next renewal
}

// beat sends one pulse to each.
func (u *pulser) beat(bound time.Duration, to ...*machine) {
	p, w := u.p, u.p.w
	pulse := u.holder.Beat(bound, p.m.clock())
	for _, v := range to {
		if v == p.m {
			continue
		}
		now := p.m.clock()
		sent := u.holder.Send(v.name, pulse, now)
		u.sent[v.i] = now
		w.carryPulse(p.m, v, func(q *proc) {
			heard, boot := q.hears(p.m, sent), q.voter.ledger.Boot
			w.carryPulse(q.m, p.m, func(r *proc) {
				if r == p {
					u.answered(v, sent, now, boot, heard)
				}
			})
		})
	}
}

// answered takes a voter's answer, however late it comes.
func (u *pulser) answered(v *machine, pulse lease.Pulse, sent time.Time, boot string, heard bool) {
	p := u.p
	p.noticed()
	if u.holder.Met(v.name, boot) && u.mode == free {
		u.beat(0, v)
	}
	if !heard {
		return
	}
	u.heard[v.i] = later(u.heard[v.i], sent)
	_, before := u.holder.Until(p.w.voters, p.m.name)
	if p.w.opt.Weak == WeakPulseT0 && pulse.Bound > 0 {
		u.holder.Send(v.name, pulse, p.m.clock())
	}
	if !u.holder.Answered(v.name, pulse.Seq) {
		return
	}
	_, open := u.holder.Until(p.w.voters, p.m.name)
	if pulse.Bound > 0 || open && !before {
		p.rearm()
	}
}

// rearm arms the gates of what is held under a lease.
func (p *proc) rearm() {
	if until, mask := p.leased(); mask != 0 && p.m.gate && !p.abandoned {
		p.renewGate(until, mask)
	}
}

// farewell takes the promises back when the agent ends in order. Nobody waits for the answers here.
func (p *proc) farewell() {
	if p.w.pulses && p.runs() {
		p.pulser.free()
		p.pulser.beat(0, p.w.nodes...)
	}
}

// carryPulse delivers to the process that runs when it arrives.
func (w *World) carryPulse(from, to *machine, fn func(p *proc)) {
	n := 1
	if w.chance(w.net.twice) {
		n = 2
	}
	for range n {
		if w.net.cut[from.i][to.i] || w.chance(w.net.loss) {
			continue
		}
		delay := 100*time.Microsecond + w.upTo(400*time.Microsecond) + w.net.lag[to.i] + w.upTo(w.net.slow)
		if w.chance(w.net.late) {
			delay += w.upTo(w.net.lateness)
		}
		w.after(delay, nil, func() {
			p := to.proc
			if w.net.cut[from.i][to.i] || !to.up || p == nil {
				return
			}
			if p.runs() {
				fn(p)
				return
			}
			w.after(0, &p.actor, func() { fn(p) }) // it is in the buffer of a process that stands still
		})
	}
}

// drawPulses decides whether a cluster has pulses, and whether the run is made of what matters to them.
func (w *World) drawPulses() {
	forced := w.opt.Storm == StormPulse || w.opt.Storm == StormForget
	w.pulses = forced || !w.moving && w.prng.IntN(4) == 0
	w.longer = w.pulses && w.prng.IntN(2) == 0
	w.patience = []time.Duration{50 * time.Millisecond, 2 * time.Second}[w.prng.IntN(2)]
	if w.opt.Storm == StormForget {
		w.patience = 2 * time.Second
	}
	w.beating = forced || w.pulses && w.opt.Storm == NoStorm && w.prng.IntN(2) == 0
}

// withPulse takes the pulses out of a timing where the cluster has none: seeds without them run as they did before there were any.
func (w *World) withPulse(t lease.Timing) lease.Timing {
	if !w.pulses {
		t.Pulse, t.PulseBound = 0, 0
	}
	return t
}

var pulseFaults = []fault{
	{"cut off from some", func(w *World) bool { // and each of those still reaches the others
		m, way := w.node(), w.prng.IntN(3)
		some := 0
		for _, o := range w.nodes {
			if o == m || w.prng.IntN(2) == 0 {
				continue
			}
			some++
			set := func(v bool) {
				if way != 1 {
					w.net.cut[m.i][o.i] = v
				}
				if way != 2 {
					w.net.cut[o.i][m.i] = v
				}
			}
			set(true)
			w.log("cut between %s and %s (%d)", m.name, o.name, way)
			w.after(w.long(), nil, func() { set(false) })
		}
		return some > 0
	}},
}
