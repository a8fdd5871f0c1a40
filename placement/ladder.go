package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Rung is one step of what follows a stop that did not succeed (SEMANTICS 10). Each stands for itself: a rung that cannot be
// proven leads to the next one.
type Rung string

const (
	RungKill    Rung = "kill"     // the orderly stop overran or failed; every process is killed within the stop budget
	RungBlocked Rung = "blocked"  // the kill could not be proven; it is tried again, and nothing starts anywhere: a human is needed
	RungAddress Rung = "address"  // so its addresses go, although it may still run
	RungDeadMan Rung = "dead-man" // the lease ended, and the dead man did what the agent had not done
	RungCleared Rung = "cleared"  // a later attempt proved that nothing runs any more
)

// Step is a rung that a node has taken, as it reports it until the event is in the history.
type Step struct {
	Group    string    `json:"group,omitempty"`    // empty: the node itself
	Resource string    `json:"resource,omitempty"` // empty: all addresses of the node
	Rung     Rung      `json:"rung"`
	Why      string    `json:"why"`
	At       time.Time `json:"at"` // wall clock of the node, for people; tells two equal steps apart
}

// MaxSteps bounds the steps that a node keeps for its report; the oldest go first.
const MaxSteps = 32

// reason is the step as it stands in the history.
func (s Step) reason(node string) Reason {
	what := cmp.Or(s.Resource, "what is exclusive here and its addresses") + " on " + node
	text := map[Rung]string{
		RungKill:    "the stop of " + what + " did not succeed: it is killed",
		RungBlocked: "blocked: a human is needed: the kill of " + what + " cannot be proven",
		RungAddress: what + " is dropped: what stands on it cannot be proven stopped",
		RungDeadMan: "the dead man acted for " + what,
		RungCleared: what + " is proven stopped now",
	}[s.Rung]
	return Reason{Rule: RuleLadder, Text: cmp.Or(text, string(s.Rung)+": "+what),
		Evidence: []string{s.Why, "at " + s.At.UTC().Format("15:04:05.000") + " by the clock of " + node}}
}

// Recorded says that the step of the node is in the history.
func (s State) Recorded(node string, step Step) bool {
	return s.recorded(step.Group, node, step.reason(node))
}

func (s State) recorded(group, node string, r Reason) bool {
	for _, e := range slices.Backward(s.Events) {
		if e.Reason.Rule == RuleLadder && e.Group == group && e.Node == node && e.Reason.Text == r.Text && slices.Equal(e.Reason.Evidence, r.Evidence) {
			return true
		}
	}
	return false
}

// note records an event; a step of a ladder once only, for a leader may propose it again before it has seen it applied.
func note(s State, c Command) (State, Result) {
	if c.Reason.Rule == RuleLadder && s.recorded(c.Group, c.Node, c.Reason) {
		return s, Result{Stale: true, Why: "it is in the history already"}
	}
	return s.record(c, "", ""), Result{}
}

// ladders records the steps that nodes report.
func (d *decider) ladders() {
	for _, node := range slices.Sorted(maps.Keys(d.v.Nodes)) {
		for _, step := range d.v.Nodes[node].Report.Ladder {
			if r := step.reason(node); !d.s.recorded(step.Group, node, r) {
				d.propose(Command{Kind: CmdNote, Group: step.Group, Node: node, Epoch: d.s.Groups[step.Group].Epoch, Reason: r})
			}
		}
	}
}

// blockedAbove names a resource that stands on res and cannot be proven stopped; empty: there is none.
func (r *reconciler) blockedAbove(res ResourcePolicy) string {
	for _, other := range r.g.Resources {
		if lr := r.local[other.Name]; lr.Blocked != "" && other.DependsOn.Mentions(res.Name) {
			return fmt.Sprintf("%s: %s", other.Name, lr.Blocked)
		}
	}
	return ""
}
