package sim

import (
	"time"

	"hacluster/lease"
	"hacluster/placement"
)

// Planned moves that let open connections finish. What is drawn for them comes from a source of its own (World.drng), so that seeds
// in which there are none run as they did before there were any.

var drainFaults = []fault{
	{"move with open connections", (*World).drainedMove},
}

// drawMoves decides whether a run is made of such moves, and whether they are all that happens.
func (w *World) drawMoves() {
	w.moving = w.opt.Storm == StormDrain || w.opt.Storm == NoStorm && w.drng.Float64() < 0.08
	w.gentle = w.moving && w.drng.IntN(2) == 0
}

// brewMoves is the storm of them. In a gentle one nothing fails, and at most agents are started again.
func (w *World) brewMoves() {
	r := &w.faults
	r.every = 200*time.Millisecond + time.Duration(w.drng.Int64N(int64(time.Second)))
	only := map[string]int{drainFaults[0].name: 4}
	if w.gentle {
		*r = regime{every: r.every, snapshot: r.snapshot, lateApply: r.lateApply, margin: r.margin, weights: r.weights}
		w.net.slow = 0
		if w.drng.IntN(2) == 0 {
			only["upgrade"], only["agent killed"], r.lateApply = 1, 1, 0 // else a restart would cost the lease (L3)
		}
	} else {
		r.badStart, r.longStop = 0, 0
		for _, name := range []string{"isolated", "agent killed", "agent frozen", "both frozen", "both killed", "upgrade", "user space frozen", "suspend", "power cut",
			"nft flush ruleset", "configuration applied", "agent stopped in order", "address removed by others", "no way out", "dead man killed", "administrator", "leadership moved"} {
			only[name] = w.drng.IntN(2)
		}
	}
	for i := range faults {
		r.weights[i] = only[faults[i].name]
	}
}

// gentlePolicy leaves a group where people move it.
func (w *World) gentlePolicy(g *placement.GroupPolicy) {
	if w.moving {
		g.AutoFailback, g.AntiAffinity = false, nil
	}
}

// hotStandby is what a group is made of whose connections can go on.
func hotStandby(address, service placement.ResourcePolicy) []placement.ResourcePolicy {
	service.RunOn, service.RestartAction = placement.RunOnEveryNode, placement.RestartFailoverFirst
	address.DependsOn = &placement.Expr{Name: "service"}
	return []placement.ResourcePolicy{address, service}
}

// hot is the address of a group whose connections may finish where they are, behind the gate; -1: it has none.
func (w *World) hot(p *placement.Policy, group string) int {
	i := w.index(group, "address")
	if i < 0 || !w.keys[i].hot || !p.NeedsGate {
		return -1
	}
	return i
}

// withDrain completes a move by people so that open connections may finish, as the agent does for hactl; most give them time.
func (w *World) withDrain(l *leader, c *placement.Command) {
	i := w.hot(&l.p.state.Policy, c.Group)
	if i < 0 || c.Kind != placement.CmdRelease {
		return
	}
	timeout := 200*time.Millisecond + time.Duration(w.drng.Int64N(int64(time.Second)))
	switch w.drng.IntN(6) {
	case 0:
		return
	case 1, 2:
		timeout = time.Second + time.Duration(w.drng.Int64N(int64(4*time.Second)))
	}
	if why := placement.PlanDrain(l.p.state.Policy, *l.p.state, l.view(), c, timeout); why != "" {
		w.log("open connections of %s end with its move: %s", c.Group, why)
		return
	}
	w.arrive(i, timeout)
}

// drainedMove moves a group to any other node, or wherever it is best, in the middle of another such move or not.
func (w *World) drainedMove() bool {
	l := w.leader()
	if l == nil || len(l.p.state.Policy.Groups) == 0 {
		return false
	}
	st := l.p.state
	group, node := st.Policy.Groups[w.drng.IntN(len(st.Policy.Groups))].Name, ""
	if n := w.drng.IntN(len(w.nodes) + 1); n < len(w.nodes) {
		node = w.nodes[n].name
	}
	if gs := st.Groups[group]; gs.Drain != nil && w.drng.IntN(3) == 0 {
		node = gs.Drain.Node // back
	}
	c, refusal := placement.PlanMove(st.Policy, *st, l.view(), l.p.m.clock(), group, node)
	if refusal != nil || c.Kind == "" {
		return false
	}
	w.withDrain(l, &c)
	c.At, c.By = l.p.m.wall(), l.p.m.name
	w.log("an administrator moves %s to %s", c.Group, c.Node)
	l.p.append(&c)
	return c.Drain != nil
}

// drains says which connections still finish somewhere.
func (w *World) drains() string {
	st := w.latest()
	for i := range w.keys {
		k := &w.keys[i]
		if !k.hot || !k.address {
			continue
		}
		if d := st.Groups[k.group].Drain; d != nil {
			return "connections of " + k.group + " are still to finish on " + d.Node
		}
		for _, m := range w.nodes {
			if m.gave(i) && !m.serves(i) {
				return m.name + " still has an address of " + k.group + " that it gave away"
			}
		}
	}
	return ""
}

// moveAtLast is an epilogue: in a cluster that is well a group moves, often again before its connections are through, and whatever has the
// time finishes.
func (w *World) moveAtLast() {
	if w.fence.when == placement.FenceAlways || w.fence.unsure >= 0 || w.latest().KernelLease != string(lease.Gate) {
		return
	}
	w.gentle = true
	for again := true; again && w.fail == nil; again = w.drng.IntN(2) == 0 {
		w.drainedMove()
		w.run(w.now + time.Duration(w.drng.Int64N(int64(1500*time.Millisecond))))
	}
	for end := w.now + 20*time.Second; w.fail == nil && w.drains() != ""; {
		if w.now > end {
			w.broken("planned move: %s", w.drains())
		}
		w.run(w.now + 100*time.Millisecond)
	}
}
