package placement

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// fencingCase is a cluster of three voters in which n1 owns web and nothing is wrong; n3 leads.
func fencingCase() (Policy, State, View, time.Time) {
	tomcat := testResource("tomcat")
	tomcat.Exclusive = true
	p := Policy{SuspectAfter: 600 * time.Millisecond, Groups: []GroupPolicy{testGroup("web", tomcat)},
		Fencing: FencingPolicy{When: FenceAlways, Action: FenceOff, Nodes: []string{"n1", "n2"}}}
	s := State{Policy: p, Nodes: map[string]NodeState{"n1": {Role: RoleMember}, "n2": {Role: RoleMember}, "n3": {Role: RoleWitness}},
		Groups: map[string]GroupState{"web": {Phase: PhaseOwned, Owner: "n1", Epoch: 7}}}
	now := boot.Add(time.Hour)
	v := View{Self: "n3", LeaderSince: boot, Wall: wall, Voters: []string{"n1", "n2", "n3"}, Nodes: map[string]NodeView{}, Fenced: map[string]FenceView{}}
	for name := range s.Nodes {
		v.Nodes[name] = NodeView{Confirmed: now, Report: Report{Node: name, Groups: map[string]GroupReport{}}}
	}
	return p, s, v, now
}

func (v View) quiet(node string, since time.Time) {
	n := v.Nodes[node]
	n.Confirmed = since
	v.Nodes[node] = n
}

func (v View) says(node string, r GroupReport) {
	n := v.Nodes[node]
	n.Report.Groups = map[string]GroupReport{"web": r}
	v.Nodes[node] = n
}

