package placement

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	boot = time.Unix(1_000_000, 0).UTC()                // of every clock
	wall = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC) // when the boot clock says boot
	step = 100 * time.Millisecond                       // between two rounds of the fake world
)

const (
	testLease = 1400 * time.Millisecond
	testWait  = 1800 * time.Millisecond
)

var durations = regexp.MustCompile(`\b[0-9.]+m?s\b`)

// fakeWorld is a cluster without a network: the state, what the leader knows, and what runs on each node. A round takes
// 100 ms; an action asked for in one round is done in the next.
type fakeWorld struct {
	t      *testing.T
	policy Policy
	state  State
	now    time.Duration
	nodes  map[string]*fakeNode
	leader string
	seen   map[string]NodeView
	fenced map[string]FenceView
	lapsed map[string]Lapse
	notes  []string
	out    []string
}

type fakeNode struct {
	name     string
	cut      bool // the leader does not hear it, nor it the leader
	off      bool
	leaving  bool
	gate     bool   // its kernel carries the gate
	noGate   string // why not
	until    time.Time
	known    State // as this node last heard
	released map[string]uint64
	local    map[string]map[string]LocalResource
	rounds   map[string]uint64
	broken   map[string]bool // group/resource: every start fails
	slow     map[string]bool // group/resource: does not stop
	unsure   string
}

func newFakeWorld(t *testing.T) *fakeWorld {
	return &fakeWorld{t: t, nodes: map[string]*fakeNode{}, seen: map[string]NodeView{}, fenced: map[string]FenceView{}, lapsed: map[string]Lapse{}, leader: "leader",
		policy: Policy{SuspectAfter: 600 * time.Millisecond}}
}

func (w *fakeWorld) clock() time.Time { return boot.Add(w.now) }
func (w *fakeWorld) wall() time.Time  { return wall.Add(w.now) }

func (w *fakeWorld) say(format string, args ...any) {
	w.out = append(w.out, fmt.Sprintf("%.1fs ", w.now.Seconds())+fmt.Sprintf(format, args...))
}

// apply applies a command and checks everything that must hold of it.
func (w *fakeWorld) apply(c Command) Result {
	c.At = w.wall()
	w.state.Index++
	before := w.state
	after, res := w.state.Apply(c)
	if err := CheckStep(before, after); err != nil {
		w.t.Error(err)
	}
	if err := after.Check(); err != nil {
		w.t.Error(err)
	}
	w.state = after
	return res
}

func (w *fakeWorld) must(c Command) {
	w.t.Helper()
	if res := w.apply(c); !res.Applied {
		w.t.Fatalf("%s: %+v", c.Kind, res)
	}
}

func (w *fakeWorld) addNode(name string, role Role) {
	w.nodes[name] = &fakeNode{name: name, released: map[string]uint64{}, rounds: map[string]uint64{}, local: map[string]map[string]LocalResource{}, broken: map[string]bool{}, slow: map[string]bool{}}
	w.must(Command{Kind: CmdNode, Node: name, NodeInfo: &NodeState{ID: "id-" + name, Role: role}})
}

func (w *fakeWorld) names() []string { return slices.Sorted(maps.Keys(w.nodes)) }

// round lets a step of time pass.
func (w *fakeWorld) round() {
	w.now += step
	for _, name := range w.names() {
		n := w.nodes[name]
		if n.cut || n.off {
			continue
		}
		n.known = w.state
		n.until = w.clock().Add(testLease)
		v := w.seen[name]
		v.Confirmed = w.clock()
		w.seen[name] = v
	}
	for _, name := range w.names() {
		w.act(w.nodes[name])
	}
	w.decide()
}

func (w *fakeWorld) view() View {
	return View{Self: w.leader, LeaderSince: boot, Nodes: w.seen, Wall: w.wall(), Voters: w.voters(), Fenced: w.fenced, Lapsed: w.lapsed}
}

func (w *fakeWorld) voters() []string {
	if _, ok := w.nodes[w.leader]; ok {
		return w.names()
	}
	return append(w.names(), w.leader)
}

func (w *fakeWorld) decide() {
	d := Decide(w.policy, w.state, w.view(), w.clock())
	for _, c := range d.Commands {
		if res := w.apply(c); !res.Applied {
			w.say("REFUSED %s: %s", c.Kind, res.Why)
			continue
		}
		w.say("leader: %s", sayCommand(c))
		w.say("        why: %s", sayReason(c.Reason))
	}
	for _, o := range d.Fences {
		w.say("leader: %s node %s, epoch %d", o.Action, o.Node, o.Epoch)
		w.say("        why: %s", sayReason(o.Why))
		f := w.fenced[o.Node]
		f.Running = true
		w.fenced[o.Node] = f
	}
	if d.Yield != "" {
		w.say("leader yields: %s", d.Yield)
	}
	var notes []string
	for _, n := range d.Notes { // a duration that goes on is no news
		plain := durations.ReplaceAllString(n, "")
		if notes = append(notes, plain); !slices.Contains(w.notes, plain) {
			w.say("leader notes %s", n)
		}
	}
	w.notes = notes
}

func sayCommand(c Command) string {
	text := string(c.Kind)
	for _, part := range []string{c.Group, c.Node} {
		if part != "" {
			text += " " + part
		}
	}
	if c.Group != "" {
		text += " epoch " + strconv.FormatUint(c.Epoch, 10)
	}
	if c.Counted {
		text += " (counted)"
	}
	if !c.RetryAt.IsZero() && c.Kind == CmdGroupFailed {
		text += " (retry in " + c.RetryAt.Sub(c.At).String() + ")"
	}
	return text
}

