package sim

import "time"

// maxFaults bounds the table.
const maxFaults = 40

// fault is one kind of what may happen to a cluster. Each ends by itself, or at the quiet end of the run. What has no do
// happens as a part of something else and is counted here.
type fault struct {
	name string
	do   func(w *World) bool // false: it did not come to it
}

var (
	faults  []fault
	faultAt = map[string]int{}
)

func init() { // not initial values: the table and what it calls refer to each other
	faults = append(faults, networkFaults...)
	faults = append(faults, processFaults...)
	faults = append(faults, machineFaults...)
	faults = append(faults, peopleFaults...)
	faults = append(faults, drainFaults...)
	faults = append(faults, pulseFaults...)
	for i, f := range faults {
		faultAt[f.name] = i
	}
}

// inject counts a fault that is a part of something else.
func (w *World) inject(name string) { w.Stats.Faults[faultAt[name]]++ }

var networkFaults = []fault{
	{"isolated", func(w *World) bool { return w.cutFor(w.node(), true, true, w.long()) }},
	{"no way in", func(w *World) bool { return w.cutFor(w.node(), true, false, w.long()) }},
	{"no way out", func(w *World) bool { return w.cutFor(w.node(), false, true, w.long()) }},
	{"no way out for a takeover wait", func(w *World) bool { // it comes back at the very moment of the takeover
		l := w.leader()
		if l == nil || len(l.p.state.Policy.Groups) == 0 {
			return false
		}
		wait := l.p.state.Policy.Groups[0].TakeoverWait
		return w.cutFor(w.node(), false, true, wait+w.between(-wait/50, wait/50))
	}},
	{"one way between two", func(w *World) bool {
		a, b := w.node(), w.node()
		w.net.cut[a.i][b.i] = true
		w.log("cut %s -> %s", a.name, b.name)
		w.after(w.long(), nil, func() { w.net.cut[a.i][b.i] = false })
		return a != b
	}},
	{"loss", func(w *World) bool {
		w.net.loss = w.rng.Float64() * 0.5
		w.after(w.long(), nil, func() { w.net.loss = 0 })
		return true
	}},
	{"delay", func(w *World) bool {
		if w.faults.alwaysSlow {
			return false
		}
		w.net.slow = w.upTo(w.timing.Duration)
		w.after(w.long(), nil, func() { w.net.slow = 0 })
		return true
	}},
	{"leases late and doubled", func(w *World) bool { // renewals and grants overtake each other
		w.net.twice, w.net.late, w.net.lateness = w.rng.Float64()*0.5, w.rng.Float64()*0.5, w.upTo(2*w.timing.Duration)
		w.after(w.long(), nil, func() { w.net.twice, w.net.late = 0, 0 })
		return true
	}},
	{"laggard", func(w *World) bool { // what a node is told comes late; then nobody hears it any more
		m, d := w.node(), w.timing.Duration
		w.net.lag[m.i] = w.between(d/4, d/2)
		w.log("%s hears everything %s late", m.name, w.net.lag[m.i])
		w.after(w.upTo(2*d), nil, func() {
			if !w.quiet {
				w.cutFor(m, false, true, w.long())
			}
		})
		w.after(4*d, nil, func() { w.net.lag[m.i] = 0 })
		return true
	}},
	{"late, then mute, then frozen", func(w *World) bool { // what is armed with a fresh lease, and not with what is left of one, lasts too long
		m, d := w.node(), w.timing.Duration
		if !m.up || m.stopped() > w.now {
			return false
		}
		lag := w.between(d/4, d*3/4)
		w.net.lag[m.i] = lag
		w.log("%s hears everything %s late", m.name, lag)
		w.after(w.between(d, 2*d), nil, func() {
			if w.quiet {
				return
			}
			w.cutFor(m, false, true, 6*d)
			w.after(lag, nil, func() {
				w.net.lag[m.i] = 0
				if !w.quiet {
					w.stopSomehow(m, w.between(3*d, 5*d))
				}
			})
		})
		return true
	}},
}

