package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Decide is the leader's half: the commands to propose now, when to look again, and why nothing was done where a reader
// may expect something. now is the leader's boot-time clock; v.Wall is used for windows of hours only.
//
// It is level-triggered: it looks at the state, never at what it proposed before. A command whose proposal was lost is
// decided again.
func Decide(p Policy, s State, v View, now time.Time) Decision {
	d := newDecider(p, s, v, now)
	groups := slices.Clone(p.Groups)
	slices.SortFunc(groups, func(a, b GroupPolicy) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Name, b.Name))
	})
	for _, g := range groups {
		if gs := s.Groups[g.Name]; gs.Phase == PhaseOwned {
			d.take(gs.Owner, g)
		} else if gs.Phase == PhaseReleasing && gs.MoveTo != "" {
			d.take(gs.MoveTo, g)
		}
	}
	for _, g := range groups {
		gs, ok := s.Groups[g.Name]
		if !ok {
			continue
		}
		switch gs.Phase {
		case PhaseUnowned:
			d.unowned(g, gs)
		case PhaseOwned:
			d.ownedBy(g, gs)
		case PhaseReleasing:
			d.releasing(g, gs)
		}
	}
	d.fencing(groups)
	d.nodes() // last: commands are proposed in order, and what is only for display must not delay a takeover
	d.ladders()
	return d.out
}

func (d *decider) propose(c Command) {
	c.At, c.By = d.v.Wall, d.v.Self
	if c.Group != "" {
		d.decided[c.Group] = true
	}
	d.out.Commands = append(d.out.Commands, c)
}

func (d *decider) note(g GroupPolicy, format string, args ...any) {
	d.out.Notes = append(d.out.Notes, g.Name+": "+fmt.Sprintf(format, args...))
}

// wakeAt asks for another look at an instant of the leader's clock.
func (d *decider) wakeAt(at time.Time) {
	if !at.After(d.now) {
		at = d.now.Add(time.Millisecond)
	}
	if d.out.Wake.IsZero() || at.Before(d.out.Wake) {
		d.out.Wake = at
	}
}

// wakeWall asks for another look at a wall-clock instant.
func (d *decider) wakeWall(at time.Time) { d.wakeAt(d.now.Add(at.Sub(d.v.Wall))) }

// nodes records which nodes fell silent and which came back.
func (d *decider) nodes() {
	limit := 2 * d.p.SuspectAfter
	if limit == 0 {
		return // no configuration yet: nothing says how long is long
	}
	for _, name := range slices.Sorted(maps.Keys(d.s.Nodes)) {
		n := d.s.Nodes[name]
		switch {
		case n.Lost && d.speaking(name):
			d.propose(Command{Kind: CmdNodeSeen, Node: name,
				Reason: Reason{Rule: RuleObserved, Text: "node " + name + " is back", Evidence: []string{"renewed its lease"}}})
		case !n.Lost && !d.speaking(name) && d.silent(name) >= limit:
			d.propose(Command{Kind: CmdNodeSeen, Node: name, Lost: true, Reason: Reason{Rule: RuleObserved, Text: "node " + name + " is lost",
				Evidence: []string{fmt.Sprintf("no lease renewal for %s", round(d.silent(name)))}}})
		case !n.Lost:
			d.wakeAt(d.now.Add(limit - d.silent(name)))
		}
	}
}

// unowned places a group that is proven free.
func (d *decider) unowned(g GroupPolicy, gs GroupState) {
	if gs.Offline || d.retryLater(g, gs) {
		return
	}
	if d.awaitPreferred(g, gs) {
		return
	}
	to, rejected := d.choose(g, "", "")
	if to == "" { // better tried where it failed before than offline
		d.lenient = true
		to, rejected = d.choose(g, "", "")
		d.lenient = false
	}
	if to == "" {
		d.note(g, "no node can own it: %s", sayRejected(rejected))
		return
	}
	d.take(to, g)
	d.propose(Command{Kind: CmdAssign, Group: g.Name, Epoch: gs.Epoch, Node: to,
		Reason: Reason{Rule: RuleStart, Text: fmt.Sprintf("group %s has no owner; %s is the best choice", g.Name, to), Rejected: rejected}})
}