func TestFencing(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		change   func(p *Policy, s *State, v *View, now time.Time)
		fence    string // the node that is fenced
		takeover Rule   // rule of the takeover
		note     string
	}{
		{"nobody is fenced while the owner renews", func(*Policy, *State, *View, time.Time) {}, "", "", ""},
		{"always: a silent owner is fenced before its lease has run out", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
		}, "n1", "", ""},
		{"always: one that ended in order is left alone while its lease lasts", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-testWait+ms))
			v.Ending = map[string]bool{"n1": true}
		}, "", "", "its owner n1 ended in order, and is not fenced"},
		{"and its group is taken when it has run out", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-testWait))
			v.Ending = map[string]bool{"n1": true}
		}, "", RuleNodeLost, ""},
		{"where nobody can take it, it is fenced then", func(p *Policy, _ *State, v *View, now time.Time) {
			p.Groups[0].PossibleOwners = []string{"n1"}
			v.quiet("n1", now.Add(-testWait))
			v.Ending = map[string]bool{"n1": true}
		}, "n1", "", ""},
		{"the goodbye of another node shields nobody", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.Ending = map[string]bool{"n1": false, "n2": true, "n3": true}
		}, "n1", "", ""},
		{"nor does a goodbye where the end of the lease proves nothing", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.says("n1", GroupReport{Holding: true, Blocked: "tomcat: process 12 is in state D"})
			v.quiet("n1", now.Add(-700*ms))
			v.Ending = map[string]bool{"n1": true}
		}, "n1", "", ""},
		{"a lease of a former timing may last longer", func(_ *Policy, s *State, v *View, now time.Time) {
			s.Floor = 2 * testWait
			v.quiet("n1", now.Add(-testWait-ms))
			v.Ending = map[string]bool{"n1": true}
		}, "", "", "its owner n1 ended in order"},
		{"when-unsure: a silent owner whose lease is a proof is left alone", func(p *Policy, _ *State, v *View, now time.Time) {
			p.Fencing.When = FenceWhenUnsure
			v.quiet("n1", now.Add(-700*ms))
		}, "", "", ""},
		{"when-unsure: and its group is taken when the lease has run out", func(p *Policy, _ *State, v *View, now time.Time) {
			p.Fencing.When = FenceWhenUnsure
			v.quiet("n1", now.Add(-testWait))
		}, "", RuleNodeLost, ""},
		{"when-unsure: a silent owner whose layers are not in force is fenced, and not taken over by time", func(p *Policy, _ *State, v *View, now time.Time) {
			p.Fencing.When = FenceWhenUnsure
			v.Nodes["n1"] = NodeView{Confirmed: now.Add(-time.Minute), Report: Report{Node: "n1", Unsure: "no dead man"}}
		}, "n1", "", "its owner n1 is lost, and the end of its lease proves nothing: no dead man"},
		{"never: time is the only proof, whatever is in force", func(p *Policy, _ *State, v *View, now time.Time) {
			p.Fencing.When = FenceNever
			v.Nodes["n1"] = NodeView{Confirmed: now.Add(-time.Minute), Report: Report{Node: "n1", Unsure: "no dead man"}}
		}, "", RuleNodeLost, ""},
		{"a confirmation shortens the wait to nothing", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.Fenced["n1"] = FenceView{Off: now.Add(-10 * ms), Running: true, Why: "confirmed by pdu"} // and is about to be switched on again
		}, "", RuleFenced, ""},
		{"a confirmation is void when the node renewed after it", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.Fenced["n1"] = FenceView{Off: now.Add(-701 * ms), Ended: now.Add(-time.Hour)}
		}, "n1", "", ""},
		{"a confirmation is not believed while the node may still be heard", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-500*ms))
			v.Fenced["n1"] = FenceView{Off: now.Add(-400 * ms), Ended: now}
		}, "", "", ""},
		{"an attempt that is not confirmed proves nothing", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.Fenced["n1"] = FenceView{Failed: 1, Ended: now.Add(-10 * ms), Why: "pdu: exit code 1"}
		}, "", "", "its owner n1 has to be fenced: pdu: exit code 1; next attempt in 4.99s"},
		{"nor does one that is under way", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.Fenced["n1"] = FenceView{Running: true}
		}, "", "", "its owner n1 is being fenced"},
		{"one node at a time", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.Fenced["n2"] = FenceView{Running: true}
		}, "", "", "its owner n1 has to be fenced: n2 is being fenced, and only one node at a time may be"},
		{"a leader that stood still itself fences nobody for it", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-900*ms))
			v.Listening = now.Add(-100 * ms)
		}, "", "", ""},
		{"a new leader gives an owner time to find it", func(_ *Policy, _ *State, v *View, now time.Time) {
			delete(v.Nodes, "n1")
			v.LeaderSince = now.Add(-1000 * ms)
		}, "", "", ""},
		{"and no more than that", func(_ *Policy, _ *State, v *View, now time.Time) {
			delete(v.Nodes, "n1")
			v.LeaderSince = now.Add(-1300 * ms)
		}, "n1", "", ""},
		{"nobody is fenced without a majority of voters up", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.quiet("n2", now.Add(-700*ms))
		}, "", "", "its owner n1 has to be fenced: without it 1 of 3 voters would be up, and 2 are needed"},
		{"a voter that was just stopped is not up, however lately it renewed", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.quiet("n2", now.Add(-20*ms))
			v.Fenced["n2"] = FenceView{Off: now.Add(-10 * ms), Ended: now}
		}, "", "", "its owner n1 has to be fenced: without it 1 of 3 voters would be up, and 2 are needed"},
		{"nor when the voters are not known", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.Voters = nil
		}, "", "", "its owner n1 has to be fenced: without it 0 of 0 voters would be up, and 1 are needed"},
		{"a node without a device is not fenced", func(p *Policy, _ *State, v *View, now time.Time) {
			p.Fencing.Nodes = []string{"n2"}
			v.quiet("n1", now.Add(-700*ms))
		}, "", "", ""},
		{"a silent owner that said that it let go is not fenced", func(_ *Policy, s *State, v *View, now time.Time) {
			s.Groups["web"] = GroupState{Phase: PhaseReleasing, Owner: "n1", Epoch: 7, MoveTo: "n2"}
			v.says("n1", GroupReport{Released: 7})
			v.quiet("n1", now.Add(-700*ms))
		}, "", "", ""},
		{"a leaving owner that is blocked is fenced although it renews", func(p *Policy, s *State, v *View, _ time.Time) {
			p.Fencing.When = FenceWhenUnsure
			s.Groups["web"] = GroupState{Phase: PhaseReleasing, Owner: "n1", Epoch: 7, MoveTo: "n2"}
			v.says("n1", GroupReport{Holding: true, Blocked: "tomcat: process 12 is in state D"})
		}, "n1", "", ""},
		{"and without fencing a human is needed", func(p *Policy, s *State, v *View, _ time.Time) {
			p.Fencing.When = FenceNever
			s.Groups["web"] = GroupState{Phase: PhaseReleasing, Owner: "n1", Epoch: 7, MoveTo: "n2"}
			v.says("n1", GroupReport{Holding: true, Blocked: "tomcat: process 12 is in state D"})
		}, "", "", "blocked: a human is needed: tomcat: process 12 is in state D"},
		{"a takeover that was decided by time is not fenced for", func(_ *Policy, _ *State, v *View, now time.Time) {
			v.quiet("n1", now.Add(-700*ms))
			v.Withheld = map[string]uint64{"web": 7}
		}, "", RuleNodeLost, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, s, v, now := fencingCase()
			c.change(&p, &s, &v, now)
			d := Decide(p, s, v, now)
			fence, takeover := "", Rule("")
			for _, o := range d.Fences {
				fence += o.Node
				if o.Epoch != 7 || !slices.Equal(o.Groups, []string{"web"}) || o.Why.Rule != RuleFence || len(o.Why.Evidence) == 0 {
					t.Errorf("the order is not explained: %+v", o)
				}
			}
			for _, cmd := range d.Commands {
				if cmd.Kind == CmdTakeover {
					takeover = cmd.Reason.Rule
				}
			}
			if fence != c.fence || takeover != c.takeover {
				t.Errorf("fences %q, takeover %q; want %q, %q", fence, takeover, c.fence, c.takeover)
			}
			if notes := strings.Join(d.Notes, "\n"); !strings.Contains(notes, c.note) || c.note == "" && strings.Contains(notes, "fence") {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
}

// TestFencingIsNeverWithoutCause draws views and checks what must hold of every decision.
func TestFencingIsNeverWithoutCause(t *testing.T) {
	orders, proofs := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		for range 30 {
			o, p := drawFencing(t)
			orders, proofs = orders+o, proofs+p
		}
	})
	if orders == 0 || proofs == 0 {
		t.Errorf("%d orders, %d takeovers: nothing was tested", orders, proofs)
	}
}

