package node

import (
	"context"
	"maps"
	"os"
	"slices"
	"time"

	"hacluster/config"
	"hacluster/fence"
	"hacluster/lease"
	"hacluster/placement"
	"hacluster/resources"
	"hacluster/vip"
)

// idle is how long the act loop sleeps when nothing is to be expected; a safety net, never the mechanism.
const idle = 2 * time.Second

// A round that took longer than restAfter is followed by a rest as long as itself, of restMost at most; with many resources by one of
// manyTimes as long, of manyMost at most. What this process does beside it, renewals above all, must get the processor, too, when each of a
// thousand starts wakes the loop. The end of a lease does not wait for it: the gate and the dead man see to that.
const (
	restAfter = 10 * time.Millisecond
	restMost  = 50 * time.Millisecond
	many      = 100
	manyTimes = 4
	manyMost  = 300 * time.Millisecond
)

// actLoop is what this node does about the groups: gather, decide, act, wait. Level-triggered; an event only wakes it.
func (n *Node) actLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var due time.Time      // of the next round, if nothing wakes the loop
	var rest time.Duration // under way
	for {
		wake := n.actWake
		if rest > 0 {
			wake = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-n.grantWake:
			if n.prolong() {
				continue
			}
		case now := <-timer.C:
			if rest > 0 {
				rest = 0
				timer.Reset(max(0, due.Sub(now)))
				continue
			}
		}
		began := time.Now()
		next := n.act(ctx)
		wait := idle
		if !next.IsZero() {
			wait = max(0, min(idle, next.Sub(n.clock())))
		}
		now := time.Now()
		due, rest = now.Add(wait), restFor(now.Sub(began), len(n.slots.live))
		if rest > 0 {
			wait = rest
		}
		timer.Reset(wait)
	}
}

// restFor is how long the loop rests after a round over so many resources.
func restFor(took time.Duration, resources int) time.Duration {
	switch {
	case took <= restAfter:
		return 0
	case resources < many:
		return min(took, restMost)
	}
	return min(manyTimes*took, manyMost)
}

