package sim

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// proc is one run of the agent on a machine.
type proc struct {
	actor
	w      *World
	boot   int
	parent *deadman

	raft  raftState
	state *placement.State
	lead  *leader

	pulser pulser
	voter  voter

	holder    lease.Holder
	timing    lease.Timing
	config    uint64
	report    *placement.Report
	rev       int // of the report: raised when something changed that a decision could depend on
	released  map[string]uint64
	rounds    map[string]uint64
	slots     []slot
	inherited time.Time // end of the lease of the process before, until this one may act
	hint      *machine  // who granted that; asked until Raft knows a leader
	armed     time.Time // end of the lifetime of the addresses, as armed last
	deadline  time.Time // as told to the dead man
	former    bool      // what is on file to be ended is of a process before; until this one has a lease
	leaving   bool

	acting bool // a round of the act loop is due
	timerN int
	set    time.Duration // when the timer of the loop rings; 0: not set
	wake   time.Time     // when the loop has something to do by time alone
	seen   *placement.State
	dirty  bool   // something changed since the last round
	mask   uint64 // groups under a lease in the last round
	holds  uint64 // groups of which something is or may be here
	told   bool   // the dead man has been told something by this process

	scratch   scratch
	renewing  bool
	renewN    int
	lateWord  time.Duration // added to its renewals: it is about to die, and its last words overtake nobody
	abandoned bool          // its dead man has died: it begins nothing any more, and its lease gets no longer
	unsaid    bool          // it ends with its next lease, before it has told anybody
	knew      bool
	failing   bool // its disk took no write: it is about to end
	began     time.Duration
}

// scratch is what a round of the act loop hands to placement.Reconcile, used again in the next: nothing keeps it.
type scratch struct {
	leased map[string]time.Time
	local  map[string]map[string]placement.LocalResource
}

// startAgent begins a process of the agent. It adopts what it finds.
func (m *machine) startAgent() {
	w := m.w
	p := &proc{actor: actor{m: m}, w: w, parent: m.parent, state: &w.truth[m.disk.snapshot].state, slots: make([]slot, len(w.keys)),
		released: map[string]uint64{}, rounds: map[string]uint64{}, report: &placement.Report{},
		scratch: scratch{map[string]time.Time{}, map[string]map[string]placement.LocalResource{}}}
	m.boots++
	p.boot = m.boots
	p.timing = w.timings[m.kept]
	p.holder.Duration = p.timing.Duration
	p.lead = &leader{p: p}
	if now := m.clock(); m.will.After(now) && m.will.Sub(now) <= p.timing.Duration {
		p.inherited = m.will
		if m.granter != m {
			p.hint = m.granter
		}
	}
	p.raft = newRaftState(len(w.nodes))
	p.raft.contact = w.now
	p.raft.applied, p.raft.commit = m.disk.snapshot, m.disk.snapshot
	if m.gate {
		m.setGate() // where somebody took it away it is made anew, closed
	}
	p.former, p.began = !m.held.IsZero(), w.now
	p.adoptDrains()
	m.proc = p
	w.log("%s starts its agent", m.name)
	p.watchLeader(p.timing.Heartbeat + w.upTo(p.timing.Heartbeat))
	p.startPulser()
	p.renewLoop()
	p.kickAct()
}

// stopAgent freezes the agent alone for a while.
func (p *proc) freeze(d time.Duration) {
	m, w := p.m, p.w
	p.frozen = max(p.frozen, w.now+d)
	m.guard()
	w.after(d, nil, m.guard)
}

// applied is called when the state has changed.
func (p *proc) applied() {
	p.kickAct()
	p.lead.kick()
	p.lead.applied()
	if !p.knew && p.knows() {
		p.knew = true
		p.m.guard()
	}
}

// knows says that the agent has heard of a configuration: what it is to start, stop and kill.
func (p *proc) knows() bool { return p.state.ConfigVersion > 0 }

// renewLoop renews the lease at its interval, which begins anew at each renewal.
func (p *proc) renewLoop() {
	p.renew()
	p.renewIn(p.timing.Renew)
}

