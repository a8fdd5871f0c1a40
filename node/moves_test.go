package node

import (
	"log/slog"
	"testing"
	"time"

	"hacluster/placement"
	"hacluster/resources"
)

// mover is a leader's measuring by a clock of the test.
type mover struct {
	moves
	now time.Time
	st  placement.State
	seq uint64
	old map[string]placement.Report
}

func newMover() *mover {
	w := &mover{now: time.Unix(1000, 0), old: map[string]placement.Report{},
		st: placement.State{Groups: map[string]placement.GroupState{"web": {Owner: "n1", Epoch: 4, Phase: placement.PhaseOwned}}}}
	w.clock, w.log = func() time.Time { return w.now }, slog.New(slog.DiscardHandler)
	w.forget()
	return w
}

func (w *mover) pass(ms int) { w.now = w.now.Add(time.Duration(ms) * time.Millisecond) }

func (w *mover) propose(kind placement.CommandKind, rule placement.Rule, epoch uint64) (placement.Command, func()) {
	c := placement.Command{Kind: kind, Group: "web", Epoch: epoch, Reason: placement.Reason{Rule: rule}}
	failed := w.proposing(&c, w.st)
	return c, failed
}

// commit has an entry applied.
func (w *mover) commit(kind placement.CommandKind, from, to string, epoch uint64) placement.Event {
	w.seq++
	e := placement.Event{Seq: w.seq, Kind: string(kind), Group: "web", From: from, To: to, Epoch: epoch, By: "w1"}
	w.seen(e)
	return e
}

func (w *mover) say(node string, r placement.GroupReport) {
	report := placement.Report{Groups: map[string]placement.GroupReport{"web": r}}
	w.heard(node, w.old[node], report)
	w.old[node] = report
}

const ms = time.Millisecond

// TestAPlannedMoveIsDivided is E1: each millisecond from the request to the word of the new owner is in one phase.
func TestAPlannedMoveIsDivided(t *testing.T) {
	w := newMover()
	begun := w.now
	w.because("web", placement.RuleMove, 0, w.now)
	w.pass(1)
	w.propose(placement.CmdRelease, placement.RuleMove, 4)
	w.pass(4)
	w.commit(placement.CmdRelease, "n1", "n2", 4)
	w.pass(5) // of which n1 knows of 3
	w.say("n1", placement.GroupReport{Released: 4, Lap: placement.Lap{Epoch: 4, Took: placement.Took{Released: 3 * ms}}})
	w.pass(2)
	c, _ := w.propose(placement.CmdReleased, placement.RuleMove, 4)
	if want := (placement.Took{Decided: ms, Committed: 4 * ms, Released: 3 * ms, Underway: 2 * ms}); c.Took != want {
		t.Errorf("the command carries %+v, want %+v", c.Took, want)
	}
	w.pass(4)
	e := w.commit(placement.CmdReleased, "n1", "n2", 5)
	w.say("n2", placement.GroupReport{Lap: placement.Lap{Epoch: 3, Took: placement.Took{Acquired: time.Hour}}}) // of a former time
	if m := w.status(e, placement.Lap{}); m.Done || m.Total != 16*ms {
		t.Errorf("on the way: %+v", m)
	}
	w.pass(9) // of which n2 knows of 7
	w.say("n2", placement.GroupReport{Lap: placement.Lap{Epoch: 5, Took: placement.Took{Acquired: 4 * ms, Announced: 2 * ms, Online: ms}}})
	want := placement.Took{Decided: ms, Committed: 4 * ms, Released: 3 * ms, HandedOn: 6 * ms, Acquired: 4 * ms, Announced: 2 * ms, Online: ms, Underway: 4 * ms}
	m := w.status(e, placement.Lap{})
	if longest, _ := m.Longest(); !m.Done || m.Part || m.Total != w.now.Sub(begun) || longest.Name != "handed-on" {
		t.Errorf("of %s: %+v", w.now.Sub(begun), m)
	}

	// It rides on the next command, once, whatever becomes of the first attempt.
	c, failed := w.propose(placement.CmdNote, "", 0)
	failed()
	if again, _ := w.propose(placement.CmdNote, "", 0); len(c.Timed) != 1 || c.Timed[0] != (placement.Timed{Seq: e.Seq, Took: want}) || len(again.Timed) != 1 {
		t.Errorf("told %+v, then %+v, want %+v", c.Timed, again.Timed, want)
	}
	if c, _ = w.propose(placement.CmdNote, "", 0); len(c.Timed) != 0 {
		t.Errorf("told twice: %+v", c.Timed)
	}
}

