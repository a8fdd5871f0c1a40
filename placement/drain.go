package placement

import (
	"fmt"
	"time"
)

// Drain is how open connections end when a group is moved: they finish on the node that gave it away. It is part of a group's
// state from the release until that node has said what became of them, or the plan was overtaken by something else.
type Drain struct {
	Timeout time.Duration `json:"timeout_ns"`
	Node    string        `json:"node"`  // that gives the group away, and where the connections are
	To      string        `json:"to"`    // that takes it, and forwards
	Epoch   uint64        `json:"epoch"` // that is given away
	// Links is how the two reach each other: node, then address resource, then what that node reported (GroupReport.Links).
	Links map[string]map[string]string `json:"links"`
}

// DrainReport is what a node says of connections that finish there.
type DrainReport struct {
	Epoch uint64    `json:"epoch"` // that it gave away
	Left  int       `json:"left"`  // connections still open
	Total int       `json:"total"` // open when it began
	Cut   int       `json:"cut,omitempty"`
	Until time.Time `json:"until,omitzero"` // wall clock of that node, for display only
	Done  bool      `json:"done,omitempty"`
	Fault string    `json:"fault,omitempty"` // why connections could not go on
}

// PlanDrain completes a planned move so that open connections may finish for up to timeout. Where that cannot be, the
// command stays as it is and the answer says why in half a sentence.
func PlanDrain(p Policy, s State, v View, c *Command, timeout time.Duration) (why string) {
	g, _ := p.Group(c.Group)
	owner := s.Groups[c.Group].Owner
	switch {
	case timeout <= 0 || c.Kind != CmdRelease:
		return ""
	case g.Standby != StandbyHot:
		return "the group is a cold standby"
	case !p.NeedsGate:
		return "the kernel lease in force is not the gate"
	}
	d := Drain{Timeout: timeout, Node: owner, To: c.Node, Epoch: c.Epoch, Links: map[string]map[string]string{}}
	for _, res := range g.Resources {
		if res.RunOn != RunOnOwner {
			continue
		}
		if !res.Address {
			return "its service " + res.Name + " runs on the owner only"
		}
		for _, node := range []string{d.Node, d.To} {
			link := v.Nodes[node].Report.Groups[g.Name].Links[res.Name]
			if link == "" {
				return "node " + node + " does not forward connections of " + res.Name
			}
			if d.Links[node] == nil {
				d.Links[node] = map[string]string{}
			}
			d.Links[node][res.Name] = link
		}
	}
	if len(d.Links) > 0 {
		c.Drain = &d
	}
	return ""
}

// handedTo says that a change of owner is the one that the drain was made for.
func (d *Drain) handedTo(c Command, epoch uint64) bool {
	return d != nil && c.Kind == CmdReleased && c.Node == d.To && epoch == d.Epoch
}

func applyDrained(s State, c Command) (State, Result) {
	g, res := s.current(c, PhaseOwned)
	if res.Why != "" {
		return s, res
	}
	if g.Drain == nil {
		return s, stale("no connections of group %s are being drained", c.Group)
	}
	c.Node = g.Drain.Node
	g.Drain = nil
	s = s.withGroup(c.Group, g)
	return s.record(c, g.Owner, g.Owner), Result{}
}

// drainGrace is how long after its end a drain is waited for, by the wall clock.
const drainGrace = 10 * time.Second

// drained notes what became of the connections of a planned move, as soon as that is known.
func (d *decider) drained(g GroupPolicy, gs GroupState) {
	plan := gs.Drain
	if plan == nil {
		return
	}
	r := d.report(plan.Node, g.Name).Drain
	c := Command{Kind: CmdDrained, Group: g.Name, Epoch: gs.Epoch, Reason: Reason{Rule: RuleDrained}}
	_, member := d.s.Nodes[plan.Node]
	switch end := gs.Since.Add(plan.Timeout + drainGrace); {
	case r != nil && r.Epoch == plan.Epoch && r.Done && r.Fault != "":
		c.Reason.Text = fmt.Sprintf("the connections of group %s could not go on at %s: %s", g.Name, plan.Node, r.Fault)
	case r != nil && r.Epoch == plan.Epoch && r.Done:
		c.Reason.Text = fmt.Sprintf("of %d connections of group %s that were open on %s, %d finished and %d were cut", r.Total, g.Name, plan.Node, r.Total-r.Cut, r.Cut)
	case !member || d.s.Nodes[plan.Node].Lost:
		c.Reason.Text = fmt.Sprintf("node %s was lost with the connections of group %s that were still open there", plan.Node, g.Name)
	case !d.v.Wall.Before(end):
		c.Reason.Text = fmt.Sprintf("node %s has not said what became of the connections of group %s", plan.Node, g.Name)
	default:
		d.wakeWall(end)
		return
	}
	d.propose(c)
}
