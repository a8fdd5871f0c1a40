package sim

import (
	"time"

	"hacluster/lease"
)

// The kernel lease. On the layer Address the kernel removes an address at the end of its lifetime. On the layer Gate nf_tables drops
// what is for or from it when a timeout has passed, and the lifetime is a coarse backup that nobody counts on. Both count in
// ticks, which stand still in suspend.

const (
	ticket      = 25 * time.Millisecond // a renewal of the gate is handled within this from its look at the clock, or refused
	jiffy       = 10 * time.Millisecond
	gateHandled = 300 * time.Microsecond // from the look at the clock to the kernel, as a rule
	coarse      = 2 * time.Second        // the backup lasts longer than the lease by up to one second more than this
)

// passes says that the gate, if there is one, lets through what is for the address.
func (m *machine) passes(t *thing) bool { return !m.gate || m.flushed || t.open > m.ticks() }

// lifetime gives an address a lifetime; false when too little is left of the lease.
func (m *machine) lifetime(i int, until time.Time, layer lease.Layer) bool {
	t, now := &m.things[i], m.clock()
	life := lease.KernelLifetime(now, until)
	switch {
	case layer == lease.Gate:
		if !until.After(now) {
			return false
		}
		life += coarse + time.Second
	case m.w.opt.Weak == WeakKernel && life < until.Sub(now):
		life += time.Second
	}
	if life <= 0 {
		return false
	}
	t.life = m.ticks() + m.span(life) + m.w.upTo(addressSlack)
	t.slept = m.slept
	if t.timed == 0 || t.life < t.timed {
		m.look(i)
	}
	return true
}

// addressSlack is how late Linux may remove an address.
const addressSlack = 250 * time.Millisecond

// look has the kernel look at an address when its lifetime ends. A renewal does not move the look: it finds out then.
func (m *machine) look(i int) {
	t, kernel := &m.things[i], m.kernel
	t.tick++
	tick := t.tick
	t.timed = t.life
	m.w.timer(max(0, t.life-m.ticks()), kernel, func() {
		switch {
		case t.tick != tick:
		case !t.on:
			t.timed = 0
		case t.life > m.ticks():
			m.look(i)
		default:
			t.timed = 0
			m.turnOff(i, "its lifetime has ended")
		}
	})
}

// pass opens the gate before an address, or keeps it open, for a timeout that was computed from a clock read at readAt ticks; false when
// the message comes too late. The gate closes up to a tick early and never later than the lease.
func (m *machine) pass(i int, timeout, readAt time.Duration, renewal bool) bool {
	t := &m.things[i]
	if m.w.opt.Weak != WeakTicket && m.ticks()-readAt > ticket || timeout <= 0 {
		return false
	}
	was := m.serves(i)
	if renewal && t.open <= m.ticks() {
		return false // its proof has expired: a renewal opens nothing
	}
	t.open = m.ticks() + timeout - m.w.upTo(jiffy)
	t.slept = m.slept
	if !was && m.serves(i) {
		if t.lane != nil {
			t.lane.gave = false
		}
		m.w.checkStart(m, i)
	}
	return true
}

// setGate sets the gate up: what is here and not open is closed from now on.
func (m *machine) setGate() {
	if m.gate && !m.flushed {
		return
	}
	if m.gate {
		m.w.log("%s: the gate is mended", m.name)
	}
	for i := range m.things {
		if m.flushed || !m.gate {
			m.things[i].open = 0
		}
	}
	m.gate, m.flushed = true, false
}

// dropGate takes the gate away: what is here passes.
func (m *machine) dropGate() {
	if !m.gate {
		return
	}
	m.gate, m.flushed = false, false
	m.endDrains(true)
	m.opened()
}

// flush is what `nft flush ruleset` does to the gate.
func (m *machine) flush() {
	m.w.log("%s: somebody flushes all rules of nf_tables", m.name)
	m.flushed, m.emptied = true, m.w.now
	m.endDrains(true)
	m.opened()
}

func (m *machine) opened() {
	for i := range m.things {
		if m.w.keys[i].address && m.serves(i) {
			m.w.checkStart(m, i)
		}
	}
}
