package placement

import (
	"strings"
	"testing"
	"time"
)

// drainable is a hot group on n1 whose address both n1 and n2 can forward.
func drainable(t *testing.T) *scene {
	t.Helper()
	sc := newScene(t)
	sc.ownedByN1()
	sc.hot("n1", "n2", "n3")
	sc.s.Policy.NeedsGate = true
	sc.group(func(g *GroupPolicy) {
		g.Resources = append([]ResourcePolicy{{Name: "vip", Address: true, RunOn: RunOnOwner}}, g.Resources...)
		for i := range g.Resources {
			if !g.Resources[i].Address {
				g.Resources[i].RunOn = RunOnEveryNode
			}
		}
	})
	for _, n := range []string{"n1", "n2"} {
		v := sc.v.Nodes[n]
		r := v.Report.Groups["web"]
		r.Links = map[string]string{}
		for _, res := range sc.s.Policy.Groups[0].Resources {
			if res.Address {
				r.Links[res.Name] = "how to reach " + n
			}
		}
		v.Report.Gate = true
		v.Report.Groups["web"] = r
		sc.v.Nodes[n] = v
	}
	return sc
}

func moveTo(to string) Command { return Command{Kind: CmdRelease, Group: "web", Epoch: 1, Node: to} }

func TestPlanDrainSaysWhyNot(t *testing.T) {
	for name, c := range map[string]struct {
		set     func(*scene)
		to      string
		timeout time.Duration
		want    string
	}{
		"it can":                          {nil, "n2", time.Second, ""},
		"a cold standby":                  {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.Standby = StandbyCold }) }, "n2", time.Second, "cold standby"},
		"the address is the kernel lease": {func(sc *scene) { sc.s.Policy.NeedsGate = false }, "n2", time.Second, "not the gate"},
		"a node that does not forward":    {nil, "n3", time.Second, "node n3 does not forward connections of vip"},
		"a service on the owner only": {func(sc *scene) {
			sc.group(func(g *GroupPolicy) {
				g.Resources = append(g.Resources, ResourcePolicy{Name: "batch", RunOn: RunOnOwner})
			})
		}, "n2", time.Second, "its service batch runs on the owner only"},
	} {
		t.Run(name, func(t *testing.T) {
			sc := drainable(t)
			if c.set != nil {
				c.set(sc)
			}
			cmd := moveTo(c.to)
			why := PlanDrain(sc.s.Policy, sc.s, sc.v, &cmd, c.timeout)
			if !strings.Contains(why, c.want) || (why == "") != (c.want == "") || (cmd.Drain != nil) != (c.want == "") {
				t.Errorf("%q, %+v, want %q", why, cmd.Drain, c.want)
			}
		})
	}
	sc := drainable(t)
	cmd := moveTo("n2")
	if why := PlanDrain(sc.s.Policy, sc.s, sc.v, &cmd, 0); why != "" || cmd.Drain != nil {
		t.Errorf("without a time: %q, %+v", why, cmd.Drain)
	}
}

// drained is the state after a drain was planned and the group handed to n2, or as far as that came.
func draining(t *testing.T, next Command) (*scene, Result) {
	t.Helper()
	sc := drainable(t)
	cmd := moveTo("n2")
	if why := PlanDrain(sc.s.Policy, sc.s, sc.v, &cmd, time.Second); why != "" {
		t.Fatal(why)
	}
	var res Result
	for _, c := range []Command{cmd, next} {
		c.At = wall
		sc.s.Index++
		before := sc.s
		sc.s, res = sc.s.Apply(c)
		if err := CheckStep(before, sc.s); err != nil {
			t.Error(err)
		}
	}
	return sc, res
}

func TestADrainLastsForTheMoveItWasPlannedFor(t *testing.T) {
	for name, c := range map[string]struct {
		next Command
		want bool
	}{
		"handed to its target": {Command{Kind: CmdReleased, Group: "web", Epoch: 1, Node: "n2"}, true},
		"handed to another":    {Command{Kind: CmdReleased, Group: "web", Epoch: 1, Node: "n3"}, false},
		"to nobody":            {Command{Kind: CmdReleased, Group: "web", Epoch: 1}, false},
		"taken over":           {Command{Kind: CmdTakeover, Group: "web", Epoch: 1, Node: "n2"}, false},
	} {
		sc, res := draining(t, c.next)
		if got := sc.s.Groups["web"].Drain != nil; got != c.want || !res.Applied {
			t.Errorf("%s: still draining %v, %+v", name, got, res)
		}
	}
}

func TestTheRecordSaysWhatBecameOfConnections(t *testing.T) {
	handed := Command{Kind: CmdReleased, Group: "web", Epoch: 1, Node: "n2"}
	for name, c := range map[string]struct {
		set  func(*scene)
		want string // the record; empty: not yet
	}{
		"they go on":       {func(sc *scene) { sc.drainReport(DrainReport{Epoch: 1, Left: 3, Total: 5}) }, ""},
		"they ended":       {func(sc *scene) { sc.drainReport(DrainReport{Epoch: 1, Total: 5, Cut: 2, Done: true}) }, "of 5 connections of group web that were open on n1, 3 finished and 2 were cut"},
		"of a move before": {func(sc *scene) { sc.drainReport(DrainReport{Epoch: 0, Total: 5, Done: true}) }, ""},
		"it failed":        {func(sc *scene) { sc.drainReport(DrainReport{Epoch: 1, Done: true, Fault: "no room"}) }, "could not go on at n1: no room"},
		"the node is lost": {func(sc *scene) { sc.node("n1", func(n *NodeState) { n.Lost = true }) }, "node n1 was lost with the connections"},
		"nothing is said":  {func(sc *scene) { sc.v.Wall = wall.Add(time.Minute) }, "node n1 has not said"},
	} {
		t.Run(name, func(t *testing.T) {
			sc, _ := draining(t, handed)
			c.set(sc)
			record := ""
			for _, cmd := range sc.decide().Commands {
				if cmd.Kind != CmdDrained {
					continue
				}
				record = cmd.Reason.Text
				next, res := sc.s.Apply(cmd)
				if !res.Applied || next.Groups["web"].Drain != nil || next.Groups["web"].Epoch != sc.s.Groups["web"].Epoch {
					t.Errorf("%+v, %+v", res, next.Groups["web"])
				}
				if last := next.Events[len(next.Events)-1]; last.Reason.Text != record || last.Node != "n1" {
					t.Errorf("event %+v", last)
				}
				if _, again := next.Apply(cmd); !again.Stale {
					t.Errorf("a second time: %+v", again)
				}
			}
			if c.want == "" && record != "" || !strings.Contains(record, c.want) {
				t.Errorf("record %q, want %q", record, c.want)
			}
		})
	}
}

func (sc *scene) drainReport(r DrainReport) {
	g := sc.v.Nodes["n1"].Report.Groups["web"]
	g.Drain = &r
	sc.report("n1", g)
}