// drawFencing draws one view and checks the decision; it counts the orders and the takeovers in it.
func drawFencing(t *rapid.T) (orders, proofs int) {
	p, s, v, now := fencingCase()
	names := []string{"n1", "n2", "n3"}
	ago := func(what string) time.Time {
		return now.Add(-time.Duration(rapid.SampledFrom([]int{0, 50, 100, 500, 601, 700, 1300, 1799, 1801, 3000, 20000}).Draw(t, what)) * time.Millisecond)
	}
	p.Fencing.When = rapid.SampledFrom([]FenceWhen{FenceNever, FenceWhenUnsure, FenceAlways, ""}).Draw(t, "when")
	v.Self = rapid.SampledFrom(names).Draw(t, "self")
	v.Listening = ago("listening")
	v.Ending = map[string]bool{}
	gs := GroupState{Phase: rapid.SampledFrom([]Phase{PhaseOwned, PhaseReleasing}).Draw(t, "phase"), Owner: rapid.SampledFrom(names[:2]).Draw(t, "owner"), Epoch: 7}
	s.Groups["web"] = gs
	for _, name := range names {
		n := NodeView{Confirmed: ago("confirmed"), Report: Report{Node: name, Unsure: rapid.SampledFrom([]string{"", "no dead man"}).Draw(t, "unsure")}}
		n.Report.Groups = map[string]GroupReport{"web": {Released: uint64(rapid.IntRange(6, 7).Draw(t, "released")),
			Blocked: rapid.SampledFrom([]string{"", "tomcat"}).Draw(t, "blocked")}}
		v.Nodes[name] = n
		if rapid.IntRange(0, 2).Draw(t, "fenced before") == 0 {
			f := FenceView{Running: rapid.IntRange(0, 3).Draw(t, "running") == 0, Ended: ago("ended"), Failed: rapid.IntRange(0, 9).Draw(t, "failed")}
			if rapid.Bool().Draw(t, "confirmed by a device") {
				f.Off = ago("off")
			}
			v.Fenced[name] = f
		}
		if rapid.IntRange(0, 2).Draw(t, "ended in order") == 0 {
			v.Ending[name] = true
		}
	}
	d := Decide(p, s, v, now)
	checkOrders(t, p, s, v, now, d)
	orders += len(d.Fences)
	for _, c := range d.Commands {
		if c.Kind != CmdTakeover {
			continue
		}
		n, f := v.Nodes[gs.Owner], v.Fenced[gs.Owner]
		silent := now.Sub(n.Confirmed)
		byDevice := !f.Off.IsZero() && !n.Confirmed.After(f.Off) && silent > p.SuspectAfter
		doubt := (p.Fencing.When == FenceAlways || p.Fencing.When == FenceWhenUnsure) && (n.Report.Unsure != "" || n.Report.Groups["web"].Blocked != "")
		if !byDevice && (silent < testWait || doubt) {
			t.Fatalf("takeover without proof: silent %s, doubt %v, %+v", silent, doubt, f)
		}
		proofs++
	}
	return orders, proofs
}