// stopSomehow freezes an agent, with its dead man, or with everything.
func (w *World) stopSomehow(m *machine, d time.Duration) bool {
	if !m.up || m.stopped() > w.now || m.proc == nil || m.parent == nil {
		return false
	}
	switch w.rng.IntN(3) {
	case 0:
		m.proc.freeze(d)
		w.log("%s: its agent is frozen until %.3fs", m.name, m.proc.frozen.Seconds())
	case 1:
		m.proc.freeze(d)
		m.parent.freeze(d)
	default:
		m.freeze(d)
	}
	return true
}

var processFaults = []fault{
	{"leader frozen and cut off", func(w *World) bool { // it believes to lead when it goes on, and nobody can tell it otherwise
		l, d := w.leader(), w.timing.Duration
		if l == nil {
			return false
		}
		m := l.p.m
		l.p.freeze(w.between(d, 4*d))
		w.log("the agent of %s, which leads, is frozen until %.3fs", m.name, l.p.frozen.Seconds())
		w.cutFor(m, true, true, 5*d)
		return true
	}},
	{"agent killed", func(w *World) bool {
		m := w.node()
		if m.proc == nil {
			return false
		}
		w.log("%s: its agent is killed", m.name)
		w.Stats.Agents++
		m.endAgent()
		return true
	}},
	{"agent frozen", func(w *World) bool {
		m := w.node()
		if m.proc == nil || !m.proc.runs() {
			return false
		}
		m.proc.freeze(w.long())
		w.log("%s: its agent is frozen until %.3fs", m.name, m.proc.frozen.Seconds())
		return true
	}},
	{"dead man killed", func(w *World) bool {
		m := w.node()
		if m.parent == nil {
			return false
		}
		w.log("%s: its dead man is killed", m.name)
		m.killParent(w.restart())
		return true
	}},
	{"dead man frozen", func(w *World) bool {
		m := w.node()
		return m.parent != nil && m.parent.runs() && m.parent.freeze(w.long())
	}},
	{"both killed", func(w *World) bool {
		m := w.node()
		if m.parent == nil || m.proc == nil {
			return false
		}
		back := w.restart()
		if w.chance(0.3) { // nobody starts them again for long: the exception of S2
			back = w.between(2*w.timing.Duration, 8*w.timing.Duration)
		}
		w.log("%s: its agent and its dead man are killed", m.name)
		m.killParent(back)
		m.endAgent()
		return true
	}},
	{"both killed and cut off", func(w *World) bool { // who comes after them hears of nobody
		m := w.node()
		if m.parent == nil || m.proc == nil {
			return false
		}
		w.log("%s: its agent and its dead man are killed", m.name)
		m.killParent(w.restart())
		m.endAgent()
		return w.cutFor(m, true, true, w.between(w.timing.Duration, 8*w.timing.Duration))
	}},
	{"both frozen", func(w *World) bool {
		m := w.node()
		if m.parent == nil || m.proc == nil || !m.proc.runs() {
			return false
		}
		d := w.long()
		m.proc.freeze(d)
		if w.chance(0.3) {
			d = w.long()
		}
		return m.parent.freeze(d)
	}},
	{"upgrade", func(w *World) bool {
		m := w.node()
		if m.parent == nil || !m.parent.runs() {
			return false
		}
		w.upgrade(m)
		return true
	}},
	{"agent ends with a word unsaid", func(w *World) bool { // its newest lease is written down, and the dead man does not know of it
		p := w.node().proc
		if p == nil || p.parent == nil || p.parent.dead {
			return false
		}
		p.unsaid = true
		return true
	}},
	{"agent killed after a promise", nil},
	{"agent stopped between clock and system call", nil},
	{"service crashed", func(w *World) bool {
		m, i := w.node(), w.rng.IntN(len(w.keys))
		if t := &m.things[i]; !m.up || !t.on || t.stuck || w.keys[i].address {
			return false
		}
		m.turnOff(i, "it crashed")
		return true
	}},
}

