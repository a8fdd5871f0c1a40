package bench

import (
	"strings"
	"testing"
	"time"
)

// loadSample is a run under load with one of everything.
func loadSample() Report {
	r := sample()
	r.Runs, r.Command = nil, "scripts/bench -load 1h0m0s"
	r.Load = &LoadReport{Lasted: time.Hour + 200*msec, Hogs: 18, Nodes: 18, Idle: 0.0013, Hogged: 0.871, Every: 50 * msec, Stall: 74 * msec, Systems: []LoadResult{
		{System: HadFast, Recorded: true, Requests: 72000, Failed: 3, Gap: 310 * msec, P99: 41 * msec, Moves: []LoadMove{{After: time.Minute, From: "tomcat1", To: "tomcat2", Why: "failover"},
			{After: time.Hour, From: "tomcat2", To: "tomcat1", Why: "node-lost"}, {After: 2 * time.Minute, From: "tomcat1", To: "tomcat2", Why: "failover"}}},
		{System: KeepFast, Requests: 71990, Failed: 250, Gap: 1200 * msec, P99: 300 * msec, Double: 700 * time.Microsecond, Moves: make([]LoadMove, 11)},
		{System: PacemakerFast, Requests: 71000, Trouble: "the prober stood still"},
	}}
	return r
}

func TestReportOfALoad(t *testing.T) {
	r := loadSample()
	golden(t, "load.txt", r.Load.Table()+r.Load.line()+"\n")
	golden(t, "load.md", string(r.LoadSection()))
	text, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Read(text)
	if err != nil || again.Load == nil || again.Load.Table() != r.Load.Table() {
		t.Errorf("%v: %+v came back", err, again.Load)
	}
	if x, ok := again.Load.Of(KeepFast); !ok || len(x.Moves) != 11 {
		t.Errorf("%v: %+v", ok, x)
	}
	if _, ok := again.Load.Of(ByHand); ok {
		t.Error("the hand took part")
	}
}

func TestSpell(t *testing.T) {
	for d, want := range map[time.Duration]string{time.Hour + msec: "1h", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", 30 * time.Second: "30s", time.Hour + 20*time.Minute: "1h20m", 0: "0s"} {
		if got := spell(d); got != want {
			t.Errorf("%v is spelt %s, want %s", d, got, want)
		}
	}
}

// TestTurns: who serves is another node only when it answers steadily.
func TestTurns(t *testing.T) {
	for answers, want := range map[string]string{
		"aaaaaa":        "",
		"aabbbbb":       "ab2", // since the first of them
		"aabbabba":      "",    // late answers of another node
		"aabbabbb":      "ab5", // counted anew
		"aabbbaaab":     "ab2 ba5",
		"bbb":           "ab0",
		"aabcbcccc":     "ac5", // of a third one
		"aabbbbbaabbaa": "ab2",
	} {
		u, got := turns{serving: "a"}, []string{}
		for i, node := range answers {
			if from, at, moved := u.add(string(node), t0.Add(time.Duration(i)*msec)); moved {
				got = append(got, from+string(node)+at.Sub(t0).String())
			}
		}
		if text := strings.ReplaceAll(strings.ReplaceAll(strings.Join(got, " "), "ms", ""), "0s", "0"); text != want {
			t.Errorf("%s: %q, want %q", answers, text, want)
		}
	}
	u := turns{} // nobody served before
	for range 9 {
		if _, _, moved := u.add("a", t0); moved {
			t.Error("the first server is no move")
		}
	}
	if u.serving != "a" {
		t.Errorf("%+v", u)
	}
}

var t0 = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