func TestATakeoverIsDivided(t *testing.T) {
	w := newMover()
	w.because("web", placement.RuleNodeLost, 300*ms, w.now)
	w.pass(1)
	w.propose(placement.CmdTakeover, placement.RuleNodeLost, 4)
	w.pass(3)
	e := w.commit(placement.CmdTakeover, "n1", "n2", 5)
	w.pass(2) // less than n2 says: its clock runs faster
	w.say("n2", placement.GroupReport{Lap: placement.Lap{Epoch: 5, Took: placement.Took{Acquired: 3 * ms}}})
	m := w.status(e, placement.Lap{})
	if m.Total != 307*ms || len(m.Phases) != 4 || m.Phases[0].Node != "w1" || !m.Done {
		t.Errorf("%+v", m)
	}
}

// TestAnOldTriggerIsNotTheReasonOfAnotherMove: a failure that was mended on the spot does not lengthen a later drain.
func TestAnOldTriggerIsNotTheReasonOfAnotherMove(t *testing.T) {
	w := newMover()
	w.say("n1", placement.GroupReport{Trouble: placement.TroubleFailing, Lap: placement.Lap{Took: placement.Took{Detected: 8 * ms}}})
	w.pass(60000)
	w.begin(w.now)
	w.pass(1)
	if c, _ := w.propose(placement.CmdRelease, placement.RuleDrain, 4); c.Took != (placement.Took{Decided: ms}) {
		t.Errorf("%+v", c.Took)
	}
	w.say("n1", placement.GroupReport{Trouble: placement.TroubleGivenUp, Lap: placement.Lap{Took: placement.Took{Detected: 8 * ms}}})
	w.pass(2)
	if c, _ := w.propose(placement.CmdRelease, placement.RuleFailover, 4); c.Took != (placement.Took{Detected: 8 * ms, Decided: 2 * ms}) {
		t.Errorf("%+v", c.Took)
	}
}

// TestANewLeaderKnowsWhatRodeAndWhatTheOwnerSays: it says that parts are missing.
func TestANewLeaderKnowsWhatRodeAndWhatTheOwnerSays(t *testing.T) {
	w := newMover()
	e := placement.Event{Seq: 9, Kind: string(placement.CmdReleased), Group: "web", From: "n1", To: "n2", Epoch: 5, Took: placement.Took{Decided: ms, Committed: 2 * ms, Released: ms}}
	m := w.status(e, placement.Lap{Epoch: 5, Took: placement.Took{Acquired: 3 * ms}})
	if !m.Done || !m.Part || m.Total != 7*ms {
		t.Errorf("%+v", m)
	}
	if m = w.status(e, placement.Lap{Epoch: 4, Took: placement.Took{Acquired: 3 * ms}}); m.Done || m.Total != 4*ms {
		t.Errorf("what was said of another epoch counts: %+v", m)
	}
}

// TestALeaderThatBecomesTheOwnerTellsTheNextOneWhatItMeasured: w1 gives the group to itself and hands leadership on, so that only its word
// as the new owner is left.
func TestALeaderThatBecomesTheOwnerTellsTheNextOneWhatItMeasured(t *testing.T) {
	w := newMover()
	w.begin(w.now)
	w.pass(1)
	w.propose(placement.CmdRelease, placement.RuleMove, 4)
	w.pass(4)
	w.commit(placement.CmdRelease, "n1", "w1", 4)
	w.pass(5)
	w.say("n1", placement.GroupReport{Released: 4, Lap: placement.Lap{Epoch: 4, Took: placement.Took{Released: 5 * ms}}})
	c, _ := w.propose(placement.CmdReleased, placement.RuleMove, 4)
	lent := func(self string, lap placement.Lap) placement.Lap {
		report := placement.Report{Groups: map[string]placement.GroupReport{"web": {Lap: lap}}}
		w.lend(report, self)
		return report.Groups["web"].Lap
	}
	mine := placement.Lap{Epoch: 5, Took: placement.Took{Acquired: 3 * ms}}
	if got := lent("w1", mine); got != mine {
		t.Errorf("before the entry was applied: %+v", got)
	}
	w.pass(6)
	e := w.commit(placement.CmdReleased, "n1", "w1", 5)
	e.Took = c.Took // as the history has it
	for name, c := range map[string]struct {
		self string
		lap  placement.Lap
	}{"another node": {"n2", mine}, "another epoch": {"w1", placement.Lap{Epoch: 6, Took: mine.Took}}, "not online yet": {"w1", placement.Lap{Epoch: 5}}} {
		if got := lent(c.self, c.lap); got != c.lap {
			t.Errorf("%s: %+v", name, got)
		}
	}
	next := newMover()
	if m := next.status(e, mine); !m.Part {
		t.Errorf("of nothing: %+v", m)
	}
	if m := next.status(e, lent("w1", mine)); m.Part || !m.Done || m.Total != 19*ms {
		t.Errorf("%+v", m)
	}
	// A takeover, whose one commit is lent.
	w.propose(placement.CmdTakeover, placement.RuleNodeLost, 5)
	w.pass(2)
	e = w.commit(placement.CmdTakeover, "n2", "w1", 6)
	mine.Epoch = 6
	if m := next.status(e, lent("w1", mine)); m.Part || m.Total != 5*ms {
		t.Errorf("a takeover: %+v", m)
	}
}

