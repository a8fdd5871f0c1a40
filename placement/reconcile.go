package placement

import (
	"fmt"
	"time"
)

// Reconcile is every node's half: the actions to start now, what to report, what to promise, and when to look again. now
// is this node's boot-time clock. It is level-triggered: an action whose goal is reached is not asked for again.
func Reconcile(p Policy, s State, l Local, now time.Time) Plan {
	plan := Plan{Released: map[string]uint64{}, Report: Report{Node: l.Node, ID: s.Nodes[l.Node].ID, Applied: s.Index, Leaving: l.Leaving,
		Groups: make(map[string]GroupReport, len(p.Groups))}}
	for _, g := range p.Groups {
		gs, ok := s.Groups[g.Name]
		if !ok {
			continue
		}
		r := newReconciler(g, gs, s.Nodes[l.Node], l, now)
		r.run()
		plan.Actions = append(plan.Actions, r.actions...)
		plan.Report.Groups[g.Name] = r.report
		if r.promise > 0 {
			plan.Released[g.Name] = r.promise
		}
		if !r.wake.IsZero() && (plan.Wake.IsZero() || r.wake.Before(plan.Wake)) {
			plan.Wake = r.wake
		}
	}
	return plan
}

// reconciler works on one group on one node; it lives for one call.
type reconciler struct {
	g        GroupPolicy
	gs       GroupState
	node     NodeState
	l        Local
	now      time.Time
	local    map[string]LocalResource
	mine     bool // the state gives the group to this node, and it has not promised the epoch away
	act      bool // mine, and the lease is alive
	severed  bool // what runs here must end at once: somebody else may own the group
	released uint64
	// inherited: this process has just begun and its predecessor's lease still covers what runs here. Until it has one of its
	// own, or that one ends, it cannot know whether the group is still its own: it touches nothing of it.
	inherited bool

	actions []Action
	report  GroupReport
	promise uint64
	wake    time.Time
}

func newReconciler(g GroupPolicy, gs GroupState, node NodeState, l Local, now time.Time) *reconciler {
	r := &reconciler{g: g, gs: gs, node: node, l: l, now: now, local: l.Resources[g.Name], released: l.Released[g.Name]}
	r.mine = gs.Owner == l.Node && gs.Phase == PhaseOwned && r.released < gs.Epoch
	until, leased := l.Leased[g.Name]
	r.act = r.mine && leased && until.After(now)
	if r.act {
		r.wakeAt(until)
	}
	// Without a lease, or with another owner, there may be a second one any moment. While releasing there is not: the
	// next owner waits for this node's word, so it may stop in order; its lease must live for that.
	releasing := gs.Owner == l.Node && gs.Phase == PhaseReleasing && r.released < gs.Epoch && leased && until.After(now)
	if releasing {
		r.wakeAt(until)
	}
	r.severed = !r.act && !releasing
	if l.Inherited.After(now) {
		r.inherited = true
		r.wakeAt(l.Inherited)
	}
	return r
}

func (r *reconciler) wakeAt(at time.Time) {
	if at.After(r.now) && (r.wake.IsZero() || at.Before(r.wake)) {
		r.wake = at
	}
}

func (r *reconciler) run() {
	for _, res := range r.g.Resources {
		r.resource(res)
	}
	r.tell()
}

// wanted says whether the resource should be online here, dependencies aside.
func (r *reconciler) wanted(res ResourcePolicy) bool {
	if r.gs.Offline || r.gs.Resources[res.Name] {
		return false
	}
	if res.RunOn == RunOnEveryNode {
		return r.node.Role == RoleMember && r.g.possible(r.l.Node)
	}
	return r.act
}

// sustained says that the resource is online and may stay so: it is wanted, and so is everything it stands on. What is
// about to go down counts as gone; else a chain of dependents would wait for each other for ever.
func (r *reconciler) sustained(name string) bool {
	return r.stands(name, len(r.g.Resources), func(s ResourceState) bool { return s == StateOnline })
}

// maySustain also says yes to what nobody has told yet, as right after a restart of the agent: no answer is no evidence.
// It is enough to stay online, not to go online.
func (r *reconciler) maySustain(name string) bool {
	return r.stands(name, len(r.g.Resources), func(s ResourceState) bool {
		return s == StateOnline || s == StateInitializing || s == StateUnknown || s == ""
	})
}

// stands asks the resource and everything below it; depth ends a circle, which config refuses.
func (r *reconciler) stands(name string, depth int, up func(ResourceState) bool) bool {
	res, ok := r.g.Resource(name)
	return ok && depth > 0 && up(r.local[name].State) && (r.wanted(res) || r.inherited) &&
		res.DependsOn.Satisfied(func(dep string) bool { return r.stands(dep, depth-1, up) })
}

func (r *reconciler) resource(res ResourcePolicy) {
	lr := r.local[res.Name]
	if !r.wanted(res) {
		r.down(res, lr)
		return
	}
	switch lr.State {
	case StateOffline:
		if lr.Doing == "" && res.DependsOn.Satisfied(r.sustained) {
			r.do(ActStart, res, false, "wanted online")
		}
	case StateOnline, StateOnlinePending:
		if !res.DependsOn.Satisfied(r.maySustain) && r.dependentsDown(res) {
			r.stop(res, lr, "a resource it depends on is not online")
		}
	case StateFailed:
		r.failed(res, lr)
	}
}