// act runs one round and returns when the next one is due.
func (n *Node) act(ctx context.Context) time.Time {
	n.resumed() // before a lease is used
	if left := n.renewer.remaining(); left > 0 && n.abandoned.Load() {
		return n.clock().Add(left) // what was killed is not started again, and addresses live on until then
	}
	began, st := n.clock(), n.raft.State()
	up, _ := n.renewer.caughtUp(st.Index) // before the lease is read: what a grant changes meanwhile takes another round
	if err := st.Check(); err != nil {
		n.giveUp(err)
		return time.Time{}
	}
	if n.askVIPs.Swap(false) {
		n.slots.askAddresses()
	}
	if c, ok := n.slots.configure(st); ok {
		n.fences.configure(n.ctx, c.Fences)
		n.follow(c.Timing)
		n.gate.follow(c.KernelLease != config.KernelAddress, c.Timing.Layer == lease.Gate)
	}
	if n.slots.turned { // before anything starts by new settings
		specs := n.slots.exclusive()
		n.exclusive.Store(&specs)
		n.deadMan.Exclusive(specs)
		n.slots.turned = false
	}
	n.readyDrains(st)
	n.deadMan.Alive()
	n.renewer.started(st.Index)
	resources, wake := n.slots.local(st, n.name)
	local := placement.Local{Node: n.name, Leaving: n.leaving.Load(), Leased: n.renewer.leased(st), Resources: resources, Released: n.released,
		Inherited: n.renewer.inheritedUntil(st.Index)}
	plan := placement.Reconcile(st.Policy, st, local, n.clock())
	for _, group := range slices.Sorted(maps.Keys(plan.Released)) {
		if n.slots.leftIn(group) {
			r := plan.Report.Groups[group]
			r.Released, r.Holding = n.released[group], true
			plan.Report.Groups[group] = r
			continue
		}
		n.released[group] = plan.Released[group]
		n.log.Info("released", "group", group, "epoch", plan.Released[group])
	}
	n.slots.sever(local.Leased, local.Inherited)
	holding := n.bequeath(st, local, plan) // before anything starts
	for _, a := range plan.Actions {
		n.slots.perform(a)
	}
	n.putBack(st, local)
	n.tickles.follow(st, local, n.slots.all())
	rearm, fronts := n.arm(st, local)
	wake = earliest(wake, rearm)
	plan.Report.Version, plan.Report.Warnings = n.version, append(n.slots.warnings(), n.fences.warnings()...)
	if plan.Report.Unsure = n.unsure(); plan.Report.Unsure != "" {
		plan.Report.Warnings = append(plan.Report.Warnings, plan.Report.Unsure+": an exclusive service may outlive its lease here")
	}
	plan.Report.Gate, plan.Report.NoGate = n.gate.carries()
	plan.Report.Config, plan.Report.Retime = n.slots.following(), n.awaitsStart()
	plan.Report.Pulse = n.pulser.says()
	plan.Report.Layers, plan.Report.Reset = n.layers, n.resetWithin()
	n.slots.drainReports(plan.Report)
	n.ladder.heard(n.deadMan.Told())
	plan.Report.Ladder = n.ladder.pending(st, n.name)
	if up {
		n.listener.caughtUp()
		n.slots.laps.begin()
	}
	n.slots.lapse(plan.Report, st, n.name)
	n.leader.moves.lend(plan.Report, n.name)
	n.renewer.say(plan.Report)
	n.progress.Store(n.clock().UnixNano())
	n.whole(began, up, st, local, fronts, holding)
	return earliest(plan.Wake, wake)
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// bequeath tells the dead man until when what is held here, or is about to be started, may live, and returns the groups.
func (n *Node) bequeath(st placement.State, local placement.Local, plan placement.Plan) (holding map[string]bool) {
	holding = map[string]bool{}
	for group, r := range plan.Report.Groups {
		holding[group] = r.Holding
	}
	for _, a := range plan.Actions {
		if a.Kind == placement.ActStart && n.slots.onOwner(a) {
			holding[a.Group] = true
		}
	}
	for _, old := range n.slots.retiring { // Reconcile does not know of what is no longer configured
		if old.res.RunOn == placement.RunOnOwner {
			holding[old.group] = true
		}
	}
	until, held := heldUntil(holding, local.Leased)
	switch caughtUp, _ := n.renewer.caughtUp(st.Index); {
	case !held && st.ConfigVersion == 0 && !caughtUp:
		return holding // who has heard of no configuration cannot know what the process before ran
	case !held && !local.Inherited.After(n.clock()): // nothing here, and nothing of the process before
		until = time.Time{}
	case until.IsZero():
		return holding // held without a lease: the deadline that was told last stands
	}
	n.tellDeadline(until)
	return holding
}

// tellDeadline tells the dead man, if it is news.
func (n *Node) tellDeadline(until time.Time) {
	if !until.Equal(n.deadline) || !n.spoken { // also that nothing is held must be said once: a process before may have held something
		n.deadline, n.spoken = until, true
		n.deadMan.Deadline(until)
	}
}

// resetWithin is how long after the end of its lease this machine is reset, at the latest, where something may still run that
// the lease covered; zero: nothing resets it, or nothing that is sure to.
func (n *Node) resetWithin() time.Duration {
	if n.watchdog == nil || !n.watchdog.Lasting() {
		return 0
	}
	var specs []resources.Spec
	if p := n.exclusive.Load(); p != nil {
		specs = *p
	}
	return n.watchdog.ResetWithin(fence.Patience(specs))
}

// putBack says who took an address away, when it was not us. Reconcile starts it again by itself.
func (n *Node) putBack(st placement.State, local placement.Local) {
	for k, a := range n.slots.all() {
		gs := st.Groups[k.group]
		lr := local.Resources[k.group][k.resource]
		_, leased := local.Leased[k.group]
		if gone := a.vanished(lr.State, leased && gs.Owner == n.name && gs.Phase == placement.PhaseOwned); gone && !a.lingers.Load() {
			n.log.Warn("a floating address was removed behind our back; putting it back", "vip", a.spec.Address, "group", k.group,
				"usually", vip.Explain(vip.RemovedBy(os.DirFS("/"), a.spec.Interface)))
		}
	}
}

// giveUp is the end of an agent whose state broke an invariant: it holds nothing any more and stops.
func (n *Node) giveUp(err error) {
	n.log.Error("an invariant of the replicated state is broken; giving up all addresses and stopping", "err", err)
	n.dropAddresses()
	n.fail(err)
}
