package placement

import (
	"testing"
	"time"
)

// A group that nobody owns goes to a node it was given up on when there is no other: offline would be worse (L1).
func TestAGroupWithoutOwnerGoesWhereItFailedBefore(t *testing.T) {
	now := time.Unix(2_000_000, 0)
	g := GroupPolicy{Name: "web", FailoverThreshold: 5, FailoverPeriod: time.Hour, TakeoverWait: time.Second, FailbackFrom: -1, FailbackTo: -1}
	p := Policy{SuspectAfter: time.Second, Groups: []GroupPolicy{g}}
	s := State{Policy: p, Nodes: map[string]NodeState{"a": {Role: RoleMember, Admin: AdminUp}, "b": {Role: RoleMember, Admin: AdminUp}},
		Groups: map[string]GroupState{"web": {Phase: PhaseUnowned, Epoch: 3, GivenUp: map[string]time.Time{"a": now.Add(time.Hour)}}}}
	v := View{Self: "b", LeaderSince: now.Add(-time.Hour), Wall: now, Nodes: map[string]NodeView{"a": {Confirmed: now}, "b": {Confirmed: now}}}
	owner := func() string {
		for _, c := range Decide(p, s, v, now).Commands {
			if c.Kind == CmdAssign {
				return c.Node
			}
		}
		return ""
	}
	if got := owner(); got != "b" {
		t.Errorf("with both up it went to %q, want b", got)
	}
	s.Nodes["b"] = NodeState{Role: RoleMember, Admin: AdminDrain}
	if got := owner(); got != "a" {
		t.Errorf("with only the given up node left it went to %q, want a", got)
	}
}
