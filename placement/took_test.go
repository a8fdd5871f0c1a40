package placement

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestWhereTheTimeWentIsInTheRecord is E1: a change of owner says where its time went, and what becomes known later completes it.
func TestWhereTheTimeWentIsInTheRecord(t *testing.T) {
	first := Took{Decided: 1, Committed: 2}
	assign := assignN1
	assign.Took = first
	s := applied(t, testState(t), assign)
	moved := s.Events[len(s.Events)-1]
	if moved.Took != first || !moved.Moves() {
		t.Fatalf("the record is %+v", moved)
	}
	config := s.Events[len(s.Events)-2].Seq
	whole := Took{Decided: 1, Committed: 2, Acquired: 3, Announced: 4, Online: 5, Underway: 6}
	s.Floor, s.FloorIndex = time.Second, 7
	settle := Command{Kind: CmdSettle, Epoch: 7, Timed: []Timed{{moved.Seq, whole}, {config, whole}, {9999, whole}, {0, whole}}}
	before := s
	s = applied(t, s, settle) // a command that has no event itself
	if got := s.Events[len(s.Events)-1]; got.Seq != moved.Seq || got.Took != whole {
		t.Errorf("completed to %+v", got)
	}
	for _, e := range s.Events {
		if e.Seq != moved.Seq && e.Took != (Took{}) {
			t.Errorf("event %d (%s) is no change of owner and has %+v", e.Seq, e.Kind, e.Took)
		}
	}
	if got := before.Events[len(before.Events)-1].Took; got != first {
		t.Errorf("the state before was changed to %+v", got)
	}
}

func TestACommandThatIsNotAppliedCompletesNoRecord(t *testing.T) {
	s := applied(t, testState(t), assignN1)
	moved := s.Events[len(s.Events)-1]
	for _, c := range []Command{{Kind: CmdRelease, Group: "web", Epoch: 7}, {Kind: "unheard-of"}} {
		c.Timed = []Timed{{moved.Seq, Took{Acquired: 3}}}
		next, res := s.Apply(c)
		if res.Applied || next.Events[len(next.Events)-1].Took != (Took{}) {
			t.Errorf("%s: %+v, and the record has %+v", c.Kind, res, next.Events[len(next.Events)-1].Took)
		}
	}
}

func TestWhatRidesOnACommandIsBounded(t *testing.T) {
	s := testState(t)
	var c Command
	for i := range uint64(MaxTimed + 1) {
		s = applied(t, s, Command{Kind: CmdAssign, Group: "web", Node: "n1", Epoch: i})
		c.Timed = append(c.Timed, Timed{s.Seq, Took{Acquired: 3}})
		s = applied(t, s, Command{Kind: CmdRelease, Group: "web", Epoch: i + 1})
		s = applied(t, s, Command{Kind: CmdReleased, Group: "web", Epoch: i + 1})
	}
	c.Kind = CmdNote
	s = applied(t, s, c)
	completed := 0
	for _, e := range s.Events {
		if e.Took.Acquired == 3 {
			completed++
		}
	}
	if completed != MaxTimed {
		t.Errorf("%d records were completed by one command, want %d", completed, MaxTimed)
	}
}

// TestAnOlderFormatLoads is S4: what was written before there was a Took is read, and an event without one is written as before.
func TestAnOlderFormatLoads(t *testing.T) {
	const old = `{"kind":"takeover","at":"2026-03-01T12:00:00Z","group":"web","epoch":1,"node":"n2","reason":{"rule":"node-lost","text":"gone"}}`
	var c Command
	if err := json.Unmarshal([]byte(old), &c); err != nil {
		t.Fatal(err)
	}
	s := applied(t, applied(t, testState(t), assignN1), c)
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "took") {
		t.Error("a state without times is not written as before")
	}
	var back State
	if err := json.Unmarshal(b, &back); err != nil || back.Events[len(back.Events)-1].To != "n2" {
		t.Errorf("%v: %+v", err, back.Events)
	}
	full := Event{Took: Took{time.Second, 2, 3, 4, 5, 6, 7, 8, 9, 10}}
	if b, err = json.Marshal(full.Took); err != nil || len(b) > 250 {
		t.Errorf("%d bytes in each event are too much: %s (%v)", len(b), b, err)
	}
}
