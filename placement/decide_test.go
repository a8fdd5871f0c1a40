package placement

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// scene is one call of Decide, built by sentences.
type scene struct {
	s   State
	v   View
	now time.Time
}

// newScene has n1, n2, n3 and the witness w, all speaking, and the group web of an address and a service; leader for an hour.
func newScene(t *testing.T) *scene {
	t.Helper()
	sc := &scene{now: boot.Add(time.Hour)}
	service := testResource("tomcat")
	ip := testResource("ip")
	ip.Address, ip.DependsOn = true, &Expr{Name: "tomcat"}
	p := Policy{SuspectAfter: 600 * time.Millisecond, GroupWaitDelay: 2 * time.Minute, Groups: []GroupPolicy{testGroup("web", service, ip)}}
	sc.s = applied(t, sc.s, Command{Kind: CmdInit, Cluster: "c", ID: "id"})
	sc.v = View{Self: "n3", LeaderSince: boot, Wall: wall, Nodes: map[string]NodeView{}}
	for _, n := range []string{"n1", "n2", "n3", "w"} {
		role := RoleMember
		if n == "w" {
			role = RoleWitness
		}
		sc.s = applied(t, sc.s, Command{Kind: CmdNode, Node: n, NodeInfo: &NodeState{ID: n, Role: role}})
		sc.v.Nodes[n] = NodeView{Confirmed: sc.now, Report: Report{Groups: map[string]GroupReport{}}}
	}
	sc.s = applied(t, sc.s, Command{Kind: CmdConfig, Policy: &p, Reason: Reason{Rule: RuleConfig}})
	return sc
}

func (sc *scene) group(f func(g *GroupPolicy)) { f(&sc.s.Policy.Groups[0]) }
func (sc *scene) state(f func(g *GroupState)) {
	g := sc.s.Groups["web"]
	f(&g)
	sc.s = sc.s.withGroup("web", g)
}
func (sc *scene) node(n string, f func(*NodeState)) {
	x := sc.s.Nodes[n]
	f(&x)
	sc.s = sc.s.withNode(n, x)
}
func (sc *scene) silent(n string, d time.Duration) {
	x := sc.v.Nodes[n]
	x.Confirmed = sc.now.Add(-d)
	sc.v.Nodes[n] = x
}
func (sc *scene) report(n string, r GroupReport) { sc.v.Nodes[n].Report.Groups["web"] = r }

// ownedByN1 makes n1 the owner, well, at epoch 1.
func (sc *scene) ownedByN1() {
	sc.state(func(g *GroupState) { g.Phase, g.Owner, g.Epoch = PhaseOwned, "n1", 1 })
	sc.report("n1", GroupReport{Holding: true})
}

func (sc *scene) releasing(to string) {
	sc.ownedByN1()
	sc.state(func(g *GroupState) { g.Phase, g.MoveTo, g.Why.Rule = PhaseReleasing, to, RuleMove })
}

func (sc *scene) hot(ready ...string) {
	sc.group(func(g *GroupPolicy) {
		g.Standby, g.Resources[0].RunOn, g.Resources[0].RestartAction = StandbyHot, RunOnEveryNode, RestartFailoverFirst
	})
	for _, n := range ready {
		sc.report(n, GroupReport{Ready: true})
	}
}

func (sc *scene) trouble(kind Trouble) {
	sc.report("n1", GroupReport{Holding: true, Trouble: kind, Resource: "tomcat", Evidence: []string{"tomcat on n1: gone"}})
}

func (sc *scene) decide() Decision { return Decide(sc.s.Policy, sc.s, sc.v, sc.now) }

// said is the commands about the group, as one line each.
func said(d Decision) string {
	var out []string
	for _, c := range d.Commands {
		if c.Group != "" {
			out = append(out, strings.Replace(sayCommand(c), " web", "", 1)+" by "+string(c.Reason.Rule))
		}
	}
	return strings.Join(out, "; ")
}

// noCable is what a node says whose address has no carrier where it would be.
const noCable = "ip: interface eth0 has no carrier"