// lapped is a node with one group of an address and a service, by a clock of the test.
func lapped(now *time.Time) (*slots, *address, *slot, placement.State) {
	clock := func() time.Time { return *now }
	a := &address{}
	service := &slot{clock: clock}
	s := &slots{clock: clock, live: map[key]*slot{{"web", "vip"}: {drv: a}, {"web", "app"}: service}}
	return s, a, service, placement.State{
		Policy: placement.Policy{Groups: []placement.GroupPolicy{{Name: "web", Resources: []placement.ResourcePolicy{{Name: "vip", Address: true}, {Name: "app"}}}}},
		Groups: map[string]placement.GroupState{"web": {Owner: "n2", Epoch: 5, Phase: placement.PhaseOwned}}}
}

func webReport(vip placement.ResourceState) placement.GroupReport {
	return placement.GroupReport{Resources: map[string]placement.ResourceReport{"vip": {State: vip}, "app": {State: placement.StateOnline}}}
}

// TestANodeMeasuresItsOwnPart, and reports it with what it reports anyway: nothing before it is over, and no change after.
func TestANodeMeasuresItsOwnPart(t *testing.T) {
	now := time.Unix(1000, 0)
	s, a, _, st := lapped(&now)
	tell := func(r placement.GroupReport) placement.Lap {
		report := placement.Report{Groups: map[string]placement.GroupReport{"web": r}}
		s.lapse(report, st, "n2")
		return report.Groups["web"].Lap
	}
	taken := placement.Event{Kind: string(placement.CmdTakeover), Group: "web", From: "n1", To: "n2", Epoch: 5}
	s.laps.seen(taken, "n2", now) // read again from the log of a former time
	s.laps.begin()
	if got := tell(webReport(placement.StateOnline)); got != (placement.Lap{}) {
		t.Fatalf("what this process did not do was measured: %+v", got)
	}
	s.laps.seen(taken, "n1", now)
	s.laps.seen(taken, "n2", now)
	now = now.Add(3 * ms)
	if got := tell(webReport(placement.StateOnlinePending)); got.Acquired != 0 {
		t.Fatalf("before it was over: %+v", got)
	}
	a.opened, a.announced = now, now.Add(2*ms)
	now = now.Add(6 * ms)
	want := placement.Lap{Epoch: 5, Took: placement.Took{Acquired: 3 * ms, Announced: 2 * ms, Online: 4 * ms}}
	for range 2 {
		if got := tell(webReport(placement.StateOnline)); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		now = now.Add(time.Hour)
	}
	st.Groups["web"] = placement.GroupState{Owner: "n2", Epoch: 5, Phase: placement.PhaseReleasing}
	s.laps.seen(placement.Event{Kind: string(placement.CmdRelease), Group: "web", From: "n2", To: "n1", Epoch: 5}, "n2", now)
	now = now.Add(7 * ms)
	for range 2 {
		if got := tell(placement.GroupReport{Released: 5}); got != (placement.Lap{Epoch: 5, Took: placement.Took{Released: 7 * ms}}) {
			t.Errorf("released in %+v", got)
		}
		now = now.Add(time.Hour)
	}
}

// TestAFailureIsMeasuredFromItsFirstSign: three bad probes are one detection.
func TestAFailureIsMeasuredFromItsFirstSign(t *testing.T) {
	now := time.Unix(1000, 0)
	s, _, service, st := lapped(&now)
	s.laps.begin()
	service.suspect(now)
	now = now.Add(200 * ms)
	service.suspect(now)
	service.failedAt = now
	now = now.Add(ms)
	for range 2 {
		report := placement.Report{Groups: map[string]placement.GroupReport{"web": {Trouble: placement.TroubleGivenUp, Resource: "app"}}}
		s.lapse(report, st, "n2")
		if got := report.Groups["web"].Lap; got != (placement.Lap{Took: placement.Took{Detected: 201 * ms}}) {
			t.Errorf("%+v", got)
		}
		now = now.Add(time.Hour)
	}
	service.res.Probes, service.known, service.status = nil, true, resources.Status{Running: true}
	if service.judge(); !service.sign.IsZero() {
		t.Error("it is well, and the sign of a failure stays")
	}
}