// awaitPreferred waits, at the first start of a group only, for its preferred owner (SEMANTICS 11, group_wait_delay).
func (d *decider) awaitPreferred(g GroupPolicy, gs GroupState) bool {
	if gs.Epoch != 0 || gs.Why.Rule != RuleConfig || len(g.PreferredOwners) == 0 {
		return false
	}
	first := g.PreferredOwners[0]
	if _, member := d.s.Nodes[first]; !member || d.unfit(first, g) == "" {
		return false
	}
	until := d.v.LeaderSince.Add(d.p.GroupWaitDelay)
	if !until.After(d.now) {
		return false
	}
	d.wakeAt(until)
	d.note(g, "waits for its preferred owner %s (%s) for another %s", first, d.unfit(first, g), round(until.Sub(d.now)))
	return true
}

// retryLater handles a group that has failed: nothing happens to it before its next round.
func (d *decider) retryLater(g GroupPolicy, gs GroupState) bool {
	if !gs.Failed {
		return false
	}
	switch {
	case gs.RetryAt.IsZero():
		d.note(g, "has failed and stays so: run hactl group online %s when the cause is mended", g.Name)
	case gs.RetryAt.After(d.v.Wall):
		d.wakeWall(gs.RetryAt)
		d.note(g, "has failed; next round at %s", gs.RetryAt.Format(time.RFC3339))
	default:
		d.propose(Command{Kind: CmdRetry, Group: g.Name, Epoch: gs.Epoch,
			Reason: Reason{Rule: RuleRetry, Text: "retry_period_on_failure has passed: one new round for group " + g.Name}})
	}
	return true
}

// ownedBy looks after a group that has an owner.
func (d *decider) ownedBy(g GroupPolicy, gs GroupState) {
	if d.lost(g, gs) {
		return
	}
	d.drained(g, gs)
	if gs.Offline {
		d.release(g, gs, "", Command{Reason: Reason{Rule: RuleOffline, Text: "an administrator wants group " + g.Name + " offline"}})
		return
	}
	if !d.speaking(gs.Owner) {
		return
	}
	if d.evicted(g, gs) {
		return
	}
	r := d.report(gs.Owner, g.Name)
	switch {
	case r.Trouble != TroubleNone:
		d.inTrouble(g, gs, r)
	case gs.Failed || gs.Retries > 0:
		d.recovered(g, gs, r)
	default:
		d.failback(g, gs)
	}
}

// wait is the takeover wait of the group, with what leases of a former timing still need.
func (d *decider) wait(g GroupPolicy) time.Duration { return max(g.TakeoverWait, d.s.Floor) }

func (d *decider) silenceEnds(g GroupPolicy, gs GroupState) time.Time {
	return d.now.Add(d.wait(g) - d.silent(gs.Owner))
}

// proof is why an owner that said nothing can no longer act.
type proof struct {
	rule     Rule
	text     string // half a sentence: "the lease of n1 has run out"
	giving   string // and one about a group that it was giving up: "n1 fell silent while it gave up group web; its lease has run out"
	except   string // why the owner is not the next one: "silent for 1.8s"
	evidence []string
}