// TestDecide has every rule of the leader as a sentence.
func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(sc *scene)
		want string // commands about the group
		note string // part of a note
	}{
		"an unowned group is placed":                    {func(sc *scene) {}, "assign n1 epoch 0 by start", ""},
		"an offline group is not":                       {func(sc *scene) { sc.state(func(g *GroupState) { g.Offline = true }) }, "", ""},
		"nobody can own it":                             {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"w"} }) }, "", "no node can own it"},
		"a failed group waits for its round":            {func(sc *scene) { sc.state(func(g *GroupState) { g.Failed, g.RetryAt = true, wall.Add(1) }) }, "", "has failed; next round"},
		"a failed group's round comes":                  {func(sc *scene) { sc.state(func(g *GroupState) { g.Failed, g.RetryAt = true, wall }) }, "retry epoch 0 by retry", ""},
		"a group that failed twice stays failed":        {func(sc *scene) { sc.state(func(g *GroupState) { g.Failed = true }) }, "", "stays so"},
		"an owner that is well keeps its group":         {(*scene).ownedByN1, "", ""},
		"an owner is not taken from a moment too early": {func(sc *scene) { sc.ownedByN1(); sc.silent("n1", testWait-1) }, "", ""},
		"an owner is lost exactly at the takeover wait": {func(sc *scene) { sc.ownedByN1(); sc.silent("n1", testWait) }, "takeover n2 epoch 1 by node-lost", ""},
		"a new leader counts from its own election, not yet": {func(sc *scene) {
			sc.ownedByN1()
			delete(sc.v.Nodes, "n1")
			sc.v.LeaderSince = sc.now.Add(-testWait + 1)
		}, "", ""},
		"a new leader counts from its own election, now": {func(sc *scene) { sc.ownedByN1(); delete(sc.v.Nodes, "n1"); sc.v.LeaderSince = sc.now.Add(-testWait) }, "takeover n2 epoch 1 by node-lost", ""},
		"a confirmation of an earlier term does not shorten": {func(sc *scene) {
			sc.ownedByN1()
			sc.silent("n1", time.Minute)
			sc.v.LeaderSince = sc.now.Add(-time.Second)
		}, "", ""},
		"the floor of a former timing counts, not yet": {func(sc *scene) { sc.ownedByN1(); sc.s.Floor = 3 * time.Second; sc.silent("n1", 3*time.Second-1) }, "", ""},
		"the floor of a former timing counts, now":     {func(sc *scene) { sc.ownedByN1(); sc.s.Floor = 3 * time.Second; sc.silent("n1", 3*time.Second) }, "takeover n2 epoch 1 by node-lost", ""},
		"a lost owner of an offline group leaves it unowned": {func(sc *scene) {
			sc.ownedByN1()
			sc.silent("n1", testWait)
			sc.state(func(g *GroupState) { g.Offline = true })
		}, "takeover epoch 1 by offline", ""},
		"a lost owner that nobody can follow keeps the group": {func(sc *scene) {
			sc.ownedByN1()
			sc.silent("n1", testWait)
			sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"n1"} })
		}, "", "no node can take it"},
		"a withheld takeover goes on when its owner is back": {func(sc *scene) { sc.ownedByN1(); sc.v.Withheld = map[string]uint64{"web": 1} }, "takeover n2 epoch 1 by node-lost", ""},
		"a withheld takeover to another while it is silent": {func(sc *scene) {
			sc.ownedByN1()
			sc.silent("n1", time.Second)
			sc.v.Withheld = map[string]uint64{"web": 1}
		}, "takeover n2 epoch 1 by node-lost", ""},
		"what was withheld of an older epoch is history": {func(sc *scene) {
			sc.ownedByN1()
			sc.state(func(g *GroupState) { g.Epoch = 2 })
			sc.v.Withheld = map[string]uint64{"web": 1}
		}, "", ""},
		"a silent owner is not asked to do anything": {func(sc *scene) { sc.ownedByN1(); sc.silent("n1", 700*time.Millisecond); sc.trouble(TroubleGivenUp) }, "", ""},
		"offline releases without target":            {func(sc *scene) { sc.ownedByN1(); sc.state(func(g *GroupState) { g.Offline = true }) }, "release epoch 1 by offline", ""},

		"a drained owner gives up": {func(sc *scene) { sc.ownedByN1(); sc.node("n1", func(n *NodeState) { n.Admin = AdminDrain }) }, "release n2 epoch 1 by drain", ""},
		"a drained owner keeps what nobody can take": {func(sc *scene) {
			sc.ownedByN1()
			sc.node("n1", func(n *NodeState) { n.Admin = AdminDrain })
			sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"n1"} })
		}, "", "no node can take it"},
		"a paused owner keeps its group": {func(sc *scene) { sc.ownedByN1(); sc.node("n1", func(n *NodeState) { n.Admin = AdminPaused }) }, "", ""},
		"a leaving agent gives up":       {func(sc *scene) { sc.ownedByN1(); v := sc.v.Nodes["n1"]; v.Report.Leaving = true; sc.v.Nodes["n1"] = v }, "release n2 epoch 1 by node-leaving", ""},
		"a leaving agent gives up though nobody can take": {func(sc *scene) {
			sc.ownedByN1()
			v := sc.v.Nodes["n1"]
			v.Report.Leaving = true
			sc.v.Nodes["n1"] = v
			sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"n1"} })
		}, "release epoch 1 by node-leaving", ""},
		"an owner that is no longer possible gives up": {func(sc *scene) { sc.ownedByN1(); sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"n3"} }) }, "release n3 epoch 1 by not-possible", ""},

		"a failing resource is restarted where it is":        {func(sc *scene) { sc.ownedByN1(); sc.trouble(TroubleFailing) }, "", ""},
		"restarts are exhausted":                             {func(sc *scene) { sc.ownedByN1(); sc.trouble(TroubleGivenUp) }, "release n2 epoch 1 (counted) by failover", ""},
		"failover-first moves to a ready standby at once":    {func(sc *scene) { sc.ownedByN1(); sc.hot("n3"); sc.trouble(TroubleFailing) }, "release n3 epoch 1 (counted) by failover", ""},
		"failover-first restarts without a ready standby":    {func(sc *scene) { sc.ownedByN1(); sc.hot(); sc.trouble(TroubleFailing) }, "", ""},
		"failover-first moves anyway when restarts are gone": {func(sc *scene) { sc.ownedByN1(); sc.hot(); sc.trouble(TroubleGivenUp) }, "release n2 epoch 1 (counted) by failover", ""},
		"failover-first stays below the threshold": {func(sc *scene) {
			sc.ownedByN1()
			sc.hot("n3")
			sc.trouble(TroubleFailing)
			sc.state(func(g *GroupState) { g.Failovers = []time.Time{wall, wall} })
		}, "", "is restarted there"},
		"restart never moves": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.group(func(g *GroupPolicy) { g.Resources[0].RestartAction = RestartOnly })
		}, "group-failed epoch 1 (retry in 1h0m0s) by stay", ""},
		"none never moves": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.group(func(g *GroupPolicy) { g.Resources[0].RestartAction = RestartNone })
		}, "group-failed epoch 1 (retry in 1h0m0s) by stay", ""},
		"the threshold of three members is two": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.state(func(g *GroupState) { g.Failovers = []time.Time{wall} })
		}, "release n2 epoch 1 (counted) by failover", ""},
		"the threshold is reached": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.state(func(g *GroupState) { g.Failovers = []time.Time{wall, wall} })
		}, "group-failed epoch 1 (retry in 1h0m0s) by stay", ""},
		"failovers fall out of the window": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.state(func(g *GroupState) { g.Failovers = []time.Time{wall.Add(-6 * time.Hour), wall} })
		}, "release n2 epoch 1 (counted) by failover", ""},
		"nobody is chosen whose cable is out": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.report("n2", GroupReport{Unfit: noCable})
		}, "release n3 epoch 1 (counted) by failover", ""},
		"better ill than where no cable is": {func(sc *scene) {
			sc.ownedByN1()
			sc.hot("n2", "n3")
			sc.trouble(TroubleGivenUp)
			sc.report("n2", GroupReport{Ready: true, Unfit: noCable})
			sc.report("n3", GroupReport{Ready: true, Unfit: noCable})
		}, "group-failed epoch 1 (retry in 1h0m0s) by stay", ""},
		"a free group waits for a cable": {func(sc *scene) {
			for _, n := range []string{"n1", "n2", "n3"} {
				sc.report(n, GroupReport{Unfit: noCable})
			}
		}, "", noCable},
		"a group of a lost owner waits for a cable": {func(sc *scene) {
			sc.ownedByN1()
			sc.silent("n1", testWait)
			sc.report("n2", GroupReport{Unfit: noCable})
			sc.report("n3", GroupReport{Unfit: noCable})
		}, "", noCable},
		"an owner without cable keeps what it has until it says that it failed": {func(sc *scene) {
			sc.ownedByN1()
			sc.report("n1", GroupReport{Holding: true, Unfit: noCable})
		}, "", ""},
		"a threshold of zero never moves": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.group(func(g *GroupPolicy) { g.FailoverThreshold = 0 })
		}, "group-failed epoch 1 (retry in 1h0m0s) by stay", ""},
		"no target is left": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"n1"} })
		}, "group-failed epoch 1 (retry in 1h0m0s) by stay", ""},
		"retry_period never": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.group(func(g *GroupPolicy) { g.FailoverThreshold, g.RetryPeriod = 0, 0 })
		}, "group-failed epoch 1 by stay", ""},
		"one round, then no more": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.group(func(g *GroupPolicy) { g.FailoverThreshold = 0 })
			sc.state(func(g *GroupState) { g.Retries = 1 })
		}, "group-failed epoch 1 by stay", ""},
		"a failed group in trouble waits": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.state(func(g *GroupState) { g.Failed, g.RetryAt = true, wall.Add(1) })
		}, "", "next round"},
		"a failed group in trouble is tried again": {func(sc *scene) {
			sc.ownedByN1()
			sc.trouble(TroubleGivenUp)
			sc.state(func(g *GroupState) { g.Failed, g.RetryAt = true, wall })
		}, "retry epoch 1 by retry", ""},
		"a failed group that is online again is well": {func(sc *scene) {
			sc.ownedByN1()
			sc.state(func(g *GroupState) { g.Failed = true })
			sc.report("n1", GroupReport{Resources: map[string]ResourceReport{"tomcat": {State: StateOnline}, "ip": {State: StateOnline}}})
		}, "group-well epoch 1 by observed", ""},
		"a resource that is wanted offline does not count": {func(sc *scene) {
			sc.ownedByN1()
			sc.state(func(g *GroupState) { g.Retries, g.Resources = 1, map[string]bool{"ip": true} })
			sc.report("n1", GroupReport{Resources: map[string]ResourceReport{"tomcat": {State: StateOnline}}})
		}, "group-well epoch 1 by observed", ""},
		"half of it online is not well": {func(sc *scene) {
			sc.ownedByN1()
			sc.state(func(g *GroupState) { g.Failed = true })
			sc.report("n1", GroupReport{Resources: map[string]ResourceReport{"tomcat": {State: StateOnline}}})
		}, "", "stays so"},

		"failback goes to the preferred owner": {func(sc *scene) {
			sc.ownedByN1()
			sc.group(func(g *GroupPolicy) { g.AutoFailback, g.PreferredOwners = true, []string{"n3", "n1"} })
		}, "release n3 epoch 1 by failback", ""},
		"failback is not the default": {func(sc *scene) {
			sc.ownedByN1()
			sc.group(func(g *GroupPolicy) { g.PreferredOwners = []string{"n3", "n1"} })
		}, "", ""},
		"failback does not go downward": {func(sc *scene) {
			sc.ownedByN1()
			sc.group(func(g *GroupPolicy) { g.AutoFailback, g.PreferredOwners = true, []string{"n1", "n3"} })
		}, "", ""},
		"failback waits for its window": {func(sc *scene) {
			sc.ownedByN1()
			sc.group(func(g *GroupPolicy) {
				g.AutoFailback, g.PreferredOwners, g.FailbackFrom, g.FailbackTo = true, []string{"n3"}, 22, 4
			})
		}, "", "goes back to n3 in the failback window 22-4"},
		"failback in its window": {func(sc *scene) {
			sc.ownedByN1()
			sc.group(func(g *GroupPolicy) {
				g.AutoFailback, g.PreferredOwners, g.FailbackFrom, g.FailbackTo = true, []string{"n3"}, 12, 13
			})
		}, "release n3 epoch 1 by failback", ""},
		"failback leaves out who is paused": {func(sc *scene) {
			sc.ownedByN1()
			sc.node("n3", func(n *NodeState) { n.Admin = AdminPaused })
			sc.group(func(g *GroupPolicy) { g.AutoFailback, g.PreferredOwners = true, []string{"n3", "n2"} })
		}, "release n2 epoch 1 by failback", ""},
		"failback of a hot group waits for readiness": {func(sc *scene) {
			sc.ownedByN1()
			sc.hot()
			sc.group(func(g *GroupPolicy) { g.AutoFailback, g.PreferredOwners = true, []string{"n3"} })
		}, "", ""},

		"releasing waits for the owner's word": {func(sc *scene) { sc.releasing("n2") }, "", ""},
		"releasing says that a human is needed": {func(sc *scene) {
			sc.releasing("n2")
			sc.report("n1", GroupReport{Holding: true, Blocked: "tomcat: stuck"})
		}, "", "a human is needed: tomcat: stuck"},
		"released goes to the wanted target": {func(sc *scene) { sc.releasing("n3"); sc.report("n1", GroupReport{Released: 1}) }, "released n3 epoch 1 by move", ""},
		"a promise of an older epoch is not one of this": {func(sc *scene) {
			sc.releasing("n3")
			sc.state(func(g *GroupState) { g.Epoch = 2 })
			sc.report("n1", GroupReport{Released: 1})
		}, "", ""},
		"released goes elsewhere when the target is gone": {func(sc *scene) {
			sc.releasing("n3")
			sc.report("n1", GroupReport{Released: 1})
			sc.silent("n3", time.Minute)
		}, "released n1 epoch 1 by move", ""},
		"released to a target that was removed goes elsewhere": {func(sc *scene) {
			sc.releasing("n9")
			sc.v.Nodes["n9"] = NodeView{Confirmed: sc.now}
			sc.report("n1", GroupReport{Released: 1})
		}, "released n1 epoch 1 by move", ""},
		"released of an offline group goes to nobody": {func(sc *scene) {
			sc.releasing("")
			sc.report("n1", GroupReport{Released: 1})
			sc.state(func(g *GroupState) { g.Offline = true })
		}, "released epoch 1 by move", ""},
		"an owner that falls silent while it releases, not yet": {func(sc *scene) { sc.releasing("n2"); sc.silent("n1", testWait-1) }, "", ""},
		"an owner that falls silent while it releases, now":     {func(sc *scene) { sc.releasing("n2"); sc.silent("n1", testWait) }, "takeover n2 epoch 1 by node-lost", ""},
		"a withheld takeover while releasing goes on":           {func(sc *scene) { sc.releasing("n2"); sc.v.Withheld = map[string]uint64{"web": 1} }, "takeover n2 epoch 1 by node-lost", ""},
		"a promise counts more than silence": {func(sc *scene) {
			sc.releasing("n2")
			sc.silent("n1", time.Hour)
			sc.report("n1", GroupReport{Released: 1})
		}, "released n2 epoch 1 by move", ""},
	} {
		t.Run(name, func(t *testing.T) {
			sc := newScene(t)
			c.set(sc)
			d := sc.decide()
			if got := said(d); got != c.want {
				t.Errorf("got %q, want %q; notes %q", got, c.want, d.Notes)
			}
			if notes := strings.Join(d.Notes, "\n"); c.note == "" && notes != "" || !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
			for _, cmd := range d.Commands {
				if cmd.Reason.Rule == "" || cmd.By != "n3" || !cmd.At.Equal(wall) {
					t.Errorf("unexplained: %+v", cmd)
				}
				if _, res := sc.s.Apply(cmd); !res.Applied {
					t.Errorf("%s would not be applied: %+v", cmd.Kind, res)
				}
			}
		})
	}
}

