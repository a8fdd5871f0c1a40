package placement

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawCommand draws a command that is sometimes right: epochs near the present one, names that mostly exist.
func drawCommand(t *rapid.T, s State, now time.Time) Command {
	names := []string{"n1", "n2", "n3", "w", ""}
	groups := []string{"a", "b", "gone"}
	kinds := []CommandKind{CmdConfig, CmdNode, CmdRemoveNode, CmdReplaceNode, CmdAdmin, CmdGroupAdmin, CmdAssign, CmdAssign, CmdRelease, CmdRelease, CmdReleased, CmdReleased,
		CmdTakeover, CmdGroupFailed, CmdGroupWell, CmdRetry, CmdNodeSeen, CmdToken, CmdUseToken, CmdSettle, CmdNote, CmdInit, "unknown"}
	pick := func(from []string, what string) string { return rapid.SampledFrom(from).Draw(t, what) }
	c := Command{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), At: now, Group: pick(groups, "group"), Node: pick(names, "node"),
		Counted: rapid.Bool().Draw(t, "counted"), Offline: rapid.Bool().Draw(t, "offline"), Lost: rapid.Bool().Draw(t, "lost"), Force: rapid.Bool().Draw(t, "force"),
		ID: pick([]string{"t1", "t2"}, "id"), Failing: pick(names, "failing"), Resource: pick([]string{"", "", "ip", "x"}, "resource"),
		Admin: rapid.SampledFrom([]Admin{AdminUp, AdminPaused, AdminDrain, "odd"}).Draw(t, "admin")}
	if rapid.Bool().Draw(t, "move") {
		c.Reason.Rule = RuleMove
	}
	c.Epoch = s.Groups[c.Group].Epoch
	if rapid.IntRange(0, 3).Draw(t, "old") == 0 && c.Epoch > 0 {
		c.Epoch--
	}
	c.RetryAt = now.Add(time.Hour)
	switch c.Kind {
	case CmdConfig:
		c.Version = s.ConfigVersion
		p := Policy{}
		for _, g := range []string{"a", "b"} {
			if rapid.IntRange(0, 3).Draw(t, "keep") > 0 {
				group := testGroup(g, testResource("ip"))
				group.TakeoverWait = time.Duration(rapid.IntRange(1, 5).Draw(t, "wait")) * time.Second
				p.Groups = append(p.Groups, group)
			}
		}
		c.Policy = &p
	case CmdNode, CmdReplaceNode:
		role := RoleMember
		if c.Node == "w" {
			role = RoleWitness
		}
		c.NodeInfo = &NodeState{ID: c.Node + pick([]string{"", "-new"}, "identity"), Role: role}
		if c.Kind == CmdReplaceNode {
			c.ID = s.Nodes[c.Node].ID
		}
	case CmdToken:
		c.Token = &Token{Expires: now.Add(time.Minute)}
	case CmdSettle:
		c.Epoch = s.FloorIndex
	}
	return c
}

// TestAnyCommandsKeepTheInvariants applies random commands: the invariants hold after each, epochs never fall, the result
// depends on nothing but state and command, and the receiver is never changed.
func TestAnyCommandsKeepTheInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s State
		highest := map[string]uint64{}
		now := wall
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "pass")) * time.Second)
			c := drawCommand(t, s, now)
			s.Index++
			before, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			next, res := s.Apply(c)
			again, resAgain := s.Apply(c)
			if !reflect.DeepEqual(next, again) || res != resAgain {
				t.Fatalf("%s gives two results: %+v, %+v", c.Kind, res, resAgain)
			}
			if after, _ := json.Marshal(s); !slices.Equal(before, after) {
				t.Fatalf("%s changed its receiver:\n%s\n%s", c.Kind, before, after)
			}
			if res.Applied == (res.Why != "") || res.Applied && res.Stale {
				t.Fatalf("%s: %+v", c.Kind, res)
			}
			if !res.Applied && !reflect.DeepEqual(next, s) {
				t.Fatalf("%s was not applied and changed the state: %+v", c.Kind, res)
			}
			if err := CheckStep(s, next); err != nil {
				t.Fatalf("%s: %v", c.Kind, err)
			}
			if err := next.Check(); err != nil {
				t.Fatalf("%s: %v", c.Kind, err)
			}
			for name, g := range next.Groups {
				if g.Epoch < highest[name] {
					t.Fatalf("epoch of %s fell from %d to %d over a removal", name, highest[name], g.Epoch)
				}
				highest[name] = g.Epoch
			}
			s = next
		}
	})
}

// TestAStateSurvivesJSON: a snapshot is the state's JSON.
func TestAStateSurvivesJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s State
		for range rapid.IntRange(1, 40).Draw(t, "commands") {
			s.Index++
			s, _ = s.Apply(drawCommand(t, s, wall))
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back State
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if again, _ := json.Marshal(back); !slices.Equal(text, again) {
			t.Fatalf("got\n%s\nwant\n%s", again, text)
		}
		c := drawCommand(t, s, wall)
		a, resA := s.Apply(c)
		b, resB := back.Apply(c)
		textA, _ := json.Marshal(a)
		textB, _ := json.Marshal(b)
		if resA != resB || !slices.Equal(textA, textB) {
			t.Fatalf("%s: %+v on the state, %+v on its snapshot", c.Kind, resA, resB)
		}
	})
}
