package api

import (
	"encoding/json"
	"testing"
	"time"

	"hacluster/placement"
)

// TestPhasesOfAMoveCanBeStacked: they are in order, each is somebody's, none is empty, and their sum is the total.
func TestPhasesOfAMoveCanBeStacked(t *testing.T) {
	const ms = time.Millisecond
	e := placement.Event{Seq: 7, Kind: string(placement.CmdReleased), Group: "web", From: "n1", To: "n2", Epoch: 5, By: "w1"}
	took := placement.Took{Detected: ms, Decided: 2 * ms, Committed: 3 * ms, Released: 4 * ms, HandedOn: 5 * ms, Acquired: 9 * ms, Announced: 6 * ms, Online: 7 * ms, Underway: 8 * ms}
	m := NewMove(e, took, true)
	want := []MovePhase{{"detected", "n1", ms}, {"decided", "w1", 2 * ms}, {"committed", "w1", 3 * ms}, {"released", "n1", 4 * ms}, {"handed-on", "w1", 5 * ms},
		{"acquired", "n2", 9 * ms}, {"announced", "n2", 6 * ms}, {"online", "n2", 7 * ms}, {"underway", "", 8 * ms}}
	var sum time.Duration
	for i, p := range m.Phases {
		if sum += p.Took; p != want[i] {
			t.Errorf("phase %d is %+v, want %+v", i, p, want[i])
		}
	}
	if len(m.Phases) != len(want) || sum != m.Total || m.Part {
		t.Errorf("%+v", m)
	}
	if longest, ok := m.Longest(); !ok || longest.Name != "acquired" {
		t.Errorf("the longest is %+v", longest)
	}

	took = placement.Took{Detected: ms, Committed: ms}
	e.Kind = string(placement.CmdTakeover)
	if m = NewMove(e, took, false); len(m.Phases) != 2 || m.Phases[0].Node != "w1" || m.Part {
		t.Errorf("a takeover: %+v", m)
	}
	e.Kind = string(placement.CmdReleased)
	if m = NewMove(e, took, false); !m.Part {
		t.Error("nobody measured the handing on, and the total does not say so")
	}
	m = NewMove(e, placement.Took{}, true)
	if _, ok := m.Longest(); ok {
		t.Error("of nothing something took longest")
	}
	if b, err := json.Marshal(m); err != nil || !json.Valid(b) || m.Phases == nil {
		t.Errorf("%s %v: a list is never null", b, err)
	}
}
