package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"hacluster/placement"
)

// At rest a renewal does not grow with the number of groups; whatever is new is told at once, and to whom it is news.
func TestAReportThatTheLeaderHasIsLeftOut(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	r := d.renewer
	report := placement.Report{Node: "a", Applied: 7, Groups: map[string]placement.GroupReport{}}
	for i := range 100 {
		report.Groups[fmt.Sprintf("g%d", i)] = placement.GroupReport{Resources: map[string]placement.ResourceReport{"vip": {State: placement.StateOnline}}}
	}
	compose := func(leader string) renewal {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.compose(1, leader)
	}
	whole := func(why, leader string) {
		t.Helper()
		if m := compose(leader); m.Same || !reflect.DeepEqual(m.Report, r.current()) {
			t.Errorf("%s: %+v", why, m)
		}
	}
	r.say(report)
	whole("nobody has it", "b")
	term := d.raft.Term()
	r.heardBack("b", term, r.version)
	report.Applied = 8 // nothing that counts as news
	r.say(report)
	m := compose("b")
	text, err := json.Marshal(message{Renew: &m})
	if err != nil || !m.Same || m.Applied != 8 || len(text) > 150 {
		t.Errorf("%d bytes: %s, %v", len(text), text, err)
	}
	whole("another leader", "c")
	whole("this node itself", "a")
	r.heardBack("b", term-1, r.version)
	whole("of a former term", "b")
	r.heardBack("b", term, r.version)
	r.tellAll()
	whole("the leader asked for it", "b")
	r.heardBack("b", term, r.version)
	r.heardBack("b", term, r.version-1) // an answer that comes late
	if m := compose("b"); !m.Same {
		t.Error("a late answer took back what a newer one said")
	}
	report.Leaving = true
	r.say(report)
	whole("it changed", "b")
	r.heardBack("b", term, 0)
	whole("a leader that does not say", "b")
}

// A leader takes no renewal for the report of another process, of another version, or of a term that it does not remember.
func TestALeaderAsksForAReportThatItDoesNotHave(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	take := func(m renewal) error { return d.leader.take("b", m) }
	report := placement.Report{Applied: 1, Warnings: []string{"as told"}}
	same := func(seq, version uint64, boot string) renewal {
		return renewal{Seq: seq, Boot: boot, Version: version, Same: true, Applied: seq}
	}
	if err := take(same(1, 1, "x")); !errors.Is(err, errTellAll) {
		t.Fatal("nothing was told yet:", err)
	}
	if _, known := d.leader.reports["b"]; known {
		t.Error("a report that was never told is kept")
	}
	if err := take(renewal{Seq: 2, Boot: "x", Version: 1, Report: report}); err != nil {
		t.Fatal(err)
	}
	if err := take(same(3, 1, "x")); err != nil {
		t.Fatal(err)
	}
	if got := d.leader.reports["b"].report; got.Applied != 3 || len(got.Warnings) != 1 {
		t.Errorf("kept: %+v", got)
	}
	if err := take(same(4, 2, "x")); !errors.Is(err, errTellAll) {
		t.Error("another version:", err)
	}
	if err := take(same(1, 1, "y")); !errors.Is(err, errTellAll) {
		t.Error("another process:", err)
	}
	if got := d.leader.reports["b"].report; got.Applied != 3 {
		t.Errorf("a renewal that was refused left %+v", got)
	}
}

// A leader that has lost what it was told hears it again at once, by itself.
func TestAForgetfulLeaderIsToldAgain(t *testing.T) {
	c := form(t, "a", "b", "c")
	leader := c.leader()
	l, r := leader.n.leader, c.follower().n.renewer
	left := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.compose(0, leader.name).Same
	}
	c.until("the follower leaves its report out", func() error {
		if !left() {
			return errors.New("not yet")
		}
		return nil
	})
	l.mu.Lock()
	l.reports = map[string]reported{}
	l.mu.Unlock()
	c.until("the leader has the report again", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if got, ok := l.reports[r.n.name]; !ok || got.report.Layers != r.current().Layers || got.report.Layers == "" {
			return fmt.Errorf("%v: %+v", ok, got)
		}
		return nil
	})
}
