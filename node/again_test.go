package node

import (
	"testing"
	"time"
)

// TestWhoseTurnItIsToStartAgain has the rules as sentences: one at a time, only while all are well, owners late, the leader
// last.
func TestWhoseTurnItIsToStartAgain(t *testing.T) {
	well := func(name string) elector { return elector{name: name, boot: name + "1", speaks: true, heard: turnRest} }
	waits := func(name string) elector { e := well(name); e.awaits, e.wants = true, true; return e }
	had := func(name string) elector { e := waits(name); e.awaits = false; return e } // its turn, for the configuration in force
	owner := func(e elector) elector { e.owns = true; return e }
	young := func(e elector) elector { e.heard = turnRest - 1; return e }
	spare := func(e elector) elector { e.spare = true; return e }
	silent := func(e elector) elector { e.speaks = false; return e }
	for name, c := range map[string]struct {
		present  turn
		voters   []elector
		want     turn
		transfer string
	}{
		"nobody waits":                            {turn{}, []elector{well("a"), well("b"), well("w")}, turn{}, ""},
		"the first by name":                       {turn{}, []elector{waits("w"), waits("b"), waits("a")}, turn{"a", "a1"}, ""},
		"not an owner while another waits":        {turn{}, []elector{owner(waits("a")), waits("b"), well("w")}, turn{"b", "b1"}, ""},
		"an owner when no other waits":            {turn{}, []elector{owner(waits("a")), well("b"), waits("w")}, turn{"a", "a1"}, ""},
		"the leader last, by handing over":        {turn{}, []elector{owner(well("a")), well("b"), waits("w")}, turn{}, "b"},
		"to an owner if there is no other":        {turn{}, []elector{owner(well("a")), owner(well("b")), waits("w")}, turn{}, "a"},
		"nobody while one is silent":              {turn{}, []elector{waits("a"), silent(well("b")), well("w")}, turn{}, ""},
		"nobody while one has just come":          {turn{}, []elector{waits("a"), young(well("b")), well("w")}, turn{}, ""},
		"nobody after an election":                {turn{}, []elector{young(waits("a")), young(waits("b")), young(waits("w"))}, turn{}, ""},
		"nobody of two voters":                    {turn{}, []elector{waits("a"), well("w")}, turn{}, ""},
		"a node without a vote has its turn":      {turn{}, []elector{well("a"), well("b"), well("w"), spare(waits("d"))}, turn{"d", "d1"}, ""},
		"and nobody waits for it":                 {turn{}, []elector{waits("a"), well("b"), well("w"), spare(silent(waits("d")))}, turn{"a", "a1"}, ""},
		"nor does it stand in for a voter":        {turn{}, []elector{waits("a"), well("w"), spare(well("d"))}, turn{}, ""},
		"nor can it lead":                         {turn{}, []elector{spare(well("a")), owner(well("b")), well("c"), waits("w")}, turn{}, "c"},
		"no leader without a cluster":             {turn{}, []elector{waits("w")}, turn{}, ""},
		"a turn lasts until the agent has gone":   {turn{"b", "b1"}, []elector{waits("a"), waits("b"), well("w")}, turn{"b", "b1"}, ""},
		"a turn lasts while the node is away":     {turn{"b", "b1"}, []elector{waits("a"), silent(waits("b")), well("w")}, turn{"b", "b1"}, ""},
		"also one that it has had":                {turn{"b", "b1"}, []elector{waits("a"), had("b"), well("w")}, turn{"b", "b1"}, ""},
		"one that it needs no more ends":          {turn{"b", "b1"}, []elector{waits("a"), well("b"), well("w")}, turn{"a", "a1"}, ""},
		"then it must have been back for a while": {turn{"b", "b0"}, []elector{waits("a"), young(well("b")), well("w")}, turn{}, ""},
		"and then the next":                       {turn{"b", "b0"}, []elector{waits("a"), well("b"), well("w")}, turn{"a", "a1"}, ""},
		"a node that was removed holds nobody up": {turn{"c", "c1"}, []elector{waits("a"), well("b"), well("w")}, turn{"a", "a1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if next, transfer := nextTurn("w", c.present, c.voters); next != c.want || transfer != c.transfer {
				t.Errorf("got %+v and %q, want %+v and %q", next, transfer, c.want, c.transfer)
			}
		})
	}
	if turnRest <= time.Second {
		t.Error("a node that a former leader told to end may speak for a second yet: a new one must wait longer")
	}
}
