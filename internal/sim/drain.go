package sim

import (
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// The agent's part in a planned move that lets open connections finish, as in node/drain.go.

const (
	drainEvery = 100 * time.Millisecond // between two looks at the plan of a drain and at its gate
	drainCount = 500 * time.Millisecond // between two looks at connections that finish here
	drainLeast = time.Second            // a client that hears the announcement late is forwarded for that long
)

// draining is what an agent does about an address whose connections are on two nodes.
type draining struct {
	epoch  uint64
	giving bool // this node gave the address away; else it took it
	least  time.Time
	until  time.Time
	asked  time.Time // when connections were counted last
	report placement.DrainReport
	ending bool // what is left is being reset
}

// silent says that the address is here only for connections that finish.
func (s *slot) silent() bool { return s.drain != nil && s.drain.giving }

// online says that the address is here and not for connections that finish: the gate before it is renewed.
func (p *proc) online(i int) bool {
	return p.m.things[i].on && (!p.slots[i].silent() || p.w.opt.Weak == WeakDrainRenewed)
}

// here is what the agent finds when it asks the kernel: an address that is silent is offline, unless its gate is gone.
func (p *proc) here(i int) bool {
	t := &p.m.things[i]
	return t.on && (!p.slots[i].silent() || p.m.passes(t) && p.w.opt.Weak != WeakDrainOpen)
}

// plan is the state of a group, and the plan of its move; known is false while this process's copy of it may be old.
func (p *proc) plan(group string) (gs placement.GroupState, known bool) {
	gs = p.state.Groups[group]
	if gs.Drain != nil && p.state.Nodes[gs.Drain.Node].Lost {
		gs.Drain = nil
	}
	return gs, p.holder.CaughtUp(p.state.Index)
}

// giving is the plan by which the address is given away now; nil: without its connections.
func (p *proc) giving(i int, epoch uint64) *placement.Drain {
	gs, _ := p.plan(p.w.keys[i].group)
	if d := gs.Drain; d != nil && gs.Phase == placement.PhaseReleasing && d.Node == p.m.name && d.Epoch == epoch && gs.Epoch == epoch {
		return d
	}
	return nil
}

// giveAway shuts the gate for everything but connections that are open. The clock is read first: time counts from there.
func (p *proc) giveAway(i int, plan *placement.Drain, s *slot) {
	w, gen := p.w, s.gen
	s.drain = nil // of the move that brought it here
	d := &draining{epoch: plan.Epoch, giving: true, until: p.m.clock().Add(plan.Timeout)}
	d.report = placement.DrainReport{Epoch: plan.Epoch}
	w.after(w.between(time.Millisecond/2, 3*time.Millisecond), &p.actor, func() {
		if s.gen != gen {
			return
		}
		if end := d.until.Add(drainEnd); p.m.things[i].on {
			if w.opt.Weak == WeakDrainOutlives {
				end = end.Add(time.Hour)
			}
			p.m.lifetime(i, end, lease.Address)
		}
		w.after(w.upTo(gateHandled), &p.actor, func() {
			if s.gen != gen {
				return
			}
			if !p.m.drainTo(i, w.byName[plan.To], plan.Timeout) {
				s.last = &placement.DrainReport{Epoch: plan.Epoch, Done: true, Fault: "there is no gate"}
				p.removed(i, s, "it could not be given away with its connections")
				p.finish(s, gen, "")
				return
			}
			l := p.m.lane(i)
			d.report.Total, d.report.Left = len(l.sockets), len(l.sockets)
			d.asked = p.m.clock()
			d.least = d.asked.Add(drainLeast)
			w.log("%s gives %s/address away to %s; %d connections may finish for %s", p.m.name, plan.Node, plan.To, len(l.sockets), plan.Timeout)
			p.begin(i, s, d)
			p.finish(s, gen, "")
		})
	})
}

// takeOver has what belongs to the old owner's connections sent there, before the address is answered for; false: what was begun here is
// just being ended.
func (p *proc) takeOver(i int, epoch uint64, s *slot) bool {
	if s.drain != nil && s.drain.ending {
		return false
	}
	gs, _ := p.plan(p.w.keys[i].group)
	plan := gs.Drain
	if plan != nil && (gs.Phase != placement.PhaseOwned || gs.Owner != p.m.name || plan.To != gs.Owner) {
		plan = nil
	}
	old := s.drain
	s.drain = nil
	switch {
	case plan != nil:
		p.m.takeFrom(i, p.w.byName[plan.Node], plan.Timeout)
		p.begin(i, s, &draining{epoch: epoch, until: p.m.clock().Add(plan.Timeout + drainEnd)})
	case old != nil:
		p.m.endDrain(i)
	}
	return true
}

// adoptDrains takes up what the process before this one began.
func (p *proc) adoptDrains() {
	for i := range p.w.keys {
		l, now := p.m.things[i].lane, p.m.ticks()
		if l == nil || l.thereEnd <= now && l.backEnd <= now || p.w.opt.Weak == WeakDrainForgot {
			continue
		}
		left := max(l.thereEnd, l.backEnd) - now
		d := &draining{giving: l.there != nil && l.thereEnd > now, until: p.m.clock().Add(left)}
		if d.giving {
			d.until = d.until.Add(-drainEnd)
			d.report.Total, d.report.Left = len(l.sockets), len(l.sockets)
		}
		p.begin(i, &p.slots[i], d)
	}
}

// begin tends what was begun until it is over.
func (p *proc) begin(i int, s *slot, d *draining) {
	s.drain, s.last = d, nil
	p.tendSoon(i, s, d)
	p.kickAct()
}

func (p *proc) tendSoon(i int, s *slot, d *draining) {
	p.w.timer(p.m.span(drainEvery), &p.actor, func() {
		if s.drain == d {
			p.tend(i, s, d)
		}
	})
}

// tend looks after connections that are on two nodes once.
func (p *proc) tend(i int, s *slot, d *draining) {
	gs, known := p.plan(p.w.keys[i].group)
	planned, over := !known || gs.Drain != nil, !p.m.clock().Before(d.until)
	switch {
	case d.giving:
	case !over && (!known || planned && gs.Owner == p.m.name):
		p.tendSoon(i, s, d)
		return
	default:
		if gs.Owner == p.m.name { // else the next owner's move has made something of it that goes on
			p.m.endDrain(i)
		}
		s.drain = nil
		return
	}
	if known && gs.Owner == p.m.name && gs.Phase == placement.PhaseOwned {
		p.tendSoon(i, s, d) // it is ours again
		return
	}
	l, now := p.m.lane(i), p.m.clock()
	over = over && p.w.opt.Weak != WeakDrainOutlives
	goes := planned && !over && p.m.gate && !p.m.flushed
	handed := gs.Phase == placement.PhaseOwned && !now.Before(d.least)
	if goes && now.Sub(d.asked) < drainCount && (!handed || !d.asked.Before(d.least)) {
		p.tendSoon(i, s, d)
		return
	}
	d.asked = now
	if d.report.Epoch == 0 && gs.Drain != nil {
		d.report.Epoch = gs.Drain.Epoch
	}
	d.report.Left = len(l.sockets)
	if goes && (len(l.sockets) > 0 || !handed) {
		p.kickAct()
		p.tendSoon(i, s, d)
		return
	}
	d.ending = true
	p.w.after(p.w.upTo(2*time.Millisecond), &p.actor, func() {
		if s.drain == d {
			p.cut(i, s, d)
		}
	})
}

// cut ends the drain: what is still open is reset, and the address goes.
func (p *proc) cut(i int, s *slot, d *draining) {
	cut := len(p.m.lane(i).sockets)
	s.drain = nil
	p.removed(i, s, "its time is over, or its move")
	d.report.Left, d.report.Cut, d.report.Done = 0, cut, true
	last := d.report
	s.last = &last
	p.w.log("%s: of %d connections %d were cut", p.m.name, d.report.Total, cut)
	p.kickAct()
}

// removed takes an address away, with whatever was begun about its connections.
func (p *proc) removed(i int, s *slot, why string) {
	if l := p.m.things[i].lane; l != nil {
		s.drain = nil
		p.m.endDrain(i)
		p.m.things[i].open = 0
		p.m.reset(i, why)
	}
	p.m.turnOff(i, why)
}

// drainReports adds what the addresses of hot standbys know: how this node is reached, and what finishes here.
func (p *proc) drainReports(r *placement.Report) {
	for i := range p.w.keys {
		k := &p.w.keys[i]
		if !k.address || !k.hot {
			continue
		}
		g := r.Groups[k.group]
		if p.timing.Layer == lease.Gate {
			g.Links = p.w.links(k.resource, p.m)
		}
		s := &p.slots[i]
		if s.silent() {
			report := s.drain.report
			g.Drain = &report
		} else {
			g.Drain = s.last
		}
		r.Groups[k.group] = g
	}
}

// links is how a machine says that it is reached.
func (w *World) links(resource string, m *machine) map[string]string {
	if m.links == nil {
		m.links = map[string]string{resource: m.name}
	}
	return m.links
}

// sameDrain compares what two reports say of one group's connections.
func sameDrain(a, b *placement.GroupReport) bool {
	return len(a.Links) == len(b.Links) && (a.Drain == b.Drain || a.Drain != nil && b.Drain != nil && *a.Drain == *b.Drain)
}