// gone says whether the owner is proven to hold nothing, without its word: by its lease, which has run out on every layer, where it has
// only addresses for itself by its pulse, without which their gates are shut, or by a device that stopped it. There is no other way.
func (d *decider) gone(g GroupPolicy, gs GroupState) (proof, bool) {
	silent, owner := d.silent(gs.Owner), gs.Owner
	except, fell := fmt.Sprintf("silent for %s", round(silent)), fmt.Sprintf("%s fell silent while it gave up group %s; ", owner, g.Name)
	switch {
	case g.OnPulse && d.lapsed(owner) && d.unsure(g, owner) == "":
		return proof{RuleNodeLost, "the pulse of " + owner + " has stopped", fell + "its gates are shut", "its pulse has stopped",
			[]string{d.v.Lapsed[owner].say(owner)}}, true
	case d.fenced(owner):
		return proof{RuleFenced, owner + " was fenced", fmt.Sprintf("%s had not given up group %s; it was fenced", owner, g.Name), except,
			[]string{d.v.Fenced[owner].Why, fmt.Sprintf("%s was last heard %s ago", owner, round(silent))}}, true
	case d.withheld(g, gs), silent >= d.wait(g) && d.doubt(g, gs.Owner) == "":
		return proof{RuleNodeLost, "the lease of " + owner + " has run out", fell + "its lease has run out", except, []string{d.runOut(g, gs)}}, true
	case silent < d.wait(g):
		d.wakeAt(d.silenceEnds(g, gs))
	default:
		d.note(g, "its owner %s is lost, and the end of its lease proves nothing: %s", gs.Owner, d.doubt(g, gs.Owner))
	}
	return proof{}, false
}

// lost takes a group from an owner that is proven to be gone; this is the only way without its word.
func (d *decider) lost(g GroupPolicy, gs GroupState) bool {
	p, gone := d.gone(g, gs)
	if !gone {
		return false
	}
	if gs.Offline {
		d.propose(Command{Kind: CmdTakeover, Group: g.Name, Epoch: gs.Epoch, Reason: Reason{Rule: RuleOffline,
			Text: fmt.Sprintf("group %s is wanted offline and %s", g.Name, p.text), Evidence: p.evidence}})
		return true
	}
	except := gs.Owner
	if d.withheld(g, gs) && d.speaking(gs.Owner) {
		except = "" // it came back while the proposal was lost; under a new epoch it is as good as any
	}
	to, rejected := d.choose(g, except, p.except)
	if to == "" {
		d.note(g, "its owner %s is lost and no node can take it: %s", gs.Owner, sayRejected(rejected))
		return true
	}
	d.take(to, g)
	d.propose(Command{Kind: CmdTakeover, Group: g.Name, Epoch: gs.Epoch, Node: to, Reason: Reason{Rule: p.rule,
		Text: fmt.Sprintf("%s; %s takes group %s", p.text, to, g.Name), Evidence: p.evidence, Rejected: rejected}})
	return true
}

// withheld says that this leader has decided before to take the epoch away: it had run out then, and was granted no more
// since. The takeover must be proposed until it is done, even if the owner speaks again; else nobody would ever hold it.
func (d *decider) withheld(g GroupPolicy, gs GroupState) bool {
	epoch, ok := d.v.Withheld[g.Name]
	return ok && epoch == gs.Epoch
}

// runOut is the evidence that the owner can no longer act.
func (d *decider) runOut(g GroupPolicy, gs GroupState) string {
	if silent := d.silent(gs.Owner); silent >= d.wait(g) {
		text := fmt.Sprintf("%s has not renewed its lease for %s (takeover wait %s)", gs.Owner, atLeast(silent), d.wait(g))
		if pulse := d.v.Nodes[gs.Owner].Report.Pulse; g.OnPulse && pulse != "" && pulse != PulseBound {
			text += "; its pulse proved nothing sooner: " + pulse
		}
		return text
	}
	return fmt.Sprintf("%s was proven to hold nothing of epoch %d, and was not granted it again", gs.Owner, gs.Epoch)
}

// release starts a planned way out: the owner gives up, reads back, says so.
func (d *decider) release(g GroupPolicy, gs GroupState, to string, c Command) {
	c.Kind, c.Group, c.Epoch, c.Node = CmdRelease, g.Name, gs.Epoch, to
	if to != "" {
		d.take(to, g)
	}
	d.propose(c)
}