// renewIn has the next renewal come after that time, and no other.
func (p *proc) renewIn(after time.Duration) {
	p.renewN++
	n := p.renewN
	p.w.timer(p.m.span(after), &p.actor, func() {
		if p.renewN == n {
			p.renewLoop()
		}
	})
}

func (p *proc) kickRenew() {
	if !p.renewing {
		p.renewing = true
		p.w.after(p.w.upTo(100*time.Microsecond), &p.actor, func() {
			p.renewing = false
			p.renewLoop()
		})
	}
}

// renew sends one renewal to the leader it knows.
func (p *proc) renew() {
	to := p.raft.leader
	if to == nil {
		to = p.hint
	}
	if to == nil || p.abandoned {
		return
	}
	seq := p.holder.Send(p.m.clock())
	a := ask{from: p, rev: p.rev, seq: seq, term: p.m.disk.term, echo: p.holder.Echo(to.name, p.m.disk.term), report: p.report}
	p.w.sendLease(p.m, to, p.lateWord, func(q *proc) { q.lead.renew(a) })
}

// granted takes the leader's answer, however late it comes: the holder judges.
func (p *proc) granted(g lease.Grant) {
	now := p.m.clock()
	if p.abandoned {
		return
	}
	if p.w.opt.Weak == WeakT0 {
		g.Seq = p.holder.Send(now)
	}
	if !p.holder.Confirm(g, now) {
		return
	}
	p.dirty = p.dirty || !p.inherited.IsZero()
	p.m.will, p.m.granter, p.hint = p.holder.Until(), p.w.byName[g.Leader], nil
	if p.unsaid {
		p.w.log("%s: its agent ends with its last word unsaid", p.m.name)
		p.m.stop()
		p.w.timer(p.w.long(), p.m.init, p.m.startParent)
		return
	}
	switch {
	case p.acting:
	case p.w.faults.starved > 0:
		p.acting = true
		p.w.after(p.w.faults.jitter(p.w), &p.actor, p.turn)
	default:
		p.turn()
	}
}

// turn is one turn of the act loop. Where nothing has changed since the last one but the end of the lease, placement.Reconcile
// would say the same again: then only the layers are armed. One run in 64 asks it all the same.
func (p *proc) turn() {
	p.acting = false
	p.noticed()
	if until := p.holder.Until(); p.abandoned && until.After(p.m.clock()) {
		p.sleep(until, time.Time{})
		return
	}
	until, mask := p.leased()
	if p.dirty || p.seen != p.state || mask != p.mask || !p.wake.IsZero() && !p.m.clock().Before(p.wake) || p.w.opt.Seed%64 == 0 {
		p.act()
		return
	}
	p.parent.alive()
	p.bequeath(until, mask)
	p.sleep(p.wake, p.arm(until, mask))
}

// leased is until when the node may act, and for which groups: none when that is over.
func (p *proc) leased() (until time.Time, mask uint64) {
	for g := range p.w.shape.Groups {
		name := p.w.shape.Groups[g].Name
		if gs := p.state.Groups[name]; gs.Owner == p.m.name {
			if end, ok := p.untilFor(name, gs); ok {
				until, mask = end, mask|1<<g
			}
		}
	}
	if mask != 0 && !p.m.clock().Before(until) {
		return time.Time{}, 0
	}
	return until, mask
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
	p.dirty = true
	if !p.acting {
		p.acting = true
		p.w.after(p.w.upTo(200*time.Microsecond)+p.w.faults.jitter(p.w), &p.actor, p.turn)
	}
}

