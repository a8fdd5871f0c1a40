package sim

import (
	"time"

	"hacluster/placement"
)

// fencing is what the fence devices of a run are like. They never lie: what they confirm has happened. They may fail, take their
// time, or switch a node off and not say so.
type fencing struct {
	when   placement.FenceWhen
	action placement.FenceAction
	nodes  []string
	fails  float64 // chance that nothing happens
	silent float64 // chance that it happens and is not confirmed
	slow   time.Duration
	unsure int // node that says that its lease proves nothing for what is exclusive; -1: none
}

func (w *World) drawFencing(storm bool) {
	w.fence.unsure = -1
	if !storm && !w.chance(0.3) {
		return
	}
	f := &w.fence
	f.when = []placement.FenceWhen{placement.FenceNever, placement.FenceWhenUnsure, placement.FenceAlways, placement.FenceAlways}[w.rng.IntN(4)]
	f.action = []placement.FenceAction{placement.FenceReboot, placement.FenceOff}[w.rng.IntN(2)]
	f.fails, f.silent = []float64{0, 0.3, 1}[w.rng.IntN(3)], []float64{0, 0.3}[w.rng.IntN(2)]
	f.slow = w.upTo([]time.Duration{w.timing.Duration / 4, 3 * w.timing.Duration}[w.rng.IntN(2)])
	for _, m := range w.nodes {
		if w.chance(0.9) {
			f.nodes = append(f.nodes, m.name)
		}
	}
	if w.chance(0.4) {
		f.unsure = w.rng.IntN(len(w.nodes))
	}
}

// fenceRun is one order under way.
type fenceRun struct {
	o      placement.FenceOrder
	index  uint64 // of the entry that says so; only then is the node touched
	begun  bool
	boot   int // process of the node that was heard last when the order was given
	before time.Time
	silent bool
}

// fence begins to carry out an order, as node.fence does: first the log says so.
func (l *leader) fence(o placement.FenceOrder) {
	p, w := l.p, l.p.w
	m := w.byName[o.Node]
	before := l.ledger.Confirmed(o.Node)
	run := &fenceRun{o: o, boot: l.reports[m.i].boot, before: before,
		silent: before.IsZero() || p.m.clock().Sub(before) > p.state.Policy.SuspectAfter}
	if l.views == nil {
		l.views = map[string]placement.FenceView{}
	}
	view := l.views[o.Node]
	view.Running = true
	l.views[o.Node] = view
	l.run = run
	w.log("%s orders to fence %s (%s): %s", p.m.name, o.Node, o.Action, o.Why.Text)
	run.index = p.append(&placement.Command{Kind: placement.CmdNote, Node: o.Node, At: p.m.wall(), By: p.m.name, Reason: o.Why})
}

// committed is called when something was applied: an order that is in the log is carried out, unless the node has spoken since.
func (l *leader) committed() {
	run := l.run
	if run == nil || run.begun || l.p.raft.applied < run.index || l.ledger == nil {
		return
	}
	run.begun = true
	if run.silent && !l.ledger.Confirmed(run.o.Node).Equal(run.before) {
		l.p.w.log("%s spoke: its fencing is called off", run.o.Node)
		l.fenced(run, false, true)
		return
	}
	l.p.w.device(l, run)
}

// device switches a node off. The command goes on when the leader dies; only the answer finds nobody then.
func (w *World) device(l *leader, run *fenceRun) {
	f, m := &w.fence, w.byName[run.o.Node]
	fails, silent := !w.quiet && w.chance(f.fails), !w.quiet && w.chance(f.silent)
	answer := func(confirmed bool) {
		w.after(w.between(time.Millisecond, 20*time.Millisecond), &l.p.actor, func() {
			if l.run == run {
				l.fenced(run, confirmed || w.opt.Weak == WeakFence, false)
			}
		})
	}
	w.after(20*time.Millisecond+w.upTo(f.slow), nil, func() {
		if fails {
			w.inject("fence device failed")
			w.log("the device of %s fails", m.name)
			answer(false)
			return
		}
		if m.up {
			m.powerOff()
		}
		w.inject("node fenced")
		answer(!silent)
		back := w.between(w.timing.Duration, 4*w.timing.Duration)
		if run.o.Action == placement.FenceOff {
			back *= 3 // somebody has to come
		}
		w.after(back, nil, func() {
			if !m.up {
				m.boot()
			}
		})
	})
}

// fenced takes what came of it. It is a proof against every process of the node that was heard when the order was given.
func (l *leader) fenced(run *fenceRun, confirmed, calledOff bool) {
	p, w := l.p, l.p.w
	l.run = nil
	if l.ledger == nil {
		return
	}
	view := l.views[run.o.Node]
	view.Running, view.Ended = false, p.m.clock()
	switch {
	case calledOff:
		view.Ended = time.Time{}
	case confirmed && l.reports[w.byName[run.o.Node].i].boot == run.boot:
		view.Off, view.Failed, view.Why = p.m.clock(), 0, "a device said so"
		w.log("fencing of %s is confirmed", run.o.Node)
	default:
		view.Failed++
		view.Why = "not confirmed"
	}
	l.views[run.o.Node] = view
	l.kick()
}

// yield hands leadership to another node, because this one would have to fence itself.
func (l *leader) yield(why string) {
	w := l.p.w
	if why == "" || w.now < l.yielded {
		return
	}
	l.yielded = w.now + 10*time.Second
	for _, m := range w.nodes {
		if m != l.p.m && m.proc != nil && !w.net.cut[l.p.m.i][m.i] {
			w.log("%s hands leadership to %s: %s", l.p.m.name, m.name, why)
			w.send(l.p.m, m, func(q *proc) { q.campaign(false) })
			return
		}
	}
}