// evicted moves a group off a node that must or should not own it any longer.
func (d *decider) evicted(g GroupPolicy, gs GroupState) bool {
	var rule Rule
	var text string
	must := true // give up even when nobody can take it
	switch {
	case !g.possible(gs.Owner):
		rule, text = RuleNotPossible, fmt.Sprintf("%s is no longer a possible owner of group %s", gs.Owner, g.Name)
	case d.v.Nodes[gs.Owner].Report.Leaving:
		rule, text = RuleNodeLeaving, fmt.Sprintf("the agent on %s is stopping", gs.Owner)
	case d.s.Nodes[gs.Owner].Admin == AdminDrain:
		rule, text, must = RuleDrain, fmt.Sprintf("%s is being drained", gs.Owner), false
	default:
		return false
	}
	to, rejected := d.choose(g, gs.Owner, "it is to give the group up")
	if to == "" && !must {
		d.note(g, "%s, but no node can take it: %s", text, sayRejected(rejected))
		return false
	}
	d.release(g, gs, to, Command{Reason: Reason{Rule: rule, Text: text, Rejected: rejected}})
	return true
}

// inTrouble applies the failure algorithm (SEMANTICS, 2 to 6) to what the owner says.
func (d *decider) inTrouble(g GroupPolicy, gs GroupState, r GroupReport) {
	rp, _ := g.Resource(r.Resource)
	if gs.Failed {
		d.retryLater(g, gs)
		return
	}
	to, rejected := d.choose(g, gs.Owner, "the group fails there")
	action := rp.RestartAction
	early := action == RestartFailoverFirst && to != "" && d.readyStandby(to, g)
	stuck := r.Blocked != "" && d.fenceable(gs.Owner) // what is left of it cannot be killed: nothing starts there again
	if r.Trouble == TroubleFailing && !early && !stuck {
		return // the owner restarts it
	}
	count, limit := d.failovers(g, gs), g.FailoverThreshold
	if limit < 0 {
		limit = max(1, d.owners(g)-1)
	}
	why := ""
	switch {
	case action == RestartNone:
		why = "restart_action is none"
	case action == RestartOnly:
		why = "restart_action is restart: the group is never moved"
	case count >= limit:
		why = fmt.Sprintf("%d failovers within failover_period %s reach failover_threshold %d", count, g.FailoverPeriod, limit)
	case to == "":
		why = "no other node can take it: " + sayRejected(rejected)
	}
	if why != "" {
		d.stay(g, gs, r, why, rejected)
		return
	}
	// What runs on every node shows by itself when it is well again, and so does a cable; of the rest nothing is known until it is tried.
	failing := gs.Owner
	if rp.RunOn == RunOnEveryNode || r.Cause == CauseCarrier {
		failing = ""
	}
	d.release(g, gs, to, Command{Counted: true, Failing: failing, RetryAt: d.v.Wall.Add(rp.RestartPeriod),
		Reason: Reason{Rule: RuleFailover, Text: fmt.Sprintf("resource %s failed on %s; group %s fails over to %s", r.Resource, gs.Owner, g.Name, to),
			Evidence: r.Evidence, Rejected: rejected, Cause: r.Cause}})
}

// stay leaves a failing group where it is.
func (d *decider) stay(g GroupPolicy, gs GroupState, r GroupReport, why string, rejected []Rejected) {
	if r.Trouble == TroubleFailing {
		d.note(g, "resource %s fails on %s and is restarted there: %s", r.Resource, gs.Owner, why)
		return
	}
	c := Command{Kind: CmdGroupFailed, Group: g.Name, Epoch: gs.Epoch, Reason: Reason{Rule: RuleStay,
		Text: fmt.Sprintf("group %s has failed on %s and stays there: %s", g.Name, gs.Owner, why), Evidence: r.Evidence, Rejected: rejected}}
	if g.RetryPeriod > 0 && gs.Retries == 0 {
		c.RetryAt = d.v.Wall.Add(g.RetryPeriod)
	}
	d.propose(c)
}

// recovered clears the mark of a failed group whose resources are all online again.
func (d *decider) recovered(g GroupPolicy, gs GroupState, r GroupReport) {
	for _, res := range g.Resources {
		if gs.Resources[res.Name] {
			continue
		}
		if r.Resources[res.Name].State != StateOnline {
			if gs.Failed {
				d.retryLater(g, gs)
			}
			return
		}
	}
	d.propose(Command{Kind: CmdGroupWell, Group: g.Name, Epoch: gs.Epoch,
		Reason: Reason{Rule: RuleObserved, Text: fmt.Sprintf("every resource of group %s is online on %s again", g.Name, gs.Owner)}})
}

