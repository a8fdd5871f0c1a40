package raft

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func voter(name string) Seat  { return Seat{Name: name, Voter: true, Steady: true, Caught: true} }
func spare(name string) Seat  { return Seat{Name: name, Steady: true, Caught: true} }
func witness(s Seat) Seat     { s.Witness = true; return s }
func lost(s Seat) Seat        { s.Steady, s.Silent = false, VoterAway; return s }
func away(s Seat) Seat        { s.Steady, s.Silent = false, VoterAway-1; return s }
func coming(name string) Seat { return Seat{Name: name, Steady: true} }
func voters(names string) (out []Seat) {
	for _, n := range names {
		out = append(out, voter(string(n)))
	}
	return out
}

func TestWhoVotes(t *testing.T) {
	for name, c := range map[string]struct {
		seats           []Seat
		promote, demote string
		wait            bool
	}{
		"one alone":                              {voters("a"), "", "", false},
		"two vote":                               {append(voters("a"), spare("b")), "b", "", true},
		"three vote":                             {append(voters("ab"), spare("c")), "c", "", true},
		"the fourth stands by":                   {append(voters("abc"), spare("d")), "", "", false},
		"four and five vote together":            {append(voters("abc"), spare("e"), spare("d")), "d", "", true},
		"an even number is made odd":             {append(voters("abcd"), spare("e")), "e", "", true},
		"seven are enough":                       {append(voters("abcdefg"), spare("h"), spare("i")), "", "", false},
		"one that comes is waited for":           {append(voters("ab"), coming("c")), "", "", true},
		"but not by those who are enough":        {append(voters("abcdefg"), coming("h")), "", "", false},
		"a witness goes before a member":         {append(voters("ab"), spare("c"), witness(spare("w"))), "w", "", true},
		"and takes the place of one":             {append(voters("abcdefg"), witness(spare("w"))), "", "g", true},
		"never that of the leader":               {append([]Seat{witness(voter("v"))}, voter("a"), witness(voter("u")), witness(spare("w"))), "", "", false},
		"not while another voter is away":        {append(voters("bcdefg"), voter("a"), away(voter("x")), witness(spare("w"))), "", "", true},
		"a voter that is away is waited for":     {append(voters("ab"), away(voter("c")), spare("d")), "", "", true},
		"and one that stays away replaced":       {append(voters("ab"), lost(voter("c")), spare("d")), "", "c", true},
		"not where nobody could take its place":  {append(voters("ab"), lost(voter("c"))), "", "", false},
		"not where too few would answer":         {[]Seat{voter("a"), away(voter("b")), lost(voter("c")), away(voter("d")), spare("e")}, "e", "", true},
		"not where too few answer, of five":      {[]Seat{voter("a"), away(voter("b")), lost(voter("c")), away(voter("d")), away(voter("f")), spare("e")}, "", "", true},
		"the place that became free is taken":    {append(voters("ab"), lost(Seat{Name: "c"}), spare("d")), "d", "", true},
		"the leader does not hear itself: so be": {[]Seat{lost(voter("a")), voter("b"), voter("c"), spare("d")}, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			promote, demote, wait := NextSeat("a", c.seats)
			if promote != c.promote || demote != c.demote || wait != c.wait {
				t.Errorf("promote %q, demote %q, wait %v; not %q, %q, %v", promote, demote, wait, c.promote, c.demote, c.wait)
			}
		})
	}
}

// Whatever the cluster is like, the votes come to rest, a majority of the voters answers at every step if it did before, and
// at the end as many nodes as useful vote, every witness among them that there is room for.
func TestTheVotesComeToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var seats []Seat
		for i := range rapid.IntRange(1, 20).Draw(t, "nodes") {
			s := Seat{Name: fmt.Sprintf("n%02d", i), Voter: i == 0 || i < 7 && rapid.Bool().Draw(t, "votes"), Caught: true, Steady: i == 0 || rapid.IntRange(0, 4).Draw(t, "steady") > 0,
				Witness: rapid.IntRange(0, 5).Draw(t, "witness") == 0}
			if !s.Steady {
				s.Silent = rapid.SampledFrom([]time.Duration{time.Second, VoterAway, 2 * VoterAway}).Draw(t, "silent")
			}
			seats = append(seats, s)
		}
		count := func() (voters, answering, spares int) {
			for _, s := range seats {
				switch {
				case s.Voter && s.Steady:
					voters, answering = voters+1, answering+1
				case s.Voter:
					voters++
				case s.Steady:
					spares++
				}
			}
			return voters, answering, spares
		}
		for step := 0; ; step++ {
			if step > 40 {
				t.Fatalf("the votes go on changing: %+v", seats)
			}
			before, answered, _ := count()
			promote, demote, _ := NextSeat("n00", seats)
			if promote == "" && demote == "" {
				break
			}
			if promote != "" && demote != "" {
				t.Fatalf("two changes at once: %s, %s", promote, demote)
			}
			for i := range seats {
				switch s := &seats[i]; s.Name {
				case promote:
					if s.Voter || !s.Steady {
						t.Fatalf("promoted: %+v", s)
					}
					s.Voter = true
				case demote:
					if !s.Voter || s.Name == "n00" {
						t.Fatalf("demoted: %+v", s)
					}
					s.Voter = false
				}
			}
			voters, answering, _ := count()
			if voters > MaxVoters || voters == 0 || 2*answered > before && 2*answering <= voters {
				t.Fatalf("%d of %d voters answered, then %d of %d: %+v", answered, before, answering, voters, seats)
			}
		}
		if voters, answering, spares := count(); answering == voters && (voters < MaxVoters && spares > 1 || voters%2 == 0 && spares > 0) {
			t.Fatalf("%d vote and %d stand by: %+v", voters, spares, seats)
		}
	})
}
