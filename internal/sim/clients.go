package sim

import (
	"time"

	"hacluster/placement"
)

// Clients of an address whose open connections may finish on the node that gives it away: they hold connections, short and long,
// and open new ones, while the group moves. Each sends its packets to the node that it heard of last.

// client has a neighbour table with one entry, and hears announcements at once or late.
type client struct {
	late  bool
	owner *machine // whom it takes for the owner
	deaf  int      // packets without an answer since it heard anything
	conns []*conn
}

// conn is one connection.
type conn struct {
	key      int // of the address
	client   *client
	end      time.Duration // when its client closes it
	patience time.Duration // when its client gives up, as long as it is not open
	heard    time.Duration // when it was answered last; 0: never, it is not open
	node     *machine      // that accepted it
	deadline time.Duration // its time is over then: the node that has it gave the address away; 0: it has all the time
	excused  bool          // something happened that no promise covers
	over     bool
}

// crowd is the clients of one address.
type crowd struct {
	clients [2]client
	until   time.Duration // new connections come until then
	ticking bool
	nobody  time.Duration // answered for the address then
}

const (
	packetEvery = 20 * time.Millisecond
	hangsFor    = time.Second // an open connection that nobody answers for so long, while new ones are answered, hangs
)

// crowd is who uses an address; they are there from its first move that lets connections finish.
func (w *World) crowd(i int) *crowd {
	if w.crowds == nil {
		w.crowds = make([]*crowd, len(w.keys))
	}
	if w.crowds[i] == nil {
		w.crowds[i] = &crowd{}
		w.crowds[i].clients[1].late = true
	}
	return w.crowds[i]
}

// arrive opens connections to an address that is about to move, short ones and some that outlast the time they get.
func (w *World) arrive(i int, timeout time.Duration) {
	c := w.crowd(i)
	for range 2 + w.drng.IntN(3) {
		long := timeout/10 + time.Duration(w.drng.Int64N(int64(timeout)))
		w.connect(c, i, long)
	}
	c.until = max(c.until, w.now+timeout)
	if !c.ticking {
		c.ticking = true
		w.crowdTick(i, c)
	}
}

// connect opens a connection.
func (w *World) connect(c *crowd, i int, long time.Duration) {
	cl := &c.clients[w.drng.IntN(len(c.clients))]
	k := &conn{key: i, client: cl, end: w.now + long, patience: w.now + 3*time.Second, excused: w.now < w.shaken}
	cl.conns = append(cl.conns, k)
	w.Stats.Conns++
	w.use(k)
}

// crowdTick has every connection used, and new ones opened; it ends with the last.
func (w *World) crowdTick(i int, c *crowd) {
	w.checkAnswers(i)
	if w.now < c.until && w.drng.IntN(4) == 0 {
		w.connect(c, i, time.Duration(w.drng.Int64N(int64(300*time.Millisecond))))
	}
	left := 0
	for at := range c.clients {
		cl := &c.clients[at]
		open := cl.conns[:0]
		for _, k := range cl.conns {
			if !k.over {
				w.use(k)
			}
			if !k.over {
				open = append(open, k)
			}
		}
		clear(cl.conns[len(open):])
		cl.conns = open
		left += len(open)
	}
	if c.ticking = left > 0 || w.now < c.until; c.ticking {
		w.after(packetEvery, nil, func() { w.crowdTick(i, c) })
	}
}

// use sends one packet of a connection. Who is not answered three times asks for the owner again.
func (w *World) use(k *conn) {
	cl := k.client
	if cl.owner == nil || cl.deaf >= 3 {
		cl.deaf = 0
		for _, m := range w.nodes {
			if m.answers(k.key) {
				cl.owner = m
			}
		}
	}
	if cl.owner == nil {
		cl.owner = w.nodes[0]
	}
	r, by := w.packet(k, cl.owner, k.heard == 0)
	switch {
	case r == nothing:
		if cl.deaf++; k.heard == 0 && w.now >= k.patience {
			k.over = true
		} else if k.heard > 0 && w.now-max(k.heard, w.crowds[k.key].nobody) > hangsFor {
			w.failed(k, "is answered by nobody")
		}
		return
	case r == refused:
		w.failed(k, "is reset by "+by.name+", which does not have it")
		return
	case k.heard == 0:
		gs := w.latest().Groups[w.keys[k.key].group]
		k.node, k.excused = by, k.excused || gs.Phase == placement.PhaseReleasing && gs.Drain == nil
	}
	cl.deaf, k.heard = 0, w.now
	if w.now >= k.end {
		by.lane(k.key).closed(k)
		k.over = true
		w.Stats.Finished++
	}
}

