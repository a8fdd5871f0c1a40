package placement

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// lapse has two voters say that the gates of n1, which owns the group, are shut.
func (sc *scene) lapse() {
	sc.ownedByN1()
	sc.group(func(g *GroupPolicy) { g.OnPulse = true })
	sc.v.Lapsed = map[string]Lapse{"n1": {Silent: 125630 * time.Microsecond, Bound: 125 * time.Millisecond, By: []string{"n2", "n3"}}}
	sc.silent("n1", 200*time.Millisecond)
}

func (sc *scene) says(n string, f func(*Report)) {
	v := sc.v.Nodes[n]
	f(&v.Report)
	sc.v.Nodes[n] = v
}

// TestPulse has every rule about owners whose pulse has stopped as a sentence.
func TestPulse(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(sc *scene)
		want string // commands about the group
		note string // part of a note
	}{
		"its group is taken at once":                   {func(*scene) {}, "takeover n2 epoch 1 by node-lost", ""},
		"one that is not only of addresses is not":     {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.OnPulse = false }) }, "", ""},
		"it is when the lease has run out, not before": {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.OnPulse = false }); sc.silent("n1", testWait-1) }, "", ""},
		"then it is": {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.OnPulse = false }); sc.silent("n1", testWait) }, "takeover n2 epoch 1 by node-lost", ""},
		"the floor of a former timing is no matter":     {func(sc *scene) { sc.s.Floor = time.Minute }, "takeover n2 epoch 1 by node-lost", ""},
		"nor is a leader that was elected a moment ago": {func(sc *scene) { sc.v.LeaderSince = sc.now.Add(-1) }, "takeover n2 epoch 1 by node-lost", ""},
		"the pulse of another is":                       {func(sc *scene) { sc.v.Lapsed = map[string]Lapse{"n2": {}} }, "", ""},
		"what could not be stopped keeps it":            {func(sc *scene) { sc.report("n1", GroupReport{Holding: true, Blocked: "ip: busy"}) }, "", ""},
		"a gate that does not work keeps it": {func(sc *scene) {
			sc.s.Policy.NeedsGate = true
			sc.says("n1", func(r *Report) { r.NoGate = "no nf_tables" })
		}, "", ""},
		"and is in time no matter without a device": {func(sc *scene) {
			sc.report("n1", GroupReport{Holding: true, Blocked: "ip: busy"})
			sc.silent("n1", testWait)
		}, "takeover n2 epoch 1 by node-lost", ""},
		"with a device it must be fenced then": {func(sc *scene) {
			sc.report("n1", GroupReport{Holding: true, Blocked: "ip: busy"})
			sc.silent("n1", testWait)
			sc.s.Policy.Fencing = FencingPolicy{When: FenceWhenUnsure, Nodes: []string{"n1"}}
		}, "", "the end of its lease proves nothing"},
		"fencing always does not wait for a device": {func(sc *scene) {
			sc.s.Policy.Fencing = FencingPolicy{When: FenceAlways, Nodes: []string{"n1"}}
			sc.silent("n1", time.Second)
		}, "takeover n2 epoch 1 by node-lost", ""},
		"an owner that renews loses it, and is no target": {func(sc *scene) { sc.silent("n1", 0) }, "takeover n2 epoch 1 by node-lost", ""},
		"nor when the takeover was withheld before": {func(sc *scene) {
			sc.silent("n1", 0)
			sc.v.Withheld = map[string]uint64{"web": 1}
			sc.group(func(g *GroupPolicy) { g.PreferredOwners = []string{"n1"} })
		}, "takeover n2 epoch 1 by node-lost", ""},
		"withheld, and the proof is too old: it goes on": {func(sc *scene) { sc.v.Lapsed = nil; sc.v.Withheld = map[string]uint64{"web": 1} }, "takeover n2 epoch 1 by node-lost", ""},
		"nobody else can have it":                        {func(sc *scene) { sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"n1"} }) }, "", "its owner n1 is lost and no node can take it: n1 (its pulse has stopped)"},
		"a second node without pulse is no target":       {func(sc *scene) { sc.v.Lapsed["n2"] = Lapse{} }, "takeover n3 epoch 1 by node-lost", ""},
		"wanted offline it goes to nobody":               {func(sc *scene) { sc.state(func(g *GroupState) { g.Offline = true }) }, "takeover epoch 1 by offline", ""},
		"while it gave the group up":                     {func(sc *scene) { sc.releasing("n3") }, "takeover n3 epoch 1 by node-lost", ""},
		"while it gave it up to one that lapsed, too":    {func(sc *scene) { sc.releasing("n3"); sc.v.Lapsed["n3"] = Lapse{} }, "takeover n2 epoch 1 by node-lost", ""},
		"while it gave up what is not only of addresses": {func(sc *scene) { sc.releasing("n3"); sc.group(func(g *GroupPolicy) { g.OnPulse = false }) }, "", ""},
		"when it has given it up, by its word":           {func(sc *scene) { sc.releasing("n3"); sc.report("n1", GroupReport{Released: 1}) }, "released n3 epoch 1 by move", ""},
		"what nobody owns is not given to it": {func(sc *scene) {
			sc.state(func(g *GroupState) { g.Phase, g.Owner = PhaseUnowned, "" })
			sc.silent("n1", 0)
			sc.group(func(g *GroupPolicy) { g.PreferredOwners = []string{"n1"} })
		}, "assign n2 epoch 1 by start", ""},
		"nothing goes back to it": {func(sc *scene) {
			sc.state(func(g *GroupState) { g.Owner = "n2" })
			sc.silent("n1", 0)
			sc.group(func(g *GroupPolicy) { g.AutoFailback, g.PreferredOwners = true, []string{"n1"} })
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			sc := newScene(t)
			sc.lapse()
			c.set(sc)
			d := sc.decide()
			if got := said(d); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if notes := strings.Join(d.Notes, "; "); !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
			if len(d.Fences) != 0 && c.want != "" {
				t.Errorf("a node is fenced for what was taken: %+v", d.Fences)
			}
		})
	}
}

func TestATakeoverByPulseIsExplained(t *testing.T) {
	sc := newScene(t)
	sc.lapse()
	for _, phase := range []struct {
		set  func()
		text string
	}{
		{func() {}, "the pulse of n1 has stopped; n2 takes group web"},
		{func() { sc.state(func(g *GroupState) { g.Phase, g.MoveTo = PhaseReleasing, "n2" }) }, "n1 fell silent while it gave up group web; its gates are shut"},
	} {
		phase.set()
		d := sc.decide()
		if len(d.Commands) != 1 {
			t.Fatalf("%+v", d)
		}
		why := d.Commands[0].Reason
		want := []string{"n2 and n3 heard no pulse of n1 for 126ms; its gates were to be shut 125ms after the last one that enough of them answered"}
		if why.Text != phase.text || !slices.Equal(why.Evidence, want) {
			t.Errorf("got %q, %q; want %q, %q", why.Text, why.Evidence, phase.text, want)
		}
	}
	sc.state(func(g *GroupState) { g.Phase, g.MoveTo = PhaseOwned, "" })
	if r := sc.decide().Commands[0].Reason.Rejected; len(r) == 0 || r[0] != (Rejected{Node: "n1", Why: "its pulse has stopped"}) {
		t.Errorf("why not n1: %+v", r)
	}
}
