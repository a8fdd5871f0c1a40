package sim

import "time"

// deadman is the parent of the agent, with the rules of fence.clock: at the end of the lease that was told last everything goes; an
// agent that has said nothing for long is killed and started again.
type deadman struct {
	actor
	until time.Time // zero: nothing is held
	fired bool
	hand  bool        // until is of an agent before the one that runs
	quiet []time.Time // deadlines that were told while it was frozen
	spoke bool        // and so was something
	busy  bool        // taking everything away
	heard time.Time
	probe time.Time
	gen   int           // of the timer
	set   time.Duration // when it rings; 0: not set
	begun time.Duration // of the agent
	pause time.Duration
}

const (
	frozenAfter  = 8 * time.Second
	probation    = 500 * time.Millisecond
	healthyRun   = 10 * time.Second
	restartAfter = 100 * time.Millisecond // RestartSec of the unit
)

// startParent is what init does.
func (m *machine) startParent() {
	if !m.up || m.parent != nil {
		return
	}
	if m.boots > 1 {
		m.w.Stats.Dead++
	}
	d := &deadman{actor: actor{m: m}}
	if m.w.opt.Weak != WeakFile {
		d.until, d.hand = m.held, !m.held.IsZero()
		if m.will.Before(d.until) { // the lease was dropped
			d.until = m.will
		}
	}
	m.parent, m.orderly = d, false
	m.w.log("%s starts its dead man", m.name)
	d.startAgent()
}

// startAgent starts the agent, unless one that belonged to a former dead man is there still: it has the store locked.
func (d *deadman) startAgent() {
	m := d.m
	d.drain()
	d.heard, d.probe = m.clock(), time.Time{}
	d.hand = d.hand || !d.until.IsZero() && !d.fired
	if m.proc != nil {
		d.arm()
		d.again()
		return
	}
	d.begun = m.w.now
	m.startAgent()
	d.arm()
	m.guard()
}

// ended is called when the agent has died.
func (d *deadman) ended() {
	if d.m.w.now-d.begun > healthyRun {
		d.pause = 0
	}
	d.again()
}

func (d *deadman) again() {
	pause := d.pause
	d.pause = min(max(2*d.pause, 50*time.Millisecond), 5*time.Second)
	d.m.w.timer(pause+d.m.w.upTo(10*time.Millisecond), &d.actor, func() {
		if d.m.proc == nil {
			d.startAgent()
		} else if d.m.proc.parent != d {
			d.again()
		}
	})
}

// tell is the agent's word. What a frozen dead man is told it hears when it goes on, before it does anything else.
func (d *deadman) tell(until time.Time) {
	if !d.runs() {
		d.quiet, d.spoke = append(d.quiet, until), true
		d.m.w.after(0, &d.actor, d.drain)
		return
	}
	d.drain() // the line keeps the order
	d.hear(until)
}

// drain hears what was told meanwhile.
func (d *deadman) drain() {
	if d.spoke {
		d.heard, d.probe = d.m.clock(), time.Time{}
	}
	all := d.quiet
	d.quiet, d.spoke = nil, false
	for _, until := range all {
		d.hear(until)
	}
}

func (d *deadman) hear(until time.Time) {
	d.heard, d.probe = d.m.clock(), time.Time{}
	if d.hand && until.IsZero() && !d.fired {
		return // an agent that has had no lease may not know what is held
	}
	if !until.Equal(d.until) || d.hand {
		d.until, d.fired, d.hand = until, false, false
		d.arm()
	}
}

// alive notes that the agent's loop turns.
func (d *deadman) alive() {
	if !d.runs() {
		d.spoke = true
		return
	}
	d.heard, d.probe = d.m.clock(), time.Time{}
}

func (d *deadman) next() time.Time {
	next := d.heard.Add(frozenAfter)
	if !d.until.IsZero() && !d.fired && d.until.Before(next) {
		next = d.until
	}
	if !d.probe.IsZero() && d.probe.Before(next) {
		next = d.probe
	}
	return next
}

// arm sets the timer, which counts boot time; one that rings too early is set again then.
func (d *deadman) arm() {
	w := d.m.w
	at := w.now + max(10*time.Microsecond, d.m.span(d.next().Sub(d.m.clock())))
	if d.set != 0 && d.set <= at {
		return
	}
	d.gen++
	gen := d.gen
	d.set = max(at, 1)
	ring := func() {
		if d.gen == gen {
			d.set = 0
			d.due()
		}
	}
	if w.opt.Weak == WeakSuspend {
		w.timer(at-w.now, &d.actor, ring)
	} else {
		w.after(at-w.now, &d.actor, ring)
	}
}