// failed judges the end of a connection that its client did not want. Where nothing but planned moves happened, and agents that
// were started again, a connection lives for as long as it may finish.
func (w *World) failed(k *conn, how string) {
	if k.over || k.heard == 0 {
		return
	}
	k.over = true
	w.Stats.Cut++
	if w.gentle && !k.excused && (k.deadline == 0 || w.now < k.deadline) {
		w.broken("planned move: a connection to group %s that %s accepted %s, and it had time until %.3fs", w.keys[k.key].group, k.node.name, how, k.deadline.Seconds())
	}
}

// announce tells the clients who answers now, some of them late.
func (w *World) announce(i int, m *machine) {
	if w.crowds == nil || w.crowds[i] == nil {
		return
	}
	for at := range w.crowds[i].clients {
		cl := &w.crowds[i].clients[at]
		d := time.Duration(w.drng.Int64N(int64(time.Millisecond)))
		if cl.late {
			d = []time.Duration{50 * time.Millisecond, 250 * time.Millisecond, drainLeast - 50*time.Millisecond}[w.drng.IntN(3)]
		}
		w.after(d, nil, func() {
			if m.answers(i) {
				cl.owner = m
			}
		})
	}
	if l := m.things[i].lane; l != nil { // what it accepted before is at home
		for _, c := range l.sockets {
			c.deadline = 0
		}
	}
}

// checkAnswers asks who has the address, and opens a connection to each node: one answers at most (S1).
func (w *World) checkAnswers(i int) {
	for _, m := range w.nodes {
		if m.answers(i) {
			counted := w.Stats.ExcusedHeld
			w.checkAlone(m, i)            // it looks at all others
			w.Stats.ExcusedHeld = counted // when it began
			return
		}
	}
	w.crowds[i].nobody = w.now
}

// moved notes what the log says of moves. A connection is promised nothing when its group moves without a plan for it, when it is on a
// third node while the group moves between two others, when what has it is lost, and when something else changes.
func (w *World) moved(before *placement.State, c *placement.Command) {
	switch c.Kind {
	case placement.CmdRelease:
		if c.Drain == nil {
			break
		}
		w.Stats.Drained++
		if before.Groups[c.Group].Drain != nil {
			w.Stats.Overtaken++
		}
		w.excuse(c.Group, func(m *machine) bool { return m.name != c.Drain.Node && m.name != c.Drain.To })
		w.shorten(c)
		return
	case placement.CmdReleased:
		if d := before.Groups[c.Group].Drain; d != nil && d.To == c.Node { // as planned
			return
		}
	case placement.CmdTakeover, placement.CmdGroupAdmin:
	case placement.CmdConfig, placement.CmdNodeSeen:
		w.excuse("", func(*machine) bool { return true })
		return
	default:
		return
	}
	w.excuse(c.Group, func(*machine) bool { return true })
}

// unleased takes the promise from the connections of an address whose lease is lost. What was given away needs none.
func (m *machine) unleased(i int) {
	if !m.gave(i) {
		m.w.excuse(m.w.keys[i].group, func(on *machine) bool { return on == m })
	}
}

// shorten is for connections of a node that was given the group back and must give it away again before it has opened: it does nothing
// about that move, and of the two times the shorter counts.
func (w *World) shorten(c *placement.Command) {
	m, i := w.byName[c.Drain.Node], w.index(c.Group, "address")
	if !m.gave(i) {
		return
	}
	for _, k := range m.lane(i).sockets {
		k.deadline = min(k.deadline, w.now+m.span(c.Drain.Timeout)-jiffy)
	}
}

// shake takes the promise from every connection: an owner may lose its lease while a leader is elected.
func (w *World) shake() {
	w.shaken = w.now + 3*w.longest()
	w.excuse("", func(*machine) bool { return true })
}

// excuse takes the promise from the connections of a group, or of all, that are on some nodes.
func (w *World) excuse(group string, on func(*machine) bool) {
	for i, c := range w.crowds {
		if c == nil || group != "" && w.keys[i].group != group {
			continue
		}
		for at := range c.clients {
			for _, k := range c.clients[at].conns {
				k.excused = k.excused || k.node != nil && on(k.node)
			}
		}
	}
}