// act is one round of the act loop, as in package node.
func (p *proc) act() {
	w, st := p.w, p.state
	p.acting, p.dirty, p.seen = false, false, st
	if st.ConfigVersion != p.config {
		p.config = st.ConfigVersion
		p.retime()
	}
	p.parent.alive()
	if p.holder.CaughtUp(st.Index) {
		p.inherited = time.Time{}
	}
	until, mask := p.leased()
	now := p.m.clock()
	clear(p.scratch.leased)
	leased := p.scratch.leased
	for g := range w.shape.Groups {
		if mask&(1<<g) != 0 {
			leased[w.shape.Groups[g].Name] = until
		}
	}
	local := placement.Local{Node: p.m.name, Leaving: p.leaving, Leased: leased, Resources: p.local(st), Released: p.released, Inherited: p.inherited}
	plan := placement.Reconcile(st.Policy, *st, local, now)
	for group, epoch := range plan.Released { // order-free
		p.released[group] = epoch
		w.Stats.Promises++
		p.bounce()
	}
	if w.opt.Weak == WeakReleased {
		p.promiseUnread(&plan)
	}
	p.holding(&plan)
	p.bequeath(until, mask)
	for _, a := range plan.Actions {
		p.perform(a)
	}
	p.mask, p.wake = mask, plan.Wake
	next := p.arm(until, mask)
	p.drainReports(&plan.Report)
	p.say(&plan.Report)
	p.sleep(plan.Wake, next)
}

// sleep sets the timer of the loop to the earlier of two instants, two seconds from now at the latest. A timer that rings
// too early is set again then.
func (p *proc) sleep(a, b time.Time) {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		a = b
	}
	wait := 2 * time.Second
	if !a.IsZero() {
		wait = max(10*time.Microsecond, min(wait, a.Sub(p.m.clock())))
	}
	at := p.w.now + p.m.span(wait)
	if p.set != 0 && p.set <= at {
		return
	}
	p.timerN++
	n := p.timerN
	p.set = at
	p.w.timer(at-p.w.now, &p.actor, func() {
		if p.timerN == n {
			p.set = 0
			p.turn()
		}
	})
}

func (p *proc) promiseUnread(plan *placement.Plan) {
	for group, gs := range p.state.Groups { // order-free
		if gs.Owner == p.m.name && gs.Phase == placement.PhaseReleasing && p.released[group] < gs.Epoch {
			r := plan.Report.Groups[group]
			r.Released = gs.Epoch
			plan.Report.Groups[group] = r
		}
	}
}

// holding notes of which groups something is here, or about to be started.
func (p *proc) holding(plan *placement.Plan) {
	p.holds = 0
	for g := range p.w.shape.Groups {
		if plan.Report.Groups[p.w.shape.Groups[g].Name].Holding {
			p.holds |= 1 << g
		}
	}
	for _, a := range plan.Actions {
		if i := p.w.index(a.Group, a.Resource); a.Kind == placement.ActStart && i >= 0 && !p.w.keys[i].everyNode {
			p.holds |= 1 << p.w.keys[i].g
		}
	}
}

// bequeath tells the dead man until when what is held here, or is about to be started, may live.
func (p *proc) bequeath(until time.Time, mask uint64) {
	switch {
	case p.holds == 0 && !p.inherited.After(p.m.clock()):
		until = time.Time{}
	case p.holds&mask == 0:
		return // held without a lease: the deadline that was told last stands
	}
	if p.w.opt.Weak == WeakFresh && !until.IsZero() {
		until = p.m.clock().Add(p.timing.Duration)
	}
	if !p.told && p.knows() || !until.Equal(p.deadline) {
		p.told, p.deadline = true, until
		p.former = p.former && until.IsZero()
		if !p.former { // on file first: who kills it may kill the dead man as well
			p.m.held = until
		}
		p.parent.tell(until)
	}
}

// bounce kills the agent soon after it has promised something away, in some runs: the next one must keep the promise.
func (p *proc) bounce() {
	if p.w.quiet || p.w.now < p.m.bounced || !p.w.chance(p.w.faults.bounce) {
		return
	}
	p.m.bounced = p.w.now + p.w.timing.Duration
	p.parent.pause = 0   // it ran well until now
	if p.w.chance(0.5) { // and what it said last is slow
		p.lateWord = p.w.upTo(p.w.timing.Duration / 2)
	}
	p.w.after(p.w.upTo(5*time.Millisecond), &p.actor, func() {
		p.w.inject("agent killed after a promise")
		p.w.log("%s: its agent is killed after a promise", p.m.name)
		p.m.endAgent()
	})
}

