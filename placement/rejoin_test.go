package placement

import (
	"strings"
	"testing"
	"time"
)

func threeNodes(owner string) State {
	s := State{Cluster: "prod", ID: "c1", Nodes: map[string]NodeState{
		"n1": {ID: "id1", Role: RoleMember, Admin: AdminUp}, "n2": {ID: "id2", Role: RoleMember, Admin: AdminPaused}, "w1": {ID: "id3", Role: RoleWitness, Admin: AdminUp}},
		Policy: Policy{Groups: []GroupPolicy{{Name: "web", TakeoverWait: time.Second}}, SuspectAfter: time.Second},
		Groups: map[string]GroupState{"web": {Phase: PhaseUnowned}}}
	if owner != "" {
		s.Groups["web"] = GroupState{Phase: PhaseOwned, Owner: owner, Epoch: 4}
	}
	return s
}

func TestAReplacedNodeHasOneIdentityAtATime(t *testing.T) { // S4
	at := time.Unix(100, 0)
	good := Command{Kind: CmdReplaceNode, Node: "n2", ID: "id2", NodeInfo: &NodeState{ID: "id2b", Role: RoleMember}, At: at}
	for _, tc := range []struct {
		name, owner, why string
		change           func(*Command)
	}{
		{"as it should be", "n1", "", func(*Command) {}},
		{"while it owns a group", "n2", "owns group web", func(*Command) {}},
		{"an identity that was replaced before", "", "another identity by now", func(c *Command) { c.ID = "id2old" }},
		{"with the old identity", "", "has that identity already", func(c *Command) { c.NodeInfo = &NodeState{ID: "id2", Role: RoleMember} }},
		{"with a revoked identity", "", "was removed with this identity", func(c *Command) { c.NodeInfo = &NodeState{ID: "gone", Role: RoleMember} }},
		{"in another role", "", "to change its role", func(c *Command) { c.NodeInfo = &NodeState{ID: "id2b", Role: RoleWitness} }},
		{"a stranger", "", "not a member", func(c *Command) { c.Node = "n9" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := threeNodes(tc.owner)
			s.Revoked = map[string]time.Time{"gone": at}
			c := good
			tc.change(&c)
			next, res := s.Apply(c)
			if tc.why != "" {
				if res.Applied || !strings.Contains(res.Why, tc.why) || next.Seq != s.Seq {
					t.Fatalf("got %+v, want %q", res, tc.why)
				}
				return
			}
			n := next.Nodes["n2"]
			if _, revoked := next.Revoked["id2"]; !res.Applied || !revoked || n.ID != "id2b" || n.Admin != AdminPaused || !n.Joined.Equal(at) || s.Nodes["n2"].ID != "id2" {
				t.Fatalf("%+v %+v %v", res, n, next.Revoked)
			}
			if err := next.Check(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestAForcedQuorumGivesNothingAwayAtOnce: what a lost node owns stays its own until the takeover wait of the new leader.
func TestAForcedQuorumGivesNothingAwayAtOnce(t *testing.T) { // S1, S2
	s := threeNodes("n2")
	next, res := s.Apply(Command{Kind: CmdForce, Node: "n1", ID: "inc1", At: time.Unix(100, 0), Reason: Reason{Rule: RuleQuorumForce, Text: "forced"}})
	if !res.Applied || next.Incarnation != "inc1" || next.Groups["web"].Owner != "n2" || next.Groups["web"].Epoch != 4 {
		t.Fatalf("%+v %+v", res, next.Groups)
	}
	for name, n := range next.Nodes {
		if _, revoked := next.Revoked[n.ID]; revoked == (name == "n1") {
			t.Errorf("%s: revoked %v", name, revoked)
		}
	}
	if e := next.Events[len(next.Events)-1]; e.Reason.Rule != RuleQuorumForce {
		t.Errorf("event %+v", e)
	}
	if err := next.Check(); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	v := View{Self: "n1", LeaderSince: now, Nodes: map[string]NodeView{"n1": {Confirmed: now, Report: Report{Node: "n1"}}}}
	for _, c := range Decide(next.Policy, next, v, now.Add(900*time.Millisecond)).Commands {
		t.Errorf("decided %s before the takeover wait", c.Kind)
	}
	v.Nodes["n1"] = NodeView{Confirmed: now.Add(time.Second), Report: Report{Node: "n1"}}
	d := Decide(next.Policy, next, v, now.Add(1100*time.Millisecond))
	if len(d.Commands) != 1 || d.Commands[0].Kind != CmdTakeover || d.Commands[0].Node != "n1" {
		t.Errorf("after the wait: %+v", d)
	}
	for _, bad := range []Command{{Kind: CmdForce, Node: "n9", ID: "x"}, {Kind: CmdForce, Node: "n1"}, {Kind: CmdForce, Node: "n1", ID: "inc1"}} {
		if _, res := next.Apply(bad); res.Applied {
			t.Errorf("applied %+v", bad)
		}
	}
}