func (d *deadman) due() {
	m := d.m
	now := m.clock()
	if m.w.opt.Weak != WeakThaw {
		d.drain()
	}
	if !d.until.IsZero() && !d.fired && !now.Before(d.until) {
		d.fired = true
		if !d.hand {
			d.probe = now.Add(probation)
		}
		if p := m.proc; p != nil && p.parent == d && p.deadline.After(now) && m.w.opt.Weak != WeakFresh {
			m.w.broken("L3: the dead man of %s ends what runs under a lease", m.name)
		}
		if m.w.opt.Weak != WeakDeaf {
			d.busy = true
			m.release(&d.actor, "the dead man", func() { d.busy = false })
		}
	}
	if now.Sub(d.heard) >= frozenAfter || !d.probe.IsZero() && !now.Before(d.probe) {
		d.heard, d.probe = now, time.Time{}
		if p := m.proc; p != nil && p.parent == d {
			m.w.log("%s: the dead man kills its silent agent", m.name)
			m.w.Stats.Agents++
			m.endAgent()
		}
	}
	d.arm()
}

// release takes away every address, and kills what is exclusive; a few milliseconds of work.
func (m *machine) release(by *actor, who string, done func()) {
	w := m.w
	w.after(w.between(100*time.Microsecond, 3*time.Millisecond), by, func() {
		for i := range m.things {
			if w.keys[i].address && m.things[i].on {
				m.unleased(i)
				m.turnOff(i, who)
			}
		}
		m.endDrains(false)
		for i := range m.things {
			if w.keys[i].exclusive && m.things[i].on {
				m.kill(i)
			}
		}
		done()
	})
}

// bequeath leaves an executor behind: at the end of the lease it takes everything away unless a successor has a later one.
func (d *deadman) bequeath() {
	m, w := d.m, d.m.w
	if d.until.IsZero() || d.fired {
		return
	}
	heir, until, last := &actor{m: m}, d.until, m.will // the ended agent's own lease is no successor's
	if m.heir != nil {
		m.heir.dead = true // the newest knows best; both would do the same
	}
	m.heir = heir
	w.after(m.span(until.Sub(m.clock())), heir, func() {
		if !m.will.After(until) || !m.will.After(last) && w.opt.Weak != WeakHeir {
			m.release(heir, "the executor", func() {})
			w.after(longestBudget+wakeGrace, heir, func() { m.inherited(heir) })
			return
		}
		m.inherited(heir) // it ends nothing of a successor's
	})
}

// inherited is the end of an executor.
func (m *machine) inherited(heir *actor) {
	heir.dead = true
	if m.heir == heir {
		m.heir = nil
	}
	m.guard()
}

// killParent is SIGKILL for the dead man. The agent notices by the line between them, when it runs; init starts another.
func (m *machine) killParent(back time.Duration) {
	d := m.parent
	d.dead, m.parent = true, nil
	m.guard()
	if p := m.proc; p != nil {
		m.w.after(m.w.upTo(time.Millisecond), &p.actor, p.abandon)
	}
	m.w.timer(back, m.init, m.startParent)
}

// abandon is what an agent does whose dead man has died: nobody would take away what it holds if it were frozen now.
func (p *proc) abandon() {
	m, w := p.m, p.w
	w.log("%s: its agent ends because the dead man has died", m.name)
	p.abandoned = true
	longest := time.Duration(0)
	for i := range m.things {
		if w.keys[i].exclusive {
			takes, _ := m.kill(i)
			longest = max(longest, takes)
		}
	}
	w.after(longest, &p.actor, m.endAgent)
}

// stop ends parent and agent in order: both go, an executor stays.
func (m *machine) stop() {
	if m.proc != nil {
		m.proc.farewell()
	}
	if d := m.parent; d != nil && !d.runs() {
		m.endAgent() // what is frozen does not end in order; the agent is started again
		return
	} else if d != nil {
		d.bequeath()
		m.orderly = true
		if d.busy { // it does not end before it is through
			m.release(&actor{m: m}, "the dead man", func() {})
		}
		d.dead, m.parent = true, nil
	}
	m.endAgent()
	m.guard()
}

func (m *machine) endAgent() {
	p := m.proc
	if p == nil {
		return
	}
	p.dead, m.proc = true, nil
	m.guard()
	if d := m.parent; d != nil && p.parent == d {
		m.w.after(m.w.upTo(time.Millisecond), &d.actor, d.ended)
	}
}
