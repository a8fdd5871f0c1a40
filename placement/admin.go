package placement

import (
	"fmt"
	"time"
)

// Refusal is a wish of an administrator that cannot be granted: what, why, and what to do instead.
type Refusal struct {
	Why, Hint string
}

func (r *Refusal) Error() string { return r.Why }

// PlanMove turns an administrator's move into the command that starts it. An empty target means: choose. A move to the
// present owner gives a zero Command and no error. now is the leader's boot-time clock.
func PlanMove(p Policy, s State, v View, now time.Time, group, to string) (Command, *Refusal) {
	g, ok := p.Group(group)
	if !ok {
		return Command{}, &Refusal{fmt.Sprintf("group %s does not exist", group), "hactl group list shows the groups"}
	}
	gs := s.Groups[group]
	d := newDecider(p, s, v, now)
	for _, other := range p.Groups {
		if o := s.Groups[other.Name]; o.Phase == PhaseOwned {
			d.take(o.Owner, other)
		}
	}
	if gs.Offline {
		return Command{}, &Refusal{fmt.Sprintf("group %s is offline", group), fmt.Sprintf("run hactl group online %s first", group)}
	}
	if gs.Phase == PhaseReleasing {
		return Command{}, &Refusal{fmt.Sprintf("group %s is already leaving %s (%s)", group, gs.Owner, gs.Why.Text),
			"wait until it is online again, or follow it with hactl events --follow"}
	}
	why := "it owns the group"
	if to == "" {
		var rejected []Rejected
		if to, rejected = d.choose(g, gs.Owner, why); to == "" {
			return Command{}, &Refusal{fmt.Sprintf("no other node can take group %s: %s", group, sayRejected(rejected)),
				"bring another possible owner up, or resume it with hactl node resume"}
		}
	}
	if to == gs.Owner {
		return Command{}, nil
	}
	if refusal := d.refuseTarget(g, to); refusal != nil {
		return Command{}, refusal
	}
	_, rejected := d.choose(g, gs.Owner, why)
	reason := Reason{Rule: RuleMove, Text: fmt.Sprintf("an administrator moves group %s to %s", group, to), Rejected: rejected}
	c := Command{Kind: CmdRelease, Group: group, Epoch: gs.Epoch, Node: to, Reason: reason, At: v.Wall, By: v.Self}
	if gs.Phase == PhaseUnowned {
		c.Kind = CmdAssign
	}
	return c, nil
}

func (d *decider) refuseTarget(g GroupPolicy, to string) *Refusal {
	if _, ok := d.s.Nodes[to]; !ok {
		return &Refusal{fmt.Sprintf("node %s is not a member", to), "hactl node list shows the members"}
	}
	d.lenient = true // the administrator knows better than the failure counter
	why := d.unfit(to, g)
	d.lenient = false
	if why == "" && g.Standby == StandbyHot && !d.report(to, g.Name).Ready {
		why = "its standby is not ready"
	}
	if why == "" {
		return nil
	}
	hint := "choose another target; hactl group show " + g.Name + " lists them"
	switch d.s.Nodes[to].Admin {
	case AdminPaused, AdminDrain:
		hint = "run hactl node resume " + to + " first"
	}
	return &Refusal{fmt.Sprintf("node %s cannot take group %s: %s", to, g.Name, why), hint}
}
