package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hacluster/api"
	"hacluster/placement"
)

// timed has the newest move of web measured from end to end.
func timed(s *api.Status) {
	const us = time.Microsecond
	g := &s.Groups[0]
	g.Why = placement.Reason{Rule: placement.RuleFailover, Text: "resource tomcat failed on n2; group web fails over to n1",
		Evidence: []string{"tomcat on n2: ended by itself: process 4711 has ended", "n2 read back that it holds nothing of epoch 3"},
		Rejected: []placement.Rejected{{Node: "w1", Why: "a witness owns nothing"}}}
	m := api.NewMove(placement.Event{Seq: 42, Time: g.Since, Kind: "released", Group: "web", From: "n2", To: "n1", Epoch: 4, Reason: g.Why, By: "w1"},
		placement.Took{Detected: 708 * us, Decided: 382 * us, Committed: 5120 * us, Released: 79 * us, HandedOn: 1782 * us, Acquired: 2352 * us,
			Announced: 115 * us, Online: 3211 * us, Underway: 2089 * us}, true)
	g.Move = &m
}

// partly is after a change of the leader, and after a decision that moved nothing.
func partly(s *api.Status) {
	timed(s)
	g := &s.Groups[0]
	g.Move.Part, g.Move.Phases = true, append([]api.MovePhase(nil), g.Move.Phases[5:7]...)
	g.Move.Total = g.Move.Phases[0].Took + g.Move.Phases[1].Took
	g.Why = placement.Reason{Rule: placement.RuleStay, Text: "group web has failed on n1 and stays there: no other node can take it"}
}

// TestABenchmarkCanStackWhatWhyPrints reads the JSON as a program would that knows nothing but docs/cli.md.
func TestABenchmarkCanStackWhatWhyPrints(t *testing.T) {
	w := tomcats()
	w.Update(timed)
	d := sit(t, w)
	if code := d.hactl(bounded(t), "why", "web", "-o", "json"); code != 0 {
		t.Fatal(code, d.Err)
	}
	var out struct {
		Move struct {
			Total  int64 `json:"total_ns"`
			Done   bool
			Phases []struct {
				Name, Node string
				Took       int64 `json:"took_ns"`
			}
		}
	}
	if err := json.Unmarshal([]byte(d.Out.String()), &out); err != nil {
		t.Fatal(err)
	}
	var sum int64
	var names []string
	for _, p := range out.Move.Phases {
		sum += p.Took
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "detected decided committed released handed-on acquired announced online underway" {
		t.Error(got)
	}
	if sum != out.Move.Total || sum != 15838000 || !out.Move.Done {
		t.Errorf("sum %d of %+v", sum, out.Move)
	}
}

func TestLongEventsSayWhatTheyTook(t *testing.T) {
	w := tomcats()
	w.Happen(placement.Event{Time: noon, Kind: "takeover", Group: "web", From: "n1", To: "n2", By: "w1", Took: placement.Took{Committed: 2 * time.Millisecond, Tickled: 12}},
		placement.Event{Time: noon, Kind: "release", Group: "web", From: "n2", Took: placement.Took{Decided: time.Millisecond}})
	d := sit(t, w)
	d.hactl(bounded(t), "events", "--long")
	if got := d.Out.String(); strings.Count(got, "took") != 1 || !strings.Contains(got, "took 2.0ms: committed 2.0ms\n       tickled 12 clients of the lost owner\n") {
		t.Error(got)
	}
}

func TestWhySaysHowManyClientsWereTickled(t *testing.T) {
	for n, want := range map[int]bool{0: false, 12: true} {
		w := tomcats()
		w.Update(timed)
		w.Update(func(s *api.Status) { s.Groups[0].Move.Tickled = n })
		d := sit(t, w)
		if code := d.hactl(bounded(t), "why", "web"); code != 0 || strings.Contains(d.Out.String(), "tickled 12 clients of the lost owner\n") != want || strings.Contains(d.Out.String(), "tickled") != want {
			t.Errorf("%d: %d, %s", n, code, d.Out)
		}
	}
}