func checkOrders(t *rapid.T, p Policy, s State, v View, now time.Time, d Decision) {
	if len(d.Fences) > 1 {
		t.Fatalf("%d nodes at once", len(d.Fences))
	}
	for _, o := range d.Fences {
		gs := s.Groups["web"]
		up := 0
		for _, name := range v.Voters {
			if v.Fenced[name].Running {
				t.Fatal("two nodes at once")
			}
			n, f := v.Nodes[name], v.Fenced[name]
			stopped := !f.Off.IsZero() && !n.Confirmed.After(f.Off)
			if name != o.Node && (name == v.Self || now.Sub(n.Confirmed) <= p.SuspectAfter && !stopped) {
				up++
			}
		}
		r := v.Nodes[o.Node].Report.Groups["web"]
		switch {
		case up*2 <= len(v.Voters):
			t.Fatalf("only %d of %d voters would be up", up, len(v.Voters))
		case o.Node == v.Self:
			t.Fatal("it fences itself")
		case o.Node != gs.Owner || !slices.Contains(p.Fencing.Nodes, o.Node):
			t.Fatalf("%s is fenced, the owner is %s", o.Node, gs.Owner)
		case p.Fencing.When == FenceNever || p.Fencing.When == "":
			t.Fatal("against the policy")
		case v.Ending[o.Node] && now.Sub(v.Nodes[o.Node].Confirmed) < testWait && r.Blocked == "" && v.Nodes[o.Node].Report.Unsure == "":
			t.Fatal("it ended in order, and its lease may still last")
		case gs.Phase == PhaseReleasing && r.Released >= gs.Epoch:
			t.Fatal("it has said that it let go")
		case len(d.Commands) > 0 && slices.ContainsFunc(d.Commands, func(c Command) bool { return c.Kind == CmdTakeover }):
			t.Fatal("what it owned is taken already")
		}
	}
}

func TestTheSameViewFencesTheSameNode(t *testing.T) {
	p, s, v, now := fencingCase()
	p.Groups = append(p.Groups, testGroup("extra", testResource("ip")))
	s.Groups["extra"] = GroupState{Phase: PhaseOwned, Owner: "n2", Epoch: 3}
	s.Nodes["n4"], s.Nodes["n5"] = NodeState{Role: RoleWitness}, NodeState{Role: RoleWitness}
	v.Voters = append(v.Voters, "n4", "n5")
	for _, name := range []string{"n4", "n5"} {
		v.Nodes[name] = NodeView{Confirmed: now}
	}
	v.quiet("n1", now.Add(-700*time.Millisecond))
	v.quiet("n2", now.Add(-800*time.Millisecond))
	for range 50 {
		d := Decide(p, s, v, now)
		if len(d.Fences) != 1 || d.Fences[0].Node != "n2" { // extra comes first by name
			t.Fatalf("%+v", d.Fences)
		}
	}
}

// What has lasted as long as it had to must not read as if it had not.
func TestAWaitThatIsOverIsNotToldShorter(t *testing.T) {
	const wait = 964500 * time.Microsecond
	for _, silent := range []time.Duration{wait, wait + 1, wait + 100*time.Microsecond, wait + 3*time.Millisecond} {
		if got := atLeast(silent); got < silent || got-silent >= time.Millisecond || got%time.Millisecond != 0 {
			t.Errorf("%s is told as %s", silent, got)
		}
	}
}
