package placement

import (
	"strings"
	"testing"
	"time"
)

func TestPlanMove(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(sc *scene)
		to   string
		want string // the command, or the refusal
	}{
		"to a named node":                {(*scene).ownedByN1, "n3", "release n3 epoch 1"},
		"to whoever is best":             {(*scene).ownedByN1, "", "release n2 epoch 1"},
		"to where it is":                 {(*scene).ownedByN1, "n1", ""},
		"of a group that is nowhere":     {func(sc *scene) {}, "n3", "assign n3 epoch 0"},
		"of an offline group":            {func(sc *scene) { sc.state(func(g *GroupState) { g.Offline = true }) }, "n3", "group web is offline"},
		"of a group that moves":          {func(sc *scene) { sc.releasing("n2") }, "n3", "group web is already leaving n1"},
		"to a stranger":                  {(*scene).ownedByN1, "n9", "node n9 is not a member"},
		"to a witness":                   {(*scene).ownedByN1, "w", "node w cannot take group web: witness"},
		"to a paused node":               {func(sc *scene) { sc.ownedByN1(); sc.node("n3", func(n *NodeState) { n.Admin = AdminPaused }) }, "n3", "node n3 cannot take group web: paused"},
		"to a silent node":               {func(sc *scene) { sc.ownedByN1(); sc.silent("n3", time.Minute) }, "n3", "node n3 cannot take group web: silent for 1m0s"},
		"to a standby that is not ready": {func(sc *scene) { sc.ownedByN1(); sc.hot() }, "n3", "node n3 cannot take group web: its standby is not ready"},
		"to a node that it was given up on": {func(sc *scene) {
			sc.ownedByN1()
			sc.state(func(g *GroupState) { g.GivenUp = map[string]time.Time{"n3": wall.Add(1)} })
		}, "n3", "release n3 epoch 1"},
		"to a silent node that it was given up on": {func(sc *scene) {
			sc.ownedByN1()
			sc.silent("n3", time.Minute)
			sc.state(func(g *GroupState) { g.GivenUp = map[string]time.Time{"n3": wall.Add(1)} })
		}, "n3", "node n3 cannot take group web: silent for 1m0s"},
		"to a node whose cable is out":         {func(sc *scene) { sc.ownedByN1(); sc.report("n3", GroupReport{Unfit: noCable}) }, "n3", "node n3 cannot take group web: " + noCable},
		"to whoever has a cable":               {func(sc *scene) { sc.ownedByN1(); sc.report("n2", GroupReport{Unfit: noCable}) }, "", "release n3 epoch 1"},
		"to nobody, because there is no other": {func(sc *scene) { sc.ownedByN1(); sc.group(func(g *GroupPolicy) { g.PossibleOwners = []string{"n1"} }) }, "", "no other node can take group web"},
	} {
		t.Run(name, func(t *testing.T) {
			sc := newScene(t)
			c.set(sc)
			cmd, refusal := PlanMove(sc.s.Policy, sc.s, sc.v, sc.now, "web", c.to)
			got := ""
			switch {
			case refusal != nil:
				got = refusal.Error()
				if refusal.Hint == "" {
					t.Error("a refusal without what to do")
				}
			case cmd.Kind != "":
				got = strings.Replace(sayCommand(cmd), " web", "", 1)
				if cmd.Reason.Rule != RuleMove {
					t.Errorf("rule %s", cmd.Reason.Rule)
				}
			}
			if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	sc := newScene(t)
	if _, refusal := PlanMove(sc.s.Policy, sc.s, sc.v, sc.now, "db", ""); refusal == nil || refusal.Why != "group db does not exist" {
		t.Errorf("got %v", refusal)
	}
}