func (p *proc) say(r *placement.Report) {
	r.Gate, r.Config = true, p.config
	if p.m.i == p.w.fence.unsure {
		r.Unsure = "no layer ends what is exclusive"
	}
	old := p.report
	p.report = r
	if !p.w.sameReport(old, r) {
		p.rev++
		p.kickRenew()
	}
}

// sameReport says that nothing changed that a decision could depend on, as node.sameReport does: by looking at what differs in
// the simulator. One run in 64 looks at everything.
func (w *World) sameReport(a, b *placement.Report) bool {
	same := a.Node == b.Node && a.ID == b.ID && a.Config == b.Config && a.Leaving == b.Leaving && a.Gate == b.Gate && a.Unsure == b.Unsure && len(a.Groups) == len(b.Groups) && len(a.Ladder) == len(b.Ladder)
	for g := 0; same && g < len(w.shape.Groups); g++ {
		x, y := a.Groups[w.shape.Groups[g].Name], b.Groups[w.shape.Groups[g].Name]
		same = x.Holding == y.Holding && x.Released == y.Released && x.Ready == y.Ready && x.Trouble == y.Trouble && x.Resource == y.Resource &&
			x.Blocked == y.Blocked && slices.Equal(x.Evidence, y.Evidence) && maps.Equal(x.Resources, y.Resources) && sameDrain(&x, &y)
	}
	if w.opt.Seed%64 == 0 {
		c := *a
		c.Applied = b.Applied
		if reflect.DeepEqual(&c, b) != same {
			w.broken("the simulator overlooks what changed in a report: %+v, %+v", a, b)
		}
	}
	return same
}

// retime takes up the timing of a new configuration, and the layer that it counts on.
func (p *proc) retime() {
	n, ok := timingOf(p.state.ConfigText)
	if !ok {
		return
	}
	p.timing, p.m.kept = p.w.timings[n], n
	p.holder.Duration = p.timing.Duration
	if p.timing.Layer == lease.Gate {
		p.m.setGate()
	}
}

// local gathers what runs here.
func (p *proc) local(st *placement.State) map[string]map[string]placement.LocalResource {
	out := p.scratch.local
	for i := range p.w.keys {
		k := &p.w.keys[i]
		gs := st.Groups[k.group]
		s, t := &p.slots[i], &p.m.things[i]
		idle := !t.on && s.doing == ""
		if p.rounds[k.group] != gs.Round {
			s.restarts = nil
			if idle {
				s.failure = ""
			}
		} else if !k.everyNode && gs.Owner != p.m.name && idle {
			s.failure = ""
		}
		p.judge(k, s, t)
		of := out[k.group]
		if of == nil {
			of = make(map[string]placement.LocalResource, 3)
			out[k.group] = of
		}
		of[k.resource] = s.local(p.here(i))
	}
	for _, g := range st.Policy.Groups {
		p.rounds[g.Name] = st.Groups[g.Name].Round
	}
	return out
}

func (p *proc) judge(k *key, s *slot, t *thing) {
	switch {
	case s.doing != "" || s.failure != "":
	case !t.on && s.expected && !k.address:
		p.failed(s, "is not running any more")
	default:
		s.expected = t.on
	}
}

func (p *proc) failed(s *slot, why string) {
	s.failure, s.failedAt, s.expected = why, p.m.clock(), false
}

func (s *slot) local(on bool) placement.LocalResource {
	lr := placement.LocalResource{Failure: s.failure, FailedAt: s.failedAt, Restarts: s.restarts, Doing: s.doing, Running: on, Blocked: s.blocked}
	switch {
	case s.doing == placement.ActStart:
		lr.State = placement.StateOnlinePending
	case s.doing != "":
		lr.State = placement.StateOfflinePending
	case s.failure != "":
		lr.State = placement.StateFailed
	case on:
		lr.State, lr.Healthy, lr.Ready = placement.StateOnline, true, true
	default:
		lr.State = placement.StateOffline
	}
	return lr
}
