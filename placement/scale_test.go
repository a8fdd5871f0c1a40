package placement

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// The grid of docs/scale.md: voters are at most 7, every node reports, every node may own every group.
var (
	scaleNodes  = []int{3, 9, 32, 64}
	scaleGroups = []int{1, 10, 100, 1000}
)

// estate is a cluster in order: an address and a service in each group, groups dealt out to the nodes in turn.
type estate struct {
	state State
	view  View
	now   time.Time
	names []string
}

func newEstate(tb testing.TB, nodes, groups int) estate {
	tb.Helper()
	e := estate{now: boot.Add(time.Hour)}
	e.state.Nodes = map[string]NodeState{}
	for i := range nodes {
		name := fmt.Sprintf("node%02d", i)
		e.names = append(e.names, name)
		e.state.Nodes[name] = NodeState{ID: "id-" + name, Role: RoleMember, Admin: AdminUp, Addresses: []string{"198.18.0.1:7400"}}
	}
	p := Policy{SuspectAfter: 600 * time.Millisecond}
	for i := range groups {
		g := testGroup(fmt.Sprintf("group%04d", i), testResource("ip"), testResource("app"))
		g.Resources[0].Address = true
		g.Resources[1].DependsOn = &Expr{Name: "ip"}
		p.Groups = append(p.Groups, g)
	}
	e.must(tb, Command{Kind: CmdInit, Cluster: "scale", ID: "x"})
	e.must(tb, Command{Kind: CmdConfig, Policy: &p, Config: "-"})
	for i, g := range p.Groups {
		// As a command would leave it; a thousand commands would take longer than what is measured.
		gs, why := e.state.Groups[g.Name], Reason{Rule: RuleStart, Text: "first"}
		gs.Phase, gs.Owner, gs.Epoch, gs.Why = PhaseOwned, e.names[i%nodes], 1, why
		e.state.Groups[g.Name] = gs
		e.state.Seq++
		e.state.Events = append(e.state.Events, Event{Seq: e.state.Seq, Time: wall, Kind: string(CmdAssign), Group: g.Name, Node: gs.Owner, To: gs.Owner, Epoch: 1, Reason: why})
	}
	e.state.Events = e.state.Events[max(0, len(e.state.Events)-MaxEvents):]
	if err := e.state.Check(); err != nil {
		tb.Fatal(err)
	}
	e.report()
	return e
}

func (e *estate) must(tb testing.TB, c Command) {
	tb.Helper()
	e.state.Index++
	c.At = wall
	next, res := e.state.Apply(c)
	if !res.Applied {
		tb.Fatalf("%s: %+v", c.Kind, res)
	}
	e.state = next
}

// report has every node say, this moment, that all is as decided.
func (e *estate) report() {
	e.view = View{Self: e.names[len(e.names)-1], LeaderSince: e.now.Add(-time.Hour), Wall: wall, Nodes: map[string]NodeView{}}
	for _, name := range e.names {
		e.view.Nodes[name] = NodeView{Confirmed: e.now, Report: Reconcile(e.state.Policy, e.state, e.local(name), e.now).Report}
	}
}

func (e *estate) local(name string) Local {
	l := Local{Node: name, Leased: map[string]time.Time{}, Resources: map[string]map[string]LocalResource{}}
	for _, g := range e.state.Policy.Groups {
		lr := LocalResource{State: StateOffline, Wall: wall}
		if e.state.Groups[g.Name].Owner == name {
			l.Leased[g.Name] = e.now.Add(testLease)
			lr = LocalResource{State: StateOnline, Healthy: true, Ready: true, Running: true, Verdict: "healthy", Detail: "serves", Wall: wall}
		}
		l.Resources[g.Name] = map[string]LocalResource{"ip": lr, "app": lr}
	}
	return l
}

// allOn gives every group to one node.
func (e *estate) allOn(owner string) {
	for name, g := range e.state.Groups {
		g.Owner = owner
		e.state.Groups[name] = g
	}
	e.report()
}

// dead has a node silent for longer than any takeover wait.
func (e *estate) dead(name string) {
	v := e.view.Nodes[name]
	v.Confirmed = e.now.Add(-time.Minute)
	e.view.Nodes[name] = v
}

