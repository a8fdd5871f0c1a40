package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"hacluster/placement"
	"hacluster/vip"
)

const (
	holdFor    = 2 * time.Second        // how long what opens a connection is sent to the new owner again and again, at most
	holdOn     = 300 * time.Millisecond // the same, after the group was given to it
	drainEvery = 100 * time.Millisecond // between two looks at the plan of a drain and at its gate
	drainCount = 500 * time.Millisecond // between two looks at connections that finish here: the kernel goes through all that it has
	drainLeast = time.Second            // a client that hears the announcement late is forwarded for that long
	drainEnd   = 2 * time.Second        // how much longer the address lives than its connections may, and the new owner forwards
	cutTries   = 10                     // how often connections that are cut are reset, each time within a bound, on a machine that is too busy for it
)

// readyDrains sets up the tables that forward while the old owner of a group still gives it up to this node.
func (n *Node) readyDrains(st placement.State) {
	// order-free: each group once
	for name, gs := range st.Groups {
		if d := gs.Drain; d == nil || gs.Phase != placement.PhaseReleasing || d.To != n.name || n.readied[name] == gs.Epoch {
			continue
		}
		n.readied[name] = gs.Epoch
		n.loops.Go(func() { n.logError("setting up the forwarding of connections", n.vips.ReadyDrains()) })
	}
}

// draining is what this node does about an address whose connections are on two nodes. "Moves that nobody notices" in
// docs/design.md.
type draining struct {
	epoch  uint64 // given away, or taken over
	giving bool   // this node gave the address away; else it took it
	least  time.Time
	until  time.Time
	asked  time.Time // when connections were counted last
	report placement.DrainReport
	stop   context.CancelFunc
	ended  chan struct{}
}

// drainSource tells an address about the plan of its group's move.
type drainSource interface {
	// plan is the plan in force and the state of the group; known is false while this node's copy of it may be old.
	plan(group string) (gs placement.GroupState, known bool)
	name() string
}

// drainPlans implements drainSource.
type drainPlans struct{ n *Node }

func (p drainPlans) name() string { return p.n.name }

func (p drainPlans) plan(group string) (placement.GroupState, bool) {
	st := p.n.raftState()
	known, _ := p.n.renewer.caughtUp(st.Index)
	gs := st.Groups[group]
	if gs.Drain != nil && st.Nodes[gs.Drain.Node].Lost {
		gs.Drain = nil // nothing there to finish
	}
	return gs, known
}

// giving is the plan by which this node gives the address away now, with its connections; nil: without.
func (a *address) giving(epoch uint64) *placement.Drain {
	if a.plans == nil {
		return nil
	}
	gs, _ := a.plans.plan(a.spec.Group)
	if d := gs.Drain; d != nil && gs.Phase == placement.PhaseReleasing && d.Node == a.plans.name() && d.Epoch == epoch && gs.Epoch == epoch {
		return d
	}
	return nil
}

// link notes how others reach this node on the link of the address, for the report.
func (a *address) link(v vip.Sight) {
	text := ""
	if a.plans != nil {
		if p, err := v.Peer(a.spec); err == nil {
			text = p.String()
		}
	}
	a.peer.Store(&text)
}

func (d *draining) over(now time.Time) bool { return !now.Before(d.until) }

// peers reads how two nodes reach each other from a plan.
func (a *address) peers(d *placement.Drain) (from, to vip.Peer, err error) {
	from, err = vip.ParsePeer(d.Links[d.Node][a.spec.Resource])
	if err == nil {
		to, err = vip.ParsePeer(d.Links[d.To][a.spec.Resource])
	}
	return from, to, err
}

// giveAway shuts the gate for everything but connections that are open, which may go on until the plan's time is over. The
// address stays on this node and answers nobody's question for it: it is not held any more.
func (a *address) giveAway(plan *placement.Drain) error {
	a.silence()
	addr := a.spec.Address.Addr()
	from, to, err := a.peers(plan)
	if err != nil {
		return err
	}
	d := &draining{epoch: plan.Epoch, giving: true, until: a.clock().Add(plan.Timeout)}
	d.report = placement.DrainReport{Epoch: plan.Epoch, Until: time.Now().Add(plan.Timeout)}
	// While it is still behind an open gate: with the lifetime of its lease the address would go from under its connections.
	a.gate.lasting(addr)
	if err := a.vips.RenewBy([]vip.Spec{a.spec}, d.until.Add(drainEnd)); err != nil {
		return err
	}
	if err := a.vips.ReadyDrains(); err != nil {
		return err
	}
	held, err := a.vips.HoldOpenings(a.spec, to)
	if err != nil {
		a.log.Warn("new connections that come before the new owner is ready take a second longer", "vip", a.spec.Address, "err", err)
		held = func(context.Context, []vip.Conn) error { return nil }
	}
	if err := a.gate.giveAway(addr, from, to, plan.Timeout+drainEnd); err != nil {
		return errors.Join(err, held(ended(), nil))
	}
	conns, err := a.vips.Connections(addr)
	if err != nil {
		a.log.Warn("counting connections", "err", err)
		held(ended(), nil) // what is this node's own must not be sent on
	} else {
		a.hold(held, conns)
	}
	d.report.Total, d.report.Left, d.asked = len(conns), len(conns), a.clock()
	d.least = a.clock().Add(drainLeast)
	a.log.Info("open connections may finish here", "vip", a.spec.Address, "connections", len(conns), "for", plan.Timeout)
	a.begin(d)
	return nil
}