// failovers counts the failovers by failure within the rolling window.
func (d *decider) failovers(g GroupPolicy, gs GroupState) int {
	n := 0
	for _, at := range gs.Failovers {
		if d.v.Wall.Sub(at) < g.FailoverPeriod {
			n++
		}
	}
	return n
}

// owners counts the members that the configuration lets own the group.
func (d *decider) owners(g GroupPolicy) int {
	n := 0
	// order-free: counts
	for name, node := range d.s.Nodes {
		if node.Role == RoleMember && g.possible(name) {
			n++
		}
	}
	return n
}

// failback returns a group to a better preferred owner, where the administrator allowed it.
func (d *decider) failback(g GroupPolicy, gs GroupState) {
	if !g.AutoFailback || len(g.PreferredOwners) == 0 {
		return
	}
	at := slices.Index(g.PreferredOwners, gs.Owner)
	if at < 0 {
		at = len(g.PreferredOwners)
	}
	for _, node := range g.PreferredOwners[:at] {
		if _, member := d.s.Nodes[node]; !member || d.unfit(node, g) != "" || g.Standby == StandbyHot && !d.readyStandby(node, g) {
			continue
		}
		if !inWindow(d.v.Wall.Hour(), g.FailbackFrom, g.FailbackTo) {
			d.wakeAt(d.now.Add(time.Minute))
			d.note(g, "goes back to %s in the failback window %d-%d", node, g.FailbackFrom, g.FailbackTo)
			return
		}
		d.release(g, gs, node, Command{Reason: Reason{Rule: RuleFailback,
			Text: fmt.Sprintf("%s is preferred over %s and is well again", node, gs.Owner)}})
		return
	}
}

// inWindow says whether an hour lies in [from, to), which may span midnight; -1 means no window.
func inWindow(hour, from, to int) bool {
	switch {
	case from < 0 || to < 0 || from == to:
		return true
	case from < to:
		return from <= hour && hour < to
	}
	return hour >= from || hour < to
}

// releasing waits for the owner's word, or for the proof that it can no longer act.
func (d *decider) releasing(g GroupPolicy, gs GroupState) {
	r := d.report(gs.Owner, g.Name)
	if r.Released >= gs.Epoch {
		to, rejected := d.nextOwner(g, gs)
		reason := gs.Why
		reason.Evidence = append(slices.Clone(reason.Evidence), gs.Owner+" read back that it holds nothing of epoch "+fmt.Sprint(gs.Epoch))
		if to != "" && to != gs.MoveTo {
			reason.Rejected = rejected
		}
		d.propose(Command{Kind: CmdReleased, Group: g.Name, Epoch: gs.Epoch, Node: to, Reason: reason})
		return
	}
	if p, gone := d.gone(g, gs); gone {
		to, rejected := d.nextOwner(g, gs)
		d.propose(Command{Kind: CmdTakeover, Group: g.Name, Epoch: gs.Epoch, Node: to, Reason: Reason{Rule: p.rule,
			Text: p.giving, Evidence: p.evidence, Rejected: rejected}})
		return
	}
	if r.Blocked != "" && !d.fenceable(gs.Owner) {
		d.note(g, "blocked: a human is needed: %s", r.Blocked)
	}
}

// nextOwner is the wanted target if it can still take the group, else the best other; none when the group is to be
// offline. The old owner is a candidate again for anything but a failure or an eviction.
func (d *decider) nextOwner(g GroupPolicy, gs GroupState) (string, []Rejected) {
	if gs.Offline || gs.Failed {
		return "", nil
	}
	if gs.MoveTo != "" && d.unfit(gs.MoveTo, g) == "" {
		return gs.MoveTo, nil
	}
	return d.choose(g, "", "")
}

func sayRejected(rejected []Rejected) string {
	text := ""
	for i, r := range rejected {
		if i > 0 {
			text += ", "
		}
		text += r.Node + " (" + r.Why + ")"
	}
	return text
}