var machineFaults = []fault{
	{"user space frozen", func(w *World) bool {
		m := w.node()
		if !m.up || m.frozen > w.now || m.asleep > w.now {
			return false
		}
		m.freeze(w.long())
		return true
	}},
	{"suspend", func(w *World) bool {
		m := w.node()
		if !m.up || m.frozen > w.now || m.asleep > w.now {
			return false
		}
		m.suspend(w.long())
		return true
	}},
	{"power cut", func(w *World) bool {
		m := w.node()
		if !m.up {
			return false
		}
		m.powerOff()
		w.after(w.long()+w.timing.Duration, nil, func() {
			if !m.up {
				m.boot()
			}
		})
		return true
	}},
	{"disk full", func(w *World) bool {
		m := w.node()
		if m.disk.full {
			return false
		}
		w.log("%s: its disk is full", m.name)
		m.disk.full = true
		w.after(w.long(), nil, func() { m.disk.full = false })
		return true
	}},
	{"node fenced", nil},
	{"fence device failed", nil},
	{"nft flush ruleset", func(w *World) bool {
		m := w.node()
		if !m.up || !m.gate || m.asleep > w.now || m.frozen > w.now {
			return false
		}
		m.flush()
		return true
	}},
	{"address removed by others", func(w *World) bool {
		m, i := w.node(), w.rng.IntN(len(w.keys))
		if !m.up || !w.keys[i].address || !m.things[i].on || m.asleep > w.now || m.frozen > w.now {
			return false
		}
		m.turnOff(i, "somebody removed it")
		return true
	}},
}

var peopleFaults = []fault{
	{"leadership moved", func(w *World) bool {
		p := w.node().proc
		if p == nil || p.raft.role == leading {
			return false
		}
		w.after(0, &p.actor, func() { p.campaign(false) })
		return true
	}},
	{"administrator", (*World).administer},
	{"administrator", (*World).administer},
	{"configuration applied", func(w *World) bool {
		l := w.leader()
		if l == nil {
			return false
		}
		c := w.configure(l.p.state.ConfigVersion)
		c.At, c.By = l.p.m.wall(), l.p.m.name
		l.p.append(&c)
		return true
	}},
	{"agent stopped in order", func(w *World) bool {
		p := w.node().proc
		if p == nil || p.parent == nil || p.parent.dead {
			return false
		}
		p.leaving = true
		w.log("%s: its agent leaves", p.m.name)
		p.kickAct()
		w.after(w.long(), &p.actor, func() {
			p.m.stop()
			w.timer(w.long(), p.m.init, p.m.startParent)
		})
		return true
	}},
}

// restart is how long init takes to start the dead man again.
func (w *World) restart() time.Duration { return restartAfter + w.upTo(restartAfter) }

// freeze freezes the dead man alone.
func (d *deadman) freeze(long time.Duration) bool {
	w := d.m.w
	d.frozen = max(d.frozen, w.now+long)
	w.log("%s: its dead man is frozen until %.3fs", d.m.name, d.frozen.Seconds())
	d.m.guard()
	w.after(long, nil, d.m.guard)
	return true
}

// long is how long a fault lasts: around everything that a lease can last.
func (w *World) long() time.Duration {
	return w.between(w.timing.Duration/10, 4*w.timing.Duration)
}

func (w *World) cutFor(m *machine, in, out bool, d time.Duration) bool {
	w.log("cut %s (in %v, out %v)", m.name, in, out)
	set := func(v bool) {
		for _, o := range w.nodes {
			if o == m {
				continue
			}
			if in {
				w.net.cut[o.i][m.i] = v
			}
			if out {
				w.net.cut[m.i][o.i] = v
			}
		}
	}
	set(true)
	w.after(d, nil, func() { set(false); w.log("%s is reachable again", m.name) })
	return true
}

// trouble makes faults until the quiet end.
func (w *World) trouble() {
	if w.quiet {
		return
	}
	sum := 0
	for i, n := range w.faults.weights {
		if faults[i].do != nil {
			sum += n
		}
	}
	if sum > 0 {
		at := w.rng.IntN(sum)
		for i, n := range w.faults.weights {
			if faults[i].do == nil {
				continue
			}
			if at -= n; at < 0 {
				if faults[i].do(w) {
					w.Stats.Faults[i]++
				}
				break
			}
		}
	}
	w.after(w.upTo(2*w.faults.every), nil, w.trouble)
}