// ended is a context that is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// hold keeps what opens a connection from being lost between the two gates.
func (a *address) hold(run func(context.Context, []vip.Conn) error, own []vip.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), holdFor)
	a.announce.Go(func() {
		defer cancel()
		go func() { // not after the group is the new owner's and that has had time to open
			for ctx.Err() == nil {
				if gs, _ := a.plans.plan(a.spec.Group); gs.Phase == placement.PhaseOwned {
					time.AfterFunc(holdOn, cancel)
					return
				}
				time.Sleep(holdOn / 10)
			}
		}()
		if err := run(ctx, own); err != nil {
			a.log.Warn("sending new connections to the new owner", "vip", a.spec.Address, "err", err)
		}
	})
}

// takeOver makes this node forward what belongs to the old owner's connections, before it answers for the address. A failure
// costs those connections, not the move.
func (a *address) takeOver(epoch uint64) {
	addr := a.spec.Address.Addr()
	var plan *placement.Drain
	if a.plans != nil {
		gs, _ := a.plans.plan(a.spec.Group)
		if d := gs.Drain; d != nil && gs.Phase == placement.PhaseOwned && gs.Owner == a.plans.name() && d.To == gs.Owner {
			plan = d
		}
	}
	old := a.drained()
	if plan == nil && old == nil {
		return
	}
	a.end()
	if plan == nil { // this node's own connections, of a move before, are at home again
		if err := a.vips.EndDrain(addr); err != nil {
			a.log.Warn("ending the forwarding of connections", "vip", a.spec.Address, "err", err)
		}
		return
	}
	from, _, err := a.peers(plan)
	if err == nil {
		err = a.vips.TakeFrom(addr, from, plan.Timeout+drainEnd)
	}
	if err != nil {
		a.log.Error("connections cannot finish on the old owner", "vip", a.spec.Address, "err", err)
		return
	}
	a.begin(&draining{epoch: epoch, until: a.clock().Add(plan.Timeout + drainEnd)})
}

// adoptDrain takes up what the process before this one began.
func (a *address) adoptDrain() {
	all, err := a.vips.Drains()
	if err != nil {
		a.log.Warn("asking which connections are forwarded", "err", err)
	}
	for _, k := range all {
		if k.Address != a.spec.Address.Addr() {
			continue
		}
		d := &draining{giving: k.There.IsValid(), until: a.clock().Add(k.Left)}
		if d.giving {
			d.until = d.until.Add(-drainEnd)
			conns, _ := a.vips.Connections(k.Address)
			d.report = placement.DrainReport{Total: len(conns), Left: len(conns), Until: time.Now().Add(k.Left - drainEnd)}
		}
		a.begin(d)
	}
}

// drained is what is under way; nil: nothing.
func (a *address) drained() *draining {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.drain
}

// silent says that the address is here only for connections that finish.
func (a *address) silent() bool {
	d := a.drained()
	return d != nil && d.giving && !a.drainReport().Done
}

// drainReport is what to tell of connections that finish here, or have; nil: there are none.
func (a *address) drainReport() *placement.DrainReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.drain == nil || !a.drain.giving {
		return a.last
	}
	r := a.drain.report
	return &r
}

// begin tends what was begun until it is over.
func (a *address) begin(d *draining) {
	ctx, cancel := context.WithCancel(context.Background())
	d.stop, d.ended = cancel, make(chan struct{})
	a.mu.Lock()
	a.drain, a.last = d, nil
	a.mu.Unlock()
	a.announce.Go(func() {
		defer close(d.ended)
		tick := time.NewTicker(drainEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if a.tend(d) {
				return
			}
		}
	})
	a.wake()
}

// end stops tending; what the kernel does it goes on doing.
func (a *address) end() {
	if d := a.drained(); d != nil {
		d.stop()
		<-d.ended
		a.mu.Lock()
		a.drain = nil
		a.mu.Unlock()
	}
}