// steps are the things whose cost grows with the cluster. Each prepares its input once and returns what is to be measured.
var steps = []struct {
	name string
	make func(tb testing.TB, nodes, groups int) func()
}{
	{"decide-rest", func(tb testing.TB, nodes, groups int) func() {
		e := newEstate(tb, nodes, groups)
		return func() { Decide(e.state.Policy, e.state, e.view, e.now) }
	}},
	{"decide-dead", func(tb testing.TB, nodes, groups int) func() {
		e := newEstate(tb, nodes, groups)
		e.allOn(e.names[0]) // the worst: it owned everything
		e.dead(e.names[0])
		if d := Decide(e.state.Policy, e.state, e.view, e.now); len(d.Commands) != groups+1 {
			tb.Fatalf("%d commands for %d groups and the lost node", len(d.Commands), groups)
		}
		return func() { Decide(e.state.Policy, e.state, e.view, e.now) }
	}},
	{"decide-start", func(tb testing.TB, nodes, groups int) func() {
		e := newEstate(tb, nodes, groups)
		for name, g := range e.state.Groups {
			g.Phase, g.Owner = PhaseUnowned, ""
			e.state.Groups[name] = g
		}
		e.report()
		if d := Decide(e.state.Policy, e.state, e.view, e.now); len(d.Commands) != groups {
			tb.Fatalf("%d commands for %d groups", len(d.Commands), groups)
		}
		return func() { Decide(e.state.Policy, e.state, e.view, e.now) }
	}},
	{"reconcile", func(tb testing.TB, nodes, groups int) func() {
		e := newEstate(tb, nodes, groups)
		l := e.local(e.names[0])
		return func() { Reconcile(e.state.Policy, e.state, l, e.now) }
	}},
	{"check", func(tb testing.TB, nodes, groups int) func() {
		e := newEstate(tb, nodes, groups)
		return func() {
			if err := e.state.Check(); err != nil {
				tb.Fatal(err)
			}
		}
	}},
	{"apply-takeover", func(tb testing.TB, nodes, groups int) func() {
		e := newEstate(tb, nodes, groups)
		g := e.state.Policy.Groups[0].Name
		c := Command{Kind: CmdTakeover, At: wall, Group: g, Epoch: e.state.Groups[g].Epoch, Node: e.names[1], Reason: Reason{Rule: RuleNodeLost, Text: "lost"}}
		return func() {
			if _, res := e.state.Apply(c); !res.Applied {
				tb.Fatal(res)
			}
		}
	}},
	{"apply-config", func(tb testing.TB, nodes, groups int) func() {
		e := newEstate(tb, nodes, groups)
		c := Command{Kind: CmdConfig, At: wall, Version: e.state.ConfigVersion, Policy: &e.state.Policy}
		return func() {
			if _, res := e.state.Apply(c); !res.Applied {
				tb.Fatal(res)
			}
		}
	}},
	{"apply-seen", func(tb testing.TB, nodes, groups int) func() {
		e := newEstate(tb, nodes, groups)
		c := Command{Kind: CmdNodeSeen, At: wall, Node: e.names[0], Lost: true}
		return func() {
			if _, res := e.state.Apply(c); !res.Applied {
				tb.Fatal(res)
			}
		}
	}},
}

func BenchmarkScale(b *testing.B) {
	for _, s := range steps {
		for _, nodes := range scaleNodes {
			for _, groups := range scaleGroups {
				b.Run(fmt.Sprintf("%s/nodes=%d/groups=%d", s.name, nodes, groups), func(b *testing.B) {
					f := s.make(b, nodes, groups)
					b.ReportAllocs()
					for b.Loop() {
						f()
					}
				})
			}
		}
	}
}

// BenchmarkScaleEncoding measures what is written and sent: the state (a snapshot) and one node's report.
func BenchmarkScaleEncoding(b *testing.B) {
	for _, nodes := range scaleNodes {
		for _, groups := range scaleGroups {
			e := newEstate(b, nodes, groups)
			for name, v := range map[string]any{"state": e.state, "report": e.view.Nodes[e.names[0]].Report} {
				b.Run(fmt.Sprintf("%s/nodes=%d/groups=%d", name, nodes, groups), func(b *testing.B) {
					var text []byte
					for b.Loop() {
						text, _ = json.Marshal(v)
					}
					b.ReportMetric(float64(len(text)), "bytes")
				})
			}
		}
	}
}
