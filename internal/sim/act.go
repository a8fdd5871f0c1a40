package sim

import (
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// perform starts an action; a stop ends a start, a kill ends both.
func (p *proc) perform(a placement.Action) {
	i := p.w.index(a.Group, a.Resource)
	if i < 0 {
		return
	}
	s := &p.slots[i]
	if s.doing == placement.ActKill || s.doing == a.Kind || s.doing == placement.ActStop && a.Kind == placement.ActStart {
		return
	}
	g, _ := p.state.Policy.Group(a.Group)
	r, _ := g.Resource(a.Resource)
	s.doing = a.Kind
	s.gen++
	switch a.Kind {
	case placement.ActStart:
		s.failure, s.blocked = "", ""
		if a.Restart {
			s.restarts = append(s.restarts, p.m.clock())
		}
		p.start(i, a.Epoch, s)
	case placement.ActStop:
		p.stop(i, a.Epoch, r, s)
	case placement.ActKill:
		p.kill(i, s)
	}
}

// finish ends an action unless another has replaced it.
func (p *proc) finish(s *slot, gen int, err string) {
	if s.gen != gen {
		return
	}
	switch {
	case s.doing == placement.ActStart:
		if s.expected = err == ""; err != "" {
			p.failed(s, err)
		}
	case err == "":
		s.expected, s.blocked = false, ""
		if s.doing == placement.ActStop {
			s.failure = ""
		}
	}
	s.doing = ""
	p.kickAct()
}

func (p *proc) start(i int, epoch uint64, s *slot) {
	w, gen := p.w, s.gen
	if w.keys[i].address {
		w.after(w.between(time.Millisecond, 4*time.Millisecond), &p.actor, func() { p.addAddress(i, epoch, s, gen, w.now) })
		return
	}
	// The lease is looked at again right before: this process may have stood still since the decision.
	if until, mask := p.leased(); !w.keys[i].everyNode && (mask&(1<<w.keys[i].g) == 0 || !p.m.clock().Before(until)) {
		p.finish(s, gen, "the lease ended before the start")
		return
	}
	if p.m.things[i].stuck {
		p.finish(s, gen, "what ran before does not die")
		return
	}
	t := &p.m.things[i]
	t.gen, t.ends = t.gen+1, 0 // a stop that a former process began no longer counts
	p.m.turnOn(i, epoch)       // a process runs from its first instruction, long before it serves
	bad := !w.quiet && w.chance(w.faults.badStart)
	w.timer(w.between(50*time.Millisecond, w.timing.Duration), &p.actor, func() {
		if s.gen != gen {
			return
		}
		if bad {
			p.m.turnOff(i, "its start failed")
			p.finish(s, gen, "its start failed")
			return
		}
		p.finish(s, gen, "")
	})
}

// addAddress adds an address when the lease is long enough for the kernel's clock. On the layer Address checking and adding
// are one step (the race between them is a limit that docs/design.md names); on the layer Gate the ticket makes them one.
func (p *proc) addAddress(i int, epoch uint64, s *slot, gen int, since time.Duration) {
	if s.gen != gen {
		return
	}
	m, k := p.m, &p.w.keys[i]
	gs := p.state.Groups[k.group]
	if gs.Owner != m.name || gs.Phase != placement.PhaseOwned {
		p.finish(s, gen, "this node no longer owns the group")
		return
	}
	again := func() {
		if p.w.now-since > 5*time.Second {
			p.finish(s, gen, "no lease")
			return
		}
		p.kickRenew()
		p.w.timer(p.w.between(5*time.Millisecond, 20*time.Millisecond), &p.actor, func() { p.addAddress(i, epoch, s, gen, since) })
	}
	until, ok := p.untilFor(k.group, gs)
	if !ok || !p.takeOver(i, epoch, s) {
		again()
		return
	}
	add := func() bool {
		if !m.lifetime(i, until, p.timing.Layer) {
			return false
		}
		m.turnOn(i, epoch)
		p.w.announce(i, m)
		p.finish(s, gen, "")
		return true
	}
	if !m.gate {
		if !p.unbound() || !add() {
			again()
		}
		return
	}
	timeout, readAt := p.timeout(p.capped(until)), m.ticks()
	if timeout <= 0 {
		again()
		return
	}
	p.unlucky()
	p.w.after(p.w.upTo(gateHandled), &p.actor, func() {
		if s.gen != gen && p.w.opt.Weak != WeakTicket {
			return
		}
		if !m.pass(i, timeout, readAt, false) || !add() {
			again()
		}
	})
}

// timeout is what the gate is opened for: what is left of the lease, less the time that the message may take.
func (p *proc) timeout(until time.Time) time.Duration {
	if until.IsZero() {
		return 0
	}
	left := until.Sub(p.m.clock()) - ticket
	switch p.w.opt.Weak {
	case WeakTicket:
		left += ticket
	case WeakShut:
		left = p.timing.Duration
	}
	return p.m.span(left)
}

// unlucky stops the process between its look at the clock and the system call, in some runs.
func (p *proc) unlucky() {
	if !p.w.quiet && p.w.chance(p.w.faults.unlucky) {
		p.w.inject("agent stopped between clock and system call")
		m, w, d := p.m, p.w, p.timing.Duration
		if w.chance(0.5) {
			w.stopSomehow(m, w.between(time.Millisecond, 3*d))
			return
		}
		// For a moment, so that the message is handled, and then for long: nobody mends what it did.
		short := w.between(time.Millisecond, d)
		if w.stopSomehow(m, short) {
			w.after(short+3*time.Millisecond, nil, func() {
				if !w.quiet {
					w.stopSomehow(m, w.between(d, 4*d))
				}
			})
		}
	}
}

func (p *proc) stop(i int, epoch uint64, r placement.ResourcePolicy, s *slot) {
	w, gen := p.w, s.gen
	if w.keys[i].address {
		plan := p.giving(i, epoch)
		switch {
		case s.silent():
			w.after(w.between(time.Millisecond/2, 2*time.Millisecond), &p.actor, func() { p.finish(s, gen, "") })
		case plan != nil:
			p.giveAway(i, plan, s)
		default:
			p.kill(i, s)
		}
		return
	}
	takes := w.between(20*time.Millisecond, w.timing.Duration)
	if w.chance(w.faults.longStop) {
		takes = w.between(r.PendingTimeout/2, 3*r.PendingTimeout)
	}
	if !p.m.things[i].stuck {
		p.m.end(i, takes, "stopped")
	}
	w.timer(min(takes, r.PendingTimeout)+time.Millisecond, &p.actor, func() {
		if s.gen != gen {
			return
		}
		if p.m.things[i].on {
			p.kill(i, s)
			return
		}
		p.finish(s, gen, "")
	})
}

const killRetry = time.Second

func (p *proc) kill(i int, s *slot) {
	w, gen := p.w, s.gen
	if w.keys[i].address {
		w.after(w.between(time.Millisecond/2, 3*time.Millisecond), &p.actor, func() {
			if s.gen == gen {
				if s.doing == placement.ActKill {
					p.m.unleased(i)
				}
				p.removed(i, s, string(s.doing))
				p.finish(s, gen, "")
			}
		})
		return
	}
	takes, dies := p.m.kill(i)
	if dies {
		w.timer(takes+time.Millisecond, &p.actor, func() {
			if p.m.things[i].on { // its kill outlasted the budget
				w.timer(takes, &p.actor, func() { p.finish(s, gen, "") })
				return
			}
			p.finish(s, gen, "")
		})
		return
	}
	w.timer(w.keys[i].budget, &p.actor, func() {
		if s.gen == gen {
			s.blocked = "cannot be proven stopped"
			w.timer(killRetry, &p.actor, func() { p.finish(s, gen, "does not die") })
		}
	})
}

// arm renews the lifetime of every address that is online under a lease, and the gate before it, as node.arm does; it returns
// when that is worth while again.
func (p *proc) arm(until time.Time, mask uint64) (next time.Time) {
	const gain = 50 * time.Millisecond
	m, now := p.m, p.m.clock()
	held, loose := 0, false
	for i := range p.w.keys {
		if k := &p.w.keys[i]; k.address && m.things[i].on {
			if mask&(1<<k.g) != 0 && p.slots[i].doing == "" && p.online(i) {
				held++
			} else {
				loose = loose || p.online(i) || p.w.opt.Weak != WeakDrainLayer
			}
		}
	}
	if held == 0 {
		if m.gate && !loose && p.timing.Layer == lease.Address && p.unbound() {
			m.dropGate()
		}
		return time.Time{}
	}
	if m.gate {
		p.renewGate(until, mask)
	}
	if p.timing.Layer == lease.Gate {
		if end := until.Add(coarse); end.Sub(p.armed) >= coarse/2 || p.armed.Sub(end) >= time.Second {
			p.armed = end
			p.lifetimes(until, mask)
		}
		return time.Time{}
	}
	life := lease.KernelLifetime(now, until)
	if life == 0 {
		return time.Time{}
	}
	if later := now.Add(life).Sub(p.armed); later >= gain || later <= -time.Second || m.gate {
		p.armed = now.Add(life)
		p.lifetimes(until, mask)
	}
	if m.gate && !loose && p.unbound() {
		m.dropGate()
	}
	if last := until.Add(-life - gain/2); last.After(now) {
		return last
	}
	return time.Time{}
}

// lifetimes arms every address that is held.
func (p *proc) lifetimes(until time.Time, mask uint64) {
	for i := range p.w.keys {
		if k := &p.w.keys[i]; k.address && p.online(i) && mask&(1<<k.g) != 0 && p.slots[i].doing == "" {
			p.m.lifetime(i, until, p.timing.Layer)
		}
	}
}

// renewGate reads the clock now; the kernel hears of it a little later, or, of a process that was stopped in between, much later.
// Where the tables are gone they are set up again. What has closed is opened again, which a renewal does not do.
func (p *proc) renewGate(until time.Time, mask uint64) {
	m := p.m
	timeout, readAt := p.timeout(p.capped(until)), m.ticks()
	if timeout <= 0 {
		return
	}
	p.unlucky()
	p.w.after(p.w.upTo(gateHandled), &p.actor, func() {
		if m.flushed {
			m.setGate()
		}
		refused := false
		for i := range p.w.keys {
			if k := &p.w.keys[i]; !k.address || !p.online(i) || mask&(1<<k.g) == 0 {
				continue
			}
			_, now := p.leased()
			ours := now&mask&(1<<p.w.keys[i].g) != 0 && p.slots[i].doing == ""
			if p.w.pulses && m.things[i].open >= m.ticks()+timeout {
				continue // what would end it sooner is not worth a system call
			}
			if !m.pass(i, timeout, readAt, true) && (!ours || !m.pass(i, timeout, readAt, false)) {
				refused = refused || ours
			}
		}
		if refused {
			p.kickAct()
		}
	})
}
