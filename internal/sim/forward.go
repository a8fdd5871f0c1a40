package sim

import "time"

// What the kernel does about an address whose connections are on two nodes, as package vip sets it up: who is answered behind a gate
// that is shut, and what is sent on to the other node. The packets of clients go through the rules in the order of vip's.

// lane is that of one address on one machine. Instants are ticks: all of it has a timeout, and stands still in suspend.
type lane struct {
	there, back       *machine // the node that new connections are sent to; the one that unknown ones are sent back to
	thereEnd, backEnd time.Duration
	pass              time.Duration           // connections that are open pass the closed gate until then
	from              [maxNodes]time.Duration // what comes from that node is not sent to it, until then
	mine, theirs      map[*conn]bool          // connections whose first packet was seen here: kept, and forwarded
	sockets           []*conn                 // that were accepted here
	gave              bool                    // the address is here for connections that finish
	silent            time.Duration           // when it must answer none of them any more, as the judge counts
}

const drainEnd = 2 * time.Second // how much longer the address lives than its connections may, and the new owner forwards

// lane is what the kernel knows of an address's connections.
func (m *machine) lane(i int) *lane {
	t := &m.things[i]
	if t.lane == nil {
		t.lane = &lane{mine: map[*conn]bool{}, theirs: map[*conn]bool{}}
	}
	return t.lane
}

// gave says that the address is here for open connections only, as the kernel has it.
func (m *machine) gave(i int) bool {
	l := m.things[i].lane
	return l != nil && l.gave && m.things[i].on
}

// answers says that who asks for the address, or opens a connection to it, is answered.
func (m *machine) answers(i int) bool {
	t := &m.things[i]
	return m.serves(i) || m.w.opt.Weak == WeakDrainAccepts && m.up && m.asleep <= m.w.now && t.on && t.lane != nil && t.lane.pass > m.ticks()
}

// drainTo shuts the gate for everything but open connections, and forwards what opens one; false: there is no gate.
func (m *machine) drainTo(i int, to *machine, timeout time.Duration) bool {
	if !m.gate || m.flushed {
		return false
	}
	t, l, end := &m.things[i], m.lane(i), m.ticks()+m.span(timeout+drainEnd)
	clear(l.theirs)
	l.there, l.thereEnd, l.from[to.i], l.pass = to, end, end, end
	l.gave, l.silent = true, end+jiffy
	switch m.w.opt.Weak {
	case WeakDrainOpen:
	case WeakDrainOutlives:
		l.pass, t.open = end+time.Hour, 0
	default:
		t.open = 0
	}
	for _, c := range l.sockets {
		c.deadline = m.w.now + m.span(timeout) - jiffy
	}
	return true
}

// takeFrom has everything that is not known here sent to the old owner. What is open here is known.
func (m *machine) takeFrom(i int, old *machine, timeout time.Duration) {
	l, end := m.lane(i), m.ticks()+m.span(timeout+drainEnd)
	l.there, l.thereEnd = nil, 0
	clear(l.mine)
	if m.w.opt.Weak != WeakDrainOwn {
		for _, c := range l.sockets {
			l.mine[c] = true
		}
	}
	l.back, l.backEnd, l.from[old.i] = old, end, end
}

// endDrain ends what drainTo and takeFrom began.
func (m *machine) endDrain(i int) {
	if l := m.things[i].lane; l != nil {
		l.forget()
		l.pass = 0
	}
}

// forget is the removal of the table that forwards.
func (l *lane) forget() {
	l.there, l.back, l.thereEnd, l.backEnd, l.from = nil, nil, 0, 0, [maxNodes]time.Duration{}
	clear(l.mine)
	clear(l.theirs)
}

// endDrains removes the tables; with the gate's own, nothing passes because it is open either.
func (m *machine) endDrains(gate bool) {
	for i := range m.things {
		if l := m.things[i].lane; l != nil {
			l.forget()
			if gate {
				l.pass = 0
			}
		}
	}
}

// reset ends the connections of an address that leaves: its clients are told, and those of them that have given up are forgotten.
func (m *machine) reset(i int, why string) {
	l := m.things[i].lane
	if l == nil {
		return
	}
	all := l.sockets
	l.sockets = nil
	for _, c := range all {
		if m.things[i].on {
			m.w.failed(c, "is cut by "+m.name+": "+why)
		}
	}
}

// reply is what a client hears.
type reply int

const (
	nothing reply = iota
	answered
	refused // by a node that does not know the connection
)

// packet is one from a client, to the node that it takes for the owner; what opens a connection is asked of the first node.
func (w *World) packet(c *conn, at *machine, opens bool) (r reply, by *machine) {
	var from *machine
	for hops := 8; hops > 0; hops-- {
		if !at.up || at.asleep > w.now {
			return nothing, nil
		}
		next := w.forwarded(c, at, from, opens)
		if next == nil {
			return w.received(c, at, opens), at
		}
		from, at = at, next
	}
	return nothing, nil
}

// forwarded goes through the rules of the table that forwards; nil: the packet stays here.
func (w *World) forwarded(c *conn, at, from *machine, opens bool) *machine {
	l, now := at.lane(c.key), at.ticks()
	there, back := l.there, l.back
	if l.thereEnd <= now {
		there = nil
	}
	if l.backEnd <= now || w.opt.Weak == WeakDrainStrays {
		back = nil
	}
	stranger := from == nil || l.from[from.i] <= now
	switch {
	case opens:
		if there != nil {
			l.theirs[c] = true
			if stranger {
				return there
			}
		}
		if back != nil {
			l.mine[c] = true
		}
	case l.theirs[c] && stranger && there != nil:
		return there
	case l.mine[c]:
	case stranger && back != nil:
		return back
	}
	return nil
}

// received is what the gate and the node behind it make of a packet.
func (w *World) received(c *conn, at *machine, opens bool) reply {
	t := &at.things[c.key]
	l := at.lane(c.key)
	switch through := at.passes(t); {
	case !t.on:
		return nothing
	case opens:
		if !at.answers(c.key) {
			return nothing
		}
		l.sockets = append(l.sockets, c)
		return answered
	case !through && l.pass <= at.ticks():
		return nothing
	case !through && l.gave && at.ticks() > l.silent:
		w.broken("S1: %s still serves connections to an address of group %s that it gave away, after the time for them is over", at.name, w.keys[c.key].group)
	}
	for _, k := range l.sockets {
		if k == c {
			return answered
		}
	}
	return refused
}

// closed forgets a connection that its client has ended.
func (l *lane) closed(c *conn) {
	for at, k := range l.sockets {
		if k == c {
			l.sockets = append(l.sockets[:at], l.sockets[at+1:]...)
			return
		}
	}
}
