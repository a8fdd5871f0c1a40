package sim

import (
	"reflect"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// proc is one run of the agent on a machine.
type proc struct {
	w    *World
	m    *machine
	boot int
	dead bool

	raft  raftState
	state *placement.State
	lead  *leader

	holder    lease.Holder
	config    uint64
	report    placement.Report
	released  map[string]uint64
	rounds    map[string]uint64
	slots     map[key]*slot
	inherited time.Time
	armed     time.Time
	leaving   bool

	acting   bool // a round of the act loop is due
	actGen   int
	renewing bool
}

func (p *proc) slot(k key) *slot {
	s := p.slots[k]
	if s == nil {
		s = &slot{}
		p.slots[k] = s
	}
	return s
}

// applied is called when the state has changed.
func (p *proc) applied() {
	p.kickAct()
	p.lead.kick()
	p.lead.applied()
}

// renewLoop renews the lease at its interval.
func (p *proc) renewLoop() {
	p.renew()
	p.w.after(p.m.span(p.w.timing.Renew), p, p.renewLoop)
}

func (p *proc) kickRenew() {
	if !p.renewing {
		p.renewing = true
		p.w.after(p.w.upTo(100*time.Microsecond), p, func() {
			p.renewing = false
			p.renew()
		})
	}
}

// renew sends one renewal to the leader it knows.
func (p *proc) renew() {
	w := p.w
	leader, ok := w.byName[p.raft.leader]
	if !ok {
		return
	}
	seq := p.holder.Send(p.m.clock())
	report, boot := p.report, p.boot
	w.send(p.m, leader, func(q *proc) {
		q.lead.renew(p.m.name, boot, seq, report, func(g lease.Grant) {
			w.send(q.m, p.m, func(r *proc) {
				if r == p { // however late: the holder judges
					p.granted(g)
				}
			})
		})
	})
}

func (p *proc) granted(g lease.Grant) {
	now := p.m.clock()
	if p.w.opt.Weak == WeakT0 {
		g.Seq = p.holder.Send(now)
	}
	if !p.holder.Confirm(g, now) {
		return
	}
	p.inherited = time.Time{}
	p.m.will = p.holder.Until()
	p.kickAct()
}

// leased is until when the node may act for each group.
func (p *proc) leased() map[string]time.Time {
	out := map[string]time.Time{}
	for group, gs := range p.state.Groups { // order-free
		if gs.Owner == p.m.name {
			if until, ok := p.untilFor(group, gs); ok {
				out[group] = until
			}
		}
	}
	return out
}

func (p *proc) untilFor(group string, gs placement.GroupState) (time.Time, bool) {
	switch p.w.opt.Weak {
	case WeakGrants:
		return p.holder.Until(), !p.holder.Until().IsZero()
	case WeakGate:
		return p.holder.UntilFor(group, gs.Epoch, gs.AssignIndex, ^uint64(0))
	}
	return p.holder.UntilFor(group, gs.Epoch, gs.AssignIndex, p.state.Index)
}

func (p *proc) kickAct() {
	if !p.acting {
		p.acting = true
		p.w.after(p.w.upTo(200*time.Microsecond)+p.w.faults.jitter(p.w), p, p.act)
	}
}

// act is one round of the act loop.
func (p *proc) act() {
	p.acting = false
	p.actGen++
	st := p.state
	if st.ConfigVersion != p.config {
		p.config = st.ConfigVersion
		p.retime()
	}
	leased := p.leased()
	now := p.m.clock()
	local := placement.Local{Node: p.m.name, Leaving: p.leaving, Leased: leased, Resources: p.local(st), Released: p.released, Inherited: p.inherited}
	plan := placement.Reconcile(st.Policy, *st, local, now)
	for group, epoch := range plan.Released { // order-free
		p.released[group] = epoch
		p.bounce()
	}
	if p.w.opt.Weak == WeakReleased {
		for group, gs := range st.Groups { // order-free
			if gs.Owner == p.m.name && gs.Phase == placement.PhaseReleasing && p.released[group] < gs.Epoch {
				r := plan.Report.Groups[group]
				r.Released = gs.Epoch
				plan.Report.Groups[group] = r
			}
		}
	}
	for _, a := range plan.Actions {
		p.perform(a)
	}
	next := p.arm(leased)
	p.protect(leased)
	if !plan.Wake.IsZero() && (next.IsZero() || plan.Wake.Before(next)) {
		next = plan.Wake
	}
	p.say(plan.Report)
	wait := 2 * time.Second
	if !next.IsZero() {
		wait = max(10*time.Microsecond, min(wait, next.Sub(now)))
	}
	gen := p.actGen
	p.w.after(p.m.span(wait), p, func() {
		if p.actGen == gen {
			p.act()
		}
	})
}

// protect notes what a living agent with a lease looks after again.
func (p *proc) protect(leased map[string]time.Time) {
	for k, t := range p.m.running { // order-free
		if until, ok := leased[k.group]; ok && t.exposed && until.After(p.m.clock()) {
			t.exposed = false
		}
	}
}

// bounce kills the agent soon after it has promised something away, in some runs: the next one must keep the promise.
func (p *proc) bounce() {
	if p.w.quiet || p.w.now < p.m.bounced || !p.w.chance(p.w.faults.bounce) {
		return
	}
	p.m.bounced = p.w.now + p.w.timing.Duration
	p.w.after(p.w.upTo(5*time.Millisecond), p, func() {
		p.w.Stats.Kills++
		p.w.log("%s: its agent is killed after a promise", p.m.name)
		p.m.endAgent()
		p.w.after(p.w.between(10*time.Millisecond, 100*time.Millisecond), nil, p.m.startAgent)
	})
}

func (p *proc) say(r placement.Report) {
	old := p.report
	p.report = r
	old.Applied = r.Applied
	if !reflect.DeepEqual(old, r) {
		p.kickRenew()
	}
}

// retime takes up the timing of a new configuration: how long a lease lasts that this node asks for from now on.
func (p *proc) retime() {
	if d := configuredDuration(p.state.ConfigText); d > 0 {
		p.holder.Duration, p.m.kept = d, d
	}
}

// local gathers what runs here.
func (p *proc) local(st *placement.State) map[string]map[string]placement.LocalResource {
	out := make(map[string]map[string]placement.LocalResource, len(st.Policy.Groups))
	for _, g := range st.Policy.Groups {
		gs := st.Groups[g.Name]
		resources := make(map[string]placement.LocalResource, len(g.Resources))
		for _, r := range g.Resources {
			k := key{g.Name, r.Name}
			s, t := p.slot(k), p.m.thing(k)
			if p.rounds[g.Name] != gs.Round {
				s.restarts = nil
				if !t.on && s.doing == "" {
					s.failure = ""
				}
			} else if r.RunOn == placement.RunOnOwner && gs.Owner != p.m.name && !t.on && s.doing == "" {
				s.failure = ""
			}
			p.judge(r, s, t)
			resources[r.Name] = s.local(t)
		}
		p.rounds[g.Name] = gs.Round
		out[g.Name] = resources
	}
	return out
}

func (p *proc) judge(r placement.ResourcePolicy, s *slot, t *thing) {
	switch {
	case s.doing != "" || s.failure != "":
	case !t.on && s.expected && !r.Address:
		p.failed(s, "is not running any more")
	default:
		s.expected = t.on
	}
}

func (p *proc) failed(s *slot, why string) {
	s.failure, s.failedAt, s.expected = why, p.m.clock(), false
}

func (s *slot) local(t *thing) placement.LocalResource {
	lr := placement.LocalResource{Failure: s.failure, FailedAt: s.failedAt, Restarts: s.restarts, Doing: s.doing, Running: t.on}
	switch {
	case s.doing == placement.ActStart:
		lr.State = placement.StateOnlinePending
	case s.doing != "":
		lr.State = placement.StateOfflinePending
	case s.failure != "":
		lr.State = placement.StateFailed
	case t.on:
		lr.State, lr.Healthy, lr.Ready = placement.StateOnline, true, true
	default:
		lr.State = placement.StateOffline
	}
	return lr
}

// perform starts an action; a stop ends a start, a kill ends both.
func (p *proc) perform(a placement.Action) {
	k := key{a.Group, a.Resource}
	s := p.slot(k)
	if s.doing == placement.ActKill || s.doing == a.Kind || s.doing == placement.ActStop && a.Kind == placement.ActStart {
		return
	}
	g, _ := p.state.Policy.Group(a.Group)
	r, _ := g.Resource(a.Resource)
	s.doing = a.Kind
	s.gen++
	switch a.Kind {
	case placement.ActStart:
		s.failure = ""
		if a.Restart {
			s.restarts = append(s.restarts, p.m.clock())
		}
		p.start(k, r, a.Epoch, s)
	case placement.ActStop:
		p.stop(k, r, s)
	case placement.ActKill:
		p.kill(k, r, s)
	}
}

// finish ends an action unless another has replaced it.
func (p *proc) finish(s *slot, gen int, err string) {
	if s.gen != gen {
		return
	}
	if s.doing == placement.ActStart {
		if s.expected = err == ""; err != "" {
			p.failed(s, err)
		}
	} else {
		s.expected = false
		if s.doing == placement.ActStop {
			s.failure = ""
		}
	}
	s.doing = ""
	p.kickAct()
}

func (p *proc) start(k key, r placement.ResourcePolicy, epoch uint64, s *slot) {
	w, gen := p.w, s.gen
	if r.Address {
		w.after(w.between(time.Millisecond, 4*time.Millisecond), p, func() { p.addAddress(k, epoch, s, gen, w.now) })
		return
	}
	p.m.thing(k).gen++   // a stop that a former process began no longer counts
	p.m.turnOn(k, epoch) // a process runs from its first instruction, long before it serves
	bad := !w.quiet && w.chance(w.faults.badStart)
	w.after(w.between(50*time.Millisecond, w.timing.Duration), p, func() {
		if s.gen != gen {
			return
		}
		if bad {
			p.m.turnOff(k, "its start failed")
			p.finish(s, gen, "its start failed")
			return
		}
		p.finish(s, gen, "")
	})
}

// addAddress adds an address when the lease is long enough for the kernel's whole seconds; checking and adding are one step.
func (p *proc) addAddress(k key, epoch uint64, s *slot, gen int, since time.Duration) {
	if s.gen != gen {
		return
	}
	gs := p.state.Groups[k.group]
	if gs.Owner == p.m.name && gs.Phase == placement.PhaseOwned {
		if until, ok := p.untilFor(k.group, gs); ok && p.m.arm(k, until) {
			p.m.turnOn(k, epoch)
			p.finish(s, gen, "")
			return
		}
	} else {
		p.finish(s, gen, "this node no longer owns the group")
		return
	}
	if p.w.now-since > 5*time.Second {
		p.finish(s, gen, "no lease")
		return
	}
	p.kickRenew()
	p.w.after(p.w.between(5*time.Millisecond, 20*time.Millisecond), p, func() { p.addAddress(k, epoch, s, gen, since) })
}

func (p *proc) stop(k key, r placement.ResourcePolicy, s *slot) {
	w, gen := p.w, s.gen
	if r.Address {
		p.kill(k, r, s)
		return
	}
	takes := w.between(20*time.Millisecond, w.timing.Duration)
	if w.chance(w.faults.longStop) {
		takes = w.between(r.PendingTimeout/2, 3*r.PendingTimeout)
	}
	p.m.stopThing(k, takes, "stopped")
	w.after(min(takes, r.PendingTimeout)+time.Millisecond, p, func() {
		if s.gen != gen {
			return
		}
		if p.m.thing(k).on {
			p.kill(k, r, s)
			return
		}
		p.finish(s, gen, "")
	})
}

func (p *proc) kill(k key, r placement.ResourcePolicy, s *slot) {
	w, gen := p.w, s.gen
	if r.Address {
		w.after(w.between(time.Millisecond/2, 3*time.Millisecond), p, func() {
			if s.gen == gen {
				p.m.turnOff(k, string(s.doing))
				p.finish(s, gen, "")
			}
		})
		return
	}
	takes := w.upTo(r.StopBudget)
	p.m.stopThing(k, takes, "killed")
	w.after(takes+time.Millisecond, p, func() { p.finish(s, gen, "") })
}

// arm renews the lifetime of every address that is online under a lease, as node.arm does.
func (p *proc) arm(leased map[string]time.Time) time.Time {
	const gain = 50 * time.Millisecond
	var until time.Time
	var held []key
	for _, k := range p.w.keys {
		end, ok := leased[k.group]
		g, _ := p.state.Policy.Group(k.group)
		if r, _ := g.Resource(k.resource); !ok || !r.Address || !p.m.thing(k).on || p.slot(k).doing != "" {
			continue
		}
		if held = append(held, k); until.IsZero() || end.Before(until) {
			until = end
		}
	}
	now := p.m.clock()
	life := lease.KernelLifetime(now, until)
	if len(held) == 0 || life == 0 {
		return time.Time{}
	}
	if now.Add(life).Sub(p.armed) >= gain {
		p.armed = now.Add(life)
		for _, k := range held {
			p.m.arm(k, until)
		}
	}
	if last := until.Add(-life - gain/2); last.After(now) {
		return last
	}
	return time.Time{}
}