func TestTheLeaderWakesWhenSomethingIsDue(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(sc *scene)
		want time.Duration // from now
	}{
		"when the owner's silence reaches the takeover wait": {func(sc *scene) {
			sc.ownedByN1()
			for n := range sc.s.Nodes {
				sc.node(n, func(x *NodeState) { x.Lost = true }) // no other alarm
			}
			sc.silent("n1", 700*time.Millisecond)
		}, testWait - 700*time.Millisecond},
		"when a node is to be called lost": {func(sc *scene) { sc.silent("n2", time.Second) }, 200 * time.Millisecond},
		"when a failed group's round comes": {func(sc *scene) {
			sc.state(func(g *GroupState) { g.Failed, g.RetryAt = true, wall.Add(300*time.Millisecond) })
		}, 300 * time.Millisecond},
	} {
		sc := newScene(t)
		c.set(sc)
		if got := sc.decide().Wake.Sub(sc.now); got != c.want {
			t.Errorf("%s: wakes after %v, want %v", name, got, c.want)
		}
	}
}

func TestAGroupWaitsForItsPreferredOwnerOnce(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(sc *scene)
		want string
	}{
		"while it is not there":                {func(sc *scene) {}, ""},
		"not when it is there":                 {func(sc *scene) { sc.v.Nodes["n2"] = NodeView{Confirmed: sc.now} }, "assign n2 epoch 0 by start"},
		"not for ever":                         {func(sc *scene) { sc.v.LeaderSince = sc.now.Add(-2 * time.Minute) }, "assign n1 epoch 0 by start"},
		"not when it ran before":               {func(sc *scene) { sc.state(func(g *GroupState) { g.Epoch = 1 }) }, "assign n1 epoch 1 by start"},
		"not when it is no member":             {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.PreferredOwners = []string{"n9"} }) }, "assign n1 epoch 0 by start"},
		"not when the administrator starts it": {func(sc *scene) { sc.state(func(g *GroupState) { g.Why.Rule = RuleOnline }) }, "assign n1 epoch 0 by start"},
	} {
		sc := newScene(t)
		sc.v.LeaderSince = sc.now.Add(-time.Second)
		sc.group(func(g *GroupPolicy) { g.PreferredOwners = []string{"n2"} })
		delete(sc.v.Nodes, "n2")
		c.set(sc)
		if got := said(sc.decide()); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestNodesAreSeen(t *testing.T) {
	sc := newScene(t)
	sc.ownedByN1()
	sc.silent("n2", 1200*time.Millisecond)
	sc.node("n3", func(n *NodeState) { n.Lost = true })
	var got []string
	for _, c := range sc.decide().Commands {
		got = append(got, c.Node+" "+c.Reason.Text)
	}
	if want := []string{"n2 node n2 is lost", "n3 node n3 is back"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	sc.silent("n2", 1200*time.Millisecond-1)
	if d := sc.decide(); len(d.Commands) != 1 {
		t.Errorf("a node is called lost too early: %+v", d.Commands)
	}
	sc.silent("n1", testWait)
	if d := sc.decide(); d.Commands[0].Kind != CmdTakeover {
		t.Errorf("a takeover waits behind %s", d.Commands[0].Kind)
	}
}

func TestFailbackWindow(t *testing.T) {
	for _, c := range []struct {
		hour, from, to int
		want           bool
	}{{3, -1, -1, true}, {3, 5, 5, true}, {3, 3, 4, true}, {4, 3, 4, false}, {23, 22, 4, true}, {0, 22, 4, true}, {3, 22, 4, true}, {4, 22, 4, false}, {21, 22, 4, false}} {
		if got := inWindow(c.hour, c.from, c.to); got != c.want {
			t.Errorf("hour %d in %d-%d: got %v", c.hour, c.from, c.to, got)
		}
	}
}

// What the owner says of the cause stays with the reason until the group has its next owner, who goes by it.
func TestTheCauseOfAFailoverStaysWithIt(t *testing.T) {
	sc := newScene(t)
	sc.ownedByN1()
	sc.report("n1", GroupReport{Holding: true, Trouble: TroubleGivenUp, Resource: "tomcat", Cause: CauseCarrier})
	for _, want := range []CommandKind{CmdRelease, CmdReleased} {
		d := sc.decide()
		if len(d.Commands) != 1 || d.Commands[0].Kind != want || d.Commands[0].Reason.Cause != CauseCarrier {
			t.Fatalf("%+v, want %s because of the carrier", d.Commands, want)
		}
		next, res := sc.s.Apply(d.Commands[0])
		if !res.Applied || next.Groups["web"].Why.Cause != CauseCarrier {
			t.Fatalf("%+v: %+v", res, next.Groups["web"])
		}
		sc.s = next
		sc.report("n1", GroupReport{Released: 1, Unfit: noCable})
	}
}

// A node whose cable was out is not given up on: it says by itself when it is in again, and may be needed the moment after.
func TestANodeIsFitAgainWithItsCable(t *testing.T) {
	sc := newScene(t)
	sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"n1", "n2"} })
	sc.ownedByN1()
	sc.report("n1", GroupReport{Holding: true, Trouble: TroubleGivenUp, Resource: "ip", Cause: CauseCarrier, Unfit: noCable})
	sc.s = applied(t, sc.s, sc.decide().Commands[0])
	sc.report("n1", GroupReport{Released: 1, Unfit: noCable})
	sc.s = applied(t, sc.s, sc.decide().Commands[0])
	sc.report("n2", GroupReport{Holding: true, Trouble: TroubleGivenUp, Resource: "tomcat"})
	if got := said(sc.decide()); got != "group-failed epoch 2 (retry in 1h0m0s) by stay" {
		t.Errorf("with the cable out: %q", got)
	}
	sc.report("n1", GroupReport{Released: 1})
	sc.state(func(g *GroupState) { g.Failovers = nil })
	if got := said(sc.decide()); got != "release n1 epoch 2 (counted) by failover" {
		t.Errorf("with the cable in: %q", got)
	}
}