// down takes a resource offline: in order where this node still speaks for the group, at once where it does not.
func (r *reconciler) down(res ResourcePolicy, lr LocalResource) {
	switch {
	case lr.State == StateOffline || lr.State == StateInitializing || lr.State == StateUnknown && !lr.Running:
	case lr.State == StateFailed && !lr.Running:
	case res.RunOn == RunOnOwner && r.inherited:
	case res.RunOn == RunOnOwner && r.severed && (res.Address || res.Exclusive):
		if lr.Doing != ActKill {
			r.do(ActKill, res, false, "this node holds no lease for the group")
		}
	case lr.State == StateFailed:
		if lr.Doing != ActKill {
			r.do(ActKill, res, false, "failed and no longer wanted")
		}
	case r.dependentsDown(res):
		r.stop(res, lr, "no longer wanted here")
	case res.Address && res.RunOn == RunOnOwner && lr.Doing == "":
		if why := r.blockedAbove(res); why != "" { // clients are not to be kept on what is half dead
			r.do(ActStop, res, false, why)
			r.actions[len(r.actions)-1].Rung = RungAddress
		}
	}
}

func (r *reconciler) stop(res ResourcePolicy, lr LocalResource, why string) {
	if lr.Doing == "" || lr.Doing == ActStart {
		r.do(ActStop, res, false, why)
	}
}

// dependentsDown says that nothing which needs the resource is online or on its way.
func (r *reconciler) dependentsDown(res ResourcePolicy) bool {
	for _, other := range r.g.Resources {
		if !other.DependsOn.Mentions(res.Name) {
			continue
		}
		switch lr := r.local[other.Name]; lr.State {
		case StateOnline, StateOnlinePending, StateOfflinePending:
			return false
		case StateFailed, StateUnknown:
			if lr.Running {
				return false
			}
		}
	}
	return true
}

// failed applies the local half of the failure algorithm: terminate, then restart within the limits.
func (r *reconciler) failed(res ResourcePolicy, lr LocalResource) {
	if lr.Running {
		if lr.Doing != ActKill && lr.Blocked == "" {
			r.do(ActKill, res, false, "failed: "+lr.Failure)
		}
		return
	}
	if lr.Doing != "" || r.exhausted(res, lr) || !res.DependsOn.Satisfied(r.sustained) || !r.dependentsDown(res) {
		return
	}
	at := lr.FailedAt.Add(res.RestartDelay)
	if at.After(r.now) {
		r.wakeAt(at)
		return
	}
	r.do(ActStart, res, true, "restart after: "+lr.Failure)
}

// exhausted says that no restart is left on this node within restart_period; it sets the alarm for the next one.
func (r *reconciler) exhausted(res ResourcePolicy, lr LocalResource) bool {
	if res.RestartAction == RestartNone || r.mine && r.gs.Failed { // given up: the next round is the leader's word
		return true
	}
	n := 0
	var oldest time.Time
	for _, at := range lr.Restarts {
		if r.now.Sub(at) < res.RestartPeriod {
			if n == 0 {
				oldest = at
			}
			n++
		}
	}
	if n < res.RestartThreshold {
		return false
	}
	if !oldest.IsZero() {
		r.wakeAt(oldest.Add(res.RestartPeriod))
	}
	return true
}

func (r *reconciler) do(kind ActionKind, res ResourcePolicy, restart bool, why string) {
	r.actions = append(r.actions, Action{Kind: kind, Group: r.g.Name, Resource: res.Name, Epoch: r.gs.Epoch, Restart: restart, Why: why})
}

// tell fills the report of the group, and promises the epoch away once nothing of it is left here.
func (r *reconciler) tell() {
	out := GroupReport{Released: r.released, Resources: map[string]ResourceReport{}}
	standbys, ready := 0, 0
	causes := map[Cause]bool{}
	for _, res := range r.g.Resources {
		lr := r.local[res.Name]
		out.Resources[res.Name] = ResourceReport{State: lr.State, Verdict: lr.Verdict, Detail: lr.Detail, Since: lr.Wall}
		if res.RunOn == RunOnOwner && (lr.Running || lr.Doing != "" || lr.State != StateOffline && lr.State != StateFailed) {
			out.Holding = true
		}
		if res.RunOn == RunOnEveryNode && !r.gs.Resources[res.Name] {
			standbys++
			if lr.State == StateOnline && lr.Ready {
				ready++
			}
		}
		if lr.Blocked != "" && lr.Running { // what ended after all, or was ended by a human, blocks nothing any more
			out.Blocked = res.Name + ": " + lr.Blocked
		}
		if res.RunOn == RunOnOwner && lr.Unfit != "" && out.Unfit == "" {
			out.Unfit = res.Name + ": " + lr.Unfit
		}
		if r.mine && lr.State == StateFailed && r.wanted(res) {
			r.trouble(&out, res, lr)
			causes[lr.Cause] = true
		}
	}
	if out.Ready = standbys > 0 && ready == standbys; len(causes) == 1 && causes[CauseCarrier] {
		out.Cause = CauseCarrier
	}
	if r.gs.Owner == r.l.Node && r.gs.Phase == PhaseReleasing && r.released < r.gs.Epoch && !out.Holding {
		r.promise, out.Released = r.gs.Epoch, r.gs.Epoch
	}
	r.report = out
}

// trouble names the worst failed resource of an owned group.
func (r *reconciler) trouble(out *GroupReport, res ResourcePolicy, lr LocalResource) {
	kind := TroubleFailing
	if r.exhausted(res, lr) {
		kind = TroubleGivenUp
	}
	if out.Trouble == TroubleGivenUp || out.Trouble == kind {
		return
	}
	out.Trouble, out.Resource = kind, res.Name
	out.Evidence = []string{fmt.Sprintf("%s on %s: %s", res.Name, r.l.Node, lr.Failure)}
}