func sayReason(r Reason) string {
	text := string(r.Rule) + ": " + r.Text
	for _, e := range r.Evidence {
		text += "; seen: " + e
	}
	if len(r.Rejected) > 0 {
		text += "; not " + sayRejected(r.Rejected)
	}
	return text
}

// act is one round of a node.
func (w *fakeWorld) act(n *fakeNode) {
	if n.off {
		return
	}
	w.complete(n)
	leased := map[string]time.Time{}
	for group, gs := range n.known.Groups {
		if gs.Owner == n.name && !n.until.IsZero() {
			leased[group] = n.until
		}
	}
	l := Local{Node: n.name, Leaving: n.leaving, Leased: leased, Resources: n.local, Released: maps.Clone(n.released)}
	plan := Reconcile(n.known.Policy, n.known, l, w.clock())
	for _, group := range slices.Sorted(maps.Keys(plan.Released)) {
		n.released[group] = plan.Released[group]
		w.say("%s: promises epoch %d of %s away", n.name, plan.Released[group], group)
	}
	for _, a := range plan.Actions {
		lr := n.local[a.Group][a.Resource]
		if lr.Doing == a.Kind {
			w.t.Errorf("%s is asked to %s %s/%s while it does", n.name, a.Kind, a.Group, a.Resource)
		}
		lr.Doing, lr.State = a.Kind, StateOfflinePending
		if a.Kind == ActStart {
			lr.State = StateOnlinePending
		}
		if a.Restart {
			lr.Restarts = append(slices.Clone(lr.Restarts), w.clock())
		}
		n.local[a.Group][a.Resource] = lr
		w.say("%s: %s %s/%s epoch %d (%s)", n.name, a.Kind, a.Group, a.Resource, a.Epoch, a.Why)
	}
	if !n.cut {
		v := w.seen[n.name]
		v.Report = plan.Report
		v.Report.Unsure = n.unsure
		v.Report.Gate, v.Report.NoGate = n.gate, n.noGate
		w.seen[n.name] = v
	}
}

// complete ends the actions that were begun in the round before.
func (w *fakeWorld) complete(n *fakeNode) {
	for _, g := range n.known.Policy.Groups {
		gs := n.known.Groups[g.Name]
		again := n.rounds[g.Name] != gs.Round
		n.rounds[g.Name] = gs.Round
		if n.local[g.Name] == nil {
			n.local[g.Name] = map[string]LocalResource{}
		}
		for _, r := range g.Resources {
			lr, ok := n.local[g.Name][r.Name]
			if !ok {
				lr.State = StateOffline
			}
			key := g.Name + "/" + r.Name
			switch {
			case lr.Doing == ActStart && n.broken[key]:
				lr.State, lr.Running, lr.Failure, lr.FailedAt = StateFailed, false, "it does not start", w.clock()
			case lr.Doing == ActStart:
				lr = LocalResource{State: StateOnline, Running: true, Healthy: true, Ready: true, Restarts: lr.Restarts}
			case lr.Blocked != "":
				continue
			case lr.Doing == ActStop && n.slow[key]:
				n.local[g.Name][r.Name] = lr
				continue
			case lr.Doing != "":
				lr = LocalResource{State: StateOffline, Restarts: lr.Restarts, Failure: lr.Failure, FailedAt: lr.FailedAt}
				if lr.Failure != "" {
					lr.State = StateFailed
				}
			}
			lr.Doing = ""
			if again {
				lr.Restarts = nil
			}
			if lr.State == StateFailed && !lr.Running && (again || r.RunOn == RunOnOwner && gs.Owner != n.name) {
				lr.State, lr.Failure = StateOffline, ""
			}
			n.local[g.Name][r.Name] = lr
		}
	}
}

// fail makes a running resource fail.
func (w *fakeWorld) failResource(node, group, resource string) {
	n := w.nodes[node]
	lr := n.local[group][resource]
	lr.State, lr.Running, lr.Healthy, lr.Ready, lr.Failure, lr.FailedAt = StateFailed, false, false, false, "process gone", w.clock()
	n.local[group][resource] = lr
}

// status is one line per group and one per node that runs something.
func (w *fakeWorld) status() {
	for _, g := range w.policy.Groups {
		gs := w.state.Groups[g.Name]
		w.say("%s: %s %s epoch %d%s", g.Name, gs.Phase, cmp.Or(gs.Owner, "-"), gs.Epoch, map[bool]string{true: " failed"}[gs.Failed])
		for _, name := range w.names() {
			var runs []string
			for _, r := range g.Resources {
				if w.nodes[name].local[g.Name][r.Name].Running {
					runs = append(runs, r.Name)
				}
			}
			if len(runs) > 0 {
				w.say("    %s runs %s", name, strings.Join(runs, ", "))
			}
		}
	}
}

func testResource(name string) ResourcePolicy {
	return ResourcePolicy{Name: name, RunOn: RunOnOwner, RestartAction: RestartThenFailover, RestartThreshold: 1, RestartPeriod: 15 * time.Minute,
		RestartDelay: 500 * time.Millisecond, PendingTimeout: 3 * time.Minute, StopBudget: time.Second}
}

func testGroup(name string, resources ...ResourcePolicy) GroupPolicy {
	return GroupPolicy{Name: name, FailoverThreshold: -1, FailoverPeriod: 6 * time.Hour, FailbackFrom: -1, FailbackTo: -1, RetryPeriod: time.Hour,
		Priority: 2000, Standby: StandbyCold, TakeoverWait: testWait, Resources: resources}
}
