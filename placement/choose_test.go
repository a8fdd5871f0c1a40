package placement

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestChoice has the order of SEMANTICS, failure algorithm 5.
func TestChoice(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(sc *scene)
		want string
		why  string // why n1 was rejected
	}{
		"by name":                      {func(sc *scene) {}, "n1", ""},
		"not a witness":                {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"w", "n2"} }) }, "n2", "not a possible owner"},
		"not who is paused":            {func(sc *scene) { sc.node("n1", func(n *NodeState) { n.Admin = AdminPaused }) }, "n2", "paused"},
		"not who is drained":           {func(sc *scene) { sc.node("n1", func(n *NodeState) { n.Admin = AdminDrain }) }, "n2", "drained"},
		"not who is silent":            {func(sc *scene) { sc.silent("n1", 600*time.Millisecond+1) }, "n2", "silent for"},
		"who was heard just in time":   {func(sc *scene) { sc.silent("n1", 600*time.Millisecond) }, "n1", ""},
		"not who was never seen":       {func(sc *scene) { delete(sc.v.Nodes, "n1") }, "n2", "not seen since this leader was elected"},
		"not who leaves":               {func(sc *scene) { v := sc.v.Nodes["n1"]; v.Report.Leaving = true; sc.v.Nodes["n1"] = v }, "n2", "its agent is stopping"},
		"not who was given up on":      {func(sc *scene) { sc.state(func(g *GroupState) { g.GivenUp = map[string]time.Time{"n1": wall.Add(1)} }) }, "n2", "the group failed there; given up on until"},
		"who was given up on long ago": {func(sc *scene) { sc.state(func(g *GroupState) { g.GivenUp = map[string]time.Time{"n1": wall} }) }, "n1", ""},
		"not whose kernel has no gate": {func(sc *scene) { sc.gates("n2") }, "n2", "its kernel does not carry the gate: no nf_tables"},
		"the gate is no matter where the address lifetime is in force": {func(sc *scene) { sc.gates("n2"); sc.s.Policy.NeedsGate = false }, "n1", ""},
		"nobody whose kernel has no gate":                              {func(sc *scene) { sc.gates() }, "", ""},
		"not who is blocked":                                           {func(sc *scene) { sc.report("n1", GroupReport{Blocked: "x"}) }, "n2", "blocked: x"},
		"the preferred one":                                            {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.PreferredOwners = []string{"n3", "n2"} }) }, "n3", "n3 is preferred"},
		"the next preferred one":                                       {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.PreferredOwners = []string{"w", "n9", "n2"} }) }, "n2", "n2 is preferred"},
		"a ready standby before preference":                            {func(sc *scene) { sc.hot("n3"); sc.group(func(g *GroupPolicy) { g.PreferredOwners = []string{"n1"} }) }, "n3", "its standby is not ready"},
		"room before readiness": {func(sc *scene) {
			sc.hot("n1")
			sc.group(func(g *GroupPolicy) { g.AntiAffinity = []string{"x"} })
			sc.other("n1", "x")
		}, "n2", "hosts a group of the same anti-affinity class"},
		"an anti-affine host if no other": {func(sc *scene) {
			sc.group(func(g *GroupPolicy) { g.AntiAffinity, g.PossibleOwners = []string{"x"}, []string{"n1"} })
			sc.other("n1", "x")
		}, "n1", ""},
		"not even then where it is enforced": {func(sc *scene) {
			sc.group(func(g *GroupPolicy) {
				g.AntiAffinity, g.EnforceAntiAffinity, g.PossibleOwners = []string{"x"}, true, []string{"n1"}
			})
			sc.other("n1", "x")
		}, "", "hosts a group of the same anti-affinity class"},
		"who owns least": {func(sc *scene) { sc.other("n1", "y") }, "n2", "owns 1 groups, n2 0"},
	} {
		t.Run(name, func(t *testing.T) {
			sc := newScene(t)
			c.set(sc)
			d := sc.decide()
			got, rejected := "", []Rejected(nil)
			for _, cmd := range d.Commands {
				if cmd.Group == "web" {
					got, rejected = cmd.Node, cmd.Reason.Rejected
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q; %q", got, c.want, d.Notes)
			}
			why := sayRejected(rejected) + strings.Join(d.Notes, "")
			if c.why != "" && !strings.Contains(why, "n1 ("+c.why) {
				t.Errorf("says %q, want n1 (%s", why, c.why)
			}
			if len(rejected) > 0 && len(rejected) != 3 {
				t.Errorf("every other node is named: %v", rejected)
			}
		})
	}
}

// gates puts the gate in force, which the kernels of these nodes carry.
func (sc *scene) gates(nodes ...string) {
	sc.s.Policy.NeedsGate = true
	for name, v := range sc.v.Nodes {
		v.Report.Gate, v.Report.NoGate = slices.Contains(nodes, name), "no nf_tables"
		sc.v.Nodes[name] = v
	}
}

// other puts a group of an anti-affinity class on a node.
func (sc *scene) other(node, class string) {
	g := testGroup("zzz", testResource("x"))
	g.AntiAffinity = []string{class}
	sc.s.Policy.Groups = append(slices.Clone(sc.s.Policy.Groups), g)
	sc.s = sc.s.withGroup("zzz", GroupState{Phase: PhaseOwned, Owner: node, Epoch: 1})
}

func TestGroupsArePlacedByPriority(t *testing.T) {
	sc := newScene(t)
	for _, name := range []string{"aaa", "high"} {
		g := testGroup(name, testResource("x"))
		if name == "high" {
			g.Priority = 3000
		}
		sc.s.Policy.Groups = append(slices.Clone(sc.s.Policy.Groups), g)
		sc.s = sc.s.withGroup(name, GroupState{Phase: PhaseUnowned})
	}
	var order []string
	for _, c := range sc.decide().Commands {
		order = append(order, c.Group+" on "+c.Node)
	}
	if want := []string{"high on n1", "aaa on n2", "web on n3"}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v: by priority, then name, spread by number", order, want)
	}
}

// A node whose pulse has stopped has its gates shut for a while, whatever it renews: the simulator found that a group which prefers it went
// there and back every few milliseconds.
func TestANodeThatIsNotAnsweredIsGivenNothing(t *testing.T) {
	d := &decider{v: View{Nodes: map[string]NodeView{"n1": {Confirmed: time.Unix(1, 0)}}, LeaderSince: time.Unix(0, 0)}, now: time.Unix(1, 0), p: Policy{SuspectAfter: time.Second}}
	if why := d.unfitForAll("n1"); why != "" {
		t.Fatalf("it is unfit without that: %s", why)
	}
	d.v.Unheard = map[string]bool{"n1": true}
	if d.unfitForAll("n1") == "" {
		t.Error("it is given groups")
	}
}