// tend looks after connections that are on two nodes once; true when that is over.
func (a *address) tend(d *draining) bool {
	gs, known := a.plans.plan(a.spec.Group)
	planned := !known || gs.Drain != nil
	if !d.giving {
		if planned && gs.Owner == a.plans.name() && !d.over(a.clock()) {
			return false
		}
		if !known && !d.over(a.clock()) {
			return false
		}
		if gs.Owner == a.plans.name() { // else the next owner's move has made something of it that goes on
			if err := a.vips.EndDrain(a.spec.Address.Addr()); err != nil {
				a.log.Warn("ending the forwarding of connections", "vip", a.spec.Address, "err", err)
			}
		}
		return true
	}
	if known && gs.Owner == a.plans.name() && gs.Phase == placement.PhaseOwned {
		return false // it is ours again: takeOver, before it is answered for
	}
	now := a.clock()
	goes := planned && !d.over(now) && a.gate.stands(a.spec.Address.Addr())
	handed := gs.Phase == placement.PhaseOwned && !now.Before(d.least) // before that the new owner has not opened
	if goes && now.Sub(d.asked) < drainCount && !(handed && d.asked.Before(d.least)) {
		return false
	}
	d.asked = now
	conns, err := a.vips.Connections(a.spec.Address.Addr())
	a.mu.Lock()
	if err == nil {
		d.report.Left = len(conns)
	}
	if d.report.Epoch == 0 && gs.Drain != nil {
		d.report.Epoch = gs.Drain.Epoch
	}
	a.mu.Unlock()
	if goes && (err != nil || len(conns) > 0 || !handed) {
		a.wake()
		return false
	}
	a.cut(d, conns)
	return true
}

// insist repeats a reset that was late, as often as tries, and only while the gate stands: without it this node answers for the
// address beside its owner (S1), and nothing may keep it.
func insist(late, stands func() bool, tries int) {
	for try := 1; late() && try < tries && stands(); try++ {
	}
}

// cut ends the drain: what is still open is reset, and the address goes.
func (a *address) cut(d *draining, conns []vip.Conn) {
	addr := a.spec.Address.Addr()
	if len(conns) > 0 {
		insist(a.reset, func() bool { return a.gate.stands(addr) }, cutTries)
	}
	err := a.vips.EndDrain(addr)
	rerr := a.vips.Remove(a.spec)
	if rerr == nil {
		a.gate.strict(addr)
	}
	if err = errors.Join(err, rerr); err != nil {
		a.log.Error("ending a drain", "vip", a.spec.Address, "err", err)
	}
	a.mu.Lock()
	d.report.Left, d.report.Cut, d.report.Done = 0, len(conns), true
	total, cut := d.report.Total, d.report.Cut
	last := d.report
	a.last, a.drain = &last, nil
	a.mu.Unlock()
	a.log.Info("connections of the planned move have ended", "vip", a.spec.Address, "finished", total-cut, "cut", cut)
	a.wake()
}

// drainFault notes why connections could not go on.
func (a *address) drainFault(epoch uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = &placement.DrainReport{Epoch: epoch, Done: true, Fault: err.Error()}
}

// drainReports adds to a report what the addresses know of drains: how this node is reached, and what finishes here.
func (s *slots) drainReports(report placement.Report) {
	forwards := s.gate.drains()
	for k, a := range s.all() {
		g, ok := report.Groups[k.group]
		if !ok {
			continue
		}
		if p := a.peer.Load(); forwards && p != nil && *p != "" {
			if g.Links == nil {
				g.Links = map[string]string{}
			}
			g.Links[k.resource] = *p
		}
		if r := a.drainReport(); r != nil {
			g.Drain = addDrains(g.Drain, *r)
		}
		report.Groups[k.group] = g
	}
}

// addDrains sums up the addresses of one group.
func addDrains(sum *placement.DrainReport, r placement.DrainReport) *placement.DrainReport {
	if sum == nil || sum.Epoch < r.Epoch {
		return &r
	}
	if r.Epoch < sum.Epoch {
		return sum
	}
	sum.Left, sum.Total, sum.Cut = sum.Left+r.Left, sum.Total+r.Total, sum.Cut+r.Cut
	sum.Done = sum.Done && r.Done
	if sum.Fault == "" {
		sum.Fault = r.Fault
	}
	if sum.Until.Before(r.Until) {
		sum.Until = r.Until
	}
	return sum
}

// drainNote says in words what finishes where.
func drainNote(node string, r *placement.DrainReport) string {
	return fmt.Sprintf("draining %d connections on %s until %s", r.Left, node, r.Until.Local().Format("15:04:05"))
}

// drains says that this node can forward connections, and that the gate is what counts.
func (g *gatekeeper) drains() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.none == nil && g.required && g.forwards == nil
}

// lasting notes that an address gets a lifetime that goes on behind the lease: it must stay guarded.
func (g *gatekeeper) lasting(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.coarse[a] = true
}

// giveAway is shut, but for connections that are open.
func (g *gatekeeper) giveAway(a netip.Addr, from, to vip.Peer, d time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.guarded[a] {
		return errors.New("the address is not behind the gate")
	}
	delete(g.armed, a)
	err := g.vips.DrainTo(a, from, to, d)
	if errors.Is(err, vip.ErrNoGate) {
		g.gone(err)
	}
	return err
}

// stands says that an address is behind the gate now, as far as the kernel tells: if it is not, it must go.
func (g *gatekeeper) stands(a netip.Addr) bool {
	entries, err := g.vips.Gate()
	if errors.Is(err, vip.ErrNoGate) {
		return false
	}
	for _, e := range entries {
		if e.Address == a {
			return true
		}
	}
	return err != nil // no answer is no evidence
}
